"""Tasks over any dask client: one limit on connections, memory of each worker, results."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

import zarr
from distributed import Client, Future, Semaphore, Worker, as_completed, get_worker
from distributed.client import FutureCancelledError
from distributed.comm.core import CommClosedError
from distributed.diagnostics.plugin import WorkerPlugin

from gz3d_zarr.errors import BuildError, GZ3DError, SubjectError, shorten
from gz3d_zarr.locations import is_url, origin
from gz3d_zarr.pipeline.failure_policy import stopped_at
from gz3d_zarr.pipeline.plan import count_slots

Task = TypeVar("Task")
Result = TypeVar("Result")
WATCH_SECONDS = 5.0
"""Interval between checks for workers."""
logger = logging.getLogger(__name__)
MAX_TASKS_IN_FLIGHT = 256
"""Tasks that a scheduler holds at a time; enough for a cluster that grows with its backlog."""


def run_tasks(
    client: Client,
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    prefix: str,
    shard_size: int,
    hint: str = "",
) -> Generator[Result, None, None]:
    """Run a function on each task, `MAX_TASKS_IN_FLIGHT` at a time; yield results as they come.

    Each worker runs as many as shards of `shard_size` subjects fit its memory. Waiting tasks are
    dropped when the generator is closed.

    Raises
    ------
    GZ3DError
        What a task raised, or BuildError where it failed in another way or its workers died.
    """
    waiting = enumerate(tasks)
    address = str(client.scheduler.address) if client.scheduler is not None else ""
    pending: set[Future[Result]] = set()

    def submit(number: int, task: Task) -> Future[Result]:
        key = f"{prefix}-{number}-{time.time_ns()}"
        future = client.submit(run_in_slot, slots, function, task, key=key, pure=False)
        pending.add(future)
        return future

    with limit_tasks(client, shard_size) as slots, _warn_when_no_workers(client, address):
        first = [submit(*task) for task in itertools.islice(waiting, MAX_TASKS_IN_FLIGHT)]
        running = as_completed(first, loop=client.loop)
        del first  # a future that is kept keeps its result on a worker
        try:
            for future in running:
                pending.discard(future)
                result = _result(future, address, hint)
                future.release()
                yield result
                for task in itertools.islice(waiting, 1):
                    running.add(submit(*task))
        except KeyboardInterrupt:
            logger.warning("Stopping: waiting for the tasks at work to end")
            raise
        finally:
            if client.status == "running":
                client.cancel(list(pending))


@contextlib.contextmanager
def _warn_when_no_workers(client: Client, address: str) -> Iterator[None]:
    """Warn while there are no workers: nothing happens until some join."""
    ended = threading.Event()

    def watch() -> None:
        was_missing = False
        while not ended.wait(WATCH_SECONDS) and client.status == "running":
            missing = not client.scheduler_info()["workers"]
            if missing and not was_missing:
                logger.warning("There are no workers at %s: waiting until some come", address)
            was_missing = missing

    watching = threading.Thread(target=watch, name="gz3d-watch", daemon=True)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()


def share_connections(client: Client, paths: Iterable[str], connections: int) -> Semaphore | None:
    """One limit on connections for all workers, where files are fetched from URLs.

    It has the same name for every build from one server: tasks of a build that was stopped may
    still fetch when the next one begins. Leases of workers that die expire.
    """
    first = next((path for path in paths if is_url(path)), None)
    if first is None:
        return None
    with client.as_current():  # where a semaphore looks for its scheduler
        name = f"gz3d-{connections}-{origin(first)}"
        return Semaphore(max_leases=connections, name=name)


def _result(future: Future[Result], address: str, hint: str) -> Result:
    try:
        result: Result = future.result()
    except SubjectError as error:
        raise stopped_at(str(error)) from error
    except GZ3DError:
        raise
    except (FutureCancelledError, CommClosedError) as error:
        raise BuildError(f"the scheduler {address} went away{hint}") from error
    except Exception as error:
        raise BuildError(
            f"the task {future.key} failed with {type(error).__name__}: {shorten(error)}{hint}"
        ) from error
    return result


WAIT_SECONDS = 0.5
"""Interval at which a waiting task checks whether it is still wanted."""


class MemoryBudget:
    """Memory of a worker, shared by the shards of all builds."""

    def __init__(self) -> None:
        self._taken = Fraction(0)
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, part: Fraction, is_wanted: Callable[[], bool]) -> Iterator[bool]:
        """Wait for a part and hold it; give False where it is no longer wanted."""
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


class ShardSlotPlugin(WorkerPlugin):
    """Gives every worker, also one that joins later, as many slots as shards fit its memory.

    Parameters
    ----------
    name : str
        Of the plugin, different for each build.
    shard_size : int
        Subjects in a shard.
    """

    budget: MemoryBudget
    part: Fraction

    def __init__(self, name: str, shard_size: int) -> None:
        self.name = name
        self.shard_size = shard_size

    def setup(self, worker: Worker) -> None:
        """Count this worker's slots, and limit zarr's threads to dask's."""
        threads = worker.state.nthreads
        slots = count_slots(self.shard_size, threads, worker.memory_manager.memory_limit)
        self.part = Fraction(1, max(1, slots))
        # Builds on one cluster share the memory, and so do tasks of a build that has ended.
        self.budget = vars(worker).setdefault("_gz3d_memory_budget", MemoryBudget())
        is_own_process = not str(worker.contact_address).startswith("inproc")
        if is_own_process and zarr.config.get("threading.max_workers") is None:
            zarr.config.set({"threading.max_workers": threads})


def run_in_slot(name: str, function: Callable[[Task], Result], task: Task) -> Result:
    """Run a task on a worker as soon as one of its slots is free.

    Raises
    ------
    BuildError
        The build has ended meanwhile: dask cannot cancel a task that waits here.
    """
    plugins = get_worker().plugins
    slots = plugins.get(name)
    if isinstance(slots, ShardSlotPlugin):
        with slots.budget.take(slots.part, lambda: name in plugins) as is_wanted:
            if is_wanted:
                return function(task)
    raise BuildError("this task's build has ended; the task was dropped")


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
        client.register_plugin(ShardSlotPlugin(name, shard_size))
    except ImportError as error:
        raise BuildError(
            f"the workers lack a package: {shorten(error)}. Install the client's version of "
            "gz3d-zarr on the workers"
        ) from error
    try:
        yield name
    finally:
        if client.status == "running":  # the scheduler may be gone
            client.unregister_worker_plugin(name)
