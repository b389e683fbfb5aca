"""All checks of a store that read none of its shards."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from gz3d_zarr.backends.root import READ_ERRORS
from gz3d_zarr.backends.store import read_store
from gz3d_zarr.datamodel.limits import MAX_SHARD_SUBJECT
from gz3d_zarr.datamodel.receipts import Receipt
from gz3d_zarr.errors import GZ3DError, StoreError, access_errors, error_message, plural
from gz3d_zarr.pipeline import store_checks
from gz3d_zarr.pipeline.build_state import TargetState, inspect_target, is_ours
from gz3d_zarr.pipeline.document_checks import check_documents, find_nodes
from gz3d_zarr.pipeline.receipt_checks import check_values
from gz3d_zarr.pipeline.root_additions import find_root_additions
from gz3d_zarr.pipeline.store_checks import Check, check_that
from gz3d_zarr.storage.build_record import ROOT_KEY, check_digest, note_file, read_attrs
from gz3d_zarr.storage.memory_store import MemoryStore
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.published_receipts import PublishedReceipts, read_published_receipts
from gz3d_zarr.storage.small_arrays import encode_small_objects

_OTHERS = ("object", "others")
"""Test and target of the check that finds objects of no array."""


@dataclass(frozen=True)
class LightChecks:
    """All checks of a store except those of its shards.

    Attributes
    ----------
    checks : list of Check
    additions : tuple of str
        What others have added.
    published : PublishedReceipts or None
        None where the shards cannot be checked.
    receipts : tuple of Receipt
        Of each shard, without digests where an unfinished update may have written it.
    """

    checks: list[Check]
    additions: tuple[str, ...] = ()
    published: PublishedReceipts | None = None
    receipts: tuple[Receipt, ...] = ()


def check_without_shards(store: ObjectStore, expected_digest: str | None = None) -> LightChecks:
    """Check a store except its shards; every other object is read once.

    Raises
    ------
    StoreError
        There is no store, or something else; it cannot be listed; or its root has another digest.
    """
    target = inspect_target(store, to_write=False)
    if target.state is TargetState.EMPTY:
        raise StoreError(f"there is no store at {store.url}{note_file(store)}")
    root = store.get(ROOT_KEY) or b""
    if expected_digest is not None and root:  # without one, it is said below what there is
        check_digest(store.url, root, expected_digest)
    has_attrs = target.state is not TargetState.UNFINISHED and read_attrs(root)
    if target.damage and not has_attrs:  # else the receipts say what the attributes were
        return LightChecks([Check("open", ROOT_KEY, False, target.damage)])
    if target.state is TargetState.UNFINISHED:
        record = target.record
        command = "copy" if record is not None and record.layout is None else "build"
        command = "subset" if record is not None and record.parent else command
        finding = f"the {command} is unfinished; resume it with {command} --resume"
        return LightChecks([Check("complete", ROOT_KEY, False, finding)])
    finding = ""
    if target.state is TargetState.UPDATING:
        finding = "an update or a retry is unfinished; resume it with build --resume"
    found = [check_that("complete", ROOT_KEY, finding)]
    sizes = store.list_sizes()
    try:
        published = read_published_receipts(store, read_attrs(root))
        stored = {**store_checks.read_small_objects(store, published, sizes), ROOT_KEY: root}
        expected = encode_small_objects(published.records, published.layout, published.attributes)
    except access_errors(*READ_ERRORS, GZ3DError) as error:
        return LightChecks([*found, Check("open", ROOT_KEY, False, error_message(error))])
    found += check_documents(stored, expected, published)
    found += store_checks.check_objects(published, stored, sizes)
    is_unfinished = target.record is not None
    strange, added = store_checks.sort_others(published, find_nodes(expected), sizes)
    if is_unfinished:  # an update that has not ended has written ahead
        added = [key for key in added if not is_ours(key)]
    elif strange:
        finding = f"{plural(len(strange), 'object')} of no array (first {strange[0]})"
        found.append(Check(*_OTHERS, False, finding))
    found += check_values(stored, expected)
    found += _check_opened(MemoryStore(store.url, objects=stored), published)
    additions = (*added, *find_root_additions(stored, expected, published))
    # Shards that an unfinished update writes may have other digests by now.
    marked = set((target.record.shards_to_write or ()) if target.record is not None else ())
    receipts = (_without_digests(r) if r.shard in marked else r for r in published.receipts)
    return LightChecks(found, additions, published, tuple(receipts))


def find_light_damage(store: ObjectStore) -> str:
    """What is wrong with a complete store besides the content of its shards; "" if nothing is.

    Objects of no array are left out: a build that writes the store again may not delete them.
    """
    checks = check_without_shards(store).checks
    wrong = (c for c in checks if not c.passed and (c.test, c.target) != _OTHERS)
    return next((f"{check.target}: {check.detail}" for check in wrong), "")


def _check_opened(store: ObjectStore, published: PublishedReceipts) -> list[Check]:
    """Check that a store can be opened, and its coordinates against each other.

    Parameters
    ----------
    store : ObjectStore
        With all objects but the shards.
    """
    document = json.loads(store.get(ROOT_KEY) or b"{}")
    if not document.get("consolidated_metadata"):
        return []  # `check_documents` reports it
    try:
        dataset, catalogue = read_store(store, packed=False)
        return list(store_checks.check_coordinates(dataset, catalogue, published.layout))
    except access_errors(*READ_ERRORS, GZ3DError) as error:
        return [Check("open", ROOT_KEY, False, error_message(error))]


def _without_digests(receipt: Receipt) -> Receipt:
    most = MAX_SHARD_SUBJECT * len(receipt.outcomes)
    objects = tuple(replace(stored, sha256="", size=most) for stored in receipt.objects)
    return replace(receipt, objects=objects)
