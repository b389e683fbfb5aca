"""Reductions read the masks of an unchanged store themselves, and of anything else with dask."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dask
import fsspec
import pytest
import xarray as xr
from distributed import Client

import gz3d_zarr
from gz3d_zarr import StoreError
from gz3d_zarr.backends.mask_reader import find_stored_masks
from gz3d_zarr.recipes import arms_against_bars, mean_mask, radial_profile
from gz3d_zarr.storage.object_store import open_object_store

pytestmark = pytest.mark.filterwarnings("ignore:left out of .*, as volunteers were not asked")
Reduce = Callable[[xr.Dataset], Any]
SHARD = 4
EXACT: dict[str, Reduce] = {
    "mean": mean_mask,
    "mean, all, low": partial(mean_mask, cls=None, threshold=0.5),
    "counts": partial(mean_mask, cls=None, of="counts"),
    "area": lambda ds: ds.gz3d.area(),
    "area, any mark": lambda ds: ds.gz3d.area("spiral", 0),
    "area, other threshold": lambda ds: ds.gz3d.area("bar", 7.5, unasked=0),
    "area, all, other threshold": lambda ds: ds.gz3d.area(threshold=1),
    "fraction": lambda ds: ds.isel(subject=slice(5)).gz3d.fraction(),
    "fraction of marks": lambda ds: ds.gz3d.fraction("spiral", of="marks"),
    "arms": arms_against_bars,
    "arms, other threshold": partial(arms_against_bars, threshold=5, bins=3),
}
CLOSE: dict[str, Reduce] = {
    "profile": radial_profile,
    "mean fraction": partial(mean_mask, of="fractions"),
    "mean fraction, all": partial(mean_mask, cls=None, of="fractions"),
    "profile, bar": partial(radial_profile, cls="bar", edges=[0.3, 1, 7, 40]),
}
CHANGES: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "doubled": lambda ds: ds.assign(segmentation=ds["segmentation"] * 2),
    "masked": lambda ds: ds.assign(segmentation=ds["segmentation"].where(ds["image"][..., 0] > 9)),
    "written to": lambda ds: write_to(ds.copy()),
    "in memory": lambda ds: ds.load(),
    "two together": lambda ds: xr.concat([ds, ds.isel(subject=slice(5))], "subject"),
    "one class": lambda ds: ds.isel({"class": [2]}),
    "classes in another order": lambda ds: ds.isel({"class": [2, 1, 3, 0]}),
    "other axes": lambda ds: ds.transpose("y", "x", "class", ...),
}
SELECTIONS: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "slice": lambda ds: ds.isel(subject=slice(3, 15)),
    "positions": lambda ds: ds.isel(subject=[17, 2, 9, 1]),
    "mask": lambda ds: ds.isel(subject=ds["classifications"].values[:, 2] > 0),
    "asked": lambda ds: ds.gz3d.asked("spiral"),
    "ids": lambda ds: ds.gz3d.sel(
        zooniverse_subject_id=ds["zooniverse_subject_id"].values[[5, 3, 16]]
    ),
    "backwards": lambda ds: ds.isel(subject=slice(None, None, -1)),
    "some of some, twice": lambda ds: ds.isel(subject=slice(2, 16)).isel(subject=[9, 0, 9, 12]),
    "masks of other subjects": lambda ds: ds.assign(
        segmentation=(ds["segmentation"].dims, ds["segmentation"].data[::-1])
    ),
    "without image": lambda ds: ds.drop_vars("image"),
}


def write_to(ds: xr.Dataset) -> xr.Dataset:
    """Change the counts in place."""
    ds["segmentation"][{"subject": slice(0, 18, 2)}] = 9
    return ds


def by_dask(ds: xr.Dataset) -> xr.Dataset:
    """The same Dataset, of which nothing says that it is of a store."""
    plain = ds.assign(segmentation=ds["segmentation"].copy(data=ds["segmentation"].data + 0))
    assert find_stored_masks(plain) is None
    return plain


@pytest.fixture
def ds(store: Path) -> xr.Dataset:
    return gz3d_zarr.open_store(store)


@pytest.fixture
def damaged(store: Path, tmp_path: Path) -> Path:
    """A copy of the store that a test may damage."""
    return Path(shutil.copytree(store, tmp_path / "g.zarr"))


def check(ds: xr.Dataset) -> None:
    """Check that both ways give the same."""
    plain = by_dask(ds)
    results = dask.compute({name: (f(ds), f(plain)) for name, f in EXACT.items()})[0]
    for found, expected in results.values():
        xr.testing.assert_identical(found, expected)
    results = dask.compute({name: (f(ds), f(plain)) for name, f in CLOSE.items()})[0]
    for found, expected in results.values():
        assert found.attrs == expected.attrs
        xr.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)


@pytest.mark.usefixtures("_scheduler")
def test_both_ways_give_the_same(ds: xr.Dataset) -> None:
    assert find_stored_masks(ds) is not None
    check(ds)


@pytest.mark.parametrize("name", SELECTIONS)
def test_both_ways_give_the_same_of_selections(ds: xr.Dataset, name: str) -> None:
    selected = SELECTIONS[name](ds)
    assert find_stored_masks(selected) is not None
    check(selected)


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_not_read_from_the_store(ds: xr.Dataset, name: str) -> None:
    changed = CHANGES[name](ds)
    assert find_stored_masks(changed) is None
    in_memory = changed.copy(deep=True).load()
    for reduce in (mean_mask, radial_profile, lambda ds: ds.gz3d.area("spiral")):
        xr.testing.assert_allclose(reduce(changed).compute(), reduce(in_memory).compute())


def test_counts_of_another_dataset_are_not_mixed(ds: xr.Dataset, damaged: Path) -> None:
    other = gz3d_zarr.open_store(damaged)
    assert find_stored_masks(ds.assign(segmentation=other["segmentation"])) is None
    # A variable that the user changed is not what the store counted.
    ds["marked_pixels_above_3"][:] = 7
    check(ds)


def test_areas_are_known_without_masks(ds: xr.Dataset, damaged: Path) -> None:
    shutil.rmtree(damaged / "segmentation/c")
    blind = gz3d_zarr.open_store(damaged)
    for threshold in (0, 3, 3.5):
        xr.testing.assert_identical(
            blind.gz3d.area(threshold=threshold).compute(),
            ds.gz3d.area(threshold=threshold).compute(),
        )
    with pytest.raises(StoreError, match=r"segmentation/c/\d/0/0/0 of .* is missing: the store is"):
        blind.gz3d.area(threshold=2).compute()


@pytest.mark.parametrize("chunks", [2, 6])
def test_dask_chunks_need_not_be_shards(store: Path, ds: xr.Dataset, chunks: int) -> None:
    cut = gz3d_zarr.open_store(store, chunks=chunks)
    assert find_stored_masks(cut) is not None
    xr.testing.assert_identical(mean_mask(cut).compute(), mean_mask(ds).compute())
    area = cut.gz3d.area("bar", 1)
    assert area.chunks == (cut["segmentation"].chunks[0],)
    xr.testing.assert_identical(area.compute(), ds.gz3d.area("bar", 1).compute())


def test_a_store_in_memory_gives_the_same(store: Path, ds: xr.Dataset) -> None:
    remote = open_object_store("memory://stored-masks/g.zarr")
    paths = [path for path in store.rglob("*") if path.is_file()]
    remote.put_all({path.relative_to(store).as_posix(): path.read_bytes() for path in paths})
    try:
        same = gz3d_zarr.open_store(remote.url)
        assert find_stored_masks(same) is not None
        xr.testing.assert_identical(mean_mask(same, None).compute(), mean_mask(ds, None).compute())
    finally:
        fsspec.filesystem("memory").rm("/stored-masks", recursive=True)


def test_a_damaged_chunk_is_named(damaged: Path) -> None:
    path = damaged / "segmentation/c/1/0/0/0"
    data = bytearray(path.read_bytes())
    data[40] ^= 255
    path.write_bytes(data)
    rows = gz3d_zarr.open_store(damaged)
    message = "segmentation of rows 4 to 7 in .*g.zarr cannot be read: chunk 0 of segmentation/c/1/"
    for reduce in (partial(mean_mask, cls=None), lambda ds: ds.gz3d.area("star", 1)):
        with pytest.raises(StoreError, match=message):
            reduce(rows).compute()
    path.write_bytes(data[:-1])
    with pytest.raises(StoreError, match="the index of its shard is damaged"):
        mean_mask(rows, None).compute()


def test_a_store_that_was_replaced_is_noticed(
    damaged: Path, simulated: Path, client: Client
) -> None:
    rows = gz3d_zarr.open_store(damaged)
    sent = pickle.loads(pickle.dumps(rows))
    lazy = mean_mask(rows, None)
    expected = lazy.compute()
    gz3d_zarr.build(simulated, damaged, client, shard_size=SHARD, overwrite=True)
    for late in (lazy, mean_mask(sent, None), sent.gz3d.area("star", 1)):
        with pytest.raises(StoreError, match="was replaced or changed after it was opened"):
            late.compute()
    again = mean_mask(gz3d_zarr.open_store(damaged), None)
    xr.testing.assert_identical(again.compute(), expected)
