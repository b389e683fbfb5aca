"""Begin writing at a store, and publish what was written; replace an older store beside it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.receipts import Receipt
from gz3d_zarr.datamodel.schema import Provenance
from gz3d_zarr.datamodel.variables import SubjectRecord
from gz3d_zarr.errors import StoreError, error_message
from gz3d_zarr.pipeline.build_state import (
    OUR_PREFIXES,
    BuildRequest,
    Mode,
    TargetState,
    inspect_target,
    is_only_ours,
    is_ours,
    is_shard,
)
from gz3d_zarr.pipeline.resume import ResumePlan
from gz3d_zarr.storage.build_record import (
    FILES_KEY,
    LEASE_KEY,
    RECEIPTS_PREFIX,
    RECORD_KEY,
    ROOT_KEY,
    WORK_PREFIX,
    BuildRecord,
    check_owner,
    digest,
)
from gz3d_zarr.storage.lease import Lease
from gz3d_zarr.storage.object_store import PARTIAL_SUFFIX, ObjectStore
from gz3d_zarr.storage.published_receipts import (
    PUBLISHED_PREFIX,
    encode_published_receipts,
    is_published_key,
    published_key,
)
from gz3d_zarr.storage.small_arrays import encode_small_objects

BUILDING_SUFFIX = ".building"
"""Ending of the folder in which a new store is built beside the one that it replaces."""
REPLACED_SUFFIX = ".replaced"
"""Ending of the folder of the old store, between the two renames that replace it."""
_WORK_KEYS = {RECORD_KEY, FILES_KEY, LEASE_KEY}


def find_target(store: ObjectStore, request: BuildRequest) -> ObjectStore:
    """Find where a build writes: the store itself, or a folder beside it that will replace it.

    An object store cannot rename. There, and where a person keeps files in the store's folder, an
    overwrite deletes first and builds in place. Nothing is written here.

    Raises
    ------
    StoreError
        A build beside the store has not ended, and only a plain resume may continue it.
    """
    if not store.is_local:
        return store
    beside = store.with_url(store.url + BUILDING_SUFFIX)
    if request.mode is Mode.OVERWRITE:
        return beside if _can_be_replaced(store) else store
    if inspect_target(beside).state is TargetState.EMPTY:
        return store
    if request == BuildRequest(Mode.RESUME):
        return beside
    raise StoreError(
        f"{beside.url} holds a build that was to replace {store.url} and has not ended; use "
        "--resume to continue it, or --overwrite to build it anew"
    )


def _can_be_replaced(store: ObjectStore) -> bool:
    path = Path(store.url)
    target = inspect_target(store)
    return (
        (target.has_root or target.state is TargetState.COMPLETE)
        and not path.is_symlink()
        and not path.is_mount()
        and is_only_ours(store)
    )


@contextlib.contextmanager
def writing_target(
    store: ObjectStore, request: BuildRequest, lease: Lease
) -> Iterator[ObjectStore]:
    """Give the store to write to; it replaces the other one when the context ends without error.

    Raises
    ------
    StoreError
        As `find_target`, and `replace_store`.
    """
    target = find_target(store, request)  # another builder may have ended just now
    yield target
    if target is not store:
        replace_store(target, store, lease)


def remove_leftovers(store: ObjectStore, target: ObjectStore, mode: Mode) -> None:
    """Remove what killed builds left beside a store, as its only builder.

    That is an old store that has been replaced, and, where an overwrite builds in place, a new one
    beside that never replaced it.
    """
    if not store.is_local:
        return
    suffixes = []
    if inspect_target(store).attrs:
        suffixes.append(REPLACED_SUFFIX)
    if mode is Mode.OVERWRITE and target is store:
        suffixes.append(BUILDING_SUFFIX)
    for suffix in suffixes:
        leftover = store.with_url(store.url + suffix)
        if Path(leftover.url).is_dir() and is_only_ours(leftover):
            shutil.rmtree(leftover.url, ignore_errors=True)


def replace_store(new: ObjectStore, store: ObjectStore, lease: Lease) -> None:
    """Rename the store that was built beside another one to its name, and delete the old one.

    Raises
    ------
    StoreError
        It cannot be renamed; ``--resume`` tries again.
    """
    old = Path(store.url + REPLACED_SUFFIX)
    try:
        if old.exists() and is_only_ours(store.with_url(str(old))):
            shutil.rmtree(old)
        with lease.paused():
            if not lease.is_ours():
                raise StoreError(
                    f"{store.url} was taken over by another build while this one ran; the new "
                    f"store stays at {new.url}"
                )
            if Path(store.url).exists():
                Path(store.url).rename(old)
            Path(new.url).rename(store.url)
        if old.exists():
            shutil.rmtree(old)
    except OSError as error:
        raise StoreError(
            f"the new store {new.url} cannot be renamed to {store.url}: {error_message(error)}; "
            "solve that and use --resume"
        ) from error


def begin_writing(store: ObjectStore, work: ResumePlan, build_id: str) -> None:
    """Record the build, and delete what it does not keep.

    The record is put before anything is deleted or changed: whenever this is stopped, what
    remains is known to be ours. Where a store is deleted, its root is the first to go, so that a
    reader sees the old store or none.
    """
    record = work.target.record
    if work.clears or record is None or record.fingerprint != work.plan.fingerprint:
        store.delete(sorted(store.list_sizes(RECEIPTS_PREFIX)))
        names = "\n".join(entry.file.name for entry in work.plan.manifest.entries)
        store.put(FILES_KEY, names.encode())
    write_build_record(store, work, build_id)
    if work.clears:
        store.delete([ROOT_KEY])
        keys = {key for key in store.list_sizes() if is_ours(key)}
        store.delete(sorted(keys - _WORK_KEYS))
        store.prune((*OUR_PREFIXES, PUBLISHED_PREFIX))


def write_build_record(store: ObjectStore, work: ResumePlan, build_id: str) -> None:
    """Make the store this build's: tasks of an earlier build write nothing more."""
    record = BuildRecord(
        build_id,
        work.plan.fingerprint,
        work.plan.manifest.order,
        work.plan.layout,
        work.shards_to_write,
        work.retry_failed and work.shards_to_write is not None,
    )
    store.put(RECORD_KEY, record.to_json())


def reconcile_objects(store: ObjectStore, receipts: Sequence[Receipt], build_id: str) -> None:
    """Check that all shards exist as written, and delete what a killed writer left.

    Raises
    ------
    StoreError
        An object does not exist, or has another size: the workers wrote elsewhere. Or another
        build has taken the store over, whose objects these may be.
    """
    check_owner(store, build_id)
    stored = {item.key: item.size for receipt in receipts for item in receipt.objects}
    found = store.list_sizes()
    lost = sorted(key for key, size in stored.items() if found.get(key) != size)
    if lost:
        raise StoreError(
            f"{store.url} lacks {len(lost)} of {len(stored)} objects that workers have written "
            f"(first {lost[0]}): workers and client must reach the same store under this name"
        )
    partial = {key for key in found if key.endswith(PARTIAL_SUFFIX) and is_ours(key)}
    strange = {key for key in found if is_shard(key) and key not in stored}
    store.delete(sorted(partial | strange))


def publish(
    store: ObjectStore,
    records: Sequence[SubjectRecord],
    receipts: Sequence[Receipt],
    layout: Layout,
    provenance: Provenance,
    build_id: str,
) -> None:
    """Write everything that is not a shard, the root last, and remove the record of the build.

    Raises
    ------
    StoreError
        An object cannot be written; the store is then still incomplete.
    """
    sha256, kept = encode_published_receipts(receipts, records)
    objects = encode_small_objects(records, layout, replace(provenance, receipts_sha256=sha256))
    root = objects.pop(ROOT_KEY)
    objects[published_key(sha256)] = kept
    # Values before metadata: a reader with the old metadata reads old rows, which do not change.
    metadata = {key: objects.pop(key) for key in [*objects] if key.endswith(ROOT_KEY)}
    for part in (objects, metadata):
        check_owner(store, build_id)
        store.put_all(part)
    shards = {stored.key for receipt in receipts for stored in receipt.objects}
    publish_root(store, root, [*shards, *objects, *metadata], build_id)
    clean_up(store, keep=published_key(sha256))


def publish_root(store: ObjectStore, root: bytes, written: Sequence[str], build_id: str) -> None:
    """Put the root, after which the store is complete.

    The record says first which root ends the build: where this is killed afterwards, the store is
    known to be complete.
    """
    record = check_owner(store, build_id)
    store.sync(written)  # the root is the last also after a power failure
    store.put(RECORD_KEY, replace(record, root_sha256=digest(root)).to_json())
    store.put(ROOT_KEY, root)
    store.sync([ROOT_KEY])


def clean_up(store: ObjectStore, keep: str) -> None:
    """Remove the documents of a build that has ended, and receipts that it replaced.

    The record goes first: without it, the other documents mean nothing.

    Parameters
    ----------
    keep : str
        Key of the receipts that the root names.
    """
    left = store.list_sizes(WORK_PREFIX)
    if left:
        store.delete([RECORD_KEY])
        store.delete(sorted(key for key in left if not key.startswith(LEASE_KEY)))
        store.prune((WORK_PREFIX,))
    published = {key for key in store.list_sizes(PUBLISHED_PREFIX) if is_published_key(key)}
    store.delete(sorted(published - {keep}))
