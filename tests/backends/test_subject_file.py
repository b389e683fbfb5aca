"""The xarray engine: one subject file, with a store's names."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from files import subject_files, truth

import gz3d_zarr
from gz3d_zarr import SubjectError, UsageError
from gz3d_zarr.backends.subject_file import GZ3DBackendEntrypoint
from gz3d_zarr.sources import download


def test_values_are_those_that_astropy_reads(simulated: Path) -> None:
    path = subject_files(simulated)[5]
    expected = truth(path)
    with xr.open_dataset(path, engine="gz3d") as dataset:
        row = dataset.isel(subject=0)
        np.testing.assert_array_equal(row["image"], expected["image"])
        np.testing.assert_array_equal(row["segmentation"], expected["segmentation"])
        for name in ("ra", "dec", "total_classifications", "nsa_id", "number_galaxy_centers"):
            assert row[name].item() == expected[name], name
        assert row["subject"].item() == expected["manga_id"]
        assert dataset.encoding["source"] == str(path)


def test_it_is_what_open_source_gives(simulated: Path) -> None:
    path = subject_files(simulated)[2]
    source = gz3d_zarr.open_source([path], catalogue="none")
    dataset = xr.open_dataset(path)  # found by its name
    assert list(dataset.data_vars) == list(source.data_vars)
    assert set(dataset.coords) == set(source.coords)
    assert set(dataset.attrs) == set(source.attrs)
    for name in dataset.variables:
        assert dataset[name].dtype == source[name].dtype, name
        assert dataset[name].attrs == source[name].attrs, name
    xr.testing.assert_equal(dataset.load(), source.compute())


def test_it_reads_once_and_only_when_needed(
    simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = download.read_file

    def counting(path: str, *args: object) -> bytes:
        read.append(path)
        return original(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(download, "read_file", counting)
    dataset = xr.open_dataset(subject_files(simulated)[0], engine="gz3d", cache=False)
    assert "subject: 1" in repr(dataset)
    part = dataset["image"].isel(subject=0, y=slice(10, 20), channel=-1)
    assert read == []
    assert part.values.shape == (10, 525)
    assert dataset["ra"].values.shape == (1,)
    assert dataset["segmentation"][0, [3, 1], 5].values.shape == (2, 525)
    assert len(read) == 1
    again = pickle.loads(pickle.dumps(dataset))
    xr.testing.assert_identical(again.load(), dataset.load())


def test_many_files_become_one_dataset(simulated: Path) -> None:
    paths = subject_files(simulated)[:3]
    with xr.open_mfdataset(
        paths, engine="gz3d", combine="nested", concat_dim="subject", data_vars="all",
        coords="minimal", compat="override", join="override",
    ) as dataset:  # fmt: skip
        assert dataset["image"].chunks is not None
        source = gz3d_zarr.open_source(paths, catalogue="none", order="name")
        np.testing.assert_array_equal(dataset["image"], source["image"])


def test_dropped_variables_and_bad_input(simulated: Path, tmp_path: Path) -> None:
    path = subject_files(simulated)[0]
    less = xr.open_dataset(path, engine="gz3d", drop_variables=["image", "ra"])
    assert "image" not in less
    assert "ra" not in less.coords
    assert "dec" not in xr.open_dataset(path, engine="gz3d", drop_variables="dec").coords
    with pytest.raises(FileNotFoundError, match="file .* does not exist"):
        xr.open_dataset(tmp_path / path.name, engine="gz3d")
    with pytest.raises(UsageError, match="is not named like a subject file"):
        xr.open_dataset(tmp_path / "other.fits", engine="gz3d")
    with pytest.raises(UsageError, match="opens paths of subject files, not a bytes"):
        xr.open_dataset(b"CDF", engine="gz3d")
    (tmp_path / path.name).write_bytes(path.read_bytes()[:5000])
    cut = xr.open_dataset(tmp_path / path.name, engine="gz3d")
    with pytest.raises(SubjectError, match=r"corrupt: .*fits\.gz: gzip is cut short"):
        _ = cut["image"].values


def test_guess_by_name(simulated: Path) -> None:
    engine = GZ3DBackendEntrypoint()
    assert engine.guess_can_open(str(subject_files(simulated)[0]))
    assert engine.guess_can_open("https://example.org/gz3d_1-2_19_3.fits.gz")
    for other in ("gz3d_metadata.fits", "a.fits.gz", "gz3d_1-2_19_3.fits.gz.nc", b"CDF", 3):
        assert not engine.guess_can_open(other)


def test_looking_for_an_engine_imports_nothing_heavy() -> None:
    heavy = ("astropy", "matplotlib", "distributed", "dask.array", "zarr", "s3fs", "h5py", "torch")
    code = (
        "import sys, xarray; xarray.backends.list_engines()['gz3d']; "
        f"print(sorted(m for m in {heavy} if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
