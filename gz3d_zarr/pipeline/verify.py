"""Check a store, and compare it with its source, shard by shard with dask."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from distributed import Semaphore

from gz3d_zarr.datamodel.arrays import SHARD_ARRAYS, subject_arrays
from gz3d_zarr.datamodel.manifest import Manifest
from gz3d_zarr.datamodel.option_fields import check_options, take_options
from gz3d_zarr.datamodel.receipts import Receipt, StoredObject, SubjectOutcome
from gz3d_zarr.datamodel.subject import Subject
from gz3d_zarr.datamodel.variables import observed_flag
from gz3d_zarr.errors import Status, StoreError, quote
from gz3d_zarr.pipeline.dask_tasks import run_tasks, share_connections
from gz3d_zarr.pipeline.light_checks import check_without_shards
from gz3d_zarr.pipeline.plan import parse_memory
from gz3d_zarr.pipeline.report import VerifyReport
from gz3d_zarr.pipeline.shard_task import limit_by_semaphore
from gz3d_zarr.pipeline.store_checks import Check, Problem, check_that, find_damage
from gz3d_zarr.progress import Progress, ProgressOption, check_progress, choose_progress
from gz3d_zarr.sources.download import decode_body
from gz3d_zarr.sources.listing import Source
from gz3d_zarr.sources.options import FetchOptions, SelectionOptions
from gz3d_zarr.sources.prefetch import read_files
from gz3d_zarr.sources.select_subjects import read_manifest
from gz3d_zarr.storage.build_record import check_reached, parse_digest
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store
from gz3d_zarr.storage.published_receipts import PublishedReceipts
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
    progress: ProgressOption = None,
    digest: str | None = None,
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
    digest : str, optional
        SHA-256 of the root ``zarr.json``, as ``gz3d-zarr info`` shows it: then nothing in the store
        can have been changed since that was noted.
    **options
        Fields of `FetchOptions`: ``cache, connections, source_options, trust_names``,
        as for `build`.

    Returns
    -------
    VerifyReport

    Raises
    ------
    StoreError
        There is no store, or something else; or its root has another digest.
    SourceError, UsageError
        As for `build`; or `digest` is not a SHA-256.
    """
    from gz3d_zarr.pipeline.dask_client import (  # slow to import
        find_resources,
        use_client,
        use_workers,
    )

    check_options(verify, options, FetchOptions)
    fetch = take_options(FetchOptions, options)
    selection = SelectionOptions(catalogue=catalogue)
    memory = parse_memory(max_memory)
    expected = None if digest is None else parse_digest(digest)
    check_progress(progress)
    target = open_object_store(store, storage_options)
    alone = check_without_shards(target, expected)
    found, published, receipts = [*alone.checks], alone.published, alone.receipts
    if published is None:
        return VerifyReport(target.url, _state(found), tuple(found))
    layout = published.layout
    manifest = None
    if source is not None:
        manifest = read_manifest(source, selection, fetch)
        found += _check_manifest(published, manifest)
    documents = array_documents(layout)
    with (
        use_client(client, scheduler) as running,
        use_workers(running, find_resources(running, workers, memory), len(receipts)) as worker,
        choose_progress(progress) as report,
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
            failed = sum(not check.passed for check in found)
            report(Progress(done, layout.subjects, len(receipt.outcomes), failed))
    compared = sum(check.test == "source" for check in found)
    not_ok = sum(record.outcome.status is not Status.OK for record in published.records)
    state = _state(found)
    return VerifyReport(
        target.url, state, tuple(found), layout.subjects, not_ok, compared, alone.additions
    )


def verify_shard(task: VerifyTask) -> tuple[Receipt, list[Check]]:
    """Verify one shard: digests, every chunk, blank rows, and each subject against its file."""
    found: list[Check] = []
    blocks: dict[str, Any] = {}
    count = len(task.receipt.outcomes)
    for name, stored in zip(SHARD_ARRAYS, task.receipt.objects, strict=True):
        block, finding = _read_block(task, name, stored)
        if block is not None:
            blocks[name] = block
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


def _read_block(task: VerifyTask, name: str, stored: StoredObject) -> tuple[Any, Problem]:
    """Decode a shard; None and the reason where it is not as it was written."""
    count = len(task.receipt.outcomes)
    try:
        data = task.store.get_up_to(stored.key, stored.size)
    except StoreError as error:
        if not task.store.is_local:
            raise  # perhaps only the network
        return None, str(error)
    if data is None:
        check_reached(task.store)
    finding = find_damage(stored, data)
    if finding or data is None:
        return None, finding
    try:
        return decode_shard(task.documents, name, task.receipt.shard, data, count), ""
    except StoreError as error:
        return None, str(error)


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


def _check_manifest(published: PublishedReceipts, manifest: Manifest) -> list[Check]:
    """Compare what only the catalogue says: whether MaNGA has observed each subject."""
    rows = {entry.file.name: entry.row for entry in manifest.entries}
    if not any(rows.values()) or not published.attributes.get("source_catalogue"):
        return []
    stored = [(record.entry.file.name, record.entry.row) for record in published.records]
    wrong = [
        i
        for i, (name, row) in enumerate(stored)
        if (now := rows.get(name)) and observed_flag(row) != observed_flag(now)
    ]
    finding = f"differs from the catalogue in row {wrong[0]}" if wrong else ""
    return [check_that("catalogue", "observed", finding)]


def _state(found: Sequence[Check]) -> str:
    kinds = {check.test for check in found if not check.passed}
    if "complete" in kinds and kinds.isdisjoint(("shard", "blank", "open", "source")):
        return "incomplete"  # small arrays may be half-written
    if kinds == {"consolidated"}:
        return "stale"
    if kinds == {"file"}:
        return "differs"
    return "damaged" if kinds else "sound"
