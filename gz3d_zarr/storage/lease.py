"""One builder at a time: a lease on a store, which a dead builder does not hold for ever."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from gz3d_zarr.errors import GZ3DError, StoreError
from gz3d_zarr.storage.build_record import LEASE_KEY, WORK_PREFIX
from gz3d_zarr.storage.object_store import PARTIAL_SUFFIX, ObjectStore

RENEW_SECONDS = 5.0
"""How often a builder says that it lives."""
LAPSE_SECONDS = 20.0
"""A lease that stays as it is for so long, watched from here, has lapsed; no clocks compared."""
SETTLE_SECONDS = 0.5
"""Wait on an object store before reading back whose lease stands there, if two came at once."""


class Lease:
    """A lease that is held, and renewed by a thread of its own.

    Parameters
    ----------
    folder : ObjectStore
        The store's place.
    """

    def __init__(self, folder: ObjectStore) -> None:
        self.build_id = uuid.uuid4().hex
        self._folder = folder
        self._lock = threading.Lock()
        self._renewed = 0

    def put(self) -> None:
        """Write the lease, the first time or anew; StoreError where that fails."""
        content = {"build_id": self.build_id, **_process(), "renewed": self._renewed}
        self._renewed += 1
        self._folder.put(LEASE_KEY, json.dumps(content).encode())

    def is_ours(self) -> bool:
        """Whether it is this lease that stands there."""
        return _read(self._folder).get("build_id") == self.build_id

    def renew_until(self, ended: threading.Event) -> None:
        """Say now and then that the builder lives, as long as nobody else holds the place."""
        while not ended.wait(RENEW_SECONDS):
            # A full disk or a lost network stops the build itself, with its own message.
            with self._lock, contextlib.suppress(GZ3DError):
                if not self.is_ours():
                    return
                self.put()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not write while the folder itself is moved; write anew when it has been."""
        with self._lock:
            yield
            self.put()

    def release(self) -> None:
        """Give the place free."""
        with contextlib.suppress(GZ3DError):  # it lapses by itself
            if self.is_ours():
                self._folder.delete([LEASE_KEY])
                self._folder.prune((WORK_PREFIX,))


@contextlib.contextmanager
def hold_lease(folder: ObjectStore) -> Iterator[Lease]:
    """Be the only builder at a place while the context lasts.

    A builder that was killed on this machine is known to be dead at once; for one elsewhere we
    wait and see whether it renews its lease.

    Raises
    ------
    StoreError
        Another builder lives, or the place cannot be written.
    """
    check_free(folder)
    lease = Lease(folder)
    lease.put()
    time.sleep(0.02 if folder.is_local else SETTLE_SECONDS)
    if not lease.is_ours():
        raise _held(folder, _read(folder))
    left = folder.list_sizes(WORK_PREFIX)
    folder.delete(
        key for key in left if key.startswith(f"{WORK_PREFIX}.lease") and PARTIAL_SUFFIX in key
    )
    ended = threading.Event()
    renewing = threading.Thread(
        target=lease.renew_until, args=(ended,), name="gz3d-lease", daemon=True
    )
    renewing.start()
    try:
        yield lease
    finally:
        ended.set()
        renewing.join()
        lease.release()


def check_free(folder: ObjectStore, *, wait: bool = True) -> None:
    """Return when no living builder holds the place.

    Without `wait`, one on another machine is not watched, and given the benefit of the doubt.

    Raises
    ------
    StoreError
        One lives.
    """
    there = _read(folder)
    mine = _process()
    if not there:
        return
    if all(there.get(name) == mine[name] for name in ("host", "processes")):
        if _has_died(there):
            return
        raise _held(folder, there)
    deadline = time.monotonic() + (LAPSE_SECONDS if wait else 0)
    while time.monotonic() < deadline:
        time.sleep(min(1.0, LAPSE_SECONDS / 10))
        now = _read(folder)
        if not now:
            return
        if now != there:
            raise _held(folder, now)


def _held(folder: ObjectStore, there: dict[str, Any]) -> StoreError:
    return StoreError(
        f"{folder.url} is being built by process {there.get('pid')} on {there.get('host')}; wait "
        "until it ends, or end it, and try again"
    )


def _read(folder: ObjectStore) -> dict[str, Any]:
    """What the lease says; nothing where there is none, or none that can be read."""
    data = folder.get(LEASE_KEY)
    try:
        content = json.loads(data or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _process() -> dict[str, Any]:
    """What identifies this process: its number means something among `processes` only.

    A container counts its own; outside of them the namespace has the same name on every Linux,
    and the id of the boot tells machines apart.
    """
    boot = namespace = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    processes = f"{boot} {namespace}"
    started = psutil.Process().create_time()
    host = socket.gethostname()
    return {"host": host, "processes": processes, "pid": os.getpid(), "started": started}


def _has_died(there: dict[str, Any]) -> bool:
    """Whether the holder, a process of this machine, runs no more."""
    try:
        return bool(psutil.Process(there["pid"]).create_time() != there["started"])
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return True
