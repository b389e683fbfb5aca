"""Masks, fractions and areas: values against the files, laziness at the size of the survey."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from files import subject_files, truth

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.datamodel.variables import LABELS

CLASSES = ("center", "star", "spiral", "bar")


@pytest.fixture
def ds(store: Path) -> xr.Dataset:
    return gz3d_zarr.open_store(store)


@pytest.fixture(scope="module")
def counts(simulated: Path, store: Path) -> np.ndarray:
    """Masks as astropy reads them, in the order of the store."""
    ids = gz3d_zarr.open_store(store)["zooniverse_subject_id"].values
    files = {int(path.name.split("_")[3].split(".")[0]): path for path in subject_files(simulated)}
    return np.stack([truth(files[int(i)])["segmentation"] for i in ids])


def test_masks_are_where_counts_exceed_the_threshold(ds: xr.Dataset, counts: np.ndarray) -> None:
    for i, name in enumerate(CLASSES):
        mask = ds.gz3d.mask(name)
        assert mask.dtype == bool
        assert mask.dims == ("subject", "y", "x")
        assert mask.chunks is not None
        np.testing.assert_array_equal(mask.values, counts[:, i] > 3)
    np.testing.assert_array_equal(ds.gz3d.mask("bar", threshold=0).values, counts[:, 3] > 0)
    np.testing.assert_array_equal(ds.gz3d.mask("bar", 7.5).values, counts[:, 3] > 7.5)
    np.testing.assert_array_equal(ds.gz3d.mask(threshold=12).values, counts > 12)
    assert ds.gz3d.mask("center", 254).sum().values == 0
    one = ds.sel({"class": "bar"}).gz3d.mask("bar")
    np.testing.assert_array_equal(one.values, counts[:, 3] > 3)
    assert ds.gz3d.mask("spiral").attrs["long_name"] == "marked by more than 3 volunteers"


def test_other_is_where_no_class_is(ds: xr.Dataset, counts: np.ndarray) -> None:
    for threshold in (0, 3, 12):
        other = ds.gz3d.other(threshold)
        assert other.dims == ("subject", "y", "x")
        np.testing.assert_array_equal(other.values, (counts <= threshold).all(axis=1))


def test_fractions_of_volunteers_and_of_marks(ds: xr.Dataset, counts: np.ndarray) -> None:
    share = ds.gz3d.fraction("center")
    assert share.dtype == np.float32
    assert share.chunks is not None
    volunteers = ds["classifications"].values
    assert len(np.unique(volunteers)) > 1
    np.testing.assert_allclose(share.values, counts[:, 0] / volunteers[:, :1, None], rtol=1e-6)
    assert counts[:, 0].max() > 15  # of more volunteers than usual
    assert ds.gz3d.fraction().dims == ("subject", "class", "y", "x")
    marks = ds.gz3d.fraction(of="marks").values
    peak = counts.max(axis=(2, 3))
    for i, j in np.ndindex(peak.shape):
        if not volunteers[i, j]:
            assert np.isnan(marks[i, j]).all()
            continue
        expected = counts[i, j] / peak[i, j] if peak[i, j] else 0 * counts[i, j]
        np.testing.assert_allclose(marks[i, j], expected, rtol=1e-6)
    assert set(np.unique(marks.max(axis=(2, 3))[volunteers > 0])) == {0.0, 1.0}
    unasked = volunteers == 0
    assert unasked.any()
    np.testing.assert_array_equal(np.isnan(ds.gz3d.fraction().values).all((2, 3)), unasked)


def test_asked_selects_by_class(ds: xr.Dataset) -> None:
    volunteers = ds["classifications"].values
    for i, name in enumerate(CLASSES):
        chosen = ds.gz3d.asked(name)
        assert chosen["segmentation"].chunks is not None
        ids = ds["zooniverse_subject_id"].values[volunteers[:, i] > 0]
        np.testing.assert_array_equal(chosen["zooniverse_subject_id"], ids)
    rows = ds.isel(subject=np.flatnonzero(volunteers[:, 2] == 0))
    with pytest.raises(UsageError, match="not asked to mark spiral for any of the .* select other"):
        rows.gz3d.asked("spiral")
    with pytest.raises(UsageError, match="no class 'arm'"):
        ds.gz3d.asked("arm")
    with pytest.raises(StoreError, match="lacks classifications"):
        ds.drop_vars("classifications").gz3d.asked("bar")


def test_areas_are_pixels_times_scale(ds: xr.Dataset, counts: np.ndarray) -> None:
    area = ds.gz3d.area("spiral", threshold=3)
    assert area.dims == ("subject",)
    assert area.chunks is not None
    assert area.attrs["units"] == "arcsec2"
    asked = ds["classifications"].values > 0
    expected = np.where(asked, (counts > 3).sum(axis=(2, 3)) * 0.099**2, np.nan)
    np.testing.assert_allclose(area, expected[:, 2], rtol=1e-9)
    zeros = ds.gz3d.area("spiral", unasked=0.0)
    np.testing.assert_allclose(zeros, np.nan_to_num(expected[:, 2]), rtol=1e-9)
    assert area.max().values > 10
    every = ds.gz3d.area(threshold=0)
    assert every.dims == ("subject", "class")
    expected = np.where(asked, (counts > 0).sum(axis=(2, 3)) * 0.099**2, np.nan)
    np.testing.assert_allclose(every, expected, rtol=1e-9)
    row = ds.isel(subject=3)
    np.testing.assert_allclose(row.gz3d.area("center"), ds.gz3d.area("center")[3])


def test_rows_that_are_not_ok_have_no_area(archive: Path, client: Client, tmp_path: Path) -> None:
    subject_files(archive)[4].write_bytes(b"<html>")
    gz3d_zarr.build(archive, tmp_path / "g.zarr", client)
    ds = gz3d_zarr.open_store(tmp_path / "g.zarr")
    bad = ds["status"].values != 0
    assert bad.sum() == 1
    for unasked in (np.nan, 0.0):
        area = ds.gz3d.area("center", unasked=unasked)
        np.testing.assert_array_equal(np.isnan(area.values), bad)
    assert not ds.gz3d.mask("center").values[bad].any()
    other = ds.gz3d.other()
    assert other.dims == ("subject", "y", "x")
    np.testing.assert_array_equal(other.any(("y", "x")), ~bad)
    assert not ds.isel(subject=int(bad.argmax())).gz3d.other().values.any()
    with pytest.raises(StoreError, match="lacks status"):
        ds.drop_vars("status").gz3d.other()


def test_what_is_outside_the_picture_is_not_other_and_spoils_no_fraction(
    ds: xr.Dataset, counts: np.ndarray
) -> None:
    part = ds.isel(subject=slice(3))
    part = part.assign(classifications=part["classifications"] * 0 + 15)
    inside = xr.DataArray(np.arange(525) > 100, dims="y")
    seen = part.assign(segmentation=part["segmentation"].where(inside))
    np.testing.assert_array_equal(seen.gz3d.other(), part.gz3d.other() & inside)
    shown = counts[:3, :, 101:].astype(float)
    most = np.maximum(shown.max(axis=(2, 3), keepdims=True), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        marks = seen.gz3d.fraction(of="marks").values
    np.testing.assert_allclose(marks[:, :, 101:], shown / most, rtol=1e-6)
    assert np.isnan(marks[:, :, :101]).all()
    nothing = part.assign(segmentation=part["segmentation"].where(False))
    assert not nothing.gz3d.other().values.any()


def test_wrong_arguments_are_refused(ds: xr.Dataset) -> None:
    for threshold in (-1, 255, np.nan, "3", True, None):
        for method in (ds.gz3d.other, lambda t: ds.gz3d.mask("bar", t)):
            with pytest.raises(UsageError, match="threshold is .*, expected a number from 0 to 25"):
                method(threshold)
    with pytest.raises(
        UsageError, match="no class 'spirals', expected one of.*did you mean spiral"
    ):
        ds.gz3d.mask("spirals")
    with pytest.raises(UsageError, match="expected volunteers or marks"):
        ds.gz3d.fraction("bar", of="votes")


def test_the_whole_survey_is_a_small_graph() -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was computed")

    number = 29_813
    array = BIG_ARRAYS["segmentation"]
    data = da.zeros((number, *array.shape), dtype=np.uint8, chunks=(64, *array.shape))
    rows: dict[str, Any] = {
        name: ("subject", np.zeros(number)) for name in ("ra", "dec", "scale", "status")
    }
    rows["classifications"] = (("subject", "class"), np.full((number, 4), 15, np.int16))
    survey = xr.Dataset(
        {"segmentation": (array.dims, data), **rows},
        coords={
            "subject": [f"1-{i}" for i in range(number)],
            "zooniverse_subject_id": ("subject", np.arange(number)),
            "class": list(LABELS["class"]),
        },
    ).set_coords(["ra", "dec", "scale"])
    with dask.config.set(scheduler=refuse):
        results: dict[str, Any] = {
            "mask": survey.gz3d.mask("spiral"),
            "mean mask": survey.gz3d.mask("spiral").mean("subject"),
            "fraction": survey.gz3d.fraction(),
            "fraction of marks": survey.gz3d.fraction("bar", of="marks"),
            "other": survey.gz3d.other(),
            "area": survey.gz3d.area("spiral"),
            "areas": survey.gz3d.area(),
        }
    for name, result in results.items():
        assert result.chunks is None or result.chunks[0][0] in (64, 525), name
        assert len(result.__dask_graph__()) < 3500, name
        assert len(dask.optimize(result)[0].__dask_graph__()) < 2500, name
