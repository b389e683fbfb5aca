"""Subjects that tasks have done before their shards are whole: tasks report, the client adds up."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from distributed import Client, get_worker

from gz3d_zarr.progress import LiveProgress, Progress

TICK_SECONDS = 0.5
"""Shortest time between two reports of a task."""


def make_reporter(topic: str, shard: int) -> Callable[[int], None]:
    """A function for a task to call with the number of its subjects that are done.

    It does nothing where `topic` is empty: nobody listens.
    """
    last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if topic and now - last >= TICK_SECONDS:
            last = now
            get_worker().log_event(topic, {"shard": shard, "done": done})

    return report


class UnfinishedShards:
    """How many subjects of unfinished shards are done, shown as tasks report it."""

    def __init__(self, display: LiveProgress) -> None:
        self._display = display
        self._done: dict[int, int] = {}
        self._finished: set[int] = set()
        self._lock = threading.Lock()

    def handle(self, event: tuple[float, Any]) -> None:
        """Take a report of a task; late ones, of a shard that is whole, are dropped."""
        _, message = event
        with self._lock:
            if message["shard"] in self._finished:
                return
            self._done[message["shard"]] = message["done"]
            self._display.show_partial(sum(self._done.values()))

    def finish(self, shard: int) -> None:
        """A shard is whole: it is counted elsewhere from now on."""
        with self._lock:
            self._finished.add(shard)
            self._done.pop(shard, None)


@contextlib.contextmanager
def watch_shards(
    client: Client, topic: str, progress: Callable[[Progress], None] | None
) -> Iterator[Callable[[int], None]]:
    """Show what tasks report under a topic; gives a function to call with each whole shard."""
    if not isinstance(progress, LiveProgress):
        yield lambda _: None
        return
    shards = UnfinishedShards(progress)
    client.subscribe_topic(topic, shards.handle)
    try:
        yield shards.finish
    finally:
        if client.status == "running":  # the scheduler may be gone
            client.unsubscribe_topic(topic)
