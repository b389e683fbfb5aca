"""How many shards a dask worker builds at a time, so that none spills, pauses or dies.

Resources of dask's scheduler would say the same. But a worker can only declare them after it has
joined, and tasks that wait while no worker is there are then never given to it.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, TypeVar

import zarr
from distributed import Worker, get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from gz3d_zarr.errors import BuildError
from gz3d_zarr.planning import count_slots

if TYPE_CHECKING:
    from distributed import Client

Task = TypeVar("Task")
Result = TypeVar("Result")


WAIT_SECONDS = 0.5
"""How often a task that waits asks whether it is still wanted."""


class Room:
    """The memory of a worker that shards take parts of, whatever build they are of."""

    def __init__(self) -> None:
        self._taken = Fraction(0)
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, part: Fraction, is_wanted: Callable[[], bool]) -> Iterator[bool]:
        """Wait for a part, and hold it; False where it is not wanted any more."""
        with self._changed:
            while is_wanted() and self._taken + part > 1:
                self._changed.wait(WAIT_SECONDS)
            if not is_wanted():
                part = Fraction(0)
            self._taken += part
        try:
            yield part > 0
        finally:
            with self._changed:
                self._taken -= part
                self._changed.notify_all()


class ShardSlots(WorkerPlugin):
    """Gives every worker, also one that comes later, as many slots as shards fit its memory.

    Parameters
    ----------
    name : str
        Of the plugin, different for each run.
    shard_size : int
        Subjects in a shard.
    """

    room: Room
    part: Fraction

    def __init__(self, name: str, shard_size: int) -> None:
        self.name = name
        self.shard_size = shard_size

    def setup(self, worker: Worker) -> None:
        """Count this worker's slots, and keep zarr's threads down to dask's."""
        threads = worker.state.nthreads
        slots = count_slots(self.shard_size, threads, worker.memory_manager.memory_limit)
        self.part = Fraction(1, max(1, slots))
        # Two builds on one cluster share the memory, and so do tasks of one that has ended.
        self.room = vars(worker).setdefault("_gz3d_room", Room())
        is_own_process = not str(worker.contact_address).startswith("inproc")
        if is_own_process and zarr.config.get("threading.max_workers") is None:
            zarr.config.set({"threading.max_workers": threads})


def run_in_slot(name: str, function: Callable[[Task], Result], task: Task) -> Result:
    """Run a task on a worker once one of its slots is free.

    Raises
    ------
    BuildError
        The run has ended meanwhile: dask cannot cancel a task that waits here.
    """
    plugins = get_worker().plugins
    slots = plugins.get(name)
    if isinstance(slots, ShardSlots):
        with slots.room.take(slots.part, lambda: name in plugins) as is_wanted:
            if is_wanted:
                return function(task)
    raise BuildError("the run that this task is of has ended")


@contextlib.contextmanager
def limit_tasks(client: Client, shard_size: int) -> Iterator[str]:
    """Give workers slots as their memory allows; the name to call `run_in_slot` with.

    Raises
    ------
    BuildError
        Where workers do not have this package.
    """
    name = f"gz3d-slots-{uuid.uuid4().hex[:12]}"
    try:
        client.register_plugin(ShardSlots(name, shard_size))
    except ImportError as error:
        raise BuildError(
            f"the workers lack a package: {error}. Install gz3d-zarr "
            "there, in the version that is here"
        ) from error
    try:
        yield name
    finally:
        if client.status == "running":  # the scheduler may be gone
            client.unregister_worker_plugin(name)
