"""The place that a build writes to: what stands there, and whether it may be touched."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gz3d_zarr.errors import StoreError, UsageError
from gz3d_zarr.objects import PARTIAL_SUFFIX, ObjectFolder
from gz3d_zarr.planning import Plan
from gz3d_zarr.receipts import PLAN_KEY, RECEIPTS_PREFIX, WORK_PREFIX, Receipt, receipt_key
from gz3d_zarr.schema import BIG_ARRAYS, LABELS, SCHEMA, VARIABLES
from gz3d_zarr.store import CATALOGUE_GROUP, ROOT_KEY

_OURS = (
    WORK_PREFIX,
    "subject/",
    *(f"{name}/" for name in (CATALOGUE_GROUP, *BIG_ARRAYS, *VARIABLES, *LABELS)),
)


@dataclass(frozen=True)
class Standing:
    """What stands at a place.

    Attributes
    ----------
    complete : bool
        Whether it is a complete store, rather than a build that has not ended.
    identity : dict
        What it says of the plan that it was begun with.
    """

    complete: bool
    identity: dict[str, Any]


def inspect(folder: ObjectFolder) -> Standing | None:
    """Find out what stands at a place; None where there is nothing.

    Raises
    ------
    StoreError
        Where it is something that is not ours.
    """
    root, begun = folder.get(ROOT_KEY), folder.get(PLAN_KEY)
    document = begun if root is None else root
    if document is None:
        if folder.sizes():
            raise _foreign(folder)
        return None
    try:
        content = json.loads(document)
        identity = content if root is None else content["attributes"]
        if identity["schema"] != SCHEMA:
            raise _foreign(folder)
    except (ValueError, KeyError, TypeError):
        raise _foreign(folder) from None
    return Standing(root is not None, dict(identity))


def check(folder: ObjectFolder, made: Plan, *, resume: bool, overwrite: bool) -> Standing | None:
    """Say what stands at a place, where the options allow to go on there.

    Raises
    ------
    StoreError
        Where they do not: something foreign, a store without `resume` or `overwrite`, or another
        plan than this one.
    """
    if resume and overwrite:
        raise UsageError("resume keeps what stands there and overwrite deletes it: choose one")
    there = inspect(folder)
    if there is None or overwrite:
        return there
    if not resume:
        state = "a complete store" if there.complete else "a build that has not ended"
        raise StoreError(
            f"{folder.url} holds {state}; use --overwrite to delete it"
            f"{'' if there.complete else ', or --resume to go on with it'}"
        )
    _check_same(folder, made, there.identity)
    return there


def begin(folder: ObjectFolder, made: Plan, there: Standing | None, build_id: str) -> None:
    """Begin a new build at a place, deleting the store that stands there, if any.

    The new plan is put first and the root goes next: whenever this is stopped, a reader sees the
    old store or none, and what is left is known to be ours.
    """
    if there is not None:
        folder.delete(sorted(folder.sizes(RECEIPTS_PREFIX)))
    take_over(folder, made, build_id)
    if there is not None:
        folder.delete([ROOT_KEY])
        folder.delete(sorted(_leftovers(folder.sizes(), {PLAN_KEY})))
        folder.prune(_OURS)


def take_over(folder: ObjectFolder, made: Plan, build_id: str) -> None:
    """Make the place this build's: tasks of an earlier one that still run write no more."""
    folder.put(PLAN_KEY, json.dumps({**identify(made), "build_id": build_id}, indent=1).encode())


def settle(folder: ObjectFolder, receipts: Sequence[Receipt]) -> None:
    """See that all shards stand there as written, and delete what a killed writer left.

    Raises
    ------
    StoreError
        Where an object is not there, or of another size: the workers wrote to another place.
    """
    stored = {item.key: item.size for receipt in receipts for item in receipt.objects}
    found = folder.sizes()
    lost = sorted(key for key, size in stored.items() if found.get(key) != size)
    if lost:
        raise StoreError(
            f"{folder.url} lacks {len(lost)} of {len(stored)} objects that workers have written "
            f"(first {lost[0]}): workers and client must see the same place under this name"
        )
    folder.delete(sorted(_leftovers(found, {PLAN_KEY, *(r.key for r in receipts), *stored})))


def read_receipts(folder: ObjectFolder, made: Plan) -> dict[int, Receipt]:
    """Receipts of the shards that are built already, and stand there with the size they had.

    Raises
    ------
    StoreError
        Where one cannot be read, or is of another build.
    """
    receipts = {}
    sizes = folder.sizes()
    for key in sorted(key for key in sizes if key.startswith(RECEIPTS_PREFIX)):
        data = None if key.endswith(PARTIAL_SUFFIX) else folder.get(key)
        if data is not None:
            receipt = Receipt.from_json(data, key)
            if receipt.fingerprint != made.fingerprint or receipt_key(receipt.shard) != key:
                raise StoreError(f"the receipt {key} is of another build; delete it and resume")
            if all(sizes.get(stored.key) == stored.size for stored in receipt.objects):
                receipts[receipt.shard] = receipt
    return receipts


def identify(made: Plan) -> dict[str, Any]:
    """What two builds must share for one to go on with the other's work."""
    return {
        "schema": SCHEMA,
        "fingerprint": made.fingerprint,
        "manifest_digest": made.manifest.digest,
        "order": made.manifest.order,
        **asdict(made.layout),
    }


def _leftovers(keys: Iterable[str], expected: set[str]) -> set[str]:
    """Keys that are named like ours, or like a partial file of ours, and not expected."""
    return {
        key
        for key in keys
        if key not in expected
        and (key.startswith(_OURS) or (key.startswith(".zarr.") and key.endswith(PARTIAL_SUFFIX)))
    }


def _check_same(folder: ObjectFolder, made: Plan, there: dict[str, Any]) -> None:
    """Refuse to resume another plan, and say in words what differs."""
    mine = identify(made)
    if there.get("fingerprint") == mine["fingerprint"]:
        return
    differences = [
        f"{name} is {mine[name]}, there it is {there.get(name)}"
        for name in ("subjects", "shard_size", "codec", "nside", "order")
        if there.get(name) != mine[name]
    ]
    if there.get("manifest_digest") != mine["manifest_digest"]:
        differences.append("the files, their digests or their order are others")
    raise StoreError(
        f"{folder.url} was begun with another plan: {'; '.join(differences) or 'samples differ'}. "
        "Give the options and the source that it was begun with, or use --overwrite"
    )


def _foreign(folder: ObjectFolder) -> StoreError:
    return StoreError(
        f"{folder.url} holds something that is not a Galaxy Zoo: 3D store; nothing was touched. "
        "Choose another place, or empty it yourself"
    )
