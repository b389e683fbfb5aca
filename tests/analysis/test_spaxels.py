"""Spaxels: of a sample, on the grid of MaNGA's own files, and as Marvin gives them."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from files import opened, subject_files
from manga_files import cube_hdus, maps_hdus, sky_cards

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.analysis.area_average import average_over_cells
from gz3d_zarr.analysis.spaxels import MARVIN_NORTH, MARVIN_WEST, SPAXEL_GRIDS
from gz3d_zarr.errors import LeftOutWarning

OFFSET = 4 / 3600
"""A bundle is not always centered on its galaxy."""


@pytest.fixture
def ds(store: Path) -> xr.Dataset:
    return gz3d_zarr.open_store(store)


def number_of(path: Path) -> int:
    return int(path.name.split("_")[3].split(".")[0])


def bundle(row: xr.Dataset, side: int = 54) -> tuple[float, float, int]:
    """Position of a bundle some arcseconds from the galaxy, and its spaxels."""
    return row["ra"].item() + OFFSET, row["dec"].item() - OFFSET, side


def assert_same_wcs(ours: WCS, theirs: WCS, side: int) -> None:
    assert ours.array_shape == (side, side)
    x, y = np.meshgrid([-0.5, side / 2, side - 1], [0.0, side - 0.5])
    np.testing.assert_allclose(
        np.array(ours.wcs_pix2world(x, y, 0)), theirs.wcs_pix2world(x, y, 0), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("method", ["exact", "marvin"])
def test_a_sample_has_the_spaxels_of_each_subject(ds: xr.Dataset, method: Any) -> None:
    pytest.importorskip("scipy")
    by_size = ds.gz3d.to_spaxels_by_size(method=method)
    assert list(by_size) == sorted(set(ds["ifu_design_size"].values.tolist()))
    assert sum(sample.sizes["subject"] for sample in by_size.values()) == ds.sizes["subject"]
    for fibers, sample in by_size.items():
        side = SPAXEL_GRIDS[fibers]
        counts = sample["segmentation"]
        assert counts.dims == ("subject", "class", "y", "x")
        assert counts.shape[2:] == (side, side)
        assert counts.chunks is not None
        for i, number in enumerate(sample["zooniverse_subject_id"].values[:2].tolist()):
            one = ds.gz3d.to_spaxels(number, method=method)
            np.testing.assert_allclose(counts[i], one["segmentation"], rtol=0, atol=1e-12)
            theirs = WCS(
                fits.Header(sky_cards(one["subject_ra"].item(), one["subject_dec"].item(), side))
            )
            assert_same_wcs(sample.gz3d.wcs(number), theirs, side)
            assert_same_wcs(sample.isel(subject=i).gz3d.wcs(), theirs, side)
            assert_same_wcs(one.gz3d.wcs(), theirs, side)


def test_a_sample_of_several_bundles_on_one_grid(ds: xr.Dataset) -> None:
    with pytest.raises(
        UsageError, match="have bundles of .*use to_spaxels_by_size, or give ifu_size="
    ):
        ds.gz3d.to_spaxels()
    sample = ds.isel(subject=slice(2, 8)).gz3d.to_spaxels(ifu_size=127)
    assert sample["segmentation"].shape == (6, 4, 74, 74)
    one = ds.isel(subject=5)
    small = SPAXEL_GRIDS[one["ifu_design_size"].item()]
    inside = slice(37 - small // 2, 37 + small // 2)
    np.testing.assert_allclose(
        sample["segmentation"][3, :, inside, inside],
        one.gz3d.to_spaxels()["segmentation"],
        atol=1e-9,
    )
    # It is a Dataset like others.
    area = sample.gz3d.area("spiral", 0.5, unasked=0).values
    expected = (sample["segmentation"].sel({"class": "spiral"}) > 0.5).sum(("y", "x")) * 0.25
    np.testing.assert_allclose(area, expected.values)
    assert sample.gz3d.mask("bar").shape == (6, 74, 74)
    sky = sample.gz3d.sky(int(sample["zooniverse_subject_id"][2]))
    assert sky["ra"].shape == (74, 74)
    assert abs(sky["ra"][37, 37].item() - ds["ra"].values[4]) < 1e-9
    transposed = ds.isel(subject=slice(2, 8)).transpose("x", "class", "y", "subject", ...)
    xr.testing.assert_allclose(
        transposed.gz3d.to_spaxels(ifu_size=127).transpose(*sample.dims),
        sample.transpose(*sample.dims),
    )


def test_subjects_that_cannot_be_used_are_left_out_of_a_sample(ds: xr.Dataset) -> None:
    rows = ds.isel(subject=slice(4)).load()
    rows["status"][1], rows["scale"][1], rows["ifu_design_size"][1] = 1, np.nan, -1
    with pytest.warns(LeftOutWarning, match="1 subject left out of spaxels: 1 missing"):
        sample = rows.gz3d.to_spaxels(ifu_size=37)
    assert sample["subject"].values.tolist() == ds["subject"].values[[0, 2, 3]].tolist()
    with pytest.warns(LeftOutWarning):
        assert -1 not in rows.gz3d.to_spaxels_by_size()
    rows["status"][1] = 0
    with pytest.raises(UsageError, match="no MaNGA bundle of -1 fibers"):
        rows.gz3d.to_spaxels_by_size()


def test_the_wcs_of_spaxels_stays_with_them(ds: xr.Dataset, tmp_path: Path) -> None:
    row = ds.isel(subject=3)
    one, sample = row.gz3d.to_spaxels(), ds.isel(subject=[3, 5]).gz3d.to_spaxels(ifu_size=37)
    wcs = one.gz3d.wcs()
    side = one.sizes["y"]
    assert_same_wcs(pickle.loads(pickle.dumps(one)).gz3d.wcs(), wcs, side)
    for name, spaxels in (("one", one), ("sample", sample)):
        spaxels[["segmentation"]].to_zarr(tmp_path / name, consolidated=False, zarr_format=3)
        with xr.open_zarr(tmp_path / name, consolidated=False) as again:
            first = again if name == "one" else again.isel(subject=0)
            assert_same_wcs(first.gz3d.wcs(), spaxels.isel(subject=0, missing_dims="ignore").gz3d.wcs(), spaxels.sizes["y"])  # fmt: skip
    with pytest.raises(UsageError, match="no longer has all 44 x 44 spaxels.* before spaxels were"):
        sample.isel(subject=0, y=slice(5)).gz3d.wcs()
    del sample["segmentation"].attrs["wcs_cd"]
    with pytest.raises(StoreError, match="no longer describe the grid .*'wcs_cd'"):
        sample.isel(subject=0).gz3d.wcs()


def test_spaxels_are_made_of_pixels_only(ds: xr.Dataset) -> None:
    row = ds.isel(subject=3)
    one = row.gz3d.to_spaxels().drop_vars(["ra", "dec"])
    one = one.rename(subject_ra="ra", subject_dec="dec")
    for spaxels in (ds.gz3d.to_spaxels(ifu_size=37), one):
        with pytest.raises(UsageError, match="are spaxels: use the Dataset before to_spaxels"):
            spaxels.gz3d.to_spaxels(ifu_size=37)
    with pytest.raises(UsageError, match="only 100 of 525 pixels along y"):
        ds.isel(y=slice(100)).gz3d.to_spaxels(ifu_size=37)
    for size in ("x", [7], 20, -1, np.nan):
        with pytest.raises(UsageError, match="there is no MaNGA bundle of .* fibers, expected one"):
            row.gz3d.to_spaxels(ifu_size=size)
    with pytest.raises(UsageError, match="^there is no subject$"):
        ds.isel(subject=slice(0)).gz3d.to_spaxels()
    with pytest.raises(UsageError, match="method is 'spline', expected one of exact, marvin"):
        row.gz3d.to_spaxels(method="spline")


def every_target(ra: float, dec: float, side: int, folder: Path) -> dict[str, Any]:
    maps, cube = maps_hdus(ra, dec, side), cube_hdus(ra, dec, side)
    maps.writeto(folder / "MAPS.fits.gz")
    cube.writeto(folder / "CUBE.fits")
    return {
        "maps": maps,
        "cube": cube,
        "hdu": maps["SPX_MFLUX"],
        "header": cube["FLUX"].header,
        "wcs": WCS(maps["SPX_MFLUX"].header),
        "path": folder / "MAPS.fits.gz",
        "text": str(folder / "CUBE.fits"),
    }


def test_every_kind_of_target_is_the_same_grid(ds: xr.Dataset, tmp_path: Path) -> None:
    reproject = pytest.importorskip("reproject")
    row = ds.isel(subject=6).load()
    ra, dec, side = bundle(row)
    theirs = WCS(fits.Header(sky_cards(ra, dec, side)))
    planes = row["segmentation"].values.astype(float)
    expected = reproject.reproject_exact(
        (planes, row.gz3d.wcs()), theirs, shape_out=(side, side), return_footprint=False
    )
    assert expected.max() > 3
    number = int(row["zooniverse_subject_id"])
    for name, target in every_target(ra, dec, side, tmp_path).items():
        spaxels = ds.gz3d.to_spaxels(number, target=target)
        assert spaxels["segmentation"].chunks is not None
        np.testing.assert_allclose(
            spaxels["segmentation"], expected, rtol=0, atol=1e-8, err_msg=name
        )
        assert_same_wcs(spaxels.gz3d.wcs(), theirs, side)
        assert spaxels["scale"].item() == pytest.approx(0.5 / 3600)
        if name in ("maps", "hdu", "path"):
            moved = row.gz3d.reproject(None, target, method="interp")
            assert moved["segmentation"].shape == (4, side, side)
            assert_same_wcs(moved.gz3d.wcs(), theirs, side)
    bare = WCS(maps_hdus(ra, dec, side)[3].header).celestial
    bare.array_shape = None
    with pytest.raises(UsageError, match="has no shape: give shape"):
        row.gz3d.to_spaxels(target=bare)
    spaxels = row.gz3d.to_spaxels(target=bare, shape=(side, side))
    np.testing.assert_allclose(spaxels["segmentation"], expected, rtol=0, atol=1e-8)


def test_rotated_grids_and_edges_of_the_picture(ds: xr.Dataset) -> None:
    reproject = pytest.importorskip("reproject")
    row = ds.isel(subject=6).load()
    row["segmentation"][:] = np.random.default_rng(1).integers(0, 50, (4, 525, 525))
    ra, dec, _ = bundle(row)
    cards = sky_cards(ra + 20 / 3600, dec, 40)
    turn = np.radians(35)
    cards |= {"CD1_1": -0.5 / 3600 * np.cos(turn), "CD1_2": 0.5 / 3600 * np.sin(turn),
              "CD2_1": 0.5 / 3600 * np.sin(turn), "CD2_2": 0.5 / 3600 * np.cos(turn)}  # fmt: skip
    cards |= {"CRPIX1": 30.0, "CRPIX2": 11.0, "EQUINOX": 2000.0}  # FK5, 0.02 arcsec from ICRS
    target = WCS(fits.Header(cards))
    expected = reproject.reproject_exact(
        (row["segmentation"].values.astype(float), row.gz3d.wcs()), target, shape_out=(60, 70),
        return_footprint=False,
    )  # fmt: skip
    spaxels = row.gz3d.to_spaxels(target=target, shape=(60, 70))
    assert np.isnan(expected).any()
    np.testing.assert_allclose(spaxels["segmentation"], expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(spaxels["segmentation"].isnull(), np.isnan(expected))
    theirs = target.wcs_pix2world(12, 50, 0)
    np.testing.assert_allclose(spaxels.gz3d.wcs().wcs_pix2world(12, 50, 0), theirs, atol=1e-10)
    assert spaxels["segmentation"].attrs["wcs_radesys"] == spaxels.gz3d.wcs().wcs.radesys == "FK5"


def test_averages_over_cells_of_any_shape() -> None:
    planes = np.arange(2 * 6 * 5, dtype=float).reshape(2, 6, 5)
    corners = np.stack(np.meshgrid([-0.5, 1.5, 4.5, 9.5], [-0.5, 2.5, 5.5]), -1)
    averages = average_over_cells(planes, corners)
    np.testing.assert_allclose(averages[:, 0, 0], planes[:, :3, :2].mean((1, 2)))
    np.testing.assert_allclose(averages[:, 1, 1], planes[:, 3:, 2:].mean((1, 2)))
    assert np.isnan(averages[:, :, 2]).all()
    half = average_over_cells(
        planes, np.array([[[0.0, 0.0], [2.0, 2.0]], [[0.0, 2.0], [2.0, 2.0]]])
    )
    # A triangle, and eighths of its area in each pixel (y, x).
    share = {(0, 0): 1, (1, 0): 4, (1, 1): 4, (2, 0): 2, (2, 1): 4, (2, 2): 1}
    shared = sum(n * planes[:, y, x] for (y, x), n in share.items()) / sum(share.values())
    np.testing.assert_allclose(half[:, 0, 0], shared)


def test_a_file_of_another_galaxy_is_refused_by_position(ds: xr.Dataset, tmp_path: Path) -> None:
    pytest.importorskip("reproject")
    row, other = ds.isel(subject=6), ds.isel(subject=9)
    ra, dec, side = bundle(other)
    maps_hdus(ra, dec, side).writeto(tmp_path / "manga-8623-12701-MAPS.fits")
    path = tmp_path / "manga-8623-12701-MAPS.fits"
    both = (
        f"the file {path} is of another galaxy: its center is ra={int(ra)}[0-9.]+, dec={int(dec)}[0-9.]+, and "
        f"subject {row['subject'].item()} .* is at ra={row['ra'].item():.5f}, "
        f"dec={row['dec'].item():.5f}, [0-9.]+ deg from it$"
    )
    for method in (
        lambda: row.gz3d.to_spaxels(target=path),
        lambda: row.gz3d.to_spaxels(target=path, method="marvin"),
        lambda: row.gz3d.reproject(None, path),
    ):
        with pytest.raises(UsageError, match=both):
            method()
    with pytest.raises(UsageError, match="the target is of another galaxy: its center"):
        row.gz3d.reproject(None, maps_hdus(ra, dec, side))
    near = maps_hdus(row["ra"].item(), row["dec"].item() + 20 / 3600, side)[3]
    with pytest.raises(
        UsageError, match="does not have the subject on its grid.*20.* arcsec from it"
    ):
        row.gz3d.to_spaxels(target=near)
    row.gz3d.reproject(None, near, method="interp")  # any part of the picture may be wanted


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:200])
    return path


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "number": (lambda p: 3, "the target is int, expected an astropy WCS, a FITS header, HDU"),
    "array": (lambda p: np.zeros((3, 3)), "the target is ndarray, expected"),
    "url": (lambda p: "https://127.0.0.1/x.fits", "is a URL, expected a local file"),
    "missing": (lambda p: p / "none.fits", "none.fits cannot be read as FITS: No such file"),
    "folder": (lambda p: p, "cannot be read as FITS: Is a directory"),
    "pipe": (lambda p: os.mkfifo(p / "pipe") or p / "pipe", "is a pipe, a socket or a device"),
    "text": (
        lambda p: (p / "x.fits").write_text("hello" * 99) and p / "x.fits",
        "cannot be read as FITS: ",
    ),
    "empty": (
        lambda p: (p / "x.fits").write_bytes(b"") or p / "x.fits",
        "cannot be read as FITS: ",
    ),
    "table": (lambda p: maps_hdus(1, 1, 4)[1], "the target is not a WCS of the sky"),
    "no image": (lambda p: maps_hdus(1, 1, 4)[:2], "the target has no image with a WCS of the sky"),
    "no sky": (lambda p: fits.ImageHDU(np.zeros((3, 3))), "not a WCS of the sky"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_targets(ds: xr.Dataset, tmp_path: Path, kind: str) -> None:
    make, message = BAD[kind]
    message = message.replace("the target is not", "the target is not|the WCS of the target is not")
    with pytest.raises(UsageError, match=message) as caught:
        ds.isel(subject=3).gz3d.to_spaxels(target=make(tmp_path))
    assert "\n" not in str(caught.value)


def test_targets_that_are_no_grid_of_spaxels(ds: xr.Dataset, tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    row = ds.isel(subject=3)
    ra, dec, side = bundle(row)
    maps_hdus(ra, dec, side).writeto(tmp_path / "MAPS.fits.gz")
    with pytest.raises(UsageError, match="MAPS.fits.gz cannot be read as FITS"):
        row.gz3d.to_spaxels(target=cut(tmp_path / "MAPS.fits.gz"))
    header = maps_hdus(ra, dec, side)[3].header
    sine = header.copy()
    sine["CTYPE1"], sine["CTYPE2"] = "RA---ZEA", "DEC--ZEA"
    sine["PV2_1"] = 0.0
    sine["LONPOLE"] = 170.0
    with pytest.raises(
        UsageError, match="is not a plain projection .*RA---ZEA.*: use reproject for it"
    ):
        row.gz3d.to_spaxels(target=sine)
    long = header.copy()
    long["NAXIS1"] = side + 2
    with pytest.raises(UsageError, match="54 x 56 spaxels, but Marvin's are squares"):
        row.gz3d.to_spaxels(target=long, method="marvin")
    for shape in ((3,), (0, 4), "ab", (1, 2, 3)):
        with pytest.raises(UsageError, match=r"expected \(rows, columns\)"):
            row.gz3d.to_spaxels(target=header, shape=shape)
    with pytest.raises(UsageError, match="give ifu_size or a target, not both"):
        row.gz3d.to_spaxels(ifu_size=37, target=header)
    with pytest.raises(UsageError, match="a target is the grid of one subject: name the subject"):
        ds.gz3d.to_spaxels(target=header)


def sample_as_marvin(mask: np.ndarray, side: int, center: tuple[float, float]) -> np.ndarray:
    """Marvin's masks of spaxels, written anew after what its documentation and results say.

    Spaxels of 0.5 arcsec, in pixels of 0.099 arcsec, lie symmetrically about the position of the
    bundle; its pixel, counted from 1, is used as if counted from 0. A cubic spline through all
    pixels is evaluated there, rows are turned upside down, and what is below a half becomes 0.
    """
    from scipy.interpolate import RectBivariateSpline

    pixels = [np.arange(length, dtype=float) for length in mask.shape]
    steps = (np.arange(side) - (side - 1) / 2) * (0.5 / 0.099)
    values = RectBivariateSpline(*pixels, mask)(center[1] + steps, center[0] + steps)[::-1]
    return np.where(values < 0.5, 0, values)


def test_marvins_spaxels(ds: xr.Dataset) -> None:
    pytest.importorskip("scipy")
    for i in (2, 6):
        row = ds.isel(subject=i).load()
        side = SPAXEL_GRIDS[row["ifu_design_size"].item()]
        center = row.gz3d.wcs().wcs_world2pix(row["ra"].item(), row["dec"].item(), 1)
        np.testing.assert_allclose(center, 262.5, atol=1e-8)  # what rounding leaves of it
        center = (262.5, 262.5)
        spaxels = row.gz3d.to_spaxels(method="marvin")
        for ours, mask in zip(
            spaxels["segmentation"].values, row["segmentation"].values, strict=True
        ):
            theirs = sample_as_marvin(mask.astype(float), side, center)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
        comment = spaxels["segmentation"].attrs["comment"]
        assert "0.35 arcsec west and 0.15 arcsec north" in comment
        # Of a target, Marvin uses only the size.
        target = maps_hdus(*bundle(row, side))
        moved = row.gz3d.to_spaxels(target=target, method="marvin")
        np.testing.assert_array_equal(moved["segmentation"], spaxels["segmentation"])
        assert_same_wcs(moved.gz3d.wcs(), WCS(target[3].header), side)


def test_marvins_offset_is_what_we_say_it_is(ds: xr.Dataset) -> None:
    """A slope has the value of the point where it is sampled."""
    pytest.importorskip("scipy")
    row = ds.isel(subject=6).load().assign_coords(scale=0.099 / 3600)
    y, x = np.mgrid[:525, :525] / 2.1
    west, north = row.copy(deep=True), row.copy(deep=True)
    west["segmentation"] = row["segmentation"].dims, np.stack([x] * 4)
    north["segmentation"] = row["segmentation"].dims, np.stack([250 - y] * 4)
    for slope, expected in ((west, MARVIN_WEST), (north, MARVIN_NORTH)):
        shift = (
            slope.gz3d.to_spaxels(method="marvin")["segmentation"]
            - slope.gz3d.to_spaxels()["segmentation"]
        ) * 2.1 * 0.099  # fmt: skip
        np.testing.assert_allclose(shift, expected, atol=1e-3)  # pixels are steps
    assert (round(MARVIN_WEST, 2), round(MARVIN_NORTH, 2)) == (0.35, 0.15)


def test_marvins_method_needs_scipy(ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.interpolate", None)
    with pytest.raises(UsageError, match=r"method='marvin' needs scipy: .*'gz3d-zarr\[sky\]'"):
        ds.isel(subject=3).gz3d.to_spaxels(method="marvin")


def test_spaxels_of_the_reference_files(reference: Path) -> None:
    """Against the package reproject, and against Marvin with the WCS of the files."""
    reproject = pytest.importorskip("reproject")
    for path in subject_files(reference)[2:3]:
        row = gz3d_zarr.open_source(path).isel(subject=0).load()
        spaxels = row.gz3d.to_spaxels()
        side = spaxels.sizes["y"]
        with opened(path) as hdus:
            wcs, masks = WCS(hdus[1].header), np.stack([hdu.data for hdu in hdus[1:5]])
            position = [hdus[5].data[name][0] for name in ("ra", "dec")]
        spiral = reproject.reproject_exact(
            (masks[2], wcs), spaxels.gz3d.wcs(), shape_out=(side, side), return_footprint=False
        )
        assert spiral.max() > 3
        np.testing.assert_allclose(spaxels["segmentation"][2], spiral, rtol=0, atol=2e-6)
        center = wcs.wcs_world2pix(*position, 1)
        ours = row.gz3d.to_spaxels(method="marvin")["segmentation"].values
        theirs = np.stack([sample_as_marvin(mask, side, center) for mask in masks])
        # The header's position has twelve digits, of which the WCS makes pixels.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6)
