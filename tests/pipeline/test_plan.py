"""Plans: what they promise is what a build does, and what cannot fit is refused."""

from __future__ import annotations

import math
import socket
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

import gz3d_zarr
from gz3d_zarr import BuildError, PlanError, UsageError
from gz3d_zarr.datamodel.layout import LayoutOptions
from gz3d_zarr.datamodel.option_fields import take_options
from gz3d_zarr.datamodel.subject import SEGMENTATION_BYTES
from gz3d_zarr.pipeline import dask_client
from gz3d_zarr.pipeline.plan import (
    MEMORY_SHARE,
    WORKER_BYTES,
    Plan,
    Resources,
    make_plan,
    task_bytes,
)
from gz3d_zarr.sources.options import FetchOptions, SelectionOptions
from gz3d_zarr.storage.object_store import open_object_store


def worker_bytes(shard_size: int, at_a_time: int = 1) -> int:
    return WORKER_BYTES + at_a_time * task_bytes(shard_size)


def resources(memory: int | None, threads: int = 1) -> Resources:
    """Workers with this much memory to fill."""
    limit = None if memory is None else math.ceil(memory / MEMORY_SHARE)
    return Resources(2, threads, limit, "here")


def plan_of(source: Path, store: Path, workers: Resources, **options: Any) -> Plan:
    """What `make_plan` decides with these options."""
    return make_plan(
        source,
        open_object_store(store, None),
        take_options(SelectionOptions, options),
        take_options(LayoutOptions, options),
        FetchOptions(),
        workers,
    )


def test_plan_tells_what_build_does(simulated: Path, store: Path, client: Client) -> None:
    plan = gz3d_zarr.plan(simulated, store, client=client, shard_size=4)
    stored = [path for path in store.rglob("*") if path.is_file()]
    assert plan.objects == len(stored)
    size = sum(path.stat().st_size for path in stored)
    assert 0.9 * size < plan.stored_bytes < 1.1 * size
    assert plan.layout.shards == 5
    assert plan.summary()["fingerprint"] == gz3d_zarr.open_store(store).attrs["fingerprint"]
    assert (plan.resources.workers, plan.resources.threads) == (2, 1)
    assert plan.resources.memory == 4_000_000_000
    assert "5 of 4 subjects" in plan.to_text()


def test_plan_writes_nothing(simulated: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in simulated.iterdir()}
    plan = gz3d_zarr.plan(simulated, tmp_path / "deep" / "g.zarr", workers=1)
    assert plan.store == str(tmp_path / "deep" / "g.zarr")
    assert plan.layout.shard_size == 64
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in simulated.iterdir()} == before


def test_plan_tells_what_stands_there(
    simulated: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    def first_note(**options: Any) -> str:
        plan = gz3d_zarr.plan(simulated, store, client=client, shard_size=4, **options)
        return plan.notes[0]

    assert "build would refuse" in first_note()
    assert "use --overwrite" in first_note()
    assert first_note(overwrite=True).startswith("build would replace the store")
    assert first_note(resume=True) == "5 of 5 shards are built already"
    assert "(existing: 18)" in first_note(resume=True, limit=2)
    assert not gz3d_zarr.plan(simulated, tmp_path / "new", client=client).notes


def test_small_workers_get_smaller_shards(simulated: Path, tmp_path: Path) -> None:
    need = worker_bytes(64)
    assert need > 64 * SEGMENTATION_BYTES

    def size(memory: int | None, threads: int = 1) -> int:
        plan = plan_of(simulated, tmp_path / "g", resources(memory, threads))
        assert memory is None or plan.worker_bytes <= memory
        assert plan.resources.memory is None or plan.worker_bytes < 0.8 * plan.resources.memory
        return plan.layout.shard_size

    assert size(None) == size(need) == 64
    assert size(need - 1) == 32
    assert size(worker_bytes(64, 4) - 1, threads=4) == 64  # three at a time
    assert size(worker_bytes(1)) == 1
    with pytest.raises(PlanError, match="even shards of one subject need"):
        size(worker_bytes(1) - 1)


def test_shard_size_that_is_asked_for_fits_or_is_refused(simulated: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="shards of 64 subjects need .* use --shard-size 32"):
        plan_of(simulated, tmp_path / "g", resources(worker_bytes(32)), shard_size=64)
    bound = math.ceil(worker_bytes(16) / MEMORY_SHARE)
    plan = plan_of(simulated, tmp_path / "g", resources(10**12).limit_memory(bound))
    assert plan.layout.shard_size == 16
    assert plan.resources.memory == bound


def test_max_memory_bounds_workers_of_a_client(
    simulated: Path, client: Client, tmp_path: Path
) -> None:
    for given, bound in (("3GB", 3_000_000_000), (2 * 10**9, 2 * 10**9), ("5GB", 4_000_000_000)):
        plan = gz3d_zarr.plan(simulated, tmp_path / "g", client=client, max_memory=given)
        assert plan.resources.memory == bound


def test_threads_take_as_many_shards_as_fit(simulated: Path, tmp_path: Path) -> None:
    def plan(memory: int | None) -> Plan:
        return plan_of(simulated, tmp_path / "g", resources(memory, 4))

    assert plan(None).slots == plan(worker_bytes(64, 4)).slots == 4
    few = plan(worker_bytes(64, 4) - 1)
    assert few.slots == 3
    assert "build 3 shards at a time, not one on each of its 4 threads" in " ".join(few.notes)
    assert few.summary()["shards_at_a_time_per_worker"] == 3


def test_fingerprint_covers_what_decides_the_bytes(simulated: Path, tmp_path: Path) -> None:
    def fingerprint(store: str = "g", **options: object) -> str:
        return plan_of(simulated, tmp_path / store, resources(None), **options).fingerprint

    first = fingerprint()
    assert fingerprint(store="h") == fingerprint(shard_size=64) == first
    others = [
        fingerprint(**option)
        for option in ({"shard_size": 8}, {"codec": "compact"}, {"nside": 32}, {"order": "name"})
    ]
    assert len({first, *others, fingerprint(limit=17)}) == 6


@pytest.mark.parametrize(
    ("function", "option", "taken"),
    [
        ("verify", "limit", "cache, connections, source_options"),
        ("verify", "codec", "cache, connections, source_options"),
        ("open_source", "codec", "limit, tiny, ids, .*min_vote_fraction, catalogue, order, nside"),
        ("open_source", "connections", "limit, tiny"),
        ("open_source", "storage_options", "limit, tiny"),
        ("plan", "on_error", "limit, tiny"),
        ("plan", "max_failures", "limit, tiny"),
        ("build", "limits", "limit, tiny"),
    ],
)
def test_option_that_an_entry_point_does_not_use_is_refused(
    simulated: Path, store: Path, tmp_path: Path, function: str, option: str, taken: str
) -> None:
    arguments = {"verify": (store, simulated), "open_source": (simulated,)}
    chosen = arguments.get(function, (simulated, tmp_path / "g.zarr"))
    message = f"unknown option {option} for {function}; its options are {taken}"
    with pytest.raises(UsageError, match=message):
        getattr(gz3d_zarr, function)(*chosen, **{option: None})
    assert not (tmp_path / "g.zarr").exists()


def test_full_disk_is_told(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gz3d_zarr.storage.local_store.LocalStore.free_bytes", lambda self: 1000)
    plan = gz3d_zarr.plan(simulated, tmp_path / "g.zarr", workers=1)
    assert "the disk has 0.98 kiB free" in " ".join(plan.notes)


def test_dead_scheduler_is_named(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_client, "CONNECT_SECONDS", 0.3)
    address = "tcp://127.0.0.1:9"  # the discard port: nobody listens
    with pytest.raises(BuildError, match=f"the scheduler {address} does not answer within 0.3 s"):
        gz3d_zarr.build(simulated, tmp_path / "g.zarr", scheduler=address)
    with pytest.raises(UsageError, match="expected an address such as"):
        gz3d_zarr.plan(simulated, tmp_path / "g.zarr", scheduler="nonsense")
    assert not (tmp_path / "g.zarr").exists()
    with pytest.raises(UsageError, match="workers is 0"):
        gz3d_zarr.plan(simulated, tmp_path / "g.zarr", workers=0)


def test_scheduler_that_says_nothing_is_named(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_client, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BuildError, match=r"does not answer within 0\.3 seconds"):
            gz3d_zarr.plan(simulated, tmp_path / "g.zarr", scheduler=address)


def test_scheduler_without_workers_is_named(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(dask_client, "CONNECT_SECONDS", 0.3)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as empty,
        Client(empty, set_as_default=False) as nobody,
        pytest.raises(BuildError, match="has no workers after 0.3 seconds"),
    ):
        gz3d_zarr.build(simulated, tmp_path / "g.zarr", nobody)
