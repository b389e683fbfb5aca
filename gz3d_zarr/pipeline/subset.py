"""Make a store of some subjects of a complete store, its metadata last."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.utils import format_bytes
from numpy.typing import NDArray

from gz3d_zarr.datamodel.arrays import SHARD_ARRAYS
from gz3d_zarr.datamodel.manifest import Entry, Manifest
from gz3d_zarr.datamodel.receipts import Receipt, SubjectOutcome
from gz3d_zarr.datamodel.schema import Parent
from gz3d_zarr.datamodel.text_report import TextReport
from gz3d_zarr.errors import Status, StoreError, UsageError, plural
from gz3d_zarr.locations import public_name
from gz3d_zarr.pipeline.build_state import TargetState, inspect_target
from gz3d_zarr.pipeline.light_checks import find_light_damage
from gz3d_zarr.pipeline.plan import Plan, Resources
from gz3d_zarr.pipeline.publish import (
    begin_writing,
    clean_up_complete,
    describe_origin,
    publish,
    reconcile_objects,
)
from gz3d_zarr.pipeline.replace import hold_target
from gz3d_zarr.pipeline.report import note_subjects
from gz3d_zarr.pipeline.resume import ResumePlan, has_objects, refuse_inside_store
from gz3d_zarr.pipeline.shard_runner import recheck_kept
from gz3d_zarr.pipeline.subset_parent import ParentStore, open_parent
from gz3d_zarr.pipeline.subset_task import ParentPart, SubsetTask, write_subset_shard
from gz3d_zarr.progress import Progress, ProgressOption, choose_progress
from gz3d_zarr.storage.build_receipts import read_receipts
from gz3d_zarr.storage.build_record import ROOT_KEY, digest
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.published_receipts import read_published_receipts
from gz3d_zarr.storage.shards import array_documents

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client


@dataclass(frozen=True)
class SubsetReport(TextReport):
    """Result of `make_subset`.

    Attributes
    ----------
    store : str
        Absolute path or URL of the store that the subset was taken from.
    destination : str
        Absolute path or URL of the subset.
    subjects : int
        Subjects of the subset.
    parent_subjects : int
        Subjects of the store that it was taken from.
    not_ok : int
        Subjects of the subset whose status is not ok.
    shards : int
        Shards of the subset.
    shards_written : int
        Shards that this run wrote; the others existed.
    shards_copied : int
        Those of them that are shards of the original, copied as they are.
    stored_bytes : int
        Bytes of the shards that this run wrote.
    seconds : float
        Wall time of this run.
    """

    store: str
    destination: str
    subjects: int
    parent_subjects: int
    not_ok: int
    shards: int
    shards_written: int
    shards_copied: int
    stored_bytes: int
    seconds: float

    def summary(self) -> dict[str, Any]:
        """What ``gz3d-zarr subset --json`` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """What ``gz3d-zarr subset`` prints."""
        of = f"{self.subjects} of {plural(self.parent_subjects, 'subject')}"
        if not self.shards_written:
            return f"Nothing to write: {self.destination} has the {of} already"
        text = (
            f"Took {of} of {self.store}: wrote {plural(self.shards_written, 'shard')}, "
            f"{format_bytes(self.stored_bytes)}, in {self.seconds:.1f} s: {self.destination}"
        )
        if self.not_ok:
            have = "has" if self.not_ok == 1 else "have"
            text += f"\n{plural(self.not_ok, 'subject')} {have} a status that is not ok"
        return text


def make_subset(
    source: ObjectStore,
    target: ObjectStore,
    find_rows: Callable[[xr.Dataset], NDArray[np.int64]],
    client: Client | None = None,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    resume: bool = False,
    progress: ProgressOption = None,
) -> SubsetReport:
    """Make a complete store of some subjects of another one over dask.

    Parameters
    ----------
    source, target : ObjectStore
    find_rows : callable
        Gives the rows to take, ascending, each once, of the Dataset of the source.
    client, scheduler, workers, resume, progress
        As for `copy`.

    Raises
    ------
    StoreError
        The source is incomplete, damaged or replaced meanwhile; the target holds something
        already, or is a link.
    UsageError
        No subject is selected, or the target is in the source.
    """
    from gz3d_zarr.pipeline.dask_client import (  # slow to import
        find_resources,
        use_client,
        use_workers,
    )

    target.refuse_link("written to")
    if f"{target.url}/".startswith(f"{source.url}/"):
        raise UsageError(f"{target.url} is in the store {source.url}: choose another path")
    parent = open_parent(source, find_rows)
    began = time.monotonic()
    with use_client(client, scheduler) as running:
        resources = find_resources(running, workers)
        plan = _plan(parent, target, resources)
        if _check_target(target, plan, parent, resume=resume):
            clean_up_complete(target)
            return _report(parent, plan, {}, [], time.monotonic() - began)
        with hold_target(target) as lease:
            work = _plan_work(target, plan, parent, resume=resume)
            with contextlib.ExitStack() as stack:
                tasks = len(work.missing) + len(work.unpublished)
                # Workers first: without any, nothing is written. One of the two numbers is not 0.
                worker = stack.enter_context(
                    use_workers(running, resources, tasks, processes=False)
                )
                begin_writing(target, work, lease.build_id)
                if work.unpublished:
                    work = recheck_kept(worker, target, work)
                written = [*map(_task_maker(parent, work, target, lease.build_id), work.missing)]
                receipts = {**work.receipts, **_run(worker, written, work, progress)}
            _publish(parent, work, target, receipts, lease.build_id)
    return _report(parent, plan, receipts, written, time.monotonic() - began)


def _plan(parent: ParentStore, target: ObjectStore, resources: Resources) -> Plan:
    """The plan by which a build from the files of these subjects would write the same shards."""
    attrs, layout = parent.published.attributes, parent.published.layout
    records = parent.records
    entries = [
        Entry(
            replace(record.entry.file, size=max(record.outcome.size, 0) or None),
            record.outcome.sha1 or None,
            record.entry.row,
        )
        for record in records
    ]
    own = note_subjects(parent.published.records)
    notes = [f"of the parent: {note}" for note in attrs["notes"] if note not in own]
    ordered = layout.subjects - int(attrs["appended"])
    manifest = Manifest(
        attrs["source"],
        tuple(entries),
        attrs["order"],
        attrs["source_catalogue"] or None,
        notes=tuple(notes),
        release=attrs["release"],
        appended=int(np.count_nonzero(parent.rows >= ordered)),
    )
    return Plan(target.url, manifest, replace(layout, subjects=len(records)), resources)


def _check_target(target: ObjectStore, plan: Plan, parent: ParentStore, *, resume: bool) -> bool:
    """Whether the target has this subset already.

    Raises
    ------
    StoreError
        Nothing may be written there: what exists, and what to do.
    """
    found = inspect_target(target)
    if found.state is TargetState.EMPTY:
        refuse_inside_store(target)
        return False
    unfinished = found.record.fingerprint if found.record is not None else ""
    if unfinished == plan.fingerprint and found.state is TargetState.UNFINISHED:
        if not resume:
            raise StoreError(
                f"{target.url} holds a store of these subjects that has not ended; use --resume to "
                "continue it"
            )
        if not found.has_root:
            return False
    complete = found.attrs.get("fingerprint") if not unfinished else ""
    if resume and complete == plan.fingerprint:
        published = read_published_receipts(target, found.attrs)
        there = [outcome for receipt in published.receipts for outcome in receipt.outcomes]
        if there == [record.outcome for record in parent.records]:
            damage = find_light_damage(target)
            if not damage:
                return True
            raise StoreError(
                f"{target.url} has these subjects, and is damaged: {damage}; run gz3d-zarr verify "
                "for details and how to repair it, or choose another path"
            )
    raise StoreError(
        f"{target.url} holds a store already{', which has not ended' if unfinished else ''}"
        f"{', and not one of these subjects' if resume else ''}; nothing was changed. Choose "
        "another path, or empty it yourself"
    )


def _plan_work(target: ObjectStore, plan: Plan, parent: ParentStore, *, resume: bool) -> ResumePlan:
    """Which shards to write, and which of a stopped run to keep; as the only builder."""
    if _check_target(target, plan, parent, resume=resume):
        raise StoreError(f"another run has just ended at {target.url}: try again")
    sizes, receipts = target.list_sizes(), read_receipts(target, plan.fingerprint, plan.layout)
    outcomes = [record.outcome for record in parent.records]
    kept = {
        shard: receipt
        for shard, receipt in receipts.items()
        if [*receipt.outcomes] == outcomes[plan.layout.rows(shard)] and has_objects(receipt, sizes)
    }
    name = public_name(parent.store.url)
    return ResumePlan(
        plan, inspect_target(target), kept, unpublished=tuple(sorted(kept)), parent=name
    )


def _task_maker(
    parent: ParentStore, work: ResumePlan, target: ObjectStore, build_id: str
) -> Callable[[int], SubsetTask]:
    layout, old = work.plan.layout, parent.published.layout
    old_documents, documents = array_documents(old), array_documents(layout)
    outcomes = [record.outcome for record in parent.records]

    def make_task(shard: int) -> SubsetTask:
        rows = parent.rows[layout.rows(shard)]
        numbers, starts = np.unique(rows // old.shard_size, return_index=True)
        parts = [
            _part(parent.published.receipts[number], these % old.shard_size)
            for number, these in zip(numbers.tolist(), np.split(rows, starts[1:]), strict=True)
        ]
        return SubsetTask(
            shard,
            work.plan.fingerprint,
            build_id,
            parent.generation,
            target,
            layout,
            old_documents,
            documents,
            tuple(parts),
            tuple(outcomes[layout.rows(shard)]),
        )

    return make_task


def _part(receipt: Receipt, rows: NDArray[np.int64]) -> ParentPart:
    objects = dict(zip(SHARD_ARRAYS, receipt.objects, strict=True))
    return ParentPart(receipt.shard, len(receipt.outcomes), objects, tuple(rows.tolist()))


def _run(
    client: Client,
    tasks: Sequence[SubsetTask],
    work: ResumePlan,
    progress: ProgressOption,
) -> dict[int, Receipt]:
    """Write shards on the workers; return their receipts."""
    from gz3d_zarr.pipeline.dask_tasks import run_tasks  # slow to import

    plan, kept = work.plan, work.receipts.values()
    done = sum(len(receipt.outcomes) for receipt in kept)
    failed = _count_failed([o for receipt in kept for o in receipt.outcomes])
    hint = ". What is written is kept; use --resume to continue"
    prefix, size = f"gz3d-subset-{plan.fingerprint[:12]}", plan.layout.shard_size
    written = {}
    results = run_tasks(client, write_subset_shard, tasks, prefix, size, hint)
    with contextlib.closing(results), choose_progress(progress) as report:
        report(Progress(done, plan.layout.subjects, 0, failed))
        for receipt in results:
            written[receipt.shard] = receipt
            done += len(receipt.outcomes)
            failed += _count_failed(receipt.outcomes)
            report(Progress(done, plan.layout.subjects, len(receipt.outcomes), failed))
    return written


def _publish(
    parent: ParentStore,
    work: ResumePlan,
    target: ObjectStore,
    receipts: Mapping[int, Receipt],
    build_id: str,
) -> None:
    """Check that all shards exist and the parent is still the same; then put the rest."""
    plan, attrs = work.plan, parent.published.attributes
    ordered = [receipts[shard] for shard in range(plan.layout.shards)]
    reconcile_objects(target, ordered, build_id)
    if parent.store.get(ROOT_KEY) != parent.root:
        raise StoreError(
            f"{parent.store.url} was updated or replaced while the subset was taken; use --resume "
            "to go on from the store as it is now"
        )
    provenance = replace(
        describe_origin(plan, parent.records),
        generation=build_id,
        parent=Parent(
            public_name(parent.store.url),
            digest(parent.root),
            str(attrs["fingerprint"]),
            parent.published.layout.subjects,
        ),
    )
    publish(target, parent.records, ordered, plan.layout, provenance, build_id, target)


def _count_failed(outcomes: Sequence[SubjectOutcome]) -> int:
    return sum(outcome.status is not Status.OK for outcome in outcomes)


def _report(
    parent: ParentStore,
    plan: Plan,
    receipts: Mapping[int, Receipt],
    written: Sequence[SubsetTask],
    seconds: float,
) -> SubsetReport:
    return SubsetReport(
        parent.store.url,
        plan.store,
        plan.layout.subjects,
        parent.published.layout.subjects,
        _count_failed([record.outcome for record in parent.records]),
        plan.layout.shards,
        len(written),
        sum(task.is_copy for task in written),
        sum(stored.size for task in written for stored in receipts[task.shard].objects),
        seconds,
    )
