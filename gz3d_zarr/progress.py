"""Progress of a build, as a bar on a terminal or as plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from tqdm import tqdm

LINE_SECONDS = 10.0
"""Shortest time between two plain lines."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a build: one at its start, and one after every shard.

    Attributes
    ----------
    done, total : int
        Subjects; those that an earlier run built count as done.
    new : int
        Subjects in the shard that has just been built; 0 at the start.
    failed : int
        Subjects that have failed so far.
    """

    done: int
    total: int
    new: int
    failed: int


@contextmanager
def show_progress(stream: TextIO, things: str = "subjects") -> Iterator[Callable[[Progress], None]]:
    """Show progress of `things` on a stream."""
    if not stream.isatty():
        yield _Lines(stream, things)
        return
    bar: tqdm[None] | None = None

    def update(progress: Progress) -> None:
        nonlocal bar
        if bar is None:  # the first event says where a resumed build starts
            bar = tqdm(
                total=progress.total,
                initial=progress.done - progress.new,
                unit=f" {things}",
                file=stream,
                smoothing=0,  # the mean rate: shards come in bursts
            )
        if progress.failed:
            bar.set_postfix_str(f"{progress.failed} failed", refresh=False)
        bar.update(progress.new)

    try:
        yield update
    finally:
        if bar is not None:
            bar.close()


class _Lines:
    """Print a line every `LINE_SECONDS`, and one at the end."""

    def __init__(self, stream: TextIO, things: str) -> None:
        self._stream = stream
        self._things = things
        self._start = self._last_line = time.monotonic()
        self._new = 0

    def __call__(self, progress: Progress) -> None:
        self._new += progress.new
        now = time.monotonic()
        if self._new == 0:
            self._start = now
            return
        if progress.done < progress.total and now - self._last_line < LINE_SECONDS:
            return
        self._last_line = now
        rate = self._new / max(now - self._start, 1e-9)
        remaining = progress.total - progress.done
        left = f", {remaining / rate:.0f} s left" if remaining else ""
        failed = f", {progress.failed} failed" if progress.failed else ""
        self._stream.write(
            f"{progress.done} of {progress.total} {self._things}, "
            f"{rate:.{0 if rate >= 10 else 1}f} per second{left}{failed}\n"
        )
        self._stream.flush()
