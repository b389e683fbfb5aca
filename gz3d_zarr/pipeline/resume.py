"""Which shards a build writes, and which it keeps of what exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.receipts import Receipt
from gz3d_zarr.datamodel.schema import SCHEMA
from gz3d_zarr.errors import Status, StoreError, plural, shorten
from gz3d_zarr.pipeline.build_state import (
    Action,
    BuildRequest,
    Target,
    TargetState,
    choose_action,
    inspect_target,
)
from gz3d_zarr.pipeline.plan import Plan
from gz3d_zarr.storage.build_receipts import read_receipts
from gz3d_zarr.storage.build_record import FILES_KEY, ROOT_KEY, read_attrs
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.published_receipts import read_published_receipts


@dataclass(frozen=True)
class ResumePlan:
    """What a build writes, and what it keeps.

    Attributes
    ----------
    plan : Plan
        The plan; where a store exists already, with its numbering of samples.
    target : Target
        What exists.
    receipts : mapping of int to Receipt
        Of the shards that are kept.
    previous_receipts : mapping of int to Receipt
        Of shards that are written again: what exists of them, from which good subjects are kept.
    retry_failed : bool
        Subjects of `previous_receipts` that failed are read again.
    shards_to_write : tuple of int, or None
        Shards of a published store that this build, or the one that it continues, writes. None:
        all.
    clears : bool
        What exists is deleted first.
    unpublished : tuple of int
        Shards that are kept and were written by a build that has not ended: they are read and
        compared with their receipts before they are published.
    damaged : tuple of int
        Those of them that were not as they were written, and are built again.
    parent : str
        Of a subset, the store that its subjects are taken from.
    """

    plan: Plan
    target: Target = field(default_factory=lambda: Target(TargetState.EMPTY))
    receipts: Mapping[int, Receipt] = field(default_factory=dict)
    previous_receipts: Mapping[int, Receipt] = field(default_factory=dict)
    retry_failed: bool = False
    shards_to_write: tuple[int, ...] | None = None
    clears: bool = False
    unpublished: tuple[int, ...] = ()
    damaged: tuple[int, ...] = ()
    parent: str = ""

    @property
    def missing(self) -> list[int]:
        """Shards to be built, in order."""
        return [i for i in range(self.plan.layout.shards) if i not in self.receipts]

    @property
    def notes(self) -> tuple[str, ...]:
        """For the report of the build."""
        if self.is_done:
            return ("small arrays and metadata are written again, as some were damaged",)
        if not self.damaged:
            return ()
        shards = f"shard{'s' * (len(self.damaged) > 1)} {', '.join(map(str, self.damaged))}"
        return (f"damaged since an earlier run wrote it, and built again: {shards}",)

    def without_damaged(self, damaged: Iterable[int]) -> ResumePlan:
        """Build these shards again; what was good in them must still be in the source."""
        shards = tuple(sorted(damaged))
        return replace(
            self,
            receipts={i: r for i, r in self.receipts.items() if i not in shards},
            previous_receipts={**self.previous_receipts, **{i: self.receipts[i] for i in shards}},
            damaged=shards,
        )

    @property
    def is_done(self) -> bool:
        """Whether the store is complete as it is."""
        return (
            self.target.state is TargetState.COMPLETE
            and not self.clears
            and not self.missing
            and self.target.attrs.get("fingerprint") == self.plan.fingerprint
        )


def keeps(
    receipt: Receipt | None,
    file_names: Sequence[str],
    sizes: Mapping[str, int],
    *,
    retrying: bool,
) -> bool:
    """Whether a shard stays as it is.

    Parameters
    ----------
    receipt : Receipt or None
        Of this build where the shard is marked to be written, of the published store otherwise.
    file_names : sequence of str
        The plan's subjects of the shard.
    sizes : mapping of str to int
        Bytes of every object that exists.
    retrying : bool
        Subjects that failed are read again.
    """
    return (
        receipt is not None
        and [outcome.file_name for outcome in receipt.outcomes] == list(file_names)
        and has_objects(receipt, sizes)
        and (receipt.is_ok or not retrying)
    )


def has_objects(receipt: Receipt, sizes: Mapping[str, int]) -> bool:
    """Whether the objects of a shard exist with the sizes that were written."""
    return bool(receipt.objects) and all(
        sizes.get(stored.key) == stored.size for stored in receipt.objects
    )


def plan_resume(store: ObjectStore, plan: Plan, request: BuildRequest) -> ResumePlan:
    """Decide what a build writes and keeps; nothing is written.

    Raises
    ------
    StoreError
        The mode does not allow to continue from what exists: something foreign, a store, another
        plan, or other files than those that it was built from.
    """
    target = inspect_target(store)
    action = choose_action(store, target, request.mode)
    if action is Action.WRITE:
        refuse_inside_store(store)
        return ResumePlan(plan, target)
    if action is Action.REPLACE:
        return ResumePlan(plan, target, clears=True)
    if target.state is TargetState.UNFINISHED:
        return _continue_build(store, plan, target, request)
    return _continue_store(store, plan, target, request)


def _continue_build(
    store: ObjectStore, plan: Plan, target: Target, request: BuildRequest
) -> ResumePlan:
    """Continue a build that has not ended and has no store to keep."""
    check_same_plan(store, plan, _record_identity(target), _read_file_names(store))
    if target.has_root:  # an overwrite was stopped before it deleted the root
        return ResumePlan(plan, target, clears=True)
    sizes = store.list_sizes()
    receipts = read_receipts(store, plan.fingerprint, plan.layout)
    fresh = {i: r for i, r in receipts.items() if has_objects(r, sizes)}
    check_files_unchanged(store, plan, fresh.values())
    kept = _select_kept(plan, fresh, sizes, retrying=request.retry_failed)
    previous = {shard: receipt for shard, receipt in fresh.items() if shard not in kept}
    return ResumePlan(
        plan, target, kept, previous, retry_failed=True, unpublished=tuple(sorted(kept))
    )


def _continue_store(
    store: ObjectStore, plan: Plan, target: Target, request: BuildRequest
) -> ResumePlan:
    """Add to a complete store, or retry what failed in it, while readers may use it."""
    complete = read_published_receipts(store, target.attrs)
    layout, attrs, published = complete.layout, complete.attributes, complete.receipts
    target = replace(target, attrs=attrs)  # as they were written
    plan = _with_samples_of(plan, layout)
    record, file_names = target.record, [o.file_name for r in published for o in r.outcomes]
    continues = record is not None and not (request.may_grow or request.retry_failed)
    existing = _read_file_names(store) if continues else file_names
    added = int(attrs["appended"]) + plan.layout.subjects - len(file_names)
    plan = _order_like(plan, existing, added)
    if request.may_grow:
        check_append_only(store, plan, attrs, file_names)
    elif continues:
        check_same_plan(store, plan, _record_identity(target), existing)
    else:
        check_same_plan(store, plan, attrs, file_names)
    check_files_unchanged(store, plan, published)
    marked = set(record.shards_to_write or ()) if record is not None else set()
    fresh = {}
    if record is not None and record.fingerprint == plan.fingerprint:
        receipts = read_receipts(store, plan.fingerprint, plan.layout)
        fresh = {i: r for i, r in receipts.items() if i in marked}
    current = {r.shard: r for r in published if r.shard not in marked} | fresh
    kept = _select_kept(plan, current, store.list_sizes(), retrying=request.retry_failed)
    to_write = {*range(plan.layout.shards)} & (marked | ({*range(plan.layout.shards)} - {*kept}))
    previous = {r.shard: r for r in published} | fresh
    return ResumePlan(
        plan,
        target,
        kept,
        {shard: previous[shard] for shard in to_write - {*kept} if shard in previous},
        request.retry_failed or (continues and record is not None and record.retry_failed),
        tuple(sorted(to_write)),
        unpublished=tuple(sorted({*kept} & {*fresh})),
    )


def _select_kept(
    plan: Plan, receipts: Mapping[int, Receipt], sizes: Mapping[str, int], *, retrying: bool
) -> dict[int, Receipt]:
    names = [entry.file.name for entry in plan.manifest.entries]
    return {
        shard: receipts[shard]
        for shard in range(plan.layout.shards)
        if shard in receipts
        and keeps(receipts[shard], names[plan.layout.rows(shard)], sizes, retrying=retrying)
    }


def _with_samples_of(plan: Plan, layout: Layout) -> Plan:
    """Number the samples as the store does, new ones after those that it has."""
    new = [name for name in plan.layout.samples if name not in layout.samples]
    return replace(plan, layout=replace(plan.layout, samples=(*layout.samples, *new)))


def _order_like(plan: Plan, file_names: Sequence[str], appended: int) -> Plan:
    """Order the subjects as the store has them, new ones behind them.

    Parameters
    ----------
    file_names : sequence of str
        Subject files of the store, in its order.
    appended : int
        How many subjects are behind the others, whatever the order.
    """
    rows = {name: row for row, name in enumerate(file_names)}
    entries = sorted(
        plan.manifest.entries, key=lambda entry: rows.get(entry.file.name, len(rows))
    )  # stable: new subjects keep their order
    if tuple(entries) == plan.manifest.entries:
        return plan
    note = (
        f"{plural(appended, 'subject')} added behind the others, not in the order of "
        f"{plan.manifest.order}; an overwrite orders all"
    )
    manifest = replace(
        plan.manifest,
        entries=tuple(entries),
        appended=appended,
        notes=(*plan.manifest.notes, note),
    )
    return replace(plan, manifest=manifest)


def refuse_inside_store(store: ObjectStore) -> None:
    """Refuse a path directly inside a store; StoreError says which."""
    above = store.url.rpartition("/")[0]
    if above and not above.endswith(("/", ":")):
        root = store.with_url(above).get(ROOT_KEY)
        if read_attrs(root).get("schema") == SCHEMA:
            raise StoreError(f"{store.url} lies in the store {above}; choose another path")


def _read_file_names(store: ObjectStore) -> list[str]:
    """Names of the subject files of the build that has not ended."""
    data = store.get(FILES_KEY)
    return [] if data is None else data.decode("utf-8", "replace").split("\n")


def identify(plan: Plan) -> dict[str, Any]:
    """What two builds must share for one to continue the other."""
    return {
        "fingerprint": plan.fingerprint,
        "order": plan.manifest.order,
        **asdict(plan.layout),
    }


def _record_identity(target: Target) -> dict[str, Any]:
    record = target.record
    if record is None or record.layout is None:
        return {}
    return {
        "fingerprint": record.fingerprint,
        "order": record.order,
        **asdict(record.layout),
    }


def check_same_plan(
    store: ObjectStore, plan: Plan, existing: Mapping[str, Any], file_names: Sequence[str]
) -> None:
    """Refuse to continue with another plan, and say what differs.

    Parameters
    ----------
    existing : mapping
        What `identify` gives, of the existing build or store.
    file_names : sequence of str
        Its subject files, in order.
    """
    mine = identify(plan)
    if existing.get("fingerprint") == mine["fingerprint"]:
        return
    differences = _compare_identities(mine, existing)
    differences += _compare_names([e.file.name for e in plan.manifest.entries], file_names)
    raise StoreError(
        f"{store.url} was built with another plan: {'; '.join(differences) or 'samples differ'}. "
        "Use the same options and source, or --overwrite"
    )


def check_append_only(
    store: ObjectStore, plan: Plan, existing: Mapping[str, Any], file_names: Sequence[str]
) -> None:
    """Refuse an update that would change subjects that the store has."""
    differences = _compare_identities(identify(plan), existing, without=("subjects",))
    wanted = [entry.file.name for entry in plan.manifest.entries]
    gone = sorted(set(file_names) - set(wanted))
    if gone:
        differences.append(
            f"the source lacks {plural(len(gone), 'file')} of it (first {shorten(gone[0])})"
        )
    if differences:
        raise StoreError(
            f"{store.url} cannot be updated: {'; '.join(differences)}. Build it anew with "
            "--overwrite"
        )


def _compare_identities(
    mine: Mapping[str, Any], existing: Mapping[str, Any], without: Sequence[str] = ()
) -> list[str]:
    return [
        f"{name} is {mine[name]} (existing: {shorten(existing.get(name))})"
        for name in ("subjects", "shard_size", "codec", "nside", "order")
        if name not in without and existing.get(name) != mine[name]
    ]


def _compare_names(wanted: Sequence[str], existing: Sequence[str]) -> list[str]:
    """How two lists of files differ, in words."""
    new, gone = sorted(set(wanted) - set(existing)), sorted(set(existing) - set(wanted))
    words = []
    if new:
        words.append(
            f"{plural(len(new), 'file')} missing in the existing one (first {shorten(new[0])})"
        )
    if gone:
        words.append(
            f"{plural(len(gone), 'file')} missing in the source (first {shorten(gone[0])})"
        )
    if not words and list(wanted) != list(existing):
        words.append("the files are in another order")
    return words


def check_files_unchanged(store: ObjectStore, plan: Plan, receipts: Iterable[Receipt]) -> None:
    """Refuse to mix subjects that are stored with files that were replaced since."""
    changed = []
    for receipt in receipts:
        entries = plan.manifest.entries[plan.layout.rows(receipt.shard)]
        for entry, outcome in zip(entries, receipt.outcomes, strict=False):  # an update adds some
            now = (entry.sha1 or outcome.sha1, entry.file.size or outcome.size)
            if outcome.status is Status.OK and now != (outcome.sha1, outcome.size):
                changed.append(entry.file.name)
    if changed:
        raise StoreError(
            f"{plural(len(changed), 'file')} of the source changed since {store.url} was built "
            f"from them (first {changed[0]}: another size or sha1). Build it anew with --overwrite"
        )
