"""Build the missing shards of a store on the workers of a dask client."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from gz3d_zarr.datamodel.receipts import Receipt
from gz3d_zarr.errors import Status
from gz3d_zarr.pipeline.dask_tasks import run_tasks, share_connections
from gz3d_zarr.pipeline.failure_policy import FailurePolicy
from gz3d_zarr.pipeline.resume import ResumePlan
from gz3d_zarr.pipeline.shard_task import ShardTask, build_shard
from gz3d_zarr.progress import Progress
from gz3d_zarr.sources.options import FetchOptions
from gz3d_zarr.sources.source_state import SourceState
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.shards import array_documents

if TYPE_CHECKING:
    from distributed import Client


def run_shards(
    client: Client,
    store: ObjectStore,
    work: ResumePlan,
    fetch: FetchOptions,
    source: SourceState,
    build_id: str,
    policy: FailurePolicy,
    progress: Callable[[Progress], None] | None,
) -> dict[int, Receipt]:
    """Build the missing shards; return the receipts of all shards.

    Raises
    ------
    GZ3DError
        What a task raised, or BuildError where a task failed in another way, the workers died, or
        too many subjects failed.
    """
    plan, receipts = work.plan, dict(work.receipts)
    documents = array_documents(plan.layout)
    paths = [entry.file.path for entry in plan.manifest.entries]
    semaphore = share_connections(client, paths, fetch.connections)

    def make_task(shard: int) -> ShardTask:
        entries = plan.manifest.entries[plan.layout.rows(shard)]
        files = tuple((entry.file.path, entry.sha1) for entry in entries)
        return ShardTask(
            shard,
            plan.fingerprint,
            build_id,
            files,
            documents,
            store,
            fetch,
            semaphore,
            policy.is_strict,
            work.previous_receipts.get(shard),
            work.retry_failed,
            source.for_files(path for path, _ in files),
        )

    done = sum(len(receipt.outcomes) for receipt in receipts.values())
    failed = _count_failed(receipts.values())
    report = progress or (lambda _: None)
    report(Progress(done, plan.layout.subjects, 0, failed))
    results = run_tasks(
        client,
        build_shard,
        map(make_task, work.missing),
        f"gz3d-shard-{plan.fingerprint[:12]}",
        plan.layout.shard_size,
        ". What is built is kept; use --resume to continue",
    )
    with contextlib.closing(results):
        for receipt in results:
            receipts[receipt.shard] = receipt
            done += len(receipt.outcomes)
            failed += _count_failed([receipt])
            report(Progress(done, plan.layout.subjects, len(receipt.outcomes), failed))
            policy.check(receipts.values(), plan.layout.subjects)
    return receipts


def _count_failed(receipts: Iterable[Receipt]) -> int:
    return sum(
        outcome.status is not Status.OK for receipt in receipts for outcome in receipt.outcomes
    )
