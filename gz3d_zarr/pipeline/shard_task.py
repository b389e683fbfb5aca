"""The task of one shard: fetch and decode its subjects, put the shard, leave a receipt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from distributed import Semaphore
from numpy.typing import NDArray

from gz3d_zarr.datamodel.arrays import SHARD_ARRAYS, subject_arrays
from gz3d_zarr.datamodel.receipts import Receipt, StoredObject, SubjectOutcome
from gz3d_zarr.errors import Status, StoreError, SubjectError, shorten
from gz3d_zarr.pipeline.live_progress import make_reporter
from gz3d_zarr.sources.download import decode_body
from gz3d_zarr.sources.options import FetchOptions
from gz3d_zarr.sources.prefetch import ConnectionLimiter, read_files, unlimited
from gz3d_zarr.sources.source_state import FAILED_TO_READ, SourceState, check_source
from gz3d_zarr.storage.build_record import check_owner, digest, receipt_key
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.shards import decode_shard, encode_shard, shard_key

LEASE_SECONDS = 0.5
"""How long a connection's lease is waited for before asking whether it is still needed."""


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to build one shard; a few kilobytes.

    Attributes
    ----------
    build_id : str
        Of the process that builds; tasks of any other write nothing.
    files : tuple of (path, sha1 or None)
        Subject files in the order of the store.
    documents : mapping
        Metadata documents of the big arrays, from `array_documents`.
    store : ObjectStore
        Where the shard is written.
    fetch : FetchOptions
        How files at URLs are fetched.
    semaphore : distributed.Semaphore, optional
        Limits the connections over all workers.
    strict : bool
        Raise the first `SubjectError` instead of recording it.
    previous : Receipt, optional
        Of the existing shard that is written again; its subjects are kept.
    retry_failed : bool
        Only those of its subjects that are ok are kept.
    source : SourceState
        What existed of the source when the build began.
    topic : str
        Under which the task reports subjects that are done; empty if nobody listens.
    """

    shard: int
    fingerprint: str
    build_id: str
    files: tuple[tuple[str, str | None], ...]
    documents: Mapping[str, bytes]
    store: ObjectStore
    fetch: FetchOptions = field(default_factory=FetchOptions)
    semaphore: Semaphore | None = None
    strict: bool = False
    previous: Receipt | None = None
    retry_failed: bool = False
    source: SourceState = field(default_factory=SourceState)
    topic: str = ""


def build_shard(task: ShardTask) -> Receipt:
    """Build one shard of every big array, one put each, then its receipt.

    Raises
    ------
    StoreError
        An object cannot be written, or another build has taken the store over.
    SubjectError
        A subject failed and the task is strict.
    SourceError
        The source as a whole is gone.
    """
    blocks = {
        name: np.zeros((len(task.files), *array.shape), array.dtype)
        for name, array in SHARD_ARRAYS.items()
    }
    outcomes = _keep(task, blocks)
    known = task.previous.outcomes if task.previous is not None else ()
    wanted = [i for i in range(len(task.files)) if i not in outcomes]
    files = [task.files[i] for i in wanted]
    connection = limit_by_semaphore(task.semaphore)
    bodies = read_files(files, task.fetch.source_options, task.fetch, connection)
    report = make_reporter(task.topic, task.shard)
    with contextlib.closing(bodies):
        for i, (path, sha1), body in zip(wanted, files, bodies, strict=True):
            before = known[i] if i < len(known) else None
            subject, outcome = decode_body(
                path, sha1, body, trust_names=task.fetch.trust_names, before=before
            )
            if outcome.status in FAILED_TO_READ:
                with connection(_always):  # it asks the server, too
                    check_source(task.source, path, outcome.status, task.fetch.source_options)
            if task.strict and outcome.status is not Status.OK:
                raise SubjectError(outcome.status, f"{shorten(path)}: {outcome.reason}")
            if subject is not None:
                for name, value in subject_arrays(subject).items():
                    blocks[name][i] = value
            outcomes[i] = outcome
            report(len(outcomes))
    ordered = tuple(outcomes[i] for i in range(len(task.files)))
    _check_kept(task, ordered)
    # One array is encoded while the other is put.
    with ThreadPoolExecutor(1 + len(SHARD_ARRAYS), "gz3d-put") as executor:
        ours = executor.submit(check_owner, task.store, task.build_id)
        puts = []
        for name in SHARD_ARRAYS:
            key, data = encode_shard(task.documents, name, task.shard, blocks.pop(name))
            ours.result()
            puts.append((key, data, executor.submit(task.store.put, key, data)))
        still_ours = executor.submit(check_owner, task.store, task.build_id)
        stored = []
        for key, data, put in puts:
            sha256 = digest(data)
            put.result()
            stored.append(StoredObject(key, len(data), sha256))
        still_ours.result()
    receipt = Receipt(task.shard, task.fingerprint, ordered, tuple(stored))
    task.store.put(receipt_key(receipt.shard), receipt.to_json())
    return receipt


def _keep(task: ShardTask, blocks: Mapping[str, NDArray[Any]]) -> dict[int, SubjectOutcome]:
    """Copy what is kept of the existing shard to `blocks`; return the outcome of each subject.

    Where the shard does not exist as it was written, nothing is kept and all files are read again.
    """
    if task.previous is None:
        return {}
    subjects = len(task.previous.outcomes)
    objects = {stored.key: stored for stored in task.previous.objects}
    for name, block in blocks.items():
        stored = objects.get(shard_key(name, task.shard))
        data = None if stored is None else task.store.get_up_to(stored.key, stored.size)
        if stored is None or data is None or digest(data) != stored.sha256:
            return {}
        block[:subjects] = decode_shard(task.documents, name, task.shard, data, subjects)
    return {
        i: outcome
        for i, outcome in enumerate(task.previous.outcomes)
        if outcome.status is Status.OK or not task.retry_failed
    }


def _check_kept(task: ShardTask, outcomes: Sequence[SubjectOutcome]) -> None:
    """Refuse to lose a subject that the store has and whose file cannot be read any more."""
    for before, now in zip(task.previous.outcomes if task.previous else (), outcomes, strict=False):
        if before.status is Status.OK and now.sha1 != before.sha1:
            raise StoreError(
                f"{task.store.url} holds {before.file_name}, and its shard must be read again; "
                f"now the file is {now.status.label}, {now.reason or 'with another sha1'}. The "
                "store stays as it was; restore the file and use --resume"
            )


def _always() -> bool:
    return True


def limit_by_semaphore(semaphore: Semaphore | None) -> ConnectionLimiter:
    """Leases of a semaphore; one that nobody needs any more is not waited for."""
    if semaphore is None:
        return unlimited
    semaphore.get_value()  # finds its scheduler, which it can only in a task's own thread

    @contextlib.contextmanager
    def lease(is_needed: Callable[[], bool]) -> Iterator[bool]:
        held = False
        while not held and is_needed():
            held = bool(semaphore.acquire(timeout=LEASE_SECONDS))
        try:
            yield held
        finally:
            if held:
                semaphore.release()

    return lease
