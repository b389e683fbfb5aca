"""How many shards a dask worker builds at a time, so that none spills, pauses or dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import zarr
from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin

from gz3d_zarr.errors import BuildError
from gz3d_zarr.planning import count_slots

if TYPE_CHECKING:
    from distributed import Client

SLOTS = "gz3d-shards"
"""Name of the worker resource of which a task takes one."""


class ShardSlots(WorkerPlugin):
    """Gives every worker, also one that comes later, as many slots as shards fit its memory."""

    name = SLOTS

    def __init__(self, shard_size: int) -> None:
        self.shard_size = shard_size

    async def setup(self, worker: Worker) -> None:
        """Count this worker's slots, and keep zarr's threads down to dask's."""
        limit = worker.memory_manager.memory_limit
        threads = worker.state.nthreads
        slots = max(1, count_slots(self.shard_size, threads, limit))
        await worker.set_resources(**{SLOTS: slots})
        is_own_process = not str(worker.contact_address).startswith("inproc")
        if is_own_process and zarr.config.get("threading.max_workers") is None:
            zarr.config.set({"threading.max_workers": threads})


@contextlib.contextmanager
def limit_tasks(client: Client, shard_size: int) -> Iterator[None]:
    """Let workers take tasks with the resource `SLOTS` as their memory allows.

    Raises
    ------
    BuildError
        Where workers do not have this package.
    """
    try:
        client.register_plugin(ShardSlots(shard_size))
    except ImportError as error:
        raise BuildError(
            f"the workers lack a package: {error}. Install gz3d-zarr "
            "there, in the version that is here"
        ) from error
    try:
        yield
    finally:
        if client.status == "running":  # the scheduler may be gone
            client.unregister_worker_plugin(SLOTS)
