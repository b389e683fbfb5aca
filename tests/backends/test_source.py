"""open_source: the Dataset of a store without a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from files import subject_files

import gz3d_zarr
from gz3d_zarr import SourceError, UsageError
from gz3d_zarr.backends import source as source_backend
from gz3d_zarr.sources.download import read_file


def test_source_equals_store_value_for_value(simulated: Path, store: Path) -> None:
    source, stored = gz3d_zarr.open_source(simulated), gz3d_zarr.open_store(store)
    xr.testing.assert_equal(source.compute(), stored.compute())
    assert set(source.variables) == set(stored.variables)
    for name in set(source.variables) - {"subject", "object_id", "class", "channel"}:
        assert source[name].dtype == stored[name].dtype, name
        assert source[name].attrs == stored[name].attrs, name
        assert source[name].dims == stored[name].dims, name
    assert list(source.data_vars) == list(stored.data_vars)


def test_bad_files_have_the_same_rows_as_in_a_store(
    archive: Path, client: Client, tmp_path: Path
) -> None:
    subject_files(archive)[4].write_bytes(b"<html>")
    gz3d_zarr.build(archive, tmp_path / "g.zarr", client)
    source = gz3d_zarr.open_source(archive).compute()
    xr.testing.assert_equal(source, gz3d_zarr.open_store(tmp_path / "g.zarr").compute())
    assert (source["status"] == 3).sum() == 1


def test_only_what_is_computed_is_read(simulated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counting(path: str, *args: object) -> object:
        read.append(path)
        return read_file(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(source_backend, "read_file", counting)
    source = gz3d_zarr.open_source(simulated)
    assert source["image"].chunks is not None
    assert source["image"].chunks[0] == (1,) * 18
    _ = source["zooniverse_subject_id"].values, source["observed"].values, source["subject"].values
    assert read == []
    one = source.isel(subject=7).compute()
    assert one["image"].values.any()
    assert len(read) == 1  # once for all its variables
    votes = source.isel(subject=slice(2, 5))["spiral_votes"].values
    assert len(votes) == 3
    assert len(read) == 4


def test_it_computes_on_a_cluster(simulated: Path, client: Client) -> None:
    source = gz3d_zarr.open_source(simulated, limit=4)
    future = client.compute(source["segmentation"].sum(("y", "x")).data)
    expected = gz3d_zarr.open_source(simulated, limit=4)["segmentation"].values.sum((2, 3))
    np.testing.assert_array_equal(future.result(), expected)


def test_selection_and_errors_are_those_of_build(simulated: Path, tmp_path: Path) -> None:
    assert gz3d_zarr.open_source(simulated, tiny=True).sizes["subject"] == 5
    assert gz3d_zarr.open_source(simulated, ids=[14000001])["subject"].item() == "1-600001"
    assert gz3d_zarr.open_source(simulated, nside=64)["healpix"].attrs["nside"] == 64
    with pytest.raises(SourceError, match="there is no source"):
        gz3d_zarr.open_source(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="unknown option chunks"):
        gz3d_zarr.open_source(simulated, chunks=3)
