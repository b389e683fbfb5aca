"""Pixels over a network: few requests, remembered indices, the same values by every client."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from object_stores import Proxy, S3Server, close_sessions, fresh_bucket, run_moto, run_proxy

import gz3d_zarr
from gz3d_zarr import StoreError
from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.backends.store_info import read_info
from gz3d_zarr.export.runner import read_subjects
from gz3d_zarr.export.subset import select_rows
from gz3d_zarr.storage.object_store import open_object_store
from gz3d_zarr.storage.ranges import MAX_GAP, MAX_RANGE, join_ranges
from gz3d_zarr.storage.shards import read_index

IN_SHARD = 16
IMAGES, MASKS = "image/c/0/0/0/0", "segmentation/c/0/0/0/0"
Select = Callable[[xr.Dataset], xr.Dataset]


@pytest.fixture(scope="module")
def wide(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of which 16 subjects are in one shard, in two chunks of masks."""
    path = tmp_path_factory.mktemp("wide") / "g.zarr"
    gz3d_zarr.build(simulated, path, client, shard_size=IN_SHARD)
    return path


@pytest.fixture(scope="module")
def served(wide: Path) -> Iterator[S3Server]:
    """The same on S3, where everybody may read it."""
    with run_moto() as moto, fresh_bucket(moto) as bucket:
        bucket.allow_everybody_to_read()
        for path in wide.rglob("*"):
            if path.is_file():
                bucket.put(f"g.zarr/{path.relative_to(wide).as_posix()}", path.read_bytes())
        yield bucket


@pytest.fixture(params=["s3fs", "obstore", "http"])
def place(
    request: pytest.FixtureRequest, served: S3Server
) -> Iterator[tuple[Proxy, str, dict[str, Any] | None]]:
    """A proxy that counts, a URL and storage options."""
    with run_proxy(served) as proxy:
        options = {**proxy.server.storage_options, "backend": request.param}
        if request.param == "http":
            yield proxy, f"{proxy.server.endpoint}/{served.bucket}/g.zarr", None
        else:
            if request.param == "obstore":
                pytest.importorskip("obstore")
            yield proxy, f"{served.url}/g.zarr", options
        close_sessions()


def count(proxy: Proxy) -> dict[str, int]:
    """Requests for each object since the last call."""
    found = {key.removeprefix("g.zarr/"): number for (_, key), number in proxy.count().items()}
    assert all(method == "GET" for method, _ in proxy.count())
    proxy.forget()
    return found


@pytest.fixture
def memory() -> Iterator[str]:
    url = "memory://chunk-fetcher/g.zarr"
    yield url
    fsspec.filesystem("memory").rm("/chunk-fetcher", recursive=True)


def put_all(wide: Path, url: str) -> dict[str, bytes]:
    files = {path.relative_to(wide).as_posix(): path for path in wide.rglob("*")}
    objects = {key: path.read_bytes() for key, path in files.items() if path.is_file()}
    open_object_store(url).put_all(objects)
    return objects


SELECTIONS: dict[str, Select] = {
    "slice": lambda ds: ds.isel(subject=slice(1, 15)),
    "positions": lambda ds: ds.isel(subject=[9, 2, 3, 14]),
    "mask": lambda ds: ds.isel(subject=np.arange(18) % 5 == 1),
    "one class and crop": lambda ds: ds.isel({"subject": [3, 12], "class": 2, "y": slice(9, 99)}),
    "where": lambda ds: ds.where(ds["zooniverse_subject_id"] % 3 == 1, drop=True),
    "gz3d.sel": lambda ds: ds.gz3d.sel(
        zooniverse_subject_id=ds["zooniverse_subject_id"].values[[5, 8, 13]].tolist()
    ),
    "whole shard": lambda ds: ds.isel(subject=slice(16)),
}


def test_neighbors_come_together_and_an_index_once(
    place: tuple[Proxy, str, dict[str, Any] | None], wide: Path
) -> None:
    proxy, url, options = place
    expected = gz3d_zarr.open_store(wide, chunks=None)
    for chunks in ("shards", None):
        opened = gz3d_zarr.open_store(url, storage_options=options, chunks=chunks)
        assert sum(count(proxy).values()) == 2
        near = opened.isel(subject=slice(1, 15))
        np.testing.assert_array_equal(near["image"], expected["image"][1:15])
        assert count(proxy) == {IMAGES: 2, "zarr.json": 1}  # its index, and all pictures
        np.testing.assert_array_equal(near["segmentation"], expected["segmentation"][1:15])
        # One request for the whole shard, as all of its chunks are wanted.
        assert count(proxy) == {MASKS: 1, "zarr.json": 1}
        for row in (9, 4):
            np.testing.assert_array_equal(opened["image"][row], expected["image"][row])
            assert count(proxy) == {IMAGES: 1, "zarr.json": 1}
        np.testing.assert_array_equal(opened["image"][[17, 0, 15]], expected["image"][[17, 0, 15]])
        asked = count(proxy)
        assert asked.pop("image/c/1/0/0/0") == 2
        assert asked == {IMAGES: 2, "zarr.json": 1}  # they are far apart


@pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS)
def test_selections_are_as_from_a_local_store(memory: str, wide: Path, select: Select) -> None:
    put_all(wide, memory)
    for chunks in ("shards", None, 3):
        far, near = (
            select(gz3d_zarr.open_store(place, chunks=chunks)[["image", "segmentation"]])
            for place in (memory, wide)
        )
        for name in ("image", "segmentation"):
            np.testing.assert_array_equal(far[name], near[name])


def test_exports_and_loaders_ask_as_little(
    place: tuple[Proxy, str, dict[str, Any] | None], wide: Path
) -> None:
    proxy, url, options = place
    local = gz3d_zarr.open_store(wide, chunks=None)
    rows = [1, 2, 3, 5, 6, 7]  # less than half of the shard, and one chunk of masks
    selection = select_rows(url, rows, storage_options=options)
    count(proxy)
    for position, image, masks in read_subjects(ChunkReader(selection.generation), selection):
        np.testing.assert_array_equal(image, local["image"][rows[position]])
        np.testing.assert_array_equal(masks, local["segmentation"][rows[position]])
    asked = count(proxy)
    # For the layout of each array, and to see that it is the same store.
    assert (asked[MASKS], asked["zarr.json"]) == (2, 3)
    assert asked[IMAGES] <= 3
    pytest.importorskip("torch")
    from gz3d_zarr.export.torch import GZ3DDataset, GZ3DIterableDataset

    iterable = GZ3DIterableDataset(url, rows=rows, shuffle=False, storage_options=options)
    count(proxy)
    samples = list(iterable)
    asked = count(proxy)
    assert asked[IMAGES] + asked[MASKS] <= 5
    for row, sample in zip(rows, samples, strict=True):
        np.testing.assert_array_equal(sample["image"].permute(1, 2, 0), local["image"][row])
    by_row = GZ3DDataset(url, rows=rows, storage_options=options)
    np.testing.assert_array_equal(by_row[0]["segmentation"], local["segmentation"][1])
    count(proxy)
    np.testing.assert_array_equal(by_row[4]["segmentation"], local["segmentation"][6])
    assert count(proxy) == {IMAGES: 1, "zarr.json": 1}  # its masks are in a chunk that was read


def test_shard_that_gets_more_subjects_is_read_with_its_new_index(
    archive: Path, client: Client, memory: str
) -> None:
    fixed: dict[str, Any] = {"shard_size": 8, "order": "name"}
    gz3d_zarr.build(archive, memory, client, **fixed, limit=11)
    names, rows = ("image", "segmentation"), [8, 10]
    lazy = [gz3d_zarr.open_store(memory, chunks=chunks)[[*names]] for chunks in ("shards", None)]
    before = [{name: ds[name][rows].values for name in names} for ds in lazy]
    gz3d_zarr.build(archive, memory, client, **fixed, limit=16, update=True)
    for ds, values in zip(lazy, before, strict=True):
        for name in names:
            np.testing.assert_array_equal(ds[name][rows], values[name])
            np.testing.assert_array_equal(ds[name][9], ds[name][[9]][0])


def test_damage_and_loss_are_told(wide: Path, memory: str) -> None:
    store, data = open_object_store(memory), put_all(wide, memory)[IMAGES]
    lazy = gz3d_zarr.open_store(memory, chunks=None)["image"]
    offset = int(read_index(data, IN_SHARD)[3][0])
    store.put(IMAGES, data[: offset + 99] + bytes([data[offset + 99] ^ 1]) + data[offset + 100 :])
    for rows in ([3], [2, 3, 5], slice(16)):
        with pytest.raises(StoreError, match=r"image of row 3 in .* cannot be read"):
            lazy[rows].load()
    assert lazy[[2, 4]].any()
    assert "ChunkReader" in read_info(memory).pipeline  # not one of zarr's
    store.put(IMAGES, data[:-1])
    fresh = gz3d_zarr.open_store(memory, chunks=None)["image"]
    with pytest.raises(StoreError, match="the index of its shard is damaged"):
        fresh[[2, 4]].load()
    with pytest.raises(StoreError, match=r"shard 0 of image in .* cannot be read: the index"):
        fresh[[17, 4]].load()
    last = IMAGES.replace("/c/0", "/c/1")
    store.delete([last])
    store.put(IMAGES, data)
    for rows in ([2, 17], [16, 2]):  # which of the two is named, whatever comes first
        with pytest.raises(StoreError, match="shard 1 of image in .* is missing"):
            gz3d_zarr.open_store(memory, chunks=None)["image"][rows].load()
    store.delete([IMAGES])
    with pytest.raises(StoreError, match="shard 0 of image in .* is missing"):
        fresh[[2, 4]].load()


def test_ranges_are_joined_where_that_pays() -> None:
    size = 300_000
    near = [("a", i * size, (i + 1) * size) for i in range(64)]
    joined = join_ranges(reversed(near))
    assert list(itertools.chain(*joined)) == near
    assert len(joined) == -(-64 // (MAX_RANGE // size))
    assert all(part[-1][2] - part[0][1] <= MAX_RANGE for part in joined)
    gap = [("a", 0, 10), ("a", 10 + MAX_GAP, 60_000), ("a", 60_001 + MAX_GAP, 99_999), ("b", 0, 9)]
    assert join_ranges(gap) == [gap[:2], gap[2:3], gap[3:]]
    assert join_ranges([("a", 0, 2 * MAX_RANGE)]) == [[("a", 0, 2 * MAX_RANGE)]]
    assert join_ranges([]) == []
