"""Begin writing at a store, and publish what was written."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import gz3d_zarr
from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.receipts import Receipt, SubjectOutcome
from gz3d_zarr.datamodel.schema import (
    GENERATION_ATTR,
    RECEIPTS_ATTR,
    Provenance,
    root_attrs,
)
from gz3d_zarr.datamodel.variables import SubjectRecord
from gz3d_zarr.errors import Status, StoreError, plural
from gz3d_zarr.locations import public_name, whole_key
from gz3d_zarr.pipeline.build_state import (
    OUR_PREFIXES,
    inspect_target,
    is_ours,
    is_shard,
)
from gz3d_zarr.pipeline.plan import Plan
from gz3d_zarr.pipeline.report import note_subjects
from gz3d_zarr.pipeline.resume import ResumePlan
from gz3d_zarr.pipeline.root_additions import carry_additions
from gz3d_zarr.storage.build_record import (
    FILES_KEY,
    LEASE_KEY,
    OLD_ROOT_KEY,
    RECEIPTS_PREFIX,
    RECORD_KEY,
    ROOT_KEY,
    WORK_PREFIX,
    BuildRecord,
    check_owner,
    digest,
    put_record,
    read_attrs,
)
from gz3d_zarr.storage.lease import hold_lease
from gz3d_zarr.storage.object_store import ObjectStore
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

_WORK_KEYS = {RECORD_KEY, FILES_KEY, LEASE_KEY, OLD_ROOT_KEY}


def begin_writing(store: ObjectStore, work: ResumePlan, build_id: str) -> None:
    """Record the build, and delete what it does not keep.

    The record is put before anything is deleted: whenever this is stopped, what remains is known
    to be ours. Only the list of files comes first, which is of no use without its record, and
    which the record's build needs from then on. Where a store is deleted, its root is the first to
    go, so that a reader sees the old store or none; what others added to it is carried along.
    """
    record = work.target.record
    is_new = work.clears or record is None or record.fingerprint != work.plan.fingerprint
    if is_new:
        names = "\n".join(entry.file.name for entry in work.plan.manifest.entries)
        store.put(FILES_KEY, names.encode())
    write_build_record(store, work, build_id)
    if is_new:
        store.delete(sorted(store.list_sizes(RECEIPTS_PREFIX)))
    if work.clears:
        root = store.get(ROOT_KEY)
        if root is not None:
            store.put(OLD_ROOT_KEY, root)
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
        parent=work.parent,
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
    partial = {key for key in found if whole_key(key) is not None and is_ours(key)}
    strange = {key for key in found if is_shard(key) and key not in stored}
    store.delete(sorted(partial | strange))


def publish(
    store: ObjectStore,
    records: Sequence[SubjectRecord],
    receipts: Sequence[Receipt],
    layout: Layout,
    provenance: Provenance,
    build_id: str,
    replaced: ObjectStore,
) -> str:
    """Write everything that is not a shard, the root last, and remove the record of the build.

    What others have added to the root of the existing store is in the new one too. Receipts do not
    vouch for it: it stays what others have added.

    Parameters
    ----------
    replaced : ObjectStore
        Where the existing store is, if any: the same place, or the one that this store will have.

    Returns
    -------
    str
        A note where such additions may have been lost; otherwise empty.

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
    old = replaced.get(ROOT_KEY)
    old = store.get(OLD_ROOT_KEY) if old is None else old
    root, note = carry_additions(root, old, lambda: _keeps_subjects(replaced, old, records, root))
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
    return note


def _keeps_subjects(
    replaced: ObjectStore, old: bytes | None, records: Sequence[SubjectRecord], root: bytes
) -> bool:
    """Whether the subjects of an existing store are the first of the new one, in their order."""
    attrs = read_attrs(old)
    if attrs.get("manifest_digest") == read_attrs(root)["manifest_digest"]:
        return True
    try:
        before = read_published_receipts(replaced, attrs).records
    except StoreError:  # deleted, or damaged
        return False
    names = [[r.entry.file.name for r in part] for part in (before, records)]
    return names[0] == names[1][: len(names[0])]


def describe_origin(plan: Plan, records: Sequence[SubjectRecord]) -> Provenance:
    """How a store was built, for the attributes of its root."""
    ok = sum(record.outcome.status is Status.OK for record in records)
    return Provenance(
        source=public_name(plan.manifest.location),
        catalogue=public_name(plan.manifest.catalogue or ""),
        release=plan.manifest.release,
        package_version=gz3d_zarr.__version__,
        manifest_digest=plan.manifest.digest,
        fingerprint=plan.fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        order=plan.manifest.order,
        appended=plan.manifest.appended,
        ok=ok,
        failed=len(records) - ok,
        notes=(*plan.manifest.notes, *note_subjects(records)),
    )


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
    known to be complete. If a root is kept only in part, what was there before comes back.
    """
    record = check_owner(store, build_id)
    before = store.get(ROOT_KEY)
    store.sync(written)  # the root is the last also after a power failure
    put_record(store, replace(record, root_sha256=digest(root)))
    store.put(ROOT_KEY, root)
    found = store.get(ROOT_KEY)
    if found is not None and found != root and not read_attrs(found):
        _restore_root(store, before)  # the record remains: a build to be continued
    _check_kept({ROOT_KEY: root}, {ROOT_KEY: found}, store.url)
    store.sync([ROOT_KEY])


def _restore_root(store: ObjectStore, before: bytes | None) -> None:
    """Put the root of an existing store again, so that readers go on, or delete half a new one."""
    if before is not None and read_attrs(before):
        with contextlib.suppress(StoreError):
            store.put(ROOT_KEY, before)
        if store.get(ROOT_KEY) == before:
            return
    store.delete([ROOT_KEY])


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
    found = store.list_sizes(PUBLISHED_PREFIX)
    published = {key for key in found if is_published_key(whole_key(key) or key)}
    kept = {published_key(str(attrs[RECEIPTS_ATTR]))}
    kept |= {pack_key(sha256) for sha256 in pack_digests(attrs).values()}
    store.delete(sorted(published - kept))


def clean_up_complete(store: ObjectStore) -> None:
    """Remove what a build left that was killed after it published, as the only builder."""
    if store.list_sizes(WORK_PREFIX):
        with hold_lease(store):
            target = inspect_target(store)
            if target.attrs and target.record is None:
                clean_up(store, target.attrs)
