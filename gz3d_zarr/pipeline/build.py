"""Plan and build a store with any dask client."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from gz3d_zarr.datamodel.layout import LayoutOptions, read_layout
from gz3d_zarr.datamodel.option_fields import check_options, check_type, take_options
from gz3d_zarr.datamodel.receipts import Receipt
from gz3d_zarr.datamodel.schema import read_parent
from gz3d_zarr.datamodel.variables import SubjectRecord
from gz3d_zarr.errors import Status, StoreError
from gz3d_zarr.pipeline.build_state import BuildRequest, Mode, choose_request, inspect_target
from gz3d_zarr.pipeline.failure_policy import FailurePolicy
from gz3d_zarr.pipeline.light_checks import find_light_damage
from gz3d_zarr.pipeline.losses import check_build_keeps, check_plan_keeps
from gz3d_zarr.pipeline.plan import Plan, make_plan, parse_memory
from gz3d_zarr.pipeline.publish import (
    begin_writing,
    choose_generation,
    clean_up_complete,
    describe_origin,
    publish,
    reconcile_objects,
)
from gz3d_zarr.pipeline.replace import (
    find_target,
    has_replaced,
    hold_target,
    remove_leftovers,
    writing_target,
)
from gz3d_zarr.pipeline.report import BuildReport, Failure, list_saturated, note_subjects
from gz3d_zarr.pipeline.resume import ResumePlan, plan_resume
from gz3d_zarr.pipeline.shard_runner import recheck_kept, run_shards
from gz3d_zarr.progress import ProgressOption, check_progress, choose_progress
from gz3d_zarr.sources.listing import Source
from gz3d_zarr.sources.options import FetchOptions, SelectionOptions
from gz3d_zarr.sources.source_state import observe_source
from gz3d_zarr.storage.lease import check_free, name_other_builder
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store
from gz3d_zarr.storage.published_receipts import read_published_receipts

if TYPE_CHECKING:
    from distributed import Client


def plan(
    source: Source,
    store: str | Path,
    *,
    client: Client | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    max_memory: int | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    update: bool = False,
    retry_failed: bool = False,
    allow_loss: bool = False,
    **options: Any,
) -> Plan:
    """Say what `build` would do, with the same arguments; nothing is written.

    Parameters
    ----------
    source, store, client, scheduler, workers, max_memory, storage_options
        As for `build`.
    resume, overwrite, update, retry_failed, allow_loss : bool
        As for `build`.
    **options
        As for `build`; a `cache` is neither read nor written.

    Returns
    -------
    Plan
        Print it; ``summary()`` is a dict. Its notes say what exists at `store`,
        and what would be deleted or refused.
    """
    from gz3d_zarr.pipeline.dask_client import find_resources, use_client  # slow to import

    check_options(plan, options, SelectionOptions, LayoutOptions, FetchOptions)
    selection = take_options(SelectionOptions, options)
    layout = take_options(LayoutOptions, options)
    fetch = replace(take_options(FetchOptions, options), cache=None)  # a listing fills a cache
    memory = parse_memory(max_memory)
    request = choose_request(
        resume=resume,
        overwrite=overwrite,
        update=update,
        retry_failed=retry_failed,
        allow_loss=allow_loss,
    )
    target = open_object_store(store, storage_options)
    selection, layout = _adopt_settings(target, request, selection, layout)
    with use_client(client, scheduler) as running:
        resources = find_resources(running, workers, memory)
        build_plan = make_plan(source, target, selection, layout, fetch, resources)
    try:
        beside = find_target(target, request)
        work = plan_resume(beside, build_plan, request)
        check_plan_keeps(target, beside, work, request)
    except StoreError as error:
        return replace(build_plan, refusal=str(error))
    if target.is_writable() is False:
        return replace(build_plan, refusal=f"{build_plan.store} cannot be written to")
    if request.mode is Mode.OVERWRITE and target.list_sizes():
        return replace(build_plan, warning=f"build would replace the store at {build_plan.store}")
    if not work.receipts and work.target.record is None and not work.target.attrs:
        return build_plan
    done = f"{len(work.receipts)} of {build_plan.layout.shards} shards are built already"
    return replace(work.plan, warning=done)


def build(
    source: Source,
    store: str | Path,
    client: Client | None = None,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    max_memory: int | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    update: bool = False,
    retry_failed: bool = False,
    on_error: str = "skip",
    max_failures: int | None = None,
    allow_loss: bool = False,
    progress: ProgressOption = None,
    announce: Callable[[Plan], None] | None = None,
    **options: Any,
) -> BuildReport:
    """Turn the subject files of a source into a Zarr store.

    Parameters
    ----------
    source : str, Path or sequence of them
        A folder, a glob, a ``.txt`` list of files, a URL, or a list of files.
    store : str or Path
        A path, or a URL of any fsspec file system.
    client : distributed.Client, optional
        Where to run. By default dask's current client, if there is one; otherwise a local cluster
        that ends with the build (a script then needs ``if __name__ == "__main__":``).
    scheduler : str, optional
        Address of a scheduler, instead of `client`.
    workers : int, optional
        Processes of the local cluster; by default one per core.
    max_memory : int or str, optional
        Memory that each worker may use, such as ``"2GB"``; by default what dask gives it.
    storage_options : mapping, optional
        Options for the file system of the store.
    resume : bool
        Resume an unfinished build; start a new one if there is none.
    overwrite : bool
        Replace the existing Galaxy Zoo: 3D store, if any. Without `allow_loss`, it is kept if
        subjects that are ok in it would be lost: they are left out, or on a local disk, where the
        old store stays until the new one is complete, failed. An object store is deleted first:
        files that turn out to be damaged are noticed too late. Your own files in it stay.
    update : bool
        Add the subjects of `source` that a complete store lacks, after those that it has.
    retry_failed : bool
        Read only the failed subjects again; otherwise the same as `resume`.
    on_error : {'skip', 'raise'}
        Whether a subject that cannot be read keeps its row and gets a status, or stops the build.
    max_failures : int, optional
        Stop once more subjects than this have failed. By default a build of more than 100
        subjects stops if the first 100 are all invalid or corrupt.
    allow_loss : bool
        Let `overwrite`, or the `resume` of one, replace a store also if good subjects of it failed
        or are left out.
    progress : callable or bool, optional
        Called with a `Progress` after every shard; True shows a bar.
    announce : callable, optional
        Called with the `Plan` before anything is fetched or written.
    **options
        Fields of `SelectionOptions`, `LayoutOptions` and `FetchOptions`:

        limit : int
            Keep the first so many subjects, in the order of the store.
        tiny : bool
            Keep the first five.
        ids : iterable of str or int
            Keep these MaNGA ids or Zooniverse subject ids; with `ids_table`, also plate-IFUs.
        missing_ids : {'error', 'warn'}
            Whether ids that no subject has are an error, or a note.
        ids_table : str or Path
            FITS or CSV table with the columns ``mangaid`` and ``plateifu``, such as DRPall.
        min_vote_fraction : float
            Keep subjects whose spiral or bar vote fraction is at least this; needs the catalogue.
        catalogue : str or Path
            By default ``gz3d_metadata.fits`` beside the files; ``"none"`` for no catalogue.
        order : {'healpix', 'name'}
            By default healpix if positions are known beforehand, name otherwise.
        shard_size : int
            Subjects per shard; by default 64, or fewer if a worker's memory is small.
        codec : {'portable', 'compact'}
            Portable, the default: any Zarr 3 library can read it. Compact: a quarter smaller, for
            zarr-python and zarrita.
        nside : int
            HEALPix resolution of the coordinate ``healpix``, a power of two; by default 16.
        cache : str or Path
            Folder that keeps the files that are fetched from URLs.
        connections : int
            Maximum connections to the source server, across all workers; by default 8.
        source_options : mapping
            Options for the file system of the source.
        trust_names : bool
            Accept files whose names were changed on purpose. Otherwise a file without a sha1 is
            invalid if its MANGAID or its bundle differs from its name, or if a redirect led to a
            file of another name.

    Returns
    -------
    BuildReport

    Raises
    ------
    GZ3DError
        SourceError, UsageError, PlanError or StoreError before anything is written; StoreError
        or BuildError later, with all receipts kept, so that ``resume=True`` continues.
    """
    from gz3d_zarr.pipeline.dask_client import (  # slow to import
        find_resources,
        use_client,
        use_workers,
    )

    check_options(build, options, SelectionOptions, LayoutOptions, FetchOptions)
    selection = take_options(SelectionOptions, options)
    layout = take_options(LayoutOptions, options)
    fetch = take_options(FetchOptions, options)
    memory = parse_memory(max_memory)
    policy = FailurePolicy(on_error, max_failures, allow_loss)
    request = choose_request(
        resume=resume,
        overwrite=overwrite,
        update=update,
        retry_failed=retry_failed,
        allow_loss=policy.allow_loss,
    )
    check_progress(progress)
    check_type("announce", announce, FunctionType)
    with use_client(client, scheduler) as running:
        resources = find_resources(running, workers, memory)
        target = open_object_store(store, storage_options)
        check_free(target, wait=False)
        if has_replaced(target):  # before we look at what exists
            with hold_target(target):
                pass
        with name_other_builder(target):
            selection, layout = _adopt_settings(target, request, selection, layout)
            build_plan = make_plan(source, target, selection, layout, fetch, resources)
            observed = observe_source(build_plan.manifest, fetch.source_options)
            began = time.monotonic()
            beside = find_target(target, request)
            work = plan_resume(beside, build_plan, request)  # refuses before anything is written
            check_plan_keeps(target, beside, work, request)
        if announce is not None:
            announce(work.plan)
        if work.is_done and beside is target and not (resume and find_light_damage(target)):
            clean_up_complete(target)
            return _report_complete(target, work, time.monotonic() - began)
        with contextlib.ExitStack() as stack:
            lease = stack.enter_context(hold_target(target))
            writing = stack.enter_context(writing_target(target, request, lease))
            work = plan_resume(writing, build_plan, request)
            check_plan_keeps(target, writing, work, request)
            kept = [work.receipts[i] for i in sorted(work.receipts)]
            policy.check(kept, work.plan.layout.subjects)
            with contextlib.ExitStack() as workers_stack:
                tasks = len(work.missing) + len(work.unpublished)
                if tasks:  # workers first: without any, nothing is written or deleted
                    workers_client = workers_stack.enter_context(
                        use_workers(running, build_plan.resources, tasks)
                    )
                remove_leftovers(target, writing, request.mode)
                begin_writing(writing, work, lease.build_id)
                began = time.monotonic()
                if work.unpublished:
                    work = recheck_kept(workers_client, writing, work)
                receipts = dict(work.receipts)
                if work.missing:
                    receipts = run_shards(
                        workers_client,
                        writing,
                        work,
                        fetch,
                        observed,
                        lease.build_id,
                        policy,
                        stack.enter_context(choose_progress(progress)),
                    )
            return _complete(
                writing,
                work,
                receipts,
                lease.build_id,
                began,
                target,
                allow_loss=request.allow_loss,
            )


def _adopt_settings(
    store: ObjectStore, request: BuildRequest, selection: SelectionOptions, layout: LayoutOptions
) -> tuple[SelectionOptions, LayoutOptions]:
    """Fill in what is not given from the build or store that is continued."""
    if request.mode is not Mode.RESUME:
        return selection, layout
    target = inspect_target(find_target(store, request))
    settings = target.settings
    if settings is target.attrs and settings:
        read_layout(settings)  # refuses damaged ones
    return selection.adopt(settings), layout.adopt(settings)


def _complete(
    store: ObjectStore,
    work: ResumePlan,
    receipts: Mapping[int, Receipt],
    build_id: str,
    began: float,
    existing: ObjectStore,
    *,
    allow_loss: bool,
) -> BuildReport:
    """Publish what has been built, and report on it; no good subject of `existing` may be lost."""
    plan = work.plan
    ordered = [receipts[i] for i in range(plan.layout.shards)]
    outcomes = [outcome for receipt in ordered for outcome in receipt.outcomes]
    records = [
        SubjectRecord(entry, outcome)
        for entry, outcome in zip(plan.manifest.entries, outcomes, strict=True)
    ]
    if existing is not store and not allow_loss:
        check_build_keeps(existing, store, records)
    reconcile_objects(store, ordered, build_id)
    attrs = {} if work.clears else work.target.attrs
    generation = choose_generation(store, attrs, outcomes, build_id)
    origin = replace(describe_origin(plan, records), parent=read_parent(attrs))
    provenance = replace(origin, generation=generation)
    note = publish(store, records, ordered, plan.layout, provenance, build_id, existing)
    notes = (*plan.manifest.notes, *note_subjects(records), *work.notes, *filter(None, [note]))
    return _report(work, records, ordered, time.monotonic() - began, notes)


def _report_complete(store: ObjectStore, work: ResumePlan, seconds: float) -> BuildReport:
    """Report on a store that was complete before."""
    published = read_published_receipts(store, work.target.attrs)
    notes = tuple(published.attributes["notes"])
    return _report(work, published.records, published.receipts, seconds, notes)


def _report(
    work: ResumePlan,
    records: Sequence[SubjectRecord],
    receipts: Sequence[Receipt],
    seconds: float,
    notes: tuple[str, ...],
) -> BuildReport:
    failed = [r.outcome for r in records if r.outcome.status is not Status.OK]
    built = [receipts[i] for i in work.missing]
    kept = sum(
        outcome.status is Status.OK or not work.retry_failed
        for shard, previous in work.previous_receipts.items()
        if shard not in work.damaged
        for outcome in previous.outcomes
    )
    return BuildReport(
        store=work.plan.store,
        subjects=len(records),
        ok=len(records) - len(failed),
        failures=tuple(Failure(o.file_name, o.status.label, o.reason) for o in failed),
        shards=work.plan.layout.shards,
        shards_built=len(built),
        subjects_built=sum(len(receipt.outcomes) for receipt in built) - kept,
        stored_bytes=sum(stored.size for receipt in built for stored in receipt.objects),
        seconds=seconds,
        notes=notes,
        saturated=list_saturated(records),
    )
