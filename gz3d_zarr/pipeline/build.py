"""Plan to filled store, over any dask client: what is missing is built, then published."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gz3d_zarr
from gz3d_zarr.datamodel.receipts import Receipt
from gz3d_zarr.datamodel.schema import Provenance, SubjectRecord
from gz3d_zarr.errors import Status, StoreError, plural
from gz3d_zarr.pipeline.build_state import (
    Mode,
    Work,
    assess,
    begin,
    choose_mode,
    clear_up,
    inspect,
    settle,
)
from gz3d_zarr.pipeline.dask_tasks import FailurePolicy, run_shards
from gz3d_zarr.pipeline.plan import Plan, make_plan
from gz3d_zarr.pipeline.publish import choose_place, clear_beside, publish, switch
from gz3d_zarr.pipeline.report import BuildReport, Failure
from gz3d_zarr.progress import Progress
from gz3d_zarr.sources.listing import Source
from gz3d_zarr.sources.manifest import PlanOptions
from gz3d_zarr.storage.build_record import WORK_PREFIX
from gz3d_zarr.storage.lease import check_free, hold_lease
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store

if TYPE_CHECKING:
    from distributed import Client


def plan(
    source: Source,
    store: str | Path,
    *,
    client: Client | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    update: bool = False,
    retry_failed: bool = False,
    **options: Any,
) -> Plan:
    """Say what `build` would do, with the same arguments; nothing is written.

    Returns
    -------
    Plan
        Print it with ``to_text()``; ``summary()`` is a dict. What stands at `store` already, and
        would be deleted or refused, is among its notes.
    """
    from gz3d_zarr.pipeline.dask_client import find_resources, use_client  # slow to import

    chosen = replace(PlanOptions.of(options), cache=None)  # listing an archive fills a cache
    mode = choose_mode(resume=resume, overwrite=overwrite, update=update, retry_failed=retry_failed)
    folder = open_object_store(store, chosen.storage_options)
    with use_client(client, scheduler) as running:
        resources = find_resources(running, workers, chosen.memory_bound)
        made = make_plan(source, store, _adopt(chosen, folder, mode), resources)
    try:
        work = assess(choose_place(folder, mode), made, mode)
    except StoreError as error:
        return replace(made, refusal=str(error))
    if folder.is_writable() is False:
        return replace(made, refusal=f"{made.store} cannot be written to")
    if mode is Mode.OVERWRITE and folder.list_sizes():
        return replace(made, warning=f"build would replace the store that stands at {made.store}")
    if work.standing is None:
        return made
    done = made.layout.shards - len(work.missing)
    return replace(work.made, warning=f"{done} of {made.layout.shards} shards are built already")


def build(
    source: Source,
    store: str | Path,
    client: Client | None = None,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    update: bool = False,
    retry_failed: bool = False,
    on_error: str = "skip",
    max_failures: int | None = None,
    progress: Callable[[Progress], None] | None = None,
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
        Where to run. By default the current client of dask, if there is one; else a local
        cluster that ends with the build (a script then needs ``if __name__ == "__main__":``).
    scheduler : str, optional
        Address of a scheduler, instead of `client`.
    workers : int, optional
        Processes of the local cluster; by default one a core.
    resume : bool
        Go on with a build that has not ended; begin one where there is none.
    overwrite : bool
        Replace the Galaxy Zoo: 3D store that stands there, if any. On a local disk it stays
        until the new one is complete.
    update : bool
        Add the subjects of `source` that a complete store lacks, behind those that it has.
    retry_failed : bool
        Read again the subjects that are not ok, and only those; goes on as `resume` does.
    on_error : {'skip', 'raise'}
        A subject that cannot be read keeps its row and gets a status; or stops the build.
    max_failures : int, optional
        Stop once more subjects than this are not ok.
    progress : callable, optional
        Called with a `Progress` after every shard.
    announce : callable, optional
        Called with the `Plan` before anything is fetched or written.
    **options
        Fields of `PlanOptions`: ``limit, tiny, ids, min_vote_fraction, catalogue, order,
        shard_size, codec, nside, max_memory, cache, connections, storage_options,
        source_options``.

    Returns
    -------
    BuildReport

    Raises
    ------
    GZ3DError
        SourceError, UsageError, PlanError or StoreError before anything is written; StoreError
        or BuildError later, with all receipts kept, so that ``resume=True`` goes on.
    """
    from gz3d_zarr.pipeline.dask_client import (  # slow to import
        find_resources,
        use_client,
        use_workers,
    )

    chosen = PlanOptions.of(options)
    mode = choose_mode(resume=resume, overwrite=overwrite, update=update, retry_failed=retry_failed)
    rules = FailurePolicy.of(on_error, max_failures, progress)
    with use_client(client, scheduler) as running:
        resources = find_resources(running, workers, chosen.memory_bound)
        folder = open_object_store(store, chosen.storage_options)
        check_free(folder, wait=False)
        made = make_plan(source, store, _adopt(chosen, folder, mode), resources)
        began = time.monotonic()
        place = choose_place(folder, mode)
        work = assess(place, made, mode)  # refuses before anything is written
        if announce is not None:
            announce(work.made)
        if work.is_over and place is folder:
            if folder.list_sizes(WORK_PREFIX):
                _clear_up(folder)
            return _finished(folder, made, time.monotonic() - began)
        with hold_lease(folder) as lease:
            place = choose_place(folder, mode)  # another builder may have ended just now
            work = assess(place, made, mode)
            rules.check([work.receipts[i] for i in sorted(work.receipts)])
            with contextlib.ExitStack() as stack:
                if work.missing:  # workers first: where none can be had, nothing has begun
                    count = len(work.missing)
                    worker = stack.enter_context(use_workers(running, made.resources, count))
                clear_beside(folder, place, mode)
                begin(place, work, lease.build_id)
                began = time.monotonic()
                receipts = work.receipts
                if work.missing:
                    receipts = run_shards(worker, place, work, chosen, lease.build_id, rules)
            report = _complete(place, work, receipts, lease.build_id, began)
            if place is not folder:
                switch(place, folder, lease)
        return report


def _adopt(chosen: PlanOptions, folder: ObjectStore, mode: Mode) -> PlanOptions:
    """Options that are not given come from what is gone on with."""
    if mode in (Mode.NEW, Mode.OVERWRITE):
        return chosen
    there = inspect(choose_place(folder, mode))
    if there is None:
        return chosen
    return chosen.adopt(there.begun or there.store or {})


def _complete(
    place: ObjectStore, work: Work, receipts: dict[int, Receipt], build_id: str, began: float
) -> BuildReport:
    """Publish what has been built, and report on it."""
    made = work.made
    ordered = [receipts[i] for i in range(made.layout.shards)]
    rows = _rows(made, ordered)
    settle(place, ordered, build_id)
    publish(place, rows, ordered, made.layout, _provenance(made, rows), build_id)
    clear_up(place)
    return _report(work, rows, ordered, time.monotonic() - began)


def _clear_up(folder: ObjectStore) -> None:
    """Remove what a build left that was stopped when all was done, as the only builder there."""
    with hold_lease(folder):
        there = inspect(folder)
        if there is not None and there.begun is None:
            clear_up(folder)


def _rows(made: Plan, receipts: Sequence[Receipt]) -> list[SubjectRecord]:
    """Each subject of the manifest with its outcome."""
    outcomes = [outcome for receipt in receipts for outcome in receipt.outcomes]
    return [
        SubjectRecord(entry, outcome)
        for entry, outcome in zip(made.manifest.entries, outcomes, strict=True)
    ]


def _provenance(made: Plan, rows: Sequence[SubjectRecord]) -> Provenance:
    ok = sum(row.outcome.status is Status.OK for row in rows)
    return Provenance(
        source=made.manifest.location,
        catalogue=made.manifest.catalogue or "",
        release=made.manifest.release,
        package_version=gz3d_zarr.__version__,
        manifest_digest=made.manifest.digest,
        fingerprint=made.fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        order=made.manifest.order,
        ok=ok,
        failed=len(rows) - ok,
        notes=(*made.manifest.notes, *_renamed(rows)),
    )


def _renamed(rows: Sequence[SubjectRecord]) -> list[str]:
    """Tell of files whose name and HDU 5 disagree; the name decides the coordinate."""
    others = [
        row
        for row in rows
        if row.outcome.metadata is not None
        and row.outcome.metadata.manga_id != row.entry.file.manga_id
    ]
    if not others:
        return []
    first = others[0]
    inside = first.outcome.metadata.manga_id if first.outcome.metadata else ""
    return [
        f"another MANGAID inside than in the name of {plural(len(others), 'file')} (first "
        f"{first.entry.file.name}: {inside}); the coordinate subject has the name's"
    ]


def _report(
    work: Work, rows: Sequence[SubjectRecord], receipts: Sequence[Receipt], seconds: float
) -> BuildReport:
    made, bad = work.made, [row.outcome for row in rows if row.outcome.status is not Status.OK]
    mine = [receipts[i] for i in work.missing]
    kept = sum(
        outcome.status is Status.OK or not work.retry
        for base in work.bases.values()
        for outcome in base.outcomes
    )
    return BuildReport(
        store=made.store,
        subjects=len(rows),
        ok=len(rows) - len(bad),
        failures=tuple(Failure(o.file_name, o.status.label, o.reason) for o in bad),
        shards=made.layout.shards,
        shards_built=len(mine),
        subjects_built=sum(len(receipt.outcomes) for receipt in mine) - kept,
        stored_bytes=sum(stored.size for receipt in mine for stored in receipt.objects),
        seconds=seconds,
        notes=(*made.manifest.notes, *_renamed(rows)),
    )


def _finished(folder: ObjectStore, made: Plan, seconds: float) -> BuildReport:
    """Report on a store that was complete before."""
    from gz3d_zarr.backends.store import read_store  # slow to import

    dataset, table = read_store(folder)
    attrs = dataset.attrs
    failures = [
        Failure(str(name), Status(int(status)).label, str(reason))
        for name, status, reason in zip(
            table["file_name"].values, table["status"].values, table["reason"].values, strict=True
        )
        if status != Status.OK
    ]
    return BuildReport(
        store=made.store,
        subjects=attrs["subjects"],
        ok=attrs["subjects_ok"],
        failures=tuple(failures),
        shards=made.layout.shards,
        shards_built=0,
        subjects_built=0,
        stored_bytes=0,
        seconds=seconds,
        notes=tuple(attrs["notes"]),
    )
