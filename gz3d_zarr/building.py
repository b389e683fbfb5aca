"""Plan to filled store, over any dask client: tasks, receipts, progress, publication."""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gz3d_zarr
from gz3d_zarr import target
from gz3d_zarr.errors import (
    BuildError,
    GZ3DError,
    Status,
    StoreError,
    SubjectError,
    UsageError,
    count,
)
from gz3d_zarr.objects import ObjectFolder, object_folder
from gz3d_zarr.planning import Plan, PlanOptions, Resources, make_plan
from gz3d_zarr.progress import Progress
from gz3d_zarr.receipts import Receipt
from gz3d_zarr.report import BuildReport, Failure
from gz3d_zarr.schema import Provenance, Row
from gz3d_zarr.shard import ShardTask, build_shard
from gz3d_zarr.source import Source, is_url
from gz3d_zarr.store import array_documents, publish, read_build

if TYPE_CHECKING:
    from distributed import Client, Future

ON_ERROR = ("skip", "raise")
IN_FLIGHT = 256
"""Tasks that a scheduler holds at a time; enough for a cluster that grows with its backlog."""


def plan(
    source: Source,
    store: str | Path,
    *,
    client: Client | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> Plan:
    """Say what `build` would do, with the same arguments; nothing is written.

    Returns
    -------
    Plan
        Print it with ``to_text()``; ``summary()`` is a dict. What stands at `store` already, and
        would be deleted or refused, is among its notes.
    """
    chosen = PlanOptions.of(options)
    with _client(client, scheduler) as running:
        made = make_plan(source, store, chosen, _resources(running, workers, chosen))
    folder = object_folder(store, chosen.storage_options)
    try:
        there = target.check(folder, made, resume=resume, overwrite=overwrite)
    except StoreError as error:
        return replace(made, refusal=str(error))
    if folder.is_writable() is False:
        return replace(made, refusal=f"{made.store} cannot be written to")
    if there is None:
        return made
    if overwrite:
        return replace(made, warning=f"build would delete the store that stands at {made.store}")
    try:
        done = made.layout.shards if there.complete else len(target.read_receipts(folder, made))
    except StoreError as error:
        return replace(made, refusal=str(error))
    return replace(made, warning=f"{done} of {made.layout.shards} shards are built already")


def build(
    source: Source,
    store: str | Path,
    client: Client | None = None,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_error: str = "skip",
    max_failures: int | None = None,
    progress: Callable[[Progress], None] | None = None,
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
        Delete the Galaxy Zoo: 3D store that stands there, if any.
    on_error : {'skip', 'raise'}
        A subject that cannot be read keeps its row and gets a status; or stops the build.
    max_failures : int, optional
        Stop once more subjects than this are not ok.
    progress : callable, optional
        Called with a `Progress` after every shard.
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
    chosen = PlanOptions.of(options)
    if on_error not in ON_ERROR:
        raise UsageError(f"on_error is {on_error!r}, expected one of {', '.join(ON_ERROR)}")
    if max_failures is not None and max_failures < 0:
        raise UsageError(f"max_failures is {max_failures}, expected 0 or more")
    with _client(client, scheduler) as running:
        made = make_plan(source, store, chosen, _resources(running, workers, chosen))
        folder = object_folder(store, chosen.storage_options)
        began = time.monotonic()
        there = target.check(folder, made, resume=resume, overwrite=overwrite)
        if there is not None and there.complete and resume:
            return _finished(folder, made, time.monotonic() - began)
        build_id = uuid.uuid4().hex
        if there is None or overwrite:
            target.begin(folder, made, there, build_id)
        else:
            target.take_over(folder, made, build_id)
        receipts = target.read_receipts(folder, made)
        rules = _Rules(on_error == "raise", max_failures, progress)
        missing = [i for i in range(made.layout.shards) if i not in receipts]
        rules.check([receipts[i] for i in sorted(receipts)])
        if missing:
            with _workers(running, made, len(missing)) as worker:
                began = time.monotonic()
                _run(worker, folder, made, chosen, receipts, build_id, rules)
        ordered = [receipts[i] for i in range(made.layout.shards)]
        rows = _rows(made, ordered)
        target.settle(folder, ordered)
        publish(folder, rows, ordered, made.layout, _provenance(made, rows), build_id)
        return _report(made, rows, ordered, missing, time.monotonic() - began)


@dataclass(frozen=True)
class _Rules:
    """What to do along the way."""

    strict: bool
    max_failures: int | None
    progress: Callable[[Progress], None] | None

    def check(self, receipts: Iterable[Receipt]) -> None:
        """Stop where a subject is not ok and none may fail, or more than are allowed."""
        bad = [o for r in receipts for o in r.outcomes if o.status is not Status.OK]
        failed = len(bad)
        if self.strict and bad:
            raise _stopped_at(f"{bad[0].status.label}: {bad[0].file_name}: {bad[0].reason}")
        if self.max_failures is not None and failed > self.max_failures:
            raise BuildError(
                f"stopped: {count(failed, 'subject')} not ok, more than the {self.max_failures} "
                "allowed. What is built is kept; --resume with a larger --max-failures goes on"
            )

    def tell(self, progress: Progress) -> None:
        """Tell whoever wants to know."""
        if self.progress is not None:
            self.progress(progress)


@contextlib.contextmanager
def _client(client: Client | None, scheduler: str | None) -> Iterator[Client | None]:
    """The client to run on, or None where a local cluster is to be started."""
    from gz3d_zarr.cluster import use_client  # slow to import

    with use_client(client, scheduler) as running:
        yield running


def _resources(client: Client | None, workers: int | None, options: PlanOptions) -> Resources:
    from gz3d_zarr.cluster import find_resources

    return find_resources(client, workers, options.memory_bound)


@contextlib.contextmanager
def _workers(client: Client | None, made: Plan, shards: int) -> Iterator[Client]:
    """The given client, or that of a local cluster no larger than there are shards to build."""
    from gz3d_zarr.cluster import use_workers

    with use_workers(client, made.resources, shards) as running:
        yield running


def _failed(receipts: Iterable[Receipt]) -> int:
    """How many subjects are not ok."""
    return sum(
        outcome.status is not Status.OK for receipt in receipts for outcome in receipt.outcomes
    )


def _run(
    client: Client,
    folder: ObjectFolder,
    made: Plan,
    options: PlanOptions,
    receipts: dict[int, Receipt],
    build_id: str,
    rules: _Rules,
) -> None:
    """Build the shards that `receipts` lacks on the client's workers, and add theirs.

    Raises
    ------
    GZ3DError
        What a task raised, or BuildError where a task failed in another way, the workers died, or
        too many subjects are not ok.
    """
    from distributed import Semaphore, as_completed

    documents = array_documents(made.layout)
    gate = _gate(client, made, options)
    waiting = iter([i for i in range(made.layout.shards) if i not in receipts])
    pending: set[Future[Receipt]] = set()

    def submit(shard: int) -> Future[Receipt]:
        entries = made.manifest.entries[made.layout.rows(shard)]
        task = ShardTask(
            shard,
            made.fingerprint,
            build_id,
            tuple((entry.file.path, entry.sha1) for entry in entries),
            documents,
            folder,
            options.rules,
            gate,
            dict(options.source_options or {}),
            rules.strict,
        )
        key = f"gz3d-shard-{made.fingerprint[:12]}-{shard}-{time.time_ns()}"
        future = client.submit(build_shard, task, key=key, pure=False)
        pending.add(future)
        return future

    done = sum(len(receipt.outcomes) for receipt in receipts.values())
    failed = _failed(receipts.values())
    rules.tell(Progress(done, made.layout.subjects, 0, failed))
    first = [submit(shard) for shard in itertools.islice(waiting, IN_FLIGHT)]
    running = as_completed(first, loop=client.loop)
    del first  # a future that is kept keeps its result on a worker
    try:
        for future in running:
            pending.discard(future)
            receipt = _result(future)
            receipts[receipt.shard] = receipt
            done += len(receipt.outcomes)
            failed += _failed([receipt])
            rules.tell(Progress(done, made.layout.subjects, len(receipt.outcomes), failed))
            rules.check(receipts.values())
            future.release()
            for shard in itertools.islice(waiting, 1):
                running.add(submit(shard))
    finally:
        client.cancel(list(pending))
        if isinstance(gate, Semaphore):
            gate.close()


def _gate(client: Client, made: Plan, options: PlanOptions) -> AbstractContextManager[Any]:
    """One limit on connections for all workers, where files are fetched from URLs."""
    from distributed import Semaphore

    if not any(is_url(entry.file.path) for entry in made.manifest.entries):
        return contextlib.nullcontext()
    with client.as_current():  # where a semaphore looks for its scheduler
        gate: AbstractContextManager[Any] = Semaphore(
            max_leases=options.connections, name=f"gz3d-{made.fingerprint[:12]}-{time.time_ns()}"
        )
    return gate


def _result(future: Future[Receipt]) -> Receipt:
    try:
        receipt: Receipt = future.result()
    except SubjectError as error:
        raise _stopped_at(str(error)) from error
    except GZ3DError:
        raise
    except Exception as error:
        raise BuildError(
            f"the task {future.key} failed with {type(error).__name__}: {error}. What is built is "
            "kept; --resume goes on"
        ) from error
    return receipt


def _stopped_at(what: str) -> BuildError:
    return BuildError(f"stopped at the first subject that is not ok: {what}")


def _rows(made: Plan, receipts: Sequence[Receipt]) -> list[Row]:
    """Each subject of the manifest with its outcome."""
    outcomes = [outcome for receipt in receipts for outcome in receipt.outcomes]
    return [
        Row(entry, outcome) for entry, outcome in zip(made.manifest.entries, outcomes, strict=True)
    ]


def _provenance(made: Plan, rows: Sequence[Row]) -> Provenance:
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


def _renamed(rows: Sequence[Row]) -> list[str]:
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
        f"another MANGAID inside than in the name of {count(len(others), 'file')} (first "
        f"{first.entry.file.name}: {inside}); the coordinate subject has the name's"
    ]


def _report(
    made: Plan,
    rows: Sequence[Row],
    receipts: Sequence[Receipt],
    built: Sequence[int],
    seconds: float,
) -> BuildReport:
    bad = [row.outcome for row in rows if row.outcome.status is not Status.OK]
    mine = [receipts[i] for i in built]
    return BuildReport(
        store=made.store,
        subjects=len(rows),
        ok=len(rows) - len(bad),
        failures=tuple(Failure(o.file_name, o.status.label, o.reason) for o in bad),
        shards=made.layout.shards,
        shards_built=len(mine),
        subjects_built=sum(len(receipt.outcomes) for receipt in mine),
        stored_bytes=sum(stored.size for receipt in mine for stored in receipt.objects),
        seconds=seconds,
        notes=(*made.manifest.notes, *_renamed(rows)),
    )


def _finished(folder: ObjectFolder, made: Plan, seconds: float) -> BuildReport:
    """Report on a store that was complete before."""
    attrs, table = read_build(folder)
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
