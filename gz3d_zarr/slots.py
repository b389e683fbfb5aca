"""How many shards a dask worker builds at a time, so that none spills, pauses or dies.

Resources of dask's scheduler would say the same. But a worker can only declare them after it has
joined, and tasks that wait while no worker is there are then never given to it.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar, cast

import zarr
from distributed import Worker, get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from gz3d_zarr.errors import BuildError
from gz3d_zarr.planning import count_slots

if TYPE_CHECKING:
    from distributed import Client

Task = TypeVar("Task")
Result = TypeVar("Result")


class ShardSlots(WorkerPlugin):
    """Gives every worker, also one that comes later, as many slots as shards fit its memory.

    Parameters
    ----------
    name : str
        Of the plugin, different for each run.
    shard_size : int
        Subjects in a shard.
    """

    free: threading.Semaphore

    def __init__(self, name: str, shard_size: int) -> None:
        self.name = name
        self.shard_size = shard_size

    def setup(self, worker: Worker) -> None:
        """Count this worker's slots, and keep zarr's threads down to dask's."""
        others = [
            plugin.free
            for name, plugin in worker.plugins.items()
            if isinstance(plugin, ShardSlots) and name != self.name
        ]
        threads = worker.state.nthreads
        slots = count_slots(self.shard_size, threads, worker.memory_manager.memory_limit)
        # Two builds on one cluster share the memory.
        self.free = others[0] if others else threading.Semaphore(max(1, slots))
        is_own_process = not str(worker.contact_address).startswith("inproc")
        if is_own_process and zarr.config.get("threading.max_workers") is None:
            zarr.config.set({"threading.max_workers": threads})


def run_in_slot(name: str, function: Callable[[Task], Result], task: Task) -> Result:
    """Run a task on a worker once one of its slots is free."""
    slots = cast("ShardSlots", get_worker().plugins[name])
    with slots.free:
        return function(task)


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
