"""The place that a build writes to: what stands there, what may be touched, what is left to do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from gz3d_zarr.datamodel.layout import Layout, read_layout
from gz3d_zarr.datamodel.receipts import Receipt, pack_receipts, unpack_receipts
from gz3d_zarr.datamodel.schema import BIG_ARRAYS, LABELS, SCHEMA, VARIABLES
from gz3d_zarr.errors import StoreError, UsageError
from gz3d_zarr.pipeline.plan import Plan
from gz3d_zarr.pipeline.resume import check_grown, check_same, check_unchanged, identify
from gz3d_zarr.storage.build_record import (
    BASE_KEY,
    FILES_KEY,
    LEASE_KEY,
    PLAN_KEY,
    RECEIPTS_PREFIX,
    ROOT_KEY,
    WORK_PREFIX,
    check_build,
    is_published,
    receipt_key,
)
from gz3d_zarr.storage.object_store import PARTIAL_SUFFIX, ObjectStore
from gz3d_zarr.storage.small_arrays import CATALOGUE_GROUP

_OURS = (
    WORK_PREFIX,
    "subject/",
    *(f"{name}/" for name in (CATALOGUE_GROUP, *BIG_ARRAYS, *VARIABLES, *LABELS)),
)
_WORK_KEYS = {PLAN_KEY, FILES_KEY, BASE_KEY, LEASE_KEY}


class Mode(StrEnum):
    """What to do with what stands at a place."""

    NEW = "new"
    RESUME = "resume"
    OVERWRITE = "overwrite"
    UPDATE = "update"
    RETRY_FAILED = "retry-failed"


@dataclass(frozen=True)
class TargetState:
    """What stands at a place.

    Attributes
    ----------
    store : dict or None
        Attributes of the complete store; None where there is none.
    begun : dict or None
        Plan of the build that has begun and not ended, if any.
    damage : str
        Why the root of a store that is ours cannot be read; `store` is then empty.
    """

    store: dict[str, Any] | None
    begun: dict[str, Any] | None
    damage: str = ""

    @property
    def has_base(self) -> bool:
        """Whether what has begun goes on with the complete store, rather than deletes it."""
        return self.begun is not None and self.begun.get("redo") is not None


@dataclass(frozen=True)
class Work:
    """What a build has to do at a place.

    Attributes
    ----------
    made : Plan
        The plan; where a store stands already, with its numbering of samples.
    standing : TargetState or None
    receipts : dict
        Of the shards that stand there as they shall be.
    bases : dict
        Of shards that are written again: what stands there, of which good subjects are kept.
    retry : bool
        Whether subjects of `bases` that are not ok are read again.
    redo : list of int or None
        Shards to be written at a store that is complete; None: all of them.
    base : tuple of Receipt
        Of the complete store that is gone on with.
    clears : bool
        Whether what stands there is deleted first.
    """

    made: Plan
    standing: TargetState | None = None
    receipts: dict[int, Receipt] = field(default_factory=dict)
    bases: Mapping[int, Receipt] = field(default_factory=dict)
    retry: bool = False
    redo: list[int] | None = None
    base: tuple[Receipt, ...] = ()
    clears: bool = False

    @property
    def missing(self) -> list[int]:
        """Shards to be built, in order."""
        return [i for i in range(self.made.layout.shards) if i not in self.receipts]

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to do: all stands there, and is published."""
        store = None if self.standing is None else self.standing.store
        return (
            store is not None
            and not self.missing
            and store["fingerprint"] == self.made.fingerprint
            and (self.standing is None or self.standing.begun is None)
        )


def choose_mode(*, resume: bool, overwrite: bool, update: bool, retry_failed: bool) -> Mode:
    """One of the modes; resume is part of update and of retry-failed."""
    given = {
        Mode.OVERWRITE: overwrite,
        Mode.UPDATE: update,
        Mode.RETRY_FAILED: retry_failed,
        Mode.RESUME: resume and not (update or retry_failed),
    }
    chosen = [mode for mode, wanted in given.items() if wanted]
    if len(chosen) > 1:
        raise UsageError(
            f"{' and '.join(chosen)}: choose one (overwrite deletes what stands there, the others "
            "go on with it)"
        )
    return chosen[0] if chosen else Mode.NEW


def inspect(folder: ObjectStore) -> TargetState | None:
    """Find out what stands at a place; None where there is nothing.

    Raises
    ------
    StoreError
        Where it is something that is not ours.
    """
    root, begun = folder.get(ROOT_KEY), folder.get(PLAN_KEY)
    if root is None and begun is None:
        keys = [key for key in folder.list_sizes() if not key.startswith(WORK_PREFIX)]
        if not keys:  # nothing, or what a build left that was killed at once
            return None
    plan = _parse(begun)
    if begun is not None and plan.get("schema") != SCHEMA:
        raise _foreign(folder)
    if root is None and begun is not None:
        return TargetState(None, plan)
    if root is not None and is_published(plan, root):
        begun = None  # it only lacked the time to clear up
    attrs = _parse(root).get("attributes", {})
    if isinstance(attrs, dict) and attrs.get("schema") == SCHEMA:
        return TargetState(attrs, plan if begun is not None else None)
    if not is_only_ours(folder) or not any(_is_shard(key) for key in folder.list_sizes()):
        raise _foreign(folder)
    damage = f"{ROOT_KEY} is {'not there' if root is None else 'damaged'}"
    return TargetState({}, plan if begun is not None else None, damage)


def _parse(document: bytes | None) -> dict[str, Any]:
    """A JSON object; empty where it is none."""
    try:
        content = json.loads(document or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _is_shard(key: str) -> bool:
    return key.startswith(tuple(f"{name}/c/" for name in BIG_ARRAYS))


def assess(folder: ObjectStore, made: Plan, mode: Mode) -> Work:
    """Find out what there is to do, where the mode allows to go on there; writes nothing.

    Raises
    ------
    StoreError
        Where it does not: something foreign, a store and no mode that goes on with it or deletes
        it, another plan or other files than what stands there was made of.
    """
    there = inspect(folder)
    if there is None:
        _refuse_inside(folder)
        return Work(made)
    if mode is Mode.OVERWRITE:
        return Work(made, there, clears=True)
    if there.damage:
        raise StoreError(
            f"{folder.url} is a damaged store ({there.damage}): build it anew with --overwrite"
        )
    deletes = there.begun is not None and not there.has_base
    if mode is Mode.NEW:
        if there.store is None or deletes:
            state, more = "a build that has not ended", ", or --resume to go on with it"
        else:
            state, more = "a complete store", ", or --update to add subjects to it"
        raise StoreError(f"{folder.url} holds {state}; use --overwrite to delete it{more}")
    if there.store is None:
        return _assess_unfinished(folder, made, there, mode)
    if deletes:  # an overwriting build was stopped before it had deleted the root
        check_same(folder, made, there.begun or {}, _names(folder))
        return Work(made, there, clears=True)
    return _assess_complete(folder, made, there, mode)


def _refuse_inside(folder: ObjectStore) -> None:
    """Do not build into a folder of another store."""
    above = folder.url.rpartition("/")[0]
    if above and not above.endswith(("/", ":")):
        document = replace(folder, url=above).get(ROOT_KEY)
        attrs = _parse(document).get("attributes")
        if isinstance(attrs, dict) and attrs.get("schema") == SCHEMA:
            raise StoreError(f"{folder.url} lies in the store {above}; choose another place")


def _names(folder: ObjectStore) -> list[str]:
    """Names of the files of the build that has begun."""
    return (folder.get(FILES_KEY) or b"").decode().split("\n")


def _assess_unfinished(folder: ObjectStore, made: Plan, there: TargetState, mode: Mode) -> Work:
    check_same(folder, made, there.begun or {}, _names(folder))
    receipts = read_receipts(folder, made)
    check_unchanged(folder, made, receipts.values())
    bases = {}
    if mode is Mode.RETRY_FAILED:
        bases = {i: receipts.pop(i) for i in [*receipts] if not receipts[i].is_ok}
    return Work(made, there, receipts, bases, retry=True)


def _assess_complete(folder: ObjectStore, made: Plan, there: TargetState, mode: Mode) -> Work:
    """What to do at a store that readers may be using.

    Once something has begun, its arrays may be half-written: what it was is in its base.
    """
    layout, base = _read_base(folder, there)
    new = [name for name in made.layout.samples if name not in layout.samples]
    made = replace(made, layout=replace(made.layout, samples=(*layout.samples, *new)))
    names = [outcome.file_name for receipt in base for outcome in receipt.outcomes]
    begun, attrs = there.begun or {}, there.store or {}
    identity = {**attrs, **asdict(layout), "order": begun.get("base_order", attrs.get("order"))}
    retry, redo = mode is Mode.RETRY_FAILED, set(begun.get("redo") or [])
    if mode is Mode.UPDATE:
        check_grown(folder, made, identity, names)
        if made.layout.subjects > len(names):
            redo |= {*range(layout.subjects // layout.shard_size, made.layout.shards)}
    elif mode is Mode.RESUME and begun:
        check_same(folder, made, begun, _names(folder))
        retry = bool(begun["retry"])
    else:
        identity["fingerprint"] = base[0].fingerprint
        check_same(folder, made, identity, names)
        redo |= {receipt.shard for receipt in base if retry and not receipt.is_ok}
    check_unchanged(folder, made, base)
    redo |= {r.shard for r in base if any(stored.size < 0 for stored in r.objects)}  # lost
    redo &= {*range(made.layout.shards)}
    receipts = {r.shard: r for r in base if r.shard not in redo}
    if begun.get("fingerprint") == made.fingerprint:
        fresh = read_receipts(folder, made)
        receipts |= {
            i: receipt
            for i, receipt in fresh.items()
            if i in redo and (receipt.is_ok or not retry or mode is Mode.RESUME)
        }
    bases = {r.shard: r for r in base if r.shard in redo and r.shard not in receipts}
    return Work(made, there, receipts, bases, retry, sorted(redo), tuple(base))


def _read_base(folder: ObjectStore, there: TargetState) -> tuple[Layout, list[Receipt]]:
    """Layout and receipts of the complete store that is gone on with."""
    from gz3d_zarr.pipeline.resume import restore_receipts  # slow to import

    if there.begun is None:
        return restore_receipts(folder)
    data = folder.get(BASE_KEY)
    if data is None:
        raise StoreError(f"{folder.url} has lost {BASE_KEY}: build it anew with --overwrite")
    return read_layout(there.begun["base"]), unpack_receipts(data, BASE_KEY)


def begin(folder: ObjectStore, work: Work, build_id: str) -> None:
    """Begin, or go on with, the work at a place.

    The plan is put before anything is deleted or changed: whenever this is stopped, what is left
    is known to be ours. Where a store is to be deleted its root goes next, so that a reader sees
    the old store or none.
    """
    begun = None if work.standing is None else work.standing.begun
    same = begun is not None and begun["fingerprint"] == work.made.fingerprint
    if work.clears or not same:
        folder.delete(sorted(folder.list_sizes(RECEIPTS_PREFIX)))
        names = "\n".join(entry.file.name for entry in work.made.manifest.entries)
        folder.put(FILES_KEY, names.encode())
    if work.base and begun is None:
        folder.put(BASE_KEY, pack_receipts(work.base))
    take_over(folder, work, build_id)
    if work.clears:
        folder.delete([ROOT_KEY])
        keys = {key for key in folder.list_sizes() if _is_ours(key)}
        folder.delete(sorted(keys - _WORK_KEYS))
        folder.prune(_OURS)


def take_over(folder: ObjectStore, work: Work, build_id: str) -> None:
    """Make the place this build's: tasks of an earlier one that still run write no more."""
    plan = {
        **identify(work.made),
        "build_id": build_id,
        "redo": work.redo,
        "retry": work.retry,
    }
    begun = None if work.standing is None else work.standing.begun
    if work.base and begun is not None:
        plan |= {name: begun[name] for name in ("base", "base_order")}
    elif work.base and work.standing is not None and work.standing.store is not None:
        store = work.standing.store
        names = (field.name for field in fields(Layout))
        plan |= {"base": {n: store[n] for n in names}, "base_order": store["order"]}
    folder.put(PLAN_KEY, json.dumps(plan, indent=1).encode())


def settle(folder: ObjectStore, receipts: Sequence[Receipt], build_id: str) -> None:
    """See that all shards stand there as written, and delete what a killed writer left.

    Raises
    ------
    StoreError
        Where an object is not there, or of another size: the workers wrote to another place. Where
        another build has taken the place over: what seems strange may be its.
    """
    check_build(folder, build_id)
    stored = {item.key: item.size for receipt in receipts for item in receipt.objects}
    found = folder.list_sizes()
    lost = sorted(key for key, size in stored.items() if found.get(key) != size)
    if lost:
        raise StoreError(
            f"{folder.url} lacks {len(lost)} of {len(stored)} objects that workers have written "
            f"(first {lost[0]}): workers and client must see the same place under this name"
        )
    partial = {key for key in found if key.endswith(PARTIAL_SUFFIX) and _is_ours(key)}
    strange = {key for key in found if _is_shard(key) and key not in stored}
    folder.delete(sorted(partial | strange))


def clear_up(folder: ObjectStore) -> None:
    """Remove what a build left that was stopped between publishing and the end.

    The plan goes first: without it, what else is there means nothing.
    """
    left = folder.list_sizes(WORK_PREFIX)
    if left:
        folder.delete([PLAN_KEY])
        folder.delete(sorted(key for key in left if not key.startswith(LEASE_KEY)))
        folder.prune((WORK_PREFIX,))


def read_receipts(folder: ObjectStore, made: Plan) -> dict[int, Receipt]:
    """Receipts of the shards that are built already, and stand there with the size they had.

    Raises
    ------
    StoreError
        Where one cannot be read, or is of another build.
    """
    receipts = {}
    sizes = folder.list_sizes()
    for key in sorted(key for key in sizes if key.startswith(RECEIPTS_PREFIX)):
        data = None if key.endswith(PARTIAL_SUFFIX) else folder.get(key)
        if data is not None:
            receipt = Receipt.from_json(data, key)
            if receipt.fingerprint != made.fingerprint or receipt_key(receipt.shard) != key:
                raise StoreError(f"the receipt {key} is of another build; delete it and resume")
            if all(sizes.get(stored.key) == stored.size for stored in receipt.objects):
                receipts[receipt.shard] = receipt
    return receipts


def is_only_ours(folder: ObjectStore) -> bool:
    """Whether nothing but a store, or what builds left, stands at a place."""
    return all(key == ROOT_KEY or _is_ours(key) for key in folder.list_sizes())


def _is_ours(key: str) -> bool:
    """Whether a key is named like ours, or like a partial file of the root."""
    return key.startswith(_OURS) or (key.startswith(".zarr.") and key.endswith(PARTIAL_SUFFIX))


def _foreign(folder: ObjectStore) -> StoreError:
    return StoreError(
        f"{folder.url} holds something that is not a Galaxy Zoo: 3D store; nothing was touched. "
        "Choose another place, or empty it yourself"
    )
