"""Selections that xarray writes, by to_zarr and to_netcdf, and what our commands say of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from distributed import Client
from stores import objects

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.cli import main

SELECTIONS: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "slice": lambda ds: ds.isel(subject=slice(3, 9)),
    "rows": lambda ds: ds.isel(subject=[16, 1, 7]),
    "mask": lambda ds: ds.isel(subject=np.arange(18) % 5 == 0),
    "one": lambda ds: ds.isel(subject=3),
    "crop": lambda ds: ds.isel({"class": [2], "x": slice(10, 200), "subject": [1, 6]}),
    "concat": lambda ds: xr.concat(
        [ds.isel(subject=slice(0, 3)), ds.isel(subject=slice(9, 11))],
        "subject",
        data_vars="minimal",
        coords="minimal",
        compat="override",
    ),
}


def assert_same(written: xr.Dataset, selected: xr.Dataset) -> None:
    for name, variable in selected.variables.items():
        values, found = variable.values, written[name].values
        if values.dtype.kind in "OTU":
            values, found = values.astype(object), found.astype(object)
        else:
            assert found.dtype == values.dtype, name
        np.testing.assert_array_equal(found, values)


def write(dataset: xr.Dataset, path: Path, **options: Any) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        dataset.to_zarr(path, **options)
        return xr.open_zarr(path, chunks=None)


@pytest.mark.parametrize("chunks", ["shards", None, 3])
def test_to_zarr_of_any_selection(store: Path, tmp_path: Path, chunks: Any) -> None:
    dataset = gz3d_zarr.open_store(store, chunks=chunks)
    for name, select in SELECTIONS.items():
        selected = select(dataset)
        assert_same(write(selected, tmp_path / name), selected)


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not")
def test_to_zarr_of_a_compact_store(simulated: Path, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "compact.zarr"
    gz3d_zarr.build(simulated, path, client, codec="compact", shard_size=4, limit=5)
    selected = gz3d_zarr.open_store(path).isel(subject=2)
    assert_same(write(selected, tmp_path / "one"), selected)


def test_to_zarr_after_plain_xarray(store: Path, tmp_path: Path) -> None:
    """Dask chunks of xarray are a store's chunks, and its encoding has shards (xarray #11460)."""
    dataset = xr.open_zarr(store)
    for name in SELECTIONS.keys() - {"one"}:
        selected = SELECTIONS[name](dataset)
        assert_same(write(selected, tmp_path / name, align_chunks=True), selected)
    selected = SELECTIONS["one"](dataset)
    assert_same(write(selected.drop_encoding(), tmp_path / "one"), selected)
    without_dask = xr.open_zarr(store, chunks=None).isel(subject=slice(0, 10))
    assert_same(write(without_dask, tmp_path / "without"), without_dask)


def test_to_netcdf(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("h5netcdf")
    for i, opened in enumerate(
        (
            xr.open_zarr(store),
            gz3d_zarr.open_store(store, chunks=3),
            gz3d_zarr.open_store(store, chunks=None),
        )
    ):
        for name in ("rows", "one"):
            selected = SELECTIONS[name](opened)
            path = tmp_path / f"{i}{name}.nc"
            selected.to_netcdf(path, engine="h5netcdf")
            with xr.open_dataset(path, engine="h5netcdf") as written:
                assert_same(written, selected)
                table = written.gz3d.table()
                assert table["bar_votes"].tolist() == selected["bar_votes"].values.ravel().tolist()
                assert "file_name" not in table.colnames
                with pytest.raises(UsageError, match="not say which store it was opened from"):
                    written.gz3d.save(tmp_path / "saved.zarr")
    with pytest.raises(StoreError, match="which is a file: a store is a folder"):
        gz3d_zarr.open_store(path)
    with pytest.raises(StoreError, match="which is a file: a store is a folder"):
        gz3d_zarr.verify(path)


def test_what_xarray_wrote_is_called_so(store: Path, simulated: Path, tmp_path: Path) -> None:
    path = tmp_path / "sample.zarr"
    write(gz3d_zarr.open_store(store).isel(subject=[3, 9]), path)
    before = objects(path)
    for command in (
        ["info", path],
        ["verify", path],
        ["copy", path, tmp_path / "copy.zarr"],
        ["subset", path, tmp_path / "sub.zarr", "--min-vote-fraction", "0"],
        ["export", "fits", path, tmp_path / "fits"],
        ["export", "mmu", path, tmp_path / "mmu"],
        ["export", "marks", path, tmp_path / "marks.parquet"],
        ["build", simulated, path],
        ["build", simulated, path, "--overwrite"],
        ["build", simulated, path, "--update"],
    ):
        result = CliRunner().invoke(main, [str(word) for word in command])
        assert result.exit_code == 1, (command, result.output)
        assert "holds a Dataset as to_zarr of xarray writes it, not a store" in result.stderr
        assert "damaged" not in result.output
    assert objects(path) == before
    assert gz3d_zarr.open_store(path).sizes["subject"] == 2
    with pytest.raises(StoreError, match="not a store of gz3d-zarr"):
        gz3d_zarr.open_store(path).gz3d.save(tmp_path / "saved.zarr")
