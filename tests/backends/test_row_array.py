"""Selections of an opened store: what is read for them, and what dask makes of them."""

from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.base import tokenize
from fsspec.implementations.memory import MemoryFileSystem

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.backends.generation import Generation
from gz3d_zarr.backends.pixel_source import PixelSource
from gz3d_zarr.backends.row_array import RowArray, StoredRows, chunk_rows
from gz3d_zarr.storage.object_store import open_object_store

ROWS = [16, 3, 4]


@pytest.fixture
def ds(store: Path) -> xr.Dataset:
    return gz3d_zarr.open_store(store)


@pytest.fixture(scope="module")
def masks(store: Path) -> np.ndarray[Any, Any]:
    return np.asarray(zarr.open_array(store, path="segmentation", mode="r")[...])


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that were read since the list was cleared."""
    read: list[int] = []
    read_rows = PixelSource.read_rows

    def counted(self: PixelSource, rows: Any, rest: Any = ()) -> Any:
        read.extend(rows.tolist())
        return read_rows(self, rows, rest)

    monkeypatch.setattr(PixelSource, "read_rows", counted)
    return read


def is_any_of(dataset: xr.Dataset, rows: list[int]) -> xr.DataArray:
    return dataset["subject"].isin(dataset["subject"].values[rows])


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        (lambda d: d.isel(subject=[16, 3, -14]), [16, 3, 4]),
        (lambda d: d.isel(subject=[7, 7, 1]), [7, 7, 1]),
        (lambda d: d.isel(subject=slice(15, 2, -6)), [15, 9, 3]),
        (lambda d: d.isel(subject=np.arange(18) % 8 == 1), [1, 9, 17]),
        (lambda d: d.isel(subject=is_any_of(d, [2, 11])), [2, 11]),
        (lambda d: d.isel(subject=5), [5]),
        (lambda d: d.where(is_any_of(d, [2, 11]), drop=True), [2, 11]),
        (
            lambda d: d.swap_dims(subject="zooniverse_subject_id").sel(
                zooniverse_subject_id=d["zooniverse_subject_id"].values[[6, 2]]
            ),
            [6, 2],
        ),
        (lambda d: d.gz3d.sel(object_id=d["subject"].values[[9, 1]].tolist()), [9, 1]),
        (lambda d: d.isel(subject=ROWS).isel(subject=[2, 0]), [4, 16]),
        (lambda d: d.isel(subject=ROWS)[["segmentation"]].isel(subject=1), [3]),
        (lambda d: d.copy(deep=True).isel(subject=ROWS), ROWS),
        (lambda d: pickle.loads(pickle.dumps(d)).isel(subject=ROWS), ROWS),
        (lambda d: pickle.loads(pickle.dumps(d.isel(subject=ROWS))), ROWS),
        (lambda d: xr.concat([d.isel(subject=[3]), d.isel(subject=[9])], "subject"), [3, 9]),
        (lambda d: d.isel(subject=[]), []),
    ],
)
def test_only_the_rows_of_a_selection_are_read(
    ds: xr.Dataset,
    masks: Any,
    rows_read: list[int],
    select: Callable[[xr.Dataset], xr.Dataset],
    expected: list[int],
) -> None:
    counts = select(ds)["segmentation"]
    assert rows_read == []
    single = counts.ndim == 3
    np.testing.assert_array_equal(counts.values, masks[expected[0] if single else expected])
    assert sorted(rows_read) == sorted(expected)


def test_other_axes_and_operations_are_those_of_dask(
    ds: xr.Dataset, masks: Any, rows_read: list[int]
) -> None:
    counts = ds["segmentation"]
    part = counts.isel({"subject": ROWS, "class": 2, "x": slice(9, None, -2), "y": 4})
    np.testing.assert_array_equal(part, masks[ROWS][:, 2, 4, 9::-2])
    assert sorted(rows_read) == sorted(ROWS)
    part = counts.isel({"subject": ROWS, "class": [2, 0], "x": [5, 1]})
    np.testing.assert_array_equal(part, masks[ROWS][:, [2, 0]][..., [5, 1]])
    array = counts.data
    for key in (
        np.s_[:],
        np.s_[...],
        np.s_[:, 1],
        np.s_[..., 3],
        np.s_[None, 2],
        np.s_[[1], ..., 2],
    ):
        np.testing.assert_array_equal(array[key], masks[key])
    np.testing.assert_array_equal(array[array[:, 0, 0, 0] < 0], masks[:0])
    np.testing.assert_array_equal(
        array.vindex[[1, 9], [0, 3], [5, 6]], masks[[1, 9], [0, 3], [5, 6]]
    )
    assert type(array[:, 1]) is type(array + 1) is da.Array
    both = xr.apply_ufunc(np.add, counts, counts + 1, dask="parallelized", output_dtypes=["u1"])
    np.testing.assert_array_equal(both[3], 2 * masks[3] + 1)
    for wrong in ([18], [True], -19, [0.5]):
        with pytest.raises((IndexError, NotImplementedError)):
            array[wrong]
    taken = array[ROWS]
    taken[0] = 7  # in place, as dask allows
    for changed in (taken, copy.deepcopy(taken), pickle.loads(pickle.dumps(taken))):
        assert changed[[0]].compute().min() == 7
    np.testing.assert_array_equal(array[ROWS], masks[ROWS])


def test_selections_are_plain_to_dask(
    ds: xr.Dataset, store: Path, masks: Any, tmp_path: Path
) -> None:
    taken = ds.isel(subject=ROWS)
    data = taken["segmentation"].data
    assert isinstance(data, RowArray)
    for again in (copy.copy(data), pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
        assert isinstance(again, RowArray)
        assert again.name == data.name
    reopened = gz3d_zarr.open_store(store).isel(subject=ROWS)["segmentation"].data
    assert tokenize(reopened) == tokenize(data) != tokenize(ds["segmentation"].data)
    (held,) = dask.persist(taken)
    np.testing.assert_array_equal(held["segmentation"][1], masks[3])
    np.testing.assert_array_equal(taken.chunk(subject=2)["segmentation"], masks[ROWS])
    np.testing.assert_array_equal(
        dask.compute(data.sum((1, 2, 3)), optimize_graph=False)[0], masks[ROWS].sum((1, 2, 3))
    )
    written = taken.drop_encoding()[["segmentation"]].reset_coords(drop=True)
    written.to_zarr(tmp_path / "few.zarr", zarr_format=3, consolidated=False)
    few = zarr.open_array(tmp_path / "few.zarr", path="segmentation", mode="r")
    np.testing.assert_array_equal(few[...], masks[ROWS])


@pytest.mark.parametrize(
    ("rows", "size", "expected"),
    [
        (np.arange(10, 150), 64, (54, 64, 22)),
        (np.arange(0, 150, 2), 64, (32, 32, 11)),
        (np.arange(0, 1200, 30), 64, (8, 8, 8, 8, 8)),
        (np.zeros(0, int), 64, (0,)),
        (np.full(10, 3), 4, (4, 4, 2)),
        (np.arange(0, 18, 3), 1, (1,) * 6),
        (np.random.default_rng(1).permutation(29_813)[:2000], 64, (32,) * 62 + (16,)),
        (np.random.default_rng(1).permutation(29_813), 64, (64,) * 465 + (53,)),
    ],
)
def test_chunks_follow_the_shards_or_are_few(
    rows: Any, size: int, expected: tuple[int, ...]
) -> None:
    assert chunk_rows(rows, size) == expected


def test_scattered_rows_of_the_survey_are_a_small_graph(tmp_path: Path) -> None:
    number, shape = 29_813, (525, 525, 3)
    array = zarr.create_array(
        tmp_path / "g", name="image", shape=(number, *shape), chunks=(1, *shape),
        shards=(64, *shape), dtype="u1",
    )  # fmt: skip
    generation = Generation(open_object_store(tmp_path / "g"), "")
    source = PixelSource("image", array.metadata, ChunkReader(generation), generation)
    whole = RowArray(StoredRows(source, np.arange(number)), 64)
    image = whole[np.random.default_rng(1).permutation(number)[:2000]]
    assert image.shape == (2000, *shape)
    assert len(image.__dask_graph__()) < 100
    other = PixelSource("image", array.metadata, ChunkReader(generation), generation)
    assert other.token != source.token  # nothing says that it has the same pixels


def test_a_number_of_subjects_a_chunk(store: Path, masks: Any) -> None:
    for number, sizes in ((5, (5, 5, 5, 3)), (np.int64(1), (1,) * 18), (100, (18,))):
        dataset = gz3d_zarr.open_store(store, chunks=number)  # type: ignore[arg-type]
        assert dataset["image"].chunks[0] == dataset["segmentation"].chunks[0] == sizes  # type: ignore[index]
        np.testing.assert_array_equal(dataset["segmentation"], masks)
        np.testing.assert_array_equal(dataset.isel(subject=ROWS)["segmentation"], masks[ROWS])
    for wrong in (0, -1, True, 2.5, "auto", "5", {"subject": 5}):
        with pytest.raises(UsageError, match="chunks is .*, expected 'shards', None or a number"):
            gz3d_zarr.open_store(store, chunks=wrong)  # type: ignore[arg-type]


def test_damage_is_reported_for_one_row_and_for_many(store: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(store, tmp_path / "copy.zarr"))
    shard = damaged / "image/c/1/0/0/0"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    dataset = gz3d_zarr.open_store(damaged, chunks=18)
    for rows in ([4], slice(None)):
        with pytest.raises(StoreError, match="image of row.* cannot be read"):
            dataset["image"][rows].compute()
    shard.unlink()
    for rows in ([4], slice(None)):
        with pytest.raises(StoreError, match="image.* is missing"):
            dataset["image"][rows].compute()


def test_rows_over_a_network_take_no_metadata_and_no_zeros(
    store: Path, masks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "memory://row-array/g.zarr"
    files = {path.relative_to(store).as_posix(): path for path in store.rglob("*")}
    objects = {key: path.read_bytes() for key, path in files.items() if path.is_file()}
    opened = open_object_store(url)
    opened.put_all(objects)
    lazy = [gz3d_zarr.open_store(url, chunks=chunks)["segmentation"] for chunks in ("shards", None)]
    reader = ChunkReader(Generation.from_root(opened, objects["zarr.json"]))
    read: list[str] = []
    for name in ("_cat_file", "cat_file"):
        original = getattr(MemoryFileSystem, name, None)
        if original is not None:
            monkeypatch.setattr(MemoryFileSystem, name, counting(original, read))
    for array in lazy:
        np.testing.assert_array_equal(array[[16, 3]], masks[[16, 3]])
    assert {key.rpartition("g.zarr/")[2] for key in read} == {
        "segmentation/c/0/0/0/0", "segmentation/c/4/0/0/0", "zarr.json",
    }  # fmt: skip
    opened.delete(["segmentation/c/4/0/0/0"])
    for action in (*(lambda a=array: a[[16]].compute() for array in lazy),
                   lambda: reader.read("segmentation", 16)):  # fmt: skip
        with pytest.raises(StoreError, match="shard 4 of segmentation in .* is missing"):
            action()


def counting(original: Callable[..., Any], read: list[str]) -> Callable[..., Any]:
    def counted(self: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        read.append(path)
        return original(self, path, *args, **kwargs)

    return counted
