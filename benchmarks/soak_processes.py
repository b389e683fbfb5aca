"""What `soak.py` runs beside itself: builds and copies with faults, readers, an S3 server."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import soak_model as model
import xarray as xr
from astropy.io import fits
from distributed import Client, LocalCluster
from soak_model import Fault, Kind, Step

import gz3d_zarr
from gz3d_zarr import GZ3DError, StoreError
from gz3d_zarr.errors import Status
from gz3d_zarr.locations import PARTIAL_SUFFIX
from gz3d_zarr.storage.build_record import BUILDING_SUFFIX, REPLACED_SUFFIX

RULES = model.Rules(
    keeps_good=True,
    readers_notice=True,
)
BY_PROCESSES = (Fault.KILL_GROUP, Fault.KILL_WORKER)
"""Faults of builds whose workers are processes; those of others are threads."""
LOCAL_FAULTS = (
    *[Fault.NONE] * 4, *[Fault.KILL] * 6, Fault.KILL_GROUP, Fault.KILL_WORKER, Fault.FULL,
    Fault.SLOW, Fault.DAMAGE, Fault.REMOVE, Fault.VANISH,
)  # fmt: skip
SERVER_FAULTS = (*[Fault.NONE] * 3, *[Fault.KILL] * 5, *[Fault.SERVER] * 3, Fault.SLOW)
WRITES, WRITES_A_SHARD = 390, 18
REQUESTS, REQUESTS_A_SHARD = 130, 6
"""Of a build, about: a kill comes at one of them."""
THREADS: Mapping[str, Any] = {
    "n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0",
}  # fmt: skip
"""Of a cluster of two threads."""
Digests = Mapping[int, tuple[str, str]]


class ViolationError(Exception):
    """The program did what the model does not allow."""


@dataclass(frozen=True)
class Place:
    """A store, and how a process reaches it; `proxy` is of an S3 server in this process."""

    name: str
    url: str
    options: Mapping[str, Any] = field(default_factory=dict)
    proxy: Any = None

    @property
    def keywords(self) -> dict[str, Any]:
        """Arguments with which `gz3d_zarr` reaches the store."""
        return {"storage_options": dict(self.options)} if self.options else {}


@dataclass(frozen=True)
class Call:
    """What a child process runs: a build or a copy, with what happens to it."""

    source: str
    url: str
    keywords: Mapping[str, Any]
    copy_to: str = ""
    fault: Fault = Fault.NONE
    write: int = -1
    victim: str = ""


def arm(call: Call) -> None:
    """Make a fault happen at a write, by an audit hook: it sees writes of all libraries."""
    done = 0
    armed = True
    target = call.copy_to or call.url

    def strike() -> None:
        if call.fault is Fault.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif call.fault is Fault.DAMAGE:
            Path(call.victim).write_bytes(b"<html>")
        elif call.fault is Fault.REMOVE:
            Path(call.victim).unlink()
        elif call.fault is Fault.VANISH:
            Path(call.source).rename(f"{call.source}.away")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done, armed
        if event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.link"):
            return
        path = str(arguments[0])
        is_read = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if is_read or not path.startswith(target) or "lease" in path:
            return
        done += 1
        if call.fault is Fault.SLOW and event == "open":
            time.sleep(0.01)
        elif call.fault is Fault.FULL and event == "open" and done > call.write >= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        elif armed and done > call.write >= 0:
            armed = False
            strike()

    sys.addaudithook(hook)


def run_call(call: Call, answers: Connection) -> None:
    """Run a build or a copy in this process, and report how it ended."""
    os.setsid()  # so that its workers can be killed with it
    scratch = f"{call.source}.scratch"
    Path(scratch).mkdir(exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = scratch  # of dask's workers, which may be killed
    try:
        import botocore.retryhandler

        botocore.retryhandler.delay_exponential = lambda *_, **__: 0.01
        arm(call)
        with contextlib.ExitStack() as stack:
            client = None
            if call.fault not in BY_PROCESSES:
                cluster = LocalCluster(**THREADS)
                client = stack.enter_context(Client(stack.enter_context(cluster)))
            if call.copy_to:
                gz3d_zarr.copy(call.url, call.copy_to, client, **call.keywords)
            else:
                gz3d_zarr.build(call.source, call.url, client, **call.keywords)
        answers.send(("ended", ""))
    except GZ3DError as error:
        answers.send(("stopped", f"{type(error).__name__}: {error}"))
    except BaseException:  # a traceback is what no user may see
        answers.send(("crashed", traceback.format_exc()))


def statuses(dataset: xr.Dataset) -> dict[int, str]:
    """Status of each subject."""
    found = zip(dataset["zooniverse_subject_id"].values, dataset["status"].values, strict=True)
    return {int(subject): Status(status).label for subject, status in found}


def check_pictures(dataset: xr.Dataset, rows: list[int], truth: Digests, changes: bool) -> None:
    """Compare pixels and labels with the files; where the store `changes`, blank ones may come."""
    known = list(statuses(dataset).items())
    for row in rows:
        subject, status = known[row]
        found = tuple(sha256(dataset[name][row].values) for name in ("image", "segmentation"))
        is_blank = not dataset["image"][row].values.any()
        if status == model.OK and found != truth[subject]:
            raise ViolationError(f"row {row}, subject {subject}, has other pixels than its file")
        if status != model.OK and not is_blank and not changes:
            raise ViolationError(f"row {row}, subject {subject}, failed and has pixels")


def read_in_a_loop(
    place: Place, truth: Digests, kind: Kind, ended: Any, answers: Connection
) -> None:
    """Open and read until the build has ended; report every store that was seen."""
    draw = random.Random(kind)
    views: list[dict[int, str]] = []
    counts = Counter[str]()
    replaces = kind in (Kind.OVERWRITE, Kind.NEW)
    in_place = replaces or kind in (Kind.RETRY, Kind.RESUME)
    checks = RULES.readers_notice or not in_place  # until readers notice a store that was replaced
    held: xr.Dataset | None = None
    try:
        while not ended.wait(0.05):
            try:
                chunks = draw.choice(["shards", None])
                dataset = gz3d_zarr.open_store(place.url, chunks=chunks, **place.keywords)
                seen = statuses(dataset)
                if checks and seen not in views:
                    views.append(seen)
                held = held if held is not None else dataset
                for one in (dataset, held):
                    if checks:
                        row = draw.randrange(one.sizes["subject"])
                        check_pictures(one, [row], truth, changes=True)
                counts["reads"] += 1
            except StoreError as error:
                counts["reads refused"] += 1
                held = held if replaces is False else None
                if not in_place:
                    raise ViolationError(f"a reader of an update is refused: {error}") from error
        answers.send((views, dict(counts), ""))
    except BaseException as error:
        detail = str(error) if isinstance(error, ViolationError) else traceback.format_exc()
        answers.send((views, dict(counts), detail))


def list_faults(place: Place, *, by_processes: bool) -> list[Fault]:
    """Faults that may strike there, each as often as it is to come."""
    faults = LOCAL_FAULTS if place.proxy is None else SERVER_FAULTS
    return [fault for fault in faults if by_processes or fault not in BY_PROCESSES]


def find_leftovers(place: Place) -> list[str]:
    """Files that a build must not leave: of killed builds beside the store and in it."""
    store = Path(place.url)
    found = [path for path in store.rglob("*") if path.name.endswith(PARTIAL_SUFFIX)]
    found += [store / ".gz3d", Path(place.url + BUILDING_SUFFIX)]
    if RULES.keeps_good:
        found.append(Path(place.url + REPLACED_SUFFIX))
    return [str(path) for path in found if place.proxy is None and path.exists()]


def sha256(values: Any) -> str:
    """Digest of pixels."""
    return hashlib.sha256(np.ascontiguousarray(values, np.uint8).tobytes()).hexdigest()


def read_truth(path: Path) -> tuple[str, str]:
    """Digests of image and masks, as astropy reads them."""
    with fits.open(path) as hdus:
        masks = np.stack([hdu.data for hdu in hdus[1:5]])
        return sha256(hdus[0].data), sha256(np.minimum(masks, 255))


def arm_proxy(proxy: Any, step: Step, pid: int, shards: int) -> None:
    """Let the S3 server fail, or let the builder die at one of its writing requests."""
    from object_stores import Fault as ServerFault

    proxy.delay = 0.02 if step.fault is Fault.SLOW else 0.0
    moment = int(step.moment * (REQUESTS + shards * REQUESTS_A_SHARD))
    done = 0

    def kill(method: str, key: str, _: int) -> Any:
        nonlocal done
        done += method in ("PUT", "DELETE", "POST") and "lease" not in key
        if done <= moment:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        # Half of the builders die before the request arrives.
        return ServerFault.RESET if moment % 2 else ServerFault.LOST_ANSWER

    def fail(method: str, key: str, asked: int) -> Any:
        draw = random.Random(f"{step.moment} {method} {key} {asked}")
        some = [ServerFault.SLOW_DOWN, ServerFault.RESET, ServerFault.LOST_ANSWER]
        some += [ServerFault.HALF_PUT] if method == "PUT" else []
        return draw.choice(some) if draw.random() < 0.08 else None

    proxy.faults = {Fault.KILL: kill, Fault.SERVER: fail}.get(step.fault)


@contextlib.contextmanager
def s3_place() -> Iterator[Place]:
    """A bucket of moto behind a proxy that can fail."""
    from object_stores import close_sessions, fresh_bucket, run_moto, run_proxy

    with run_moto() as server, fresh_bucket(server) as bucket, run_proxy(bucket) as proxy:
        url = f"{bucket.url}/g.zarr"
        try:
            yield Place("s3", url, proxy.server.storage_options, proxy)
        finally:
            close_sessions()
