"""One builder at a time: a lease on a store, which does not outlive its builder.

A lease is created only where there is none. The lease of a dead builder is replaced under a lock
that is named by its content and taken in the same way, so that only one of several builders
replaces it, however long its requests take.
"""

from __future__ import annotations

import contextlib
import hashlib
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

from gz3d_zarr.errors import GZ3DError, StoreError, shorten
from gz3d_zarr.storage.base_store import ObjectStore
from gz3d_zarr.storage.build_record import LEASE_KEY, WORK_PREFIX

RENEW_SECONDS = 5.0
"""Interval at which a builder renews its lease."""
LAPSE_SECONDS = 20.0
"""A lease that does not change while we watch it for so long has lapsed; no clocks compared."""
LOOK_SECONDS = 1.0
"""Interval at which a lease that may have lapsed is read."""
LOCK_PREFIX = WORK_PREFIX + "lease-"
"""Of the locks under which leases of dead builders are replaced."""
LEFTOVER_PREFIXES = (LOCK_PREFIX, WORK_PREFIX + ".lease")
"""Of the locks and partial files that killed builders may leave."""
MAX_ATTEMPTS = 10
"""How often we try again because a lease vanished or was replaced while we looked at it."""


class Lease:
    """The lease of this builder.

    Parameters
    ----------
    store : ObjectStore
        The store to be built.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.build_id = uuid.uuid4().hex
        self._store = store
        self._lock = threading.Lock()
        self._renewals = 0

    def acquire(self) -> None:
        """Take the lease.

        Raises
        ------
        StoreError
            Another builder is running, or the store cannot be written.
        """
        _acquire(self._store, LEASE_KEY, self._content())

    def put(self) -> None:
        """Renew the lease; StoreError if that fails."""
        self._renewals += 1
        self._store.put(LEASE_KEY, self._content())

    def is_ours(self) -> bool:
        """Whether the store's lease is this one."""
        return _parse(self._store.get(LEASE_KEY)).get("build_id") == self.build_id

    def renew_until(self, ended: threading.Event) -> None:
        """Renew the lease at intervals, as long as nobody else holds it.

        One that somebody has deleted is taken again, so that no other builder begins.
        """
        while not ended.wait(RENEW_SECONDS):
            # A full disk or a lost network stops the build itself, with its own message.
            with self._lock, contextlib.suppress(GZ3DError):
                if self._store.get(LEASE_KEY) is None:
                    self._store.put_if_absent(LEASE_KEY, self._content())
                if not self.is_ours():
                    return
                self.put()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not renew the lease while the store is renamed; write it again afterwards."""
        with self._lock:
            yield
            self.put()

    def release(self) -> None:
        """Delete the lease."""
        with contextlib.suppress(GZ3DError):  # it lapses
            if self.is_ours():
                self._store.delete([LEASE_KEY])
                self._store.prune((WORK_PREFIX,))

    def _content(self) -> bytes:
        content = {"build_id": self.build_id, **_process(), "renewals": self._renewals}
        return json.dumps(content).encode()


@contextlib.contextmanager
def hold_lease(store: ObjectStore) -> Iterator[Lease]:
    """Be the only builder of a store while the context lasts.

    A builder that was killed on this machine is known to be dead at once. A builder on another
    machine is watched for `LAPSE_SECONDS`, in which it would renew its lease.

    Raises
    ------
    StoreError
        Another builder is running, or the store cannot be written.
    """
    lease = Lease(store)
    ended = threading.Event()
    renewing = threading.Thread(
        target=lease.renew_until, args=(ended,), name="gz3d-lease", daemon=True
    )
    try:
        lease.acquire()
        _delete_leftovers(store)
        renewing.start()
        yield lease
    finally:
        ended.set()
        if renewing.ident is not None:  # it has been started
            renewing.join()
        lease.release()


def check_free(store: ObjectStore, *, wait: bool = True) -> None:
    """Check that no other builder of the store is running.

    Without `wait`, a lease of another machine is not watched, and counts as lapsed.

    Raises
    ------
    StoreError
        A builder is running.
    """
    current = store.get(LEASE_KEY)
    if current is not None:
        _check_lapsed(store, LEASE_KEY, current, LAPSE_SECONDS if wait else 0)


@contextlib.contextmanager
def name_other_builder(store: ObjectStore) -> Iterator[None]:
    """Report another build that has begun meanwhile, rather than what it has left so far."""
    try:
        yield
    except StoreError:
        check_free(store, wait=False)
        raise


def _acquire(store: ObjectStore, key: str, content: bytes) -> None:
    """Create a lease or a lock, or replace one that has lapsed; StoreError if another is held."""
    for _ in range(MAX_ATTEMPTS):
        if store.put_if_absent(key, content):
            return
        current = store.get(key)
        if current is not None:
            _check_lapsed(store, key, current, LAPSE_SECONDS)
            if _replace(store, key, current, content):
                return
    raise StoreError(f"{store.url} cannot be locked: other builds start and end there; try again")


def _replace(store: ObjectStore, key: str, lapsed: bytes, content: bytes) -> bool:
    """Replace a lapsed lease, as the only one who does; False if it has changed since."""
    lock = f"{LOCK_PREFIX}{hashlib.sha256(key.encode() + lapsed).hexdigest()[:16]}.json"
    _acquire(store, lock, content)
    try:
        if store.get(key) != lapsed:
            return False
        store.put(key, content)
        return store.get(lock) == content  # it has not lapsed meanwhile
    finally:
        with contextlib.suppress(GZ3DError):
            if store.get(lock) == content:
                store.delete([lock])


def _delete_leftovers(store: ObjectStore) -> None:
    """Delete what killed builders left; their locks are of leases that are gone."""
    keys = store.list_sizes(WORK_PREFIX)
    store.delete(key for key in keys if key.startswith(LEFTOVER_PREFIXES))


def _check_lapsed(store: ObjectStore, key: str, current: bytes, seconds: float) -> None:
    """Return if the holder of a lease is dead; StoreError if it is running.

    A holder on another machine is watched for so many seconds.
    """
    holder, process = _parse(current), _process()
    if all(holder.get(name) == process[name] for name in ("host", "machine")):
        if _is_running(holder):
            raise _held(store, holder)
        return
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(min(LOOK_SECONDS, seconds / 10))
        latest = store.get(key)
        if latest is None:
            return
        if latest != current:
            raise _held(store, _parse(latest))


def _held(store: ObjectStore, holder: dict[str, Any]) -> StoreError:
    return StoreError(
        f"{store.url} is being built by process {shorten(holder.get('pid'))} on "
        f"{shorten(holder.get('host'))}; wait until it ends, or end it, and try again"
    )


def _parse(data: bytes | None) -> dict[str, Any]:
    """What a lease says; nothing if there is none, or if it is unreadable."""
    try:
        content = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _process() -> dict[str, Any]:
    """What identifies this process.

    A container has process numbers of its own: they are valid within a machine, which is a boot
    and a namespace of processes. Outside of containers the namespace has the same name on every
    Linux, but boots differ. Where boots have no id, the network card tells machines apart.
    """
    boot, namespace = f"{uuid.getnode():x}", ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        "machine": f"{boot} {namespace}",
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
    }


def _start_time(pid: int) -> float | None:
    """When a process started, unchanged when the clock is set; None if that is unknown.

    On Linux in clock ticks since the boot: field 22 of its ``stat``. psutil adds the time of the
    boot by today's clock.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return float(stat.rpartition(b")")[2].split()[19])  # the name may contain spaces
    except (OSError, IndexError, ValueError):
        with contextlib.suppress(psutil.Error):
            return float(psutil.Process(pid).create_time())
    return None


def _is_running(holder: dict[str, Any]) -> bool:
    """Whether the holder, a process of this machine, is still running."""
    try:
        pid, started = holder["pid"], holder["started"]
        return bool(psutil.pid_exists(pid)) and _start_time(pid) in (started, None)
    except (KeyError, TypeError, ValueError, OverflowError):
        return False
