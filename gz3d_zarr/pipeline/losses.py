"""Which good subjects of a store would be lost by replacing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gz3d_zarr.datamodel.file_names import parse_name
from gz3d_zarr.datamodel.receipts import Receipt
from gz3d_zarr.datamodel.schema import SCHEMA
from gz3d_zarr.datamodel.variables import SubjectRecord
from gz3d_zarr.errors import BuildError, Status, StoreError, plural
from gz3d_zarr.locations import is_url
from gz3d_zarr.pipeline.build_state import BuildRequest
from gz3d_zarr.pipeline.resume import ResumePlan
from gz3d_zarr.storage.build_record import ROOT_KEY, read_attrs
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.published_receipts import (
    find_published_receipts,
    read_published_receipts,
)

MAX_NAMED = 3
"""Subjects that a message names."""


def read_ok_subjects(store: ObjectStore) -> dict[int, str]:
    """Find the subjects of a complete store that are ok, also where its root is damaged.

    Returns
    -------
    dict
        Name by Zooniverse subject id; empty where there is no store, or where it is too damaged
        to tell.
    """
    attrs = read_attrs(store.get(ROOT_KEY))
    is_store = attrs.get("schema") == SCHEMA
    try:
        receipts = read_published_receipts(store, attrs).receipts if is_store else ()
    except StoreError:  # damaged, or of another version of the schema
        receipts = ()
    receipts = receipts or _find_receipts(store)
    if is_store and not receipts:
        return _read_from_arrays(store)
    names = [o.file_name for r in receipts for o in r.outcomes if o.status is Status.OK]
    files = [parse_name(name) for name in names]
    return {file.zooniverse_subject_id: file.name for file in files if file is not None}


def _find_receipts(store: ObjectStore) -> tuple[Receipt, ...]:
    """Receipts that are kept at a store, of the shards that still exist; the root is not needed."""
    found = [receipt for kept in find_published_receipts(store) for receipt in kept.receipts]
    stored = store.list_sizes() if found else {}
    return tuple(receipt for receipt in found if all(o.key in stored for o in receipt.objects))


def _read_from_arrays(store: ObjectStore) -> dict[int, str]:
    from gz3d_zarr.backends.store import read_rows  # slow to import

    try:
        ids, status = (read_rows(store, name) for name in ("zooniverse_subject_id", "status"))
    except StoreError:
        return {}
    is_table = ids.ndim == 1 and ids.shape == status.shape
    if not is_table or ids.dtype.kind not in "iu" or status.dtype.kind not in "iu":
        return {}
    return {int(i): f"subject {i}" for i in ids[status == Status.OK]}


def check_plan_keeps(
    store: ObjectStore, writing: ObjectStore, work: ResumePlan, request: BuildRequest
) -> None:
    """Refuse a plan that lacks subjects that are ok in the store that it replaces.

    That is, subjects that are not in the source or not selected, and those whose local file does
    not exist. Whether the others are still good shows when their files are read.

    Parameters
    ----------
    store : ObjectStore
        Where the existing store is.
    writing : ObjectStore
        Where the build writes: there, or beside it.

    Raises
    ------
    StoreError
        Names the first of them.
    """
    if request.allow_loss or (writing is store and not work.clears):
        return
    planned = {
        entry.file.zooniverse_subject_id
        for entry in work.plan.manifest.entries
        if is_url(entry.file.path) or entry.file.size is not None
    }
    good = read_ok_subjects(store)
    lost = {i: "" for i in good if i not in planned}
    if lost:
        raise StoreError(
            f"{_describe(store, good, lost)} that the new one would lack: not in the source, or "
            "not selected. Nothing was changed; add --allow-loss to replace it all the same"
        )


def check_build_keeps(
    store: ObjectStore, new: ObjectStore, records: Sequence[SubjectRecord]
) -> None:
    """Keep a store if subjects are ok there and not in the one that was built to replace it.

    Raises
    ------
    BuildError
        Names the first of them, and says how to continue.
    """
    found = {r.entry.file.zooniverse_subject_id: r.outcome.status for r in records}
    good = read_ok_subjects(store)
    lost = {
        i: found[i].label if i in found else "not selected"
        for i in good
        if found.get(i) is not Status.OK
    }
    if lost:
        raise BuildError(
            f"{_describe(store, good, lost)} that the new one lacks: it stays as it was, and the "
            f"new one is kept at {new.url}. Restore the files and use --retry-failed to read them "
            "again, or use --resume --allow-loss to replace it all the same"
        )


def _describe(store: ObjectStore, good: Mapping[int, str], lost: Mapping[int, str]) -> str:
    named = [f"{good[i]}{why and f': {why}'}" for i, why in [*lost.items()][:MAX_NAMED]]
    more = ", ..." if len(lost) > MAX_NAMED else ""
    count = plural(len(lost), "good subject")
    return f"{store.url} holds {count} ({', '.join(named)}{more})"
