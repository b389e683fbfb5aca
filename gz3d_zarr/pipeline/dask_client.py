"""The dask client of a build: the caller's, a scheduler's, or that of a new local cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from multiprocessing import resource_tracker
from platform import python_version
from typing import Any, TypeVar

import dask
from dask.system import CPU_COUNT
from dask.utils import format_bytes
from distributed import Client, LocalCluster, default_client
from distributed.system import MEMORY_LIMIT

from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.errors import BuildError, UsageError, error_message, plural, quote
from gz3d_zarr.locations import holds_secret, read_regular
from gz3d_zarr.pipeline.plan import Resources

Answer = TypeVar("Answer")
CONNECT_SECONDS = 10
ANSWER_SECONDS = 60
"""Time for workers to import this package for the first time and report its version."""
SHARED_PACKAGES = ("gz3d-zarr", "dask", "distributed", "numpy", "zarr", "fsspec")
_ADDRESS = re.compile(r"(tcp|tls|ucx|ws|wss)://.+:\d+|inproc://.+")
_SPAWN = "distributed.nanny.pre-spawn-environ"
# Read by glibc and zarr when a worker starts. A file unpacks to 10 MB, which is freed at once; with
# dask's settings, each of these would be mapped again, which takes as long as the rest of decoding
# (14 ms instead of 5 per subject). Zarr's threads would multiply dask's.
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "ZARR_THREADING__MAX_WORKERS": "1",
}


def local_resources(workers: int | None, max_memory: int | None = None) -> Resources:
    """Resources of a local cluster of this many workers with one thread each.

    Raises
    ------
    UsageError
        `workers` is below 1.
    """
    check_type("workers", workers, int)
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}, expected at least 1")
    count = workers or CPU_COUNT
    memory = min(MEMORY_LIMIT // count, max_memory or MEMORY_LIMIT)
    return Resources(
        count,
        1,
        memory,
        f"{plural(count, 'local worker')} with 1 thread, {format_bytes(memory)} each",
    )


def client_resources(client: Client) -> Resources:
    """Resources of the current workers of a client.

    Raises
    ------
    BuildError
        Where it has no workers after a while.
    """
    workers = _find_workers(client)
    if not workers:
        wanted = client.submit(int, pure=False)  # a cluster that adapts starts workers for tasks
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError:
            raise BuildError(
                f"the scheduler {_address(client)} has no workers after {CONNECT_SECONDS} seconds; "
                "start some and try again"
            ) from None
        finally:
            wanted.cancel()
        workers = _find_workers(client)
    notes = _compare_versions(client)
    limits = [worker["memory_limit"] for worker in workers.values() if worker["memory_limit"]]
    threads = max(worker["nthreads"] for worker in workers.values())
    memory = min(limits) if limits else None
    return Resources(
        len(workers),
        threads,
        memory,
        f"{plural(len(workers), 'worker')} with up to {plural(threads, 'thread')} at "
        f"{_address(client)}",
        notes,
    )


def _find_workers(client: Client) -> dict[str, dict[str, Any]]:
    """What the scheduler knows about each worker, by address."""
    return dict(client.scheduler_info(n_workers=-1)["workers"])


def find_versions() -> dict[str, str]:
    """Versions of the packages that client and workers share."""
    return {name: version(name) for name in SHARED_PACKAGES} | {"python": python_version()}


def _compare_versions(client: Client) -> tuple[str, ...]:
    """Report version mismatches between client and workers, and workers that disappeared.

    Raises
    ------
    BuildError
        They lack this package, or one that it needs; or one of them does not answer.
    """
    here = find_versions()
    installed, notes = [], []
    for worker, answer in _ask_workers(client).items():
        if isinstance(answer, ImportError):
            raise BuildError(
                f"workers of {_address(client)} lack a package: {answer}. Install the client's "
                "version of gz3d-zarr on the workers"
            ) from answer
        if isinstance(answer, OSError):
            notes.append(f"the worker {worker} disappeared before it reported its versions")
        elif isinstance(answer, Exception):
            raise BuildError(
                f"the worker {worker} cannot report its versions: {error_message(answer)}. Install "
                "the client's packages on the workers"
            ) from answer
        else:
            installed.append(answer)
    for name, mine in here.items():
        others = sorted({versions[name] for versions in installed} - {mine})
        if others:
            notes.append(f"workers have {name} {' and '.join(others)}, the client has {mine}")
    return tuple(notes)


def _ask_workers(client: Client) -> dict[str, dict[str, str] | Exception]:
    """Ask each worker for its versions; an exception is its reason for giving none.

    Raises
    ------
    BuildError
        A worker does not answer, or none can be asked.
    """
    asking: queue.SimpleQueue[dict[str, dict[str, str] | Exception] | Exception]
    asking = _answer_of(lambda: client.run(find_versions, on_error="return"))
    try:
        answers = asking.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        seen = {address: known["last_seen"] for address, known in _find_workers(client).items()}
        raise BuildError(
            f"a worker of {_address(client)} does not answer within {ANSWER_SECONDS} seconds; "
            f"{min(seen, key=seen.__getitem__, default='none')} has been silent for longest. "
            "End it, or see why it hangs, and try again"
        ) from None
    if isinstance(answers, Exception):
        raise BuildError(
            f"the workers of {_address(client)} do not answer: {error_message(answers)}"
        ) from answers
    return answers


def _answer_of(call: Callable[[], Answer]) -> queue.SimpleQueue[Answer | Exception]:
    """Make a call that may never return; its result or exception is put into the queue."""
    answer: queue.SimpleQueue[Answer | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(call())
        except Exception as error:  # passed to the reader of the queue
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    return answer


@contextlib.contextmanager
def use_client(client: Client | None, scheduler: str | None) -> Iterator[Client | None]:
    """The client given, that of a scheduler, or dask's current one; None for a local cluster.

    Raises
    ------
    UsageError
        Both are given.
    BuildError
        The scheduler does not answer.
    """
    if client is not None and scheduler is not None:
        raise UsageError("client and scheduler both say where to run: give one")
    if scheduler is not None:
        with connect(scheduler) as connected:
            yield connected
        return
    if client is not None and not isinstance(client, Client):
        raise UsageError(f"client is {client!r:.60}, expected a distributed.Client")
    if client is None:
        with contextlib.suppress(ValueError):  # there is no current client
            client = default_client()
    yield client


def find_resources(
    client: Client | None, workers: int | None, max_memory: int | None = None
) -> Resources:
    """Resources of a client, or of the local cluster that would be started.

    Raises
    ------
    UsageError
        A number of workers for a client that has its own.
    """
    if client is None:
        return local_resources(workers, max_memory)
    if workers is not None:
        raise UsageError("workers is for a local cluster; the client or scheduler has its own")
    return client_resources(client).limit_memory(max_memory)


@contextlib.contextmanager
def use_workers(
    client: Client | None, resources: Resources, tasks: int, *, processes: bool = True
) -> Iterator[Client]:
    """The given client, or that of a local cluster no larger than there are tasks.

    Without `processes`, workers are threads of this process, which start at once: for tasks that
    read, write, compress and hash, and need little memory.
    """
    if client is not None:
        yield client
        return
    needed = replace(resources, workers=min(resources.workers, tasks))
    with start_local(needed, processes=processes) as started:
        yield started


@contextlib.contextmanager
def connect(address: str) -> Iterator[Client]:
    """Client of a running scheduler.

    Raises
    ------
    BuildError
        Where it does not answer.
    """
    has_secret = holds_secret(str(address))
    if has_secret or not _ADDRESS.fullmatch(str(address)):
        shown = "a URL with a password, a token or a query" if has_secret else quote(address)
        raise UsageError(f"scheduler is {shown}, expected an address such as tcp://host:8786")
    # dask waits forever for a scheduler that accepts a connection and then sends nothing.
    answer = _answer_of(lambda: Client(address, timeout=CONNECT_SECONDS, set_as_default=False))
    try:
        client = answer.get(timeout=CONNECT_SECONDS + 1)
    except queue.Empty:
        client = TimeoutError("it accepts connections and sends nothing")
    if isinstance(client, Exception):
        raise BuildError(
            f"the scheduler {address} does not answer within {CONNECT_SECONDS} seconds "
            f"({error_message(client)}); is it running, and reachable from here?"
        ) from client
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def start_local(resources: Resources, *, processes: bool = True) -> Iterator[Client]:
    """Client of a new local cluster, which ends with the context and leaves no files.

    Raises
    ------
    BuildError
        Where it cannot be started.
    """
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="gz3d-zarr-"))
        settings = {
            "temporary-directory": scratch,
            "logging.distributed": "critical",  # our own errors say what matters
            _SPAWN: _environment(),
        }
        stack.enter_context(dask.config.set(settings))
        try:
            with _hold_interrupts():
                cluster = stack.enter_context(
                    LocalCluster(
                        n_workers=resources.workers,
                        threads_per_worker=resources.threads,
                        processes=processes,
                        # Of threads, each would count what the whole process has.
                        memory_limit=resources.memory if processes else 0,
                        silence_logs=logging.CRITICAL + 1,  # it reports lost workers while it ends
                        dashboard_address="127.0.0.1:0",  # any free port
                    )
                )
        except (RuntimeError, OSError, TimeoutError) as error:
            raise BuildError(
                f"local workers cannot be started: {error_message(error).rstrip('.')}. "
                f"{_advise_start(error)}"
            ) from error
        yield stack.enter_context(Client(cluster, set_as_default=False))


def _advise_start(error: Exception) -> str:
    """What to do where a worker ended while it was starting, which has one of two causes."""
    if "bootstrapping" in str(error) or _lacks_guard():
        return "A script must call build under if __name__ == '__main__':"
    return (
        "A process ended before it was ready: it was killed, or memory is short. Use fewer workers "
        "(--workers), or free memory, and try again"
    )


def _lacks_guard() -> bool:
    """Whether the main program is a script that each worker would run again, from its text."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        return path is not None and b"__name__" not in read_regular(path)
    except OSError:
        return False


@contextlib.contextmanager
def _hold_interrupts() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, and deliver one that arrives meanwhile at the end.

    Ctrl-C is for this process, which then ends the workers. A process inherits the signals that are
    blocked in the thread that starts it, and so does a thread: dask's threads, which start workers
    later too, keep SIGINT blocked. Another thread may receive the signal; its handler runs here.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield  # only the main thread may set signals, and Windows blocks none
        return
    # Multiprocessing unblocks SIGINT when it starts its tracker: not later, in dask's threads.
    resource_tracker.ensure_running()
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def _environment() -> dict[str, str]:
    """Dask's environment for workers, plus `WORKER_ENVIRONMENT` where the user has set nothing."""
    chosen = {name: os.environ.get(name, value) for name, value in WORKER_ENVIRONMENT.items()}
    return {**dask.config.get(_SPAWN), **chosen}


def _address(client: Client) -> str:
    return str(client.scheduler.address if client.scheduler is not None else "?")
