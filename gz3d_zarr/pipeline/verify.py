"""Check a store, and compare it with its source, shard by shard with dask."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from distributed import Semaphore

from gz3d_zarr.backends.root import READ_ERRORS
from gz3d_zarr.backends.store import read_group, read_small_arrays, read_store
from gz3d_zarr.datamodel.arrays import CLUSTERS_GROUP, SHARD_ARRAYS, subject_arrays
from gz3d_zarr.datamodel.layout import Layout, read_layout
from gz3d_zarr.datamodel.manifest import Manifest
from gz3d_zarr.datamodel.option_fields import check_options, take_options
from gz3d_zarr.datamodel.receipts import Receipt, SubjectOutcome
from gz3d_zarr.datamodel.subject import Subject
from gz3d_zarr.datamodel.variables import observed_flag
from gz3d_zarr.errors import GZ3DError, Status, StoreError, access_errors, error_message, quote
from gz3d_zarr.pipeline import store_checks as checks
from gz3d_zarr.pipeline.build_state import TargetState, inspect_target
from gz3d_zarr.pipeline.dask_tasks import run_tasks, share_connections
from gz3d_zarr.pipeline.pack_checks import check_packs
from gz3d_zarr.pipeline.plan import parse_memory
from gz3d_zarr.pipeline.receipt_checks import check_clusters, check_values
from gz3d_zarr.pipeline.report import VerifyReport
from gz3d_zarr.pipeline.shard_task import limit_by_semaphore
from gz3d_zarr.pipeline.store_checks import Check, check_that
from gz3d_zarr.progress import Progress
from gz3d_zarr.sources.download import decode_body
from gz3d_zarr.sources.listing import Source
from gz3d_zarr.sources.options import FetchOptions, SelectionOptions
from gz3d_zarr.sources.prefetch import read_files
from gz3d_zarr.sources.select_subjects import read_manifest
from gz3d_zarr.storage.build_record import ROOT_KEY, digest
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store
from gz3d_zarr.storage.published_receipts import read_published_receipts
from gz3d_zarr.storage.shards import array_documents, decode_shard

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class VerifyTask:
    """Everything that a worker needs to verify one shard.

    Attributes
    ----------
    receipt : Receipt
        What the store says about the shard.
    files : tuple of (path, sha1 or None), or None
        Files of the source, in the order of the store; the path of a missing file is empty.
    """

    receipt: Receipt
    documents: Mapping[str, bytes]
    store: ObjectStore
    files: tuple[tuple[str, str | None], ...] | None = None
    fetch: FetchOptions = field(default_factory=FetchOptions)
    connections: Semaphore | None = None


def verify(
    store: str | Path,
    source: Source | None = None,
    client: Client | None = None,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    max_memory: int | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    catalogue: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> VerifyReport:
    """Read and check every chunk of a store; with a source, compare every value.

    Parameters
    ----------
    store : str or Path
    source : str, Path or sequence of them, optional
        What the store was built from, to compare each subject with its file.
    client, scheduler, workers, max_memory, storage_options, catalogue, progress
        As for `build`.
    **options
        Fields of `FetchOptions`: ``cache, connections, source_options, trust_names``,
        as for `build`.

    Returns
    -------
    VerifyReport

    Raises
    ------
    StoreError
        There is no store, or something else.
    SourceError, UsageError
        As for `build`.
    """
    from gz3d_zarr.pipeline.dask_client import (  # slow to import
        find_resources,
        use_client,
        use_workers,
    )

    check_options(verify, options, FetchOptions)
    fetch = take_options(FetchOptions, options)
    memory = parse_memory(max_memory)
    target = open_object_store(store, storage_options)
    found, opened = _check_alone(target)
    if opened is None:
        return VerifyReport(target.url, _state(found), tuple(found))
    dataset, table, layout, receipts = opened
    manifest = None
    if source is not None:
        manifest = read_manifest(source, SelectionOptions(catalogue=catalogue), fetch)
        found += _check_manifest(dataset, table, manifest)
    documents = array_documents(layout)
    with (
        use_client(client, scheduler) as running,
        use_workers(running, find_resources(running, workers, memory), len(receipts)) as worker,
    ):
        connections = None
        paths: dict[str, tuple[str, str | None]] = {}
        if manifest is not None:
            entries = manifest.entries
            paths = {e.file.name: (e.file.path, e.sha1) for e in entries}
            connections = share_connections(
                worker, (e.file.path for e in entries), fetch.connections
            )
        tasks = [
            VerifyTask(
                receipt,
                documents,
                target,
                _files(receipt, paths) if manifest is not None else None,
                fetch,
                connections,
            )
            for receipt in receipts
        ]
        done = 0
        for receipt, checked in run_tasks(
            worker, verify_shard, tasks, "gz3d-verify", layout.shard_size
        ):
            found += checked
            done += len(receipt.outcomes)
            if progress is not None:
                failed = sum(not check.passed for check in found)
                progress(Progress(done, layout.subjects, len(receipt.outcomes), failed))
    compared = sum(check.test == "source" for check in found)
    not_ok = int((dataset["status"].values != Status.OK).sum())
    state = _state(found)
    return VerifyReport(target.url, state, tuple(found), layout.subjects, not_ok, compared)


def verify_shard(task: VerifyTask) -> tuple[Receipt, list[Check]]:
    """Verify one shard: digests, every chunk, blank rows, and each subject against its file."""
    found: list[Check] = []
    blocks: dict[str, Any] = {}
    count = len(task.receipt.outcomes)
    for name, stored in zip(SHARD_ARRAYS, task.receipt.objects, strict=True):
        finding = ""
        data = task.store.get(stored.key)
        if data is None:
            finding = "it is missing"
        else:
            if stored.sha256 and digest(data) != stored.sha256:
                finding = "its bytes are not those that the build wrote (SHA-256)"
            try:
                blocks[name] = decode_shard(task.documents, name, task.receipt.shard, data, count)
            except StoreError as error:
                finding = str(error)
        if finding:
            first, last = task.receipt.outcomes[0], task.receipt.outcomes[-1]
            finding += f" ({count} subjects, {first.file_name} to {last.file_name})"
        found.append(check_that("shard", stored.key, finding))
    # An unfinished retry may have written what the store does not know yet.
    known = all(stored.sha256 for stored in task.receipt.objects)
    for i, outcome in enumerate(task.receipt.outcomes if known else ()):
        if outcome.status is not Status.OK and any(
            np.any(block[i] != np.zeros((), block.dtype)) for block in blocks.values()
        ):
            found.append(
                Check("blank", outcome.file_name, False, "it failed, but the store has its pixels")
            )
    if task.files is not None:
        found += _compare_files(task, blocks)
    return task.receipt, found


def _compare_files(task: VerifyTask, blocks: Mapping[str, Any]) -> list[Check]:
    found = []
    files = task.files or ()
    present = [file for file in files if file[0]]
    bodies = read_files(
        present, task.fetch.source_options, task.fetch, limit_by_semaphore(task.connections)
    )
    with contextlib.closing(bodies):
        for i, (outcome, (path, sha1)) in enumerate(zip(task.receipt.outcomes, files, strict=True)):
            if not path:
                found.append(check_that("file", outcome.file_name, "it is not in the source"))
                continue
            subject, now = decode_body(
                path, sha1, next(bodies), trust_names=task.fetch.trust_names, before=outcome
            )
            finding = _compare_file(outcome, now)
            found.append(check_that("file", outcome.file_name, finding))
            if finding:
                continue
            finding = ""
            if subject is not None:
                rows = {name: block[i] for name, block in blocks.items()}
                finding = _compare_metadata(outcome, now)
                finding = finding or _compare_arrays(subject, rows)
            if subject is not None:
                found.append(check_that("source", outcome.file_name, finding))
    return found


def _compare_file(stored: SubjectOutcome, now: SubjectOutcome) -> str:
    """Whether the store was built from this version of a file."""
    if stored.status is not Status.OK and now.status is Status.OK:
        return f"{stored.status.label} in the store, and ok now: use --retry-failed"
    if stored.status is Status.OK and now.status is not Status.OK:
        return f"ok in the store, and {now.status.label} now: {now.reason}"
    if stored.status is not Status.OK:
        return ""
    if stored.sha1 != now.sha1:
        return f"its sha1 is {now.sha1}, the store was built from {stored.sha1}"
    return ""


def _compare_metadata(stored: SubjectOutcome, now: SubjectOutcome) -> str:
    """Differences between the store's metadata of a subject and those of its file."""
    mine = asdict(stored.metadata) if stored.metadata is not None else {}
    theirs = asdict(now.metadata) if now.metadata is not None else {}
    return "; ".join(
        f"{name} is {quote(mine.get(name))} in the store, {quote(value)} in the file"
        for name, value in theirs.items()
        if mine.get(name) != value
    )


def _compare_arrays(subject: Subject, rows: Mapping[str, Any]) -> str:
    for name, expected in subject_arrays(subject).items():
        if name not in rows:
            return f"{name} cannot be read from the store"
        if isinstance(expected, str):
            if rows[name] != expected:
                return f"{name} differs"
            continue
        different = int(np.count_nonzero(rows[name] != expected))
        if different:
            return f"{name} differs in {different} values"
    return ""


def _files(
    receipt: Receipt, paths: Mapping[str, tuple[str, str | None]]
) -> tuple[tuple[str, str | None], ...]:
    return tuple(paths.get(outcome.file_name, ("", None)) for outcome in receipt.outcomes)


_Opened = tuple[xr.Dataset, xr.Dataset, Layout, list[Receipt]]


def _check_alone(store: ObjectStore) -> tuple[list[Check], _Opened | None]:
    """All checks except those of shards; and what was opened, if that was possible.

    Raises
    ------
    StoreError
        There is no store, or something else.
    """
    target = inspect_target(store)
    if target.state is TargetState.EMPTY:
        raise StoreError(f"there is no store at {store.url}")
    if target.damage:
        return [Check("open", ROOT_KEY, False, target.damage)], None
    if target.state is TargetState.UNFINISHED:
        is_copy = target.record is not None and target.record.layout is None
        command = "copy" if is_copy else "build"
        finding = f"the {command} is unfinished; resume it with {command} --resume"
        return [Check("complete", ROOT_KEY, False, finding)], None
    finding = ""
    if target.state is TargetState.UPDATING:
        finding = "an update or a retry is unfinished; resume it with build --resume"
    found = [check_that("complete", ROOT_KEY, finding)]
    metadata = checks.check_metadata(store)
    found += metadata
    if metadata[0].target == ROOT_KEY:
        return found, None
    found += checks.check_objects(store)
    found += [check_that("array", name, finding) for name, finding in read_small_arrays(store)]
    try:
        dataset, catalogue = read_store(store, packed=False)
        attrs = dataset.attrs
        layout = read_layout(attrs)
        found += checks.check_structure(dataset, catalogue, layout)
        found += checks.check_coordinates(dataset, catalogue, layout)
        found += checks.check_labels(store, layout)
        found += checks.check_attributes(attrs, dataset["status"].values.tolist())
        published = read_published_receipts(store, attrs)
        found += check_values(dataset, catalogue, published, layout)
        found += check_clusters(read_group(store, CLUSTERS_GROUP, packed=False), published)
        found += check_packs(store, attrs)
    except access_errors(*READ_ERRORS, GZ3DError) as error:
        return [*found, Check("open", ROOT_KEY, False, error_message(error))], None
    # Shards that an unfinished update writes may have other digests by now.
    marked = set((target.record.shards_to_write or ()) if target.record is not None else ())
    receipts = [_without_digests(r) if r.shard in marked else r for r in published.receipts]
    return found, (dataset, catalogue, layout, receipts)


def _without_digests(receipt: Receipt) -> Receipt:
    objects = tuple(replace(stored, sha256="") for stored in receipt.objects)
    return replace(receipt, objects=objects)


def _check_manifest(dataset: Any, catalogue: Any, manifest: Manifest) -> list[Check]:
    """Compare what only the catalogue says: whether MaNGA has observed each subject."""
    rows = {entry.file.name: entry.row for entry in manifest.entries}
    if not any(rows.values()) or not dataset.attrs.get("source_catalogue"):
        return []
    names = [str(name) for name in catalogue["file_name"].values]
    stored = dataset["observed"].values
    known = [(i, observed_flag(row)) for i, name in enumerate(names) if (row := rows.get(name))]
    wrong = [i for i, observed in known if stored[i] != observed]
    finding = f"differs from the catalogue in row {wrong[0]}" if wrong else ""
    return [check_that("catalogue", "observed", finding)]


def _state(found: Sequence[Check]) -> str:
    kinds = {check.test for check in found if not check.passed}
    if "complete" in kinds and kinds.isdisjoint(("shard", "array", "blank", "open", "source")):
        return "incomplete"  # small arrays may be half-written
    if kinds == {"metadata"}:
        return "stale"
    if kinds == {"file"}:
        return "differs"
    return "damaged" if kinds else "sound"
