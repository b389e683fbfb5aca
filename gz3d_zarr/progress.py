"""Progress of a build, as a bar on a terminal or in a notebook, or as plain lines elsewhere.

Estimates leave out the time until the first subjects are done: workers start and import then.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TextIO

from gz3d_zarr.errors import UsageError

LINE_SECONDS = 10.0
"""Shortest time between two plain lines."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a build: one at its start, and one after every shard.

    Attributes
    ----------
    done : int
        Subjects that are done, those of an earlier run included.
    total : int
        Subjects of the whole build.
    new : int
        Subjects in the shard that has just been built; 0 at the start.
    failed : int
        Subjects that have failed so far.
    """

    done: int
    total: int
    new: int
    failed: int


ProgressOption = Callable[[Progress], None] | bool | None
"""The argument ``progress`` of `build` and others: a callable, or True for a bar."""


class LiveProgress(ABC):
    """Shows progress, also between the ends of shards; called by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = Progress(0, 0, 0, 0)
        self._position: int | None = None
        self._start: float | None = None
        self._first = 0

    def __call__(self, progress: Progress) -> None:
        """Show what is done after a shard, or at the start."""
        with self._lock:
            if self._position is None:
                self._position = self._first = progress.done - progress.new
            self._last = progress
            self._move(progress.done)

    def show_partial(self, subjects: int) -> None:
        """Show that so many subjects of unfinished shards are done."""
        with self._lock:
            self._move(self._last.done + subjects)

    def _move(self, position: int) -> None:
        # A shard that is begun again does not move the bar back.
        position = min(max(position, self._position or 0), self._last.total)
        if self._start is None and position > self._first:
            self._first, self._start = position, time.monotonic()
            self._start_clock(position)
        self._position = position
        self._show(position, self._last)

    def _rate(self, position: int) -> float:
        """Subjects per second since the first were done; 0 where that is not known yet."""
        seconds = 0.0 if self._start is None else time.monotonic() - self._start
        return (position - self._first) / seconds if seconds > 0 else 0.0

    def _start_clock(self, position: int) -> None:  # noqa: B027 - most need no clock of their own
        """The first subjects are done: rates count from here."""

    @abstractmethod
    def _show(self, position: int, progress: Progress) -> None:
        """Show that `position` subjects are done."""

    def close(self) -> None:  # noqa: B027 - lines need no end
        """End the display."""


class _Bar(LiveProgress):
    def __init__(self, stream: TextIO | None, things: str, bar_class: Callable[..., Any]) -> None:
        super().__init__()
        self._stream = stream
        self._things = things
        self._bar_class = bar_class
        self._bar: Any = None

    def _start_clock(self, position: int) -> None:
        if self._bar is not None:
            self._bar.initial = position
            self._bar.start_t = self._bar.last_print_t = time.time()

    def _show(self, position: int, progress: Progress) -> None:
        if self._bar is None:  # the first event says where a resumed build starts
            self._bar = self._bar_class(
                total=progress.total,
                initial=self._first,
                unit=f" {self._things}",
                file=self._stream,
                smoothing=0,  # the mean rate: shards come in bursts
            )
        if progress.failed:
            self._bar.set_postfix_str(f"{progress.failed} failed", refresh=False)
        self._bar.update(position - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _Lines(LiveProgress):
    """Print a line every `LINE_SECONDS`, and one at the end."""

    def __init__(self, stream: TextIO, things: str) -> None:
        super().__init__()
        self._stream = stream
        self._things = things
        self._last_line = time.monotonic()
        self._has_ended = False

    def _show(self, position: int, progress: Progress) -> None:
        now = time.monotonic()
        # The last shard counts only once it is whole: then all failures are known.
        is_last = 0 < progress.done == progress.total and not self._has_ended
        if not progress.new and not is_last and position == progress.done:
            return
        if not is_last and now - self._last_line < LINE_SECONDS:
            return
        self._last_line, self._has_ended = now, is_last
        line = f"{position} of {progress.total} {self._things}"
        rate, remaining = self._rate(position), progress.total - position
        if rate > 0:
            line += f", {format_rate(rate)} per second"
            line += f", {remaining / rate:.0f} s left" if remaining else ""
        line += f", {progress.failed} failed" if progress.failed else ""
        self._stream.write(f"{line}\n")
        self._stream.flush()


def format_rate(rate: float) -> str:
    """A positive rate with two digits or more, which is never 0."""
    if rate >= 10:
        return f"{rate:.0f}"
    return f"{rate:.1f}" if rate >= 0.1 else "less than 0.1"


@contextmanager
def show_progress(stream: TextIO, things: str = "subjects") -> Iterator[LiveProgress]:
    """Show progress of `things` on a stream."""
    display: LiveProgress
    if stream.isatty():
        from tqdm import tqdm

        display = _Bar(stream, things, tqdm)
    else:
        display = _Lines(stream, things)
    try:
        yield display
    finally:
        display.close()


@contextmanager
def _show_in_notebook(things: str) -> Iterator[LiveProgress]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tqdm: it is experimental, and widgets are missing
        from tqdm.auto import tqdm
    display = _Bar(None, things, tqdm)
    try:
        yield display
    finally:
        display.close()


def choose_progress(
    progress: ProgressOption, things: str = "subjects"
) -> AbstractContextManager[Callable[[Progress], None]]:
    """Context that gives what to call with each `Progress` for an argument ``progress``.

    Parameters
    ----------
    progress : callable, bool or None
        True shows a bar on a terminal or in a notebook, and lines elsewhere, on standard error.
    things : str

    Raises
    ------
    UsageError
        It is something else.
    """
    check_progress(progress)
    if progress is True:
        return _show_in_notebook(things) if _is_notebook() else show_progress(sys.stderr, things)
    return nullcontext(progress or _ignore)


def check_progress(progress: ProgressOption) -> None:
    """Raise UsageError if an argument ``progress`` is no callable, bool or None."""
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise UsageError(f"progress is {type(progress).__name__}, expected a callable or True")


def _ignore(_: Progress) -> None:
    pass


def _is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})
