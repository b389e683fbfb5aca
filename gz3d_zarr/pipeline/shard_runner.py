"""Build the missing shards of a store on the workers of a dask client."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from gz3d_zarr.datamodel.receipts import Receipt
from gz3d_zarr.errors import Status
from gz3d_zarr.pipeline.dask_tasks import run_tasks, share_connections
from gz3d_zarr.pipeline.failure_policy import FailurePolicy
from gz3d_zarr.pipeline.live_progress import watch_shards
from gz3d_zarr.pipeline.resume import ResumePlan
from gz3d_zarr.pipeline.shard_task import ShardTask, build_shard
from gz3d_zarr.pipeline.store_checks import find_damage
from gz3d_zarr.progress import LiveProgress, Progress
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
    topic = f"gz3d-shards-{build_id}"
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
            topic if isinstance(progress, LiveProgress) else "",
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
    with watch_shards(client, topic, progress) as finish, contextlib.closing(results):
        for receipt in results:
            receipts[receipt.shard] = receipt
            finish(receipt.shard)
            done += len(receipt.outcomes)
            failed += _count_failed([receipt])
            report(Progress(done, plan.layout.subjects, len(receipt.outcomes), failed))
            policy.check(receipts.values(), plan.layout.subjects)
    return receipts


def recheck_kept(client: Client, store: ObjectStore, work: ResumePlan) -> ResumePlan:
    """Read the shards that an earlier run wrote and that no store was published with.

    A power failure may leave a shard with its size and other bytes. Reading is far quicker than
    building; shards of a published store are left to `verify`.

    Returns
    -------
    ResumePlan
        Which builds those again that are not as they were written.

    Raises
    ------
    GZ3DError
        As for `run_shards`.
    """
    tasks = [(store, work.receipts[shard]) for shard in work.unpublished]
    prefix, size = f"gz3d-recheck-{work.plan.fingerprint[:12]}", work.plan.layout.shard_size
    results = run_tasks(client, recheck_shard, tasks, prefix, size)
    with contextlib.closing(results):
        return work.without_damaged([shard for shard, is_whole in results if not is_whole])


def recheck_shard(task: tuple[ObjectStore, Receipt]) -> tuple[int, bool]:
    """Number of a shard, and whether its objects are as its receipt says."""
    store, receipt = task
    return receipt.shard, not any(
        find_damage(stored, store.get_up_to(stored.key, stored.size)) for stored in receipt.objects
    )


def _count_failed(receipts: Iterable[Receipt]) -> int:
    return sum(
        outcome.status is not Status.OK for receipt in receipts for outcome in receipt.outcomes
    )
