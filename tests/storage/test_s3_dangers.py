"""S3 that loses or cuts what it has acknowledged; readers and second builders during a build there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from files import subject_files, truth
from object_stores import Fault, Proxy, S3Server, close_sessions, fresh_bucket, run_proxy

import gz3d_zarr
from gz3d_zarr import IncompleteStoreError, StoreError

pytestmark = pytest.mark.long
FEW: dict[str, Any] = {"limit": 4, "shard_size": 2}


@pytest.fixture
def proxy(moto: S3Server) -> Iterator[Proxy]:
    with fresh_bucket(moto) as bucket, run_proxy(bucket) as running:
        yield running
        close_sessions()


@pytest.fixture(scope="module")
def few(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """What a store of `FEW` shows, in memory."""
    path = tmp_path_factory.mktemp("few") / "g.zarr"
    gz3d_zarr.build(simulated, path, client, **FEW)
    return gz3d_zarr.open_store(path).compute()


@pytest.mark.parametrize(
    ("fault", "shard"),
    [(Fault.LOST_PUT, "image/c/1/0/0/0"), (Fault.SHORT_PUT, "segmentation/c/0/0/0/0")],
)
def test_shard_that_was_acknowledged_and_is_not_there_is_noticed(
    proxy: Proxy, simulated: Path, few: xr.Dataset, client: Client, fault: Fault, shard: str
) -> None:
    url, options = f"{proxy.server.url}/g.zarr", proxy.server.storage_options

    def faults(method: str, key: str, asked: int) -> Fault | None:
        return fault if method == "PUT" and key == f"g.zarr/{shard}" else None

    proxy.faults = faults
    with pytest.raises(StoreError, match=rf"lacks 1 of \d+ objects .*\(first {shard}\)"):
        gz3d_zarr.build(simulated, url, client, storage_options=options, **FEW)
    assert "g.zarr/zarr.json" not in proxy.server.digests()
    with pytest.raises(IncompleteStoreError, match="resume with"):
        gz3d_zarr.open_store(url, storage_options=options)
    proxy.faults = None
    report = gz3d_zarr.build(simulated, url, client, storage_options=options, resume=True, **FEW)
    assert report.shards_built == 1
    xr.testing.assert_equal(gz3d_zarr.open_store(url, storage_options=options).compute(), few)
    assert gz3d_zarr.verify(url, client=client, storage_options=options).passed


def test_shard_that_is_lost_in_an_update_costs_no_reader_anything(
    proxy: Proxy, simulated: Path, few: xr.Dataset, client: Client
) -> None:
    url, options = f"{proxy.server.url}/g.zarr", proxy.server.storage_options
    before = {**FEW, "limit": 2}
    gz3d_zarr.build(simulated, url, client, storage_options=options, **before)
    old = gz3d_zarr.open_store(url, storage_options=options).compute()

    def faults(method: str, key: str, asked: int) -> Fault | None:
        return Fault.LOST_PUT if method == "PUT" and key == "g.zarr/image/c/1/0/0/0" else None

    proxy.faults = faults
    with pytest.raises(StoreError, match=r"lacks 1 of \d+ objects"):
        gz3d_zarr.build(simulated, url, client, storage_options=options, update=True, **FEW)
    xr.testing.assert_equal(gz3d_zarr.open_store(url, storage_options=options).compute(), old)
    proxy.faults = None
    gz3d_zarr.build(simulated, url, client, storage_options=options, update=True, **FEW)
    found = gz3d_zarr.open_store(url, storage_options=options).compute()
    xr.testing.assert_equal(
        found.sortby("zooniverse_subject_id"), few.sortby("zooniverse_subject_id")
    )


def test_readers_during_an_update_see_the_old_store_or_the_new_one(
    proxy: Proxy, moto: S3Server, simulated: Path, client: Client
) -> None:
    """A reader opens and reads before some of the builder's writes, while these wait."""
    files = {
        int(p.name.split("_")[3].partition(".")[0]): truth(p) for p in subject_files(simulated)
    }
    url, options = f"{proxy.server.url}/g.zarr", proxy.server.storage_options
    direct = {**options, "endpoint_url": moto.endpoint}
    gz3d_zarr.build(simulated, url, client, storage_options=options, **{**FEW, "limit": 3})
    held = gz3d_zarr.open_store(url, storage_options=direct)
    seen: list[int] = []
    wrong: list[Any] = []

    def read(dataset: xr.Dataset, row: int) -> None:
        expected = files[int(dataset["zooniverse_subject_id"].values[row])]
        if dataset["status"].values.any() or dataset["ra"].values[row] != expected["ra"]:
            wrong.append(dataset["status"].values)
        for name in ("image", "segmentation"):
            if not np.array_equal(dataset[name].values[row], expected[name]):
                wrong.append(name)

    def hold(method: str, key: str) -> float:
        is_root = key == "g.zarr/zarr.json"
        if method == "PUT" and (len(proxy.requests) % 40 == 0 or is_root or "/c/1/0" in key):
            opened = gz3d_zarr.open_store(url, storage_options=direct)
            seen.append(opened.sizes["subject"])
            read(opened, len(seen) % opened.sizes["subject"])
            read(held, len(seen) % 3)
        return 0.0

    proxy.hold = hold
    gz3d_zarr.build(
        simulated, url, client, storage_options=options, update=True, **{**FEW, "limit": 5}
    )
    assert wrong == []
    assert set(seen) == {3}  # nothing is put after the root that a reader could notice
    assert len(seen) >= 4
    opened = gz3d_zarr.open_store(url, storage_options=direct)
    assert opened.sizes["subject"] == 5
    for row in range(5):
        read(opened, row)
    read(held, 2)
    assert wrong == []
    root = json.loads(proxy.server.get("g.zarr/zarr.json"))
    assert root["attributes"]["subjects"] == 5
