"""Copy a complete store, checked, its metadata last."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes

from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.datamodel.receipts import StoredObject
from gz3d_zarr.datamodel.schema import RECEIPTS_ATTR, SCHEMA
from gz3d_zarr.datamodel.text_report import TextReport
from gz3d_zarr.errors import StoreError, UsageError, plural
from gz3d_zarr.locations import whole_key
from gz3d_zarr.pipeline.build_state import TargetState, inspect_target
from gz3d_zarr.pipeline.publish import publish_root
from gz3d_zarr.pipeline.replace import hold_target
from gz3d_zarr.pipeline.root_additions import find_added_members
from gz3d_zarr.progress import Progress, ProgressOption, check_progress, choose_progress
from gz3d_zarr.storage.build_record import (
    RECORD_KEY,
    ROOT_KEY,
    WORK_PREFIX,
    BuildRecord,
    check_owner,
    check_reached,
    digest,
    parse_root,
    put_record,
    read_attrs,
    refuse_dataset,
)
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store
from gz3d_zarr.storage.published_receipts import (
    PublishedReceipts,
    published_key,
    read_published_receipts,
)

if TYPE_CHECKING:
    from distributed import Client


TASK_BYTES = 64 * 10**6


@dataclass(frozen=True)
class CopyReport(TextReport):
    """Result of `copy`.

    Attributes
    ----------
    store : str
        Absolute path or URL.
    destination : str
        Absolute path or URL of the copy.
    objects : int
        Objects of the store.
    copied : int
        Objects that this run copied; the others existed.
    copied_bytes : int
        Bytes of the objects that this run copied.
    seconds : float
        Wall time of this run.
    left_behind : int
        Files in the store's folder that are not part of the store, and were not copied.
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
            text += f"\nNot copied: {others} in {self.store}, not part of the store"
        return text


@dataclass(frozen=True)
class CopyTask:
    """Objects that one worker copies.

    Attributes
    ----------
    build_id : str
        Of this run; tasks of any other write nothing.
    objects : tuple of StoredObject
        With an empty digest where none is known.
    existing : frozenset of str
        Keys that exist at the destination already.
    """

    source: ObjectStore
    destination: ObjectStore
    build_id: str
    objects: tuple[StoredObject, ...]
    existing: frozenset[str] = frozenset()


def copy(
    store: str | Path,
    destination: str | Path,
    client: Client | None = None,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    resume: bool = False,
    progress: ProgressOption = None,
    storage_options: Mapping[str, Any] | None = None,
    destination_options: Mapping[str, Any] | None = None,
) -> CopyReport:
    """Copy a complete store between any two places over dask.

    Shards are checked against their digests before they are written, and everything else is decoded
    or compared before anything is written. Objects that a stopped run left are read and compared.
    At the end every object must exist with its size; the root comes last, so that nobody sees half
    a store. Files in the store's folder that are not part of the store are not copied.

    Parameters
    ----------
    store, destination : str or Path
    client, scheduler, workers, progress
        As for `build`.
    resume : bool
        Continue a copy that was stopped.
    storage_options, destination_options : mapping, optional
        For fsspec: of the store, and of the destination.

    Returns
    -------
    CopyReport

    Raises
    ------
    StoreError
        The store is incomplete or damaged, the destination holds something already, or one of
        them is a link.
    """
    from gz3d_zarr.pipeline.dask_client import find_resources, use_client, use_workers
    from gz3d_zarr.pipeline.dask_tasks import run_tasks  # slow to import

    check_type("resume", resume, bool)
    check_progress(progress)
    source = open_object_store(store, storage_options)
    target = open_object_store(destination, destination_options)
    # Before anything is read, as the options may be for the other one.
    source.refuse_link("copied")
    target.refuse_link("copied to")
    if f"{target.url}/".startswith(f"{source.url}/"):
        raise UsageError(f"{source.url} cannot be copied to itself, nor into itself")
    root, layout, objects, others = _list_objects(source)
    sizes = {item.key: item.size for item in objects}
    began = time.monotonic()
    is_there = resume and target.get(RECORD_KEY) is None and target.get(ROOT_KEY) == root
    if is_there and not _find_lost(target.list_sizes(), sizes):
        seconds = time.monotonic() - began
        return CopyReport(source.url, target.url, len(sizes) + 1, 0, 0, seconds, others)
    with use_client(client, scheduler) as running, hold_target(target) as lease:
        existing = _check_destination(target, root, resume=resume)
        record = BuildRecord(lease.build_id, root_sha256=digest(root))
        put_record(target, record)
        tasks = [
            CopyTask(source, target, lease.build_id, group, existing) for group in _group(objects)
        ]
        done = copied = copied_bytes = 0
        if tasks:
            resources = find_resources(running, workers)
            with use_workers(running, resources, len(tasks)) as worker:
                hint = ". What is copied is kept; use --resume to continue"
                results = run_tasks(
                    worker, copy_objects, tasks, "gz3d-copy", layout.shard_size, hint
                )
                with contextlib.closing(results), choose_progress(progress, "objects") as report:
                    for objects_done, written, size in results:
                        copied += written
                        copied_bytes += size
                        done += objects_done
                        report(Progress(done, len(sizes), objects_done, 0))
        _publish(source, target, sizes, root, lease.build_id)
    seconds = time.monotonic() - began
    size = copied_bytes + len(root)
    return CopyReport(source.url, target.url, len(sizes) + 1, copied + 1, size, seconds, others)


def _list_objects(source: ObjectStore) -> tuple[bytes, Layout, list[StoredObject], int]:
    """Root, layout and other objects of a store that is complete and sound as far as is checked.

    Returns
    -------
    root : bytes
    layout : Layout
    objects : list of StoredObject
        All but the root, sorted by key; with an empty digest where none is known.
    others : int
        Objects that are not of the store.

    Raises
    ------
    StoreError
        There is no complete store, or it has lost or damaged objects.
    """
    from gz3d_zarr.backends.store import open_dataset  # slow to import

    root = source.get(ROOT_KEY) or b""
    refuse_dataset(source.url, root)
    attrs = read_attrs(root)
    if attrs.get("schema") != SCHEMA:
        open_dataset(source)  # reports what it is instead
        raise StoreError(f"{source.url} is not a Galaxy Zoo: 3D store")
    parse_root(source.url, root)
    published = read_published_receipts(source, attrs)
    found = source.list_sizes()
    objects = published.objects
    receipts_key = published_key(attrs[RECEIPTS_ATTR])
    objects[receipts_key] = StoredObject(
        receipts_key, found.get(receipts_key, 0), attrs[RECEIPTS_ATTR]
    )
    lost = sorted(objects.keys() - found.keys())
    if lost:
        raise StoreError(f"{source.url} has lost {lost[0]}: run gz3d-zarr verify for details")
    resized = sorted(key for key, item in objects.items() if found[key] != item.size)
    if resized:
        key = resized[0]
        raise StoreError(
            f"{source.url} is damaged, and is not copied: {key} has {found[key]} bytes, expected "
            f"{objects[key].size}; run gz3d-zarr verify for details"
        )
    members = _check_small_objects(source, published, root, found)
    for key in found.keys() - objects.keys():
        if key.startswith(tuple(f"{name}/" for name in members)):  # or a copy would lack them
            objects[key] = StoredObject(key, found[key], "")
    others = {key for key in found if not key.startswith(WORK_PREFIX)} - {*objects, ROOT_KEY}
    return root, published.layout, [objects[key] for key in sorted(objects)], len(others)


def _check_small_objects(
    source: ObjectStore, published: PublishedReceipts, root: bytes, sizes: Mapping[str, int]
) -> list[str]:
    """Refuse a store where the root or a small object is damaged, before anything is copied.

    Returns
    -------
    list of str
        Arrays and groups of other programs that the root lists.

    Raises
    ------
    StoreError
        Names the first.
    """
    from gz3d_zarr.pipeline import document_checks, store_checks  # slow to import
    from gz3d_zarr.storage.small_arrays import encode_small_objects

    stored = {**store_checks.read_small_objects(source, published, sizes), ROOT_KEY: root}
    expected = encode_small_objects(published.records, published.layout, published.attributes)
    for check in (
        *store_checks.check_objects(published, stored, sizes),
        *document_checks.check_documents(stored, expected, published),
    ):
        if not check.passed:
            raise StoreError(
                f"{source.url} is damaged, and is not copied: {check.target}: {check.detail}; run "
                "gz3d-zarr verify for details"
            )
    return find_added_members(root, expected)


def copy_objects(task: CopyTask) -> tuple[int, int, int]:
    """Copy some objects; return their number, how many were written, and how many bytes.

    An object that exists from an earlier run is read, and kept where it is the same.

    Raises
    ------
    StoreError
        One is missing, or not as it was written; or another build has taken the store over.
    """
    check_owner(task.destination, task.build_id)
    written = total = 0
    for item in task.objects:
        data = task.source.get_up_to(item.key, item.size)
        if data is None:
            check_reached(task.source)
        if data is None or len(data) != item.size:
            raise StoreError(f"{task.source.url}/{item.key} changed while it was copied")
        if item.sha256 and digest(data) != item.sha256:
            raise StoreError(
                f"{task.source.url}/{item.key} is not as it was written (SHA-256): the store is "
                "damaged, and is not copied; run gz3d-zarr verify for details"
            )
        if item.key in task.existing:
            existing = task.destination.get_up_to(item.key, item.size)
            if existing == data:
                continue
        task.destination.put(item.key, data)
        written += 1
        total += item.size
    return len(task.objects), written, total


def _read_record(target: ObjectStore, data: bytes) -> BuildRecord:
    try:
        return BuildRecord.from_json(data)
    except StoreError as error:
        raise StoreError(
            f"{target.url} holds a build or a copy that cannot be continued, as {RECORD_KEY} "
            "cannot be read or is of another version; copy to another path, or empty it yourself"
        ) from error


def _check_destination(target: ObjectStore, root: bytes, *, resume: bool) -> frozenset[str]:
    """Keys that exist at a destination where this copy may begin or continue.

    Raises
    ------
    StoreError
        Something else exists there, or an unfinished copy, without `resume`.
    """
    data = target.get(RECORD_KEY)
    if resume and data is None and target.get(ROOT_KEY) == root:  # it has lost objects since
        return frozenset(target.list_sizes())
    if data is not None and _read_record(target, data).ends_with(root):
        if not resume:
            raise StoreError(
                f"{target.url} holds a copy that has not ended; use --resume to continue it"
            )
        return frozenset(key for key in target.list_sizes() if not key.startswith(WORK_PREFIX))
    if inspect_target(target).state is not TargetState.EMPTY:
        raise StoreError(
            f"{target.url} holds a store already, and not an unfinished copy of this one; "
            "nothing was changed. Choose another path, or empty it yourself"
        )
    return frozenset()


def _group(objects: Sequence[StoredObject]) -> list[tuple[StoredObject, ...]]:
    """Divide objects into groups that are worth a task."""
    groups: list[list[StoredObject]] = []
    remaining = 0
    for item in objects:
        if item.size > remaining or not groups:
            groups.append([])
            remaining = TASK_BYTES
        groups[-1].append(item)
        remaining -= item.size
    return [tuple(group) for group in groups]


def _find_lost(found: Mapping[str, int], sizes: Mapping[str, int]) -> list[str]:
    """Keys of objects that do not exist with their size."""
    return sorted(key for key, size in sizes.items() if found.get(key) != size)


def _publish(
    source: ObjectStore, target: ObjectStore, sizes: Mapping[str, int], root: bytes, build_id: str
) -> None:
    """Check that all objects exist and the store is still the same; then put the root."""
    found = target.list_sizes()
    lost = _find_lost(found, sizes)
    if lost:
        raise StoreError(
            f"{target.url} lacks {plural(len(lost), 'object')} of the copy (first {lost[0]})"
        )
    if source.get(ROOT_KEY) != root:
        raise StoreError(
            f"{source.url} was updated while it was copied; empty {target.url} and copy it anew"
        )
    check_owner(target, build_id)
    written = {*sizes, ROOT_KEY, RECORD_KEY}
    target.delete(sorted(key for key in found if whole_key(key) in written))
    publish_root(target, root, [*sizes], build_id)
    target.delete([RECORD_KEY])
    target.prune((WORK_PREFIX,))
