"""Begin writing at a store, and publish what was written; replace an older store beside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.receipts import Receipt, SubjectOutcome
from gz3d_zarr.datamodel.schema import (
    GENERATION_ATTR,
    RECEIPTS_ATTR,
    SCHEMA,
    Provenance,
    root_attrs,
)
from gz3d_zarr.datamodel.variables import SubjectRecord
from gz3d_zarr.errors import StoreError, error_message, plural
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
    BUILDING_SUFFIX,
    FILES_KEY,
    LEASE_KEY,
    RECEIPTS_PREFIX,
    RECORD_KEY,
    REPLACED_SUFFIX,
    ROOT_KEY,
    WORK_PREFIX,
    BuildRecord,
    check_owner,
    digest,
    put_record,
    read_attrs,
)
from gz3d_zarr.storage.lease import Lease, check_free, hold_lease
from gz3d_zarr.storage.object_store import PARTIAL_SUFFIX, ObjectStore
from gz3d_zarr.storage.packs import pack_digests, pack_key
from gz3d_zarr.storage.published_receipts import (
    BLANK_SHA256,
    PUBLISHED_PREFIX,
    encode_published_receipts,
    is_published_key,
    published_key,
    read_published_receipts,
)
from gz3d_zarr.storage.small_arrays import encode_small_objects

RENAME_ATTEMPTS = 20
"""How often, 0.1 seconds apart, a store is renamed where another builder is about to be refused."""
_WORK_KEYS = {RECORD_KEY, FILES_KEY, LEASE_KEY}


def find_target(store: ObjectStore, request: BuildRequest) -> ObjectStore:
    """Find where a build writes: the store itself, or a folder beside it that will replace it.

    An object store cannot rename. There, and where the store's folder is a link or a mount point,
    an overwrite deletes first and builds in place. Nothing is written here.

    Raises
    ------
    StoreError
        A build beside the store has not ended, and only a resume may continue it.
    """
    if not store.is_local:
        return store
    beside = store.with_url(store.url + BUILDING_SUFFIX)
    if request.mode is Mode.OVERWRITE:
        return beside if _can_be_replaced(store) else store
    if inspect_target(beside).state is TargetState.EMPTY:
        return store
    if request.mode is Mode.RESUME and not request.may_grow:
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
    )


@contextlib.contextmanager
def hold_target(store: ObjectStore) -> Iterator[Lease]:
    """Be the only builder of a store, as `hold_lease`; first end what a killed overwrite began.

    Raises
    ------
    StoreError
        Another builder is running, also one that just renames its new store; or the store cannot
        be written.
    """
    with hold_lease(store) as lease:
        if has_replaced(store):
            _end_replacement(store, lease)
        yield lease


def has_replaced(store: ObjectStore) -> bool:
    """Whether an overwrite was killed, or is running, after it renamed the old store."""
    return store.is_local and Path(store.url + REPLACED_SUFFIX).is_dir()


def _end_replacement(store: ObjectStore, lease: Lease) -> None:
    """Rename the new store, if that is still to be done, and delete the old one.

    The lease of a builder that is between its two renames lies in the old store. A lease that was
    taken in that time is not in the new one.
    """
    old = store.with_url(store.url + REPLACED_SUFFIX)
    new = store.with_url(store.url + BUILDING_SUFFIX)
    check_free(old)
    if not lease.is_ours():
        raise StoreError(f"another build has just ended at {store.url}; try again")
    try:
        if inspect_target(store).state is TargetState.EMPTY:
            whole = next((each for each in (new, old) if inspect_target(each).attrs), None)
            if whole is not None:
                with lease.paused():
                    _rename_into_place(whole, store)
        if has_replaced(store) and inspect_target(store).attrs:
            _delete_replaced(store)
    except OSError as error:
        raise StoreError(
            f"{old.url}, which an overwrite of {store.url} left, cannot be renamed or deleted: "
            f"{error_message(error)}; solve that and try again"
        ) from error


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

    That is, where an overwrite builds in place, a new store beside that never replaced it.
    """
    if store.is_local and mode is Mode.OVERWRITE and target is store:
        leftover = store.with_url(store.url + BUILDING_SUFFIX)
        if Path(leftover.url).is_dir() and is_only_ours(leftover):
            shutil.rmtree(leftover.url, ignore_errors=True)


def replace_store(new: ObjectStore, store: ObjectStore, lease: Lease) -> None:
    """Rename the store that was built beside another one to its name, and delete the old one.

    The old store takes the lease along, and a copy of it comes with the new one, so that no other
    builder can begin between the two renames. What a person keeps in the old store goes to the
    new one.

    Raises
    ------
    StoreError
        It cannot be renamed; ``--resume`` tries again.
    """
    try:
        with lease.paused():
            if not lease.is_ours():
                raise StoreError(
                    f"{store.url} was taken over by another build while this one ran; the new "
                    f"store stays at {new.url}"
                )
            new.put(LEASE_KEY, store.get(LEASE_KEY) or b"")
            Path(store.url).rename(store.url + REPLACED_SUFFIX)
            try:
                _rename_into_place(new, store)
            except BaseException:  # also Ctrl-C: the process may live on, and build again
                _rename_into_place(store.with_url(store.url + REPLACED_SUFFIX), store)
                raise
            store.with_url(store.url + REPLACED_SUFFIX).delete([LEASE_KEY])
        _delete_replaced(store)
    except OSError as error:
        raise StoreError(
            f"the new store {new.url} cannot be renamed to {store.url}: {error_message(error)}; "
            "solve that and use --resume"
        ) from error


def _rename_into_place(new: ObjectStore, store: ObjectStore) -> None:
    """Rename a store where there is none, or only the lease of a builder that will be refused."""
    for attempt in range(RENAME_ATTEMPTS):
        keys = store.list_sizes()
        if RECORD_KEY not in keys and all(key.startswith(WORK_PREFIX) for key in keys):
            shutil.rmtree(store.url, ignore_errors=True)
        try:
            Path(new.url).rename(store.url)
        except OSError:
            if attempt == RENAME_ATTEMPTS - 1:
                raise
            time.sleep(0.1)
        else:
            return


def _delete_replaced(store: ObjectStore) -> None:
    """Delete the old store beside the new one, after moving what a person keeps there."""
    old = store.with_url(store.url + REPLACED_SUFFIX)
    root = old.get(ROOT_KEY)
    if read_attrs(root).get("schema") != SCHEMA and not is_only_ours(old):
        return  # not a store of ours, in spite of its name
    for key in _list_additions(Path(old.url)):
        moved = Path(store.url, key)
        moved.parent.mkdir(parents=True, exist_ok=True)
        Path(old.url, key).rename(moved)
    old.delete([ROOT_KEY])  # the rest is never taken for a store
    shutil.rmtree(old.url)


def _list_additions(folder: Path) -> list[str]:
    """Whatever lies in a store's folder and is not of the store, also links and empty folders."""
    keys = []
    for path, folders, names in os.walk(folder):
        here = Path(path).relative_to(folder)
        links = [name for name in folders if Path(path, name).is_symlink()]
        keys += [key for name in (*names, *links) if not is_ours(key := (here / name).as_posix())]
        is_ours_too = f"{here.as_posix()}/".startswith((*OUR_PREFIXES, PUBLISHED_PREFIX))
        if here.name and not folders and not names and not is_ours_too:
            keys.append(here.as_posix())
    return [key for key in keys if key != ROOT_KEY]


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
    put_record(store, record)


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
        An object cannot be written, or is not stored as it was put; the store is then still
        incomplete.
    """
    blank = replace(provenance, receipts_sha256=BLANK_SHA256)
    objects = encode_small_objects(records, layout, root_attrs(layout, blank))
    root = objects.pop(ROOT_KEY)
    sha256, kept = encode_published_receipts(receipts, records, objects, root)
    root = root.replace(BLANK_SHA256.encode(), sha256.encode())
    objects[published_key(sha256)] = kept
    named = {key: objects.pop(key) for key in [*objects] if is_published_key(key)}
    # Values before metadata: a reader with the old metadata reads old rows, which do not change.
    metadata = {key: objects.pop(key) for key in [*objects] if key.endswith(ROOT_KEY)}
    shards = {stored.key for receipt in receipts for stored in receipt.objects}
    for part, is_slow in ((named, True), (objects, False), (metadata, False)):
        check_owner(store, build_id)
        store.put_all(part)
        _check_kept(part, store.get_all(part), store.url)
        if is_slow:  # before plain readers can see new values beside old ones
            store.sync([*shards, *named])
    publish_root(store, root, [*objects, *metadata], build_id)
    clean_up(store, read_attrs(root))


def choose_generation(
    store: ObjectStore,
    attrs: Mapping[str, Any],
    outcomes: Sequence[SubjectOutcome],
    build_id: str,
) -> str:
    """The generation of a new root: that of the existing store if its subjects stay as they are.

    Readers that opened that store then go on.

    Parameters
    ----------
    attrs : mapping
        Attributes of the root of the existing store; empty if there is none, or it is replaced.
    outcomes : sequence of SubjectOutcome
        Of all subjects of the new root.
    build_id : str
        The generation otherwise.
    """
    if GENERATION_ATTR not in attrs:
        return build_id
    published = read_published_receipts(store, attrs).receipts
    before = [outcome for receipt in published for outcome in receipt.outcomes]
    same = len(before) <= len(outcomes) and all(
        (old.file_name, old.status, old.sha1) == (new.file_name, new.status, new.sha1)
        for old, new in zip(before, outcomes, strict=False)
    )
    return str(attrs[GENERATION_ATTR]) if same else build_id


def publish_root(store: ObjectStore, root: bytes, written: Sequence[str], build_id: str) -> None:
    """Put the root, after which the store is complete.

    The record says first which root ends the build: where this is killed afterwards, the store is
    known to be complete.
    """
    record = check_owner(store, build_id)
    store.sync(written)  # the root is the last also after a power failure
    put_record(store, replace(record, root_sha256=digest(root)))
    store.put(ROOT_KEY, root)
    found = store.get(ROOT_KEY)
    if found is not None and not read_attrs(found):
        store.delete([ROOT_KEY])  # the record remains: a build to be continued
    _check_kept({ROOT_KEY: root}, {ROOT_KEY: found}, store.url)
    store.sync([ROOT_KEY])


def _check_kept(put: Mapping[str, bytes], found: Mapping[str, bytes | None], url: str) -> None:
    """Compare what was read back: a server may confirm a PUT and keep nothing, or only a part.

    Raises
    ------
    StoreError
        Names the first that is not as it was put.
    """
    wrong = sorted(key for key, data in put.items() if found[key] != data)
    if wrong:
        raise StoreError(
            f"{url} did not keep {len(wrong)} of {plural(len(put), 'object')} as they were written "
            f"(first {wrong[0]}), though it confirmed each; use --resume to write them again"
        )


def clean_up(store: ObjectStore, attrs: Mapping[str, Any]) -> None:
    """Remove the documents of a build that has ended, and receipts and packs that it replaced.

    The record goes first: without it, the other documents mean nothing.

    Parameters
    ----------
    attrs : mapping
        Attributes of the root, which names what is kept.
    """
    left = store.list_sizes(WORK_PREFIX)
    if left:
        store.delete([RECORD_KEY])
        store.delete(sorted(key for key in left if not key.startswith(LEASE_KEY)))
        store.prune((WORK_PREFIX,))
    published = {key for key in store.list_sizes(PUBLISHED_PREFIX) if is_published_key(key)}
    kept = {published_key(str(attrs[RECEIPTS_ATTR]))}
    kept |= {pack_key(sha256) for sha256 in pack_digests(attrs).values()}
    store.delete(sorted(published - kept))
