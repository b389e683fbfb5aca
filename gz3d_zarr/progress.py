"""How far a build is, on a terminal or in plain lines."""

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
    """How far a build is: at its start, and after every shard.

    Attributes
    ----------
    done, total : int
        Subjects; those that were built before this run count as done.
    new : int
        Subjects in the shard that has just been built; 0 at the start.
    failed : int
        Subjects that are not ok so far.
    """

    done: int
    total: int
    new: int
    failed: int


@contextmanager
def show_progress(stream: TextIO, things: str = "subjects") -> Iterator[Callable[[Progress], None]]:
    """Show progress of `things` on a stream: a bar on a terminal, plain lines elsewhere."""
    if not stream.isatty():
        yield _Lines(stream, things)
        return
    bar: tqdm[None] | None = None

    def update(progress: Progress) -> None:
        nonlocal bar
        if bar is None:  # only now is it known where a resumed build begins
            bar = tqdm(
                total=progress.total,
                initial=progress.done - progress.new,
                unit=f" {things}",
                file=stream,
                smoothing=0,  # the mean rate: shards come in bursts
            )
        if progress.failed:
            bar.set_postfix_str(f"{progress.failed} not ok", refresh=False)
        bar.update(progress.new)

    try:
        yield update
    finally:
        if bar is not None:
            bar.close()


class _Lines:
    """One line now and then, and one at the end."""

    def __init__(self, stream: TextIO, things: str) -> None:
        self._stream = stream
        self._things = things
        self._began = self._told = time.monotonic()
        self._new = 0

    def __call__(self, progress: Progress) -> None:
        self._new += progress.new
        now = time.monotonic()
        if self._new == 0:
            self._began = now
            return
        if progress.done < progress.total and now - self._told < LINE_SECONDS:
            return
        self._told = now
        rate = self._new / max(now - self._began, 1e-9)
        left = (progress.total - progress.done) / rate
        failed = f", {progress.failed} not ok" if progress.failed else ""
        self._stream.write(
            f"{progress.done} of {progress.total} {self._things}, {rate:.0f} a second, "
            f"{left:.0f} s left{failed}\n"
        )
        self._stream.flush()
