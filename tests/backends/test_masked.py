"""Sentinels as NaN: which, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from files import subject_files

import gz3d_zarr
from gz3d_zarr.datamodel.sentinels import SENTINELS


@pytest.fixture(scope="module")
def flawed(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of six subjects without a catalogue, of which one is not ok."""
    folder = tmp_path_factory.mktemp("flawed")
    for i, path in enumerate(subject_files(simulated)[:6]):
        (folder / path.name).write_bytes(b"<html>" if i == 1 else path.read_bytes())
    gz3d_zarr.build(folder, folder / "g.zarr", client)
    return folder / "g.zarr"


@pytest.mark.parametrize("chunks", ["shards", None])
def test_masked_stores_have_nan_for_every_sentinel(flawed: Path, chunks: str | None) -> None:
    plain = gz3d_zarr.open_store(flawed, chunks=chunks)
    masked = gz3d_zarr.open_store(flawed, chunks=chunks, masked=True)
    assert list(masked.variables) == list(plain.variables)
    assert set(masked.coords) == set(plain.coords)
    for name, variable in plain.variables.items():
        if name not in SENTINELS:
            xr.testing.assert_identical(masked.variables[name], variable)
            continue
        values, stored = masked[name].values, variable.values
        flagged = np.isin(stored, SENTINELS[str(name)])
        assert flagged.any(), name
        np.testing.assert_array_equal(np.isnan(values), flagged | np.isnan(stored))
        known = ~np.isnan(values)
        np.testing.assert_array_equal(values[known], stored[known])
        assert "-1" not in str(masked[name].attrs)
    assert masked["observed"].dtype == np.float32
    assert masked["nsa_id"].dtype == np.float64
    assert masked["observed"].attrs["flag_meanings"] == "no yes"
    one = masked.isel(subject=[2, 3], **{"class": 2})["vote_fraction"]
    np.testing.assert_array_equal(one, masked["vote_fraction"].values[[2, 3], 2])


def test_masking_reads_nothing(flawed: Path, tmp_path: Path) -> None:
    masked = gz3d_zarr.open_store(flawed, masked=True)
    assert not masked.variables["bar_votes"]._in_memory
    masked[["bar_votes", "observed", "vote_fraction"]].to_netcdf(tmp_path / "small.nc")
    with xr.open_dataset(tmp_path / "small.nc") as again:
        np.testing.assert_array_equal(again["observed"], masked["observed"])


def test_selections_work_on_masked_datasets(flawed: Path) -> None:
    plain = gz3d_zarr.open_store(flawed)
    masked = gz3d_zarr.open_store(flawed, masked=True)
    pixel = int(plain["healpix"].max())
    for nside in (None, 1):
        shift = 0 if nside is None else 8
        chosen = masked.gz3d.healpix(pixel >> shift, nside)
        expected = plain.gz3d.healpix(pixel >> shift, nside)
        np.testing.assert_array_equal(
            chosen["zooniverse_subject_id"], expected["zooniverse_subject_id"]
        )
    assert masked.gz3d.asked("center").sizes["subject"] == 5
    np.testing.assert_array_equal(masked.gz3d.area("bar"), plain.gz3d.area("bar"))


def test_vote_fractions_without_flags(store: Path) -> None:
    ds = gz3d_zarr.open_store(store)
    votes = ds.gz3d.vote_fraction()
    assert votes.dims == ("subject", "class")
    assert votes.dtype == np.float32
    stored = ds["vote_fraction"].values
    assert (stored == -0.5).any()
    np.testing.assert_array_equal(votes, np.where(stored < 0, np.nan, stored))
    assert "flag_values" not in votes.attrs
