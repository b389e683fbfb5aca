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
from typing import Any

import psutil

from gz3d_zarr.errors import StoreError
from gz3d_zarr.objects import ObjectFolder
from gz3d_zarr.receipts import LEASE_KEY

RENEW_SECONDS = 5.0
"""How often a builder says that it lives."""
LAPSE_SECONDS = 20.0
"""A lease that stays as it is for so long, watched from here, has lapsed; no clocks compared."""


@contextlib.contextmanager
def hold_lease(folder: ObjectFolder) -> Iterator[str]:
    """Be the only builder at a place while the context lasts.

    A builder that was killed on this machine is known to be dead at once; for one elsewhere we
    wait and see whether it renews its lease.

    Yields
    ------
    str
        Id of this run of the build.

    Raises
    ------
    StoreError
        Another builder lives, or the place cannot be written.
    """
    _check_free(folder)
    build_id = uuid.uuid4().hex
    holder = {"build_id": build_id, **_process()}
    folder.put(LEASE_KEY, json.dumps({**holder, "renewed": 0}).encode())
    ended = threading.Event()

    def renew() -> None:
        renewed = 0
        while not ended.wait(RENEW_SECONDS):
            renewed += 1
            # A full disk or a lost network stops the build itself, with its own message.
            with contextlib.suppress(StoreError):
                folder.put(LEASE_KEY, json.dumps({**holder, "renewed": renewed}).encode())

    renewing = threading.Thread(target=renew, name="gz3d-lease", daemon=True)
    renewing.start()
    try:
        yield build_id
    finally:
        ended.set()
        renewing.join()
        with contextlib.suppress(StoreError):  # it lapses by itself
            _release(folder, build_id)


def _release(folder: ObjectFolder, build_id: str) -> None:
    if _read(folder).get("build_id") == build_id:
        folder.delete([LEASE_KEY])
        folder.prune((LEASE_KEY.rpartition("/")[0],))


def _check_free(folder: ObjectFolder) -> None:
    """Return when no living builder holds the place."""
    there = _read(folder)
    if not there or _has_died(there):
        return
    here = (there.get("host"), there.get("processes")) == (
        _process()["host"],
        _process()["processes"],
    )
    deadline = time.monotonic() + LAPSE_SECONDS
    while not here and time.monotonic() < deadline:
        time.sleep(min(1.0, LAPSE_SECONDS / 10))
        now = _read(folder)
        if not now:
            return
        if now != there:
            break
    else:
        if not here:
            return
    raise StoreError(
        f"{folder.url} is being built by process {there.get('pid')} on {there.get('host')}; wait "
        "until it ends, or end it, and try again"
    )


def _read(folder: ObjectFolder) -> dict[str, Any]:
    """What the lease says; nothing where there is none, or none that can be read."""
    data = folder.get(LEASE_KEY)
    try:
        content = json.loads(data or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _process() -> dict[str, Any]:
    """What identifies this process: its number means something among `processes` only."""
    try:
        processes = os.readlink("/proc/self/ns/pid")  # a container counts its own
    except OSError:
        processes = ""
    started = psutil.Process().create_time()
    host = socket.gethostname()
    return {"host": host, "processes": processes, "pid": os.getpid(), "started": started}


def _has_died(there: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that runs no more."""
    mine = _process()
    if any(there.get(name) != mine[name] for name in ("host", "processes")):
        return False
    try:
        return bool(psutil.Process(there["pid"]).create_time() != there["started"])
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return True
