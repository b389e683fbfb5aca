"""A complete store to another place, whole and checked, metadata last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes

from gz3d_zarr.datamodel.schema import SCHEMA
from gz3d_zarr.errors import StoreError, UsageError, plural
from gz3d_zarr.progress import Progress
from gz3d_zarr.storage.build_record import PLAN_KEY, ROOT_KEY, WORK_PREFIX, check_build
from gz3d_zarr.storage.lease import hold_lease
from gz3d_zarr.storage.object_store import PARTIAL_SUFFIX, ObjectStore, open_object_store

if TYPE_CHECKING:
    from distributed import Client


TASK_BYTES = 64 * 10**6


@dataclass(frozen=True)
class CopyReport:
    """Result of `copy`.

    Attributes
    ----------
    store, destination : str
    objects, copied : int
        Objects of the store, and those that this run copied.
    copied_bytes : int
    seconds : float
    left_behind : int
        Files in the store's folder that are not of the store, and were not copied.
    """

    store: str
    destination: str
    objects: int
    copied: int
    copied_bytes: int
    seconds: float
    left_behind: int = 0

    def summary(self) -> dict[str, Any]:
        """What ``gz3d-zarr copy --json`` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """What ``gz3d-zarr copy`` prints."""
        text = (
            f"Copied {self.copied} of {plural(self.objects, 'object')}, "
            f"{format_bytes(self.copied_bytes)}, in {self.seconds:.1f} s: {self.destination}"
        )
        if not self.copied:
            text = f"Nothing to copy: all {self.objects} objects are in {self.destination}"
        if self.left_behind:
            others = plural(self.left_behind, "other object")
            text += f"\nLeft behind: {others} in {self.store}, not of the store"
        return text


@dataclass(frozen=True)
class CopyTask:
    """Objects that one worker copies.

    Attributes
    ----------
    build_id : str
        Of this run; tasks of another one write nothing.
    objects : tuple of (key, size, SHA-256 or empty)
    there : frozenset of str
        Keys that stand at the destination already.
    """

    source: ObjectStore
    destination: ObjectStore
    build_id: str
    objects: tuple[tuple[str, int, str], ...]
    there: frozenset[str] = frozenset()


def copy(
    store: str | Path,
    destination: str | Path,
    client: Client | None = None,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    destination_options: Mapping[str, Any] | None = None,
) -> CopyReport:
    """Copy a complete store between any two places over dask.

    Shards are checked against their digests before they are written, everything else is decoded
    or compared before anything is, what a stopped run has left is read and compared, and
    everything that stands there at the end has its size; the root comes last, so that nobody sees
    half a store. Files in the store's folder that are not of the store stay behind.

    Parameters
    ----------
    store, destination : str or Path
    client, scheduler, workers, progress
        As for `build`.
    resume : bool
        Go on with a copy that was stopped.
    storage_options, destination_options : mapping, optional
        For fsspec: of the store, and of the destination.

    Returns
    -------
    CopyReport

    Raises
    ------
    StoreError
        The store is not complete or damaged, the destination holds something already, or one of
        them is a link.
    """
    from gz3d_zarr.pipeline.dask_client import find_resources, use_client, use_workers
    from gz3d_zarr.pipeline.dask_tasks import run_tasks
    from gz3d_zarr.pipeline.resume import restore_receipts
    from gz3d_zarr.pipeline.store_checks import stored_keys  # slow to import

    source = open_object_store(store, storage_options)
    target = open_object_store(destination, destination_options)
    for place, what in ((source, "copied"), (target, "copied to")):
        place.refuse_link(what)  # before anything is read, with options that are for the other
    if f"{target.url}/".startswith(f"{source.url}/"):
        raise UsageError(f"{source.url} cannot be copied to itself, nor into itself")
    root = source.get(ROOT_KEY) or b""
    if _is_ours(root):  # otherwise the next line says what it is
        _check_undigested(source)
    layout, receipts = restore_receipts(source)
    digests = {stored.key: stored.sha256 for r in receipts for stored in r.objects}
    keys, found = stored_keys(source) | set(digests), source.list_sizes()
    sizes = {key: size for key, size in found.items() if key in keys}
    others = {key for key in found if not key.startswith(WORK_PREFIX)} - keys - {ROOT_KEY}
    lost = sorted(keys - set(sizes))
    if lost:
        raise StoreError(f"{source.url} has lost {lost[0]}: gz3d-zarr verify tells more")
    identity = {"schema": SCHEMA, "copy_of": hashlib.sha256(root).hexdigest()}
    began = time.monotonic()
    if resume and target.get(PLAN_KEY) is None and target.get(ROOT_KEY) == root:
        _check_all_there(target, sizes)
        seconds = time.monotonic() - began
        return CopyReport(source.url, target.url, len(sizes) + 1, 0, 0, seconds, len(others))
    with use_client(client, scheduler) as running, hold_lease(target) as lease:
        there = _assess(target, identity, root, resume=resume)
        target.put(PLAN_KEY, json.dumps({**identity, "build_id": lease.build_id}).encode())
        items = sorted((k, n, digests.get(k, "")) for k, n in sizes.items())
        tasks = [CopyTask(source, target, lease.build_id, group) for group in _group(items)]
        tasks = [replace(task, there=frozenset(there)) for task in tasks]
        done = copied = copied_bytes = 0
        if tasks:
            resources = find_resources(running, workers)
            with use_workers(running, resources, len(tasks)) as worker:
                hint = ". What is copied is kept; --resume goes on"
                results = run_tasks(
                    worker, copy_objects, tasks, "gz3d-copy", layout.shard_size, hint
                )
                with contextlib.closing(results):
                    for objects, written, size in results:
                        copied += written
                        copied_bytes += size
                        done += objects
                        if progress is not None:
                            progress(Progress(done, len(sizes), objects, 0))
        _publish(source, target, sizes, root, lease.build_id)
    seconds = time.monotonic() - began
    size = copied_bytes + len(root)
    return CopyReport(
        source.url, target.url, len(sizes) + 1, copied + 1, size, seconds, len(others)
    )


def _is_ours(root: bytes) -> bool:
    try:
        return bool(json.loads(root)["attributes"]["schema"] == SCHEMA)
    except (ValueError, KeyError, TypeError):
        return False


def _check_undigested(source: ObjectStore) -> None:
    """Refuse a store where an object that has no digest is damaged.

    Small arrays have checksums in their codecs; metadata stand in the root once more.

    Raises
    ------
    StoreError
        Names the first.
    """
    from gz3d_zarr.backends.store import read_small_arrays
    from gz3d_zarr.pipeline.store_checks import check_metadata, stored_keys  # slow to import

    keys = stored_keys(source)
    metadata = ((f"{c.target}/{ROOT_KEY}", c.detail) for c in check_metadata(source))
    for key, finding in (
        *(item for item in metadata if item[0] in keys),
        *read_small_arrays(source),
    ):
        if finding and key != ROOT_KEY:
            raise StoreError(
                f"{source.url}/{key} is damaged: {finding}. The store is not copied; gz3d-zarr "
                "verify tells more"
            )


def copy_objects(task: CopyTask) -> tuple[int, int, int]:
    """Copy some objects; their number, how many of them were written, and how many bytes.

    One that stands there from an earlier run is read, and kept where it is the same.

    Raises
    ------
    StoreError
        One is not there, or not as it was written; or another build has taken the place over.
    """
    check_build(task.destination, task.build_id)
    written = total = 0
    for key, size, sha256 in task.objects:
        data = task.source.get(key)
        if data is None or len(data) != size:
            raise StoreError(f"{task.source.url}/{key} changed while it was copied")
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise StoreError(
                f"{task.source.url}/{key} is not as it was written (SHA-256): the store is "
                "damaged, and is not copied; gz3d-zarr verify tells more"
            )
        if key in task.there and task.destination.get(key) == data:
            continue
        task.destination.put(key, data)
        written += 1
        total += size
    return len(task.objects), written, total


def _assess(
    target: ObjectStore, identity: Mapping[str, Any], root: bytes, *, resume: bool
) -> dict[str, int]:
    """What stands at the destination of a copy that may go on there."""
    found = {k: n for k, n in target.list_sizes().items() if not k.startswith(WORK_PREFIX)}
    begun = json.loads(target.get(PLAN_KEY) or b"{}")
    if {name: begun.get(name) for name in identity} == identity and (
        ROOT_KEY not in found or target.get(ROOT_KEY) == root  # killed just before its end
    ):
        if not resume:
            raise StoreError(f"{target.url} holds a copy that has not ended; --resume goes on")
        return found
    if found or begun:
        raise StoreError(
            f"{target.url} holds something already, which is no unfinished copy of this store; "
            "nothing was touched. Choose another place, or empty it yourself"
        )
    return {}


def _group(
    objects: Sequence[tuple[str, int, str]],
) -> list[tuple[tuple[str, int, str], ...]]:
    """Objects in groups that are worth a task."""
    groups: list[list[tuple[str, int, str]]] = []
    room = 0
    for item in objects:
        if item[1] > room or not groups:
            groups.append([])
            room = TASK_BYTES
        groups[-1].append(item)
        room -= item[1]
    return [tuple(group) for group in groups]


def _check_all_there(target: ObjectStore, sizes: Mapping[str, int]) -> dict[str, int]:
    """All that stands at the destination, where every object is there with its size."""
    found = target.list_sizes()
    lost = sorted(key for key, size in sizes.items() if found.get(key) != size)
    if lost:
        raise StoreError(f"{target.url} lacks {len(lost)} objects that were copied ({lost[0]})")
    return found


def _is_leftover(key: str, written: Collection[str]) -> bool:
    """Whether it is what a killed writer of one of these objects has left (see `ObjectStore`)."""
    folder, slash, name = key.rpartition("/")
    if not (name.startswith(".") and name.endswith(PARTIAL_SUFFIX)):
        return False
    return f"{folder}{slash}{name[1:].rsplit('.', 2)[0]}" in written


def _publish(
    source: ObjectStore, target: ObjectStore, sizes: Mapping[str, int], root: bytes, build_id: str
) -> None:
    """See that all is there and the store is still the same; then put the root."""
    found = _check_all_there(target, sizes)
    if source.get(ROOT_KEY) != root:
        raise StoreError(
            f"{source.url} was updated while it was copied; empty {target.url} and copy it anew"
        )
    check_build(target, build_id)
    written = {*sizes, ROOT_KEY, PLAN_KEY}
    target.delete(sorted(key for key in found if _is_leftover(key, written)))
    target.sync(sizes)
    target.put(ROOT_KEY, root)
    target.sync([ROOT_KEY])
    target.delete([PLAN_KEY])
    target.prune((WORK_PREFIX,))
