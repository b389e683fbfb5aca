"""Positions of pixels, other grids, spaxels and bundles."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from files import opened, subject_files

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.analysis.sky_grids import bundle_hexagon
from gz3d_zarr.analysis.spaxels import SPAXEL_GRIDS
from gz3d_zarr.backends import source as source_backend
from gz3d_zarr.sources.download import read_file


@pytest.fixture
def ds(store: Path) -> xr.Dataset:
    return gz3d_zarr.open_store(store)


def id_of(path: Path) -> int:
    return int(path.name.split("_")[3].split(".")[0])


def assert_same_sky(ours: WCS, theirs: WCS) -> None:
    """Equal to 1e-9 deg at the corners and all over the frame, both ways."""
    x, y = np.meshgrid([0.0, 100.3, 261.5, 524.0], [0.0, 100.3, 261.5, 524.0])
    np.testing.assert_allclose(
        np.array(ours.wcs_pix2world(x, y, 0)), theirs.wcs_pix2world(x, y, 0), rtol=0, atol=1e-9
    )
    sky = theirs.wcs_pix2world(x, y, 0)
    np.testing.assert_allclose(np.array(ours.wcs_world2pix(*sky, 0)), [x, y], rtol=0, atol=1e-6)


def test_wcs_is_that_of_the_header_in_the_reference_files(reference: Path) -> None:
    ds = gz3d_zarr.open_source(reference).isel(subject=slice(None, None, 4))
    files = {id_of(path): path for path in subject_files(reference)}
    for i, subject in enumerate(ds["zooniverse_subject_id"].values.tolist()):
        ours = ds.isel(subject=i).gz3d.wcs()
        with opened(files[subject]) as hdus:
            for hdu in (1, 4):
                assert_same_sky(ours, WCS(hdus[hdu].header))
            assert_same_sky(ours, WCS(hdus[0].header, naxis=2))
        assert ours.array_shape == (525, 525)
        assert ours.wcs.radesys == "ICRS"


def test_wcs_is_that_of_the_header_in_simulated_files(simulated: Path, ds: xr.Dataset) -> None:
    for path in subject_files(simulated):  # across ra 0 too
        assert_same_sky(ds.gz3d.wcs(id_of(path)), WCS(fits.getheader(path, 1)))


def test_a_subject_is_named_by_either_id(ds: xr.Dataset) -> None:
    labels = ds["subject"].values.tolist()
    i = next(i for i, label in enumerate(labels) if labels.count(label) == 1)
    number = int(ds["zooniverse_subject_id"].values[i])
    for wcs in (
        ds.gz3d.wcs(labels[i]),
        ds.gz3d.wcs(number),
        ds.gz3d.wcs(str(number)),
        ds.gz3d.wcs(np.int64(number)),
        ds.isel(subject=i).gz3d.wcs(),
        ds.isel(subject=[i]).gz3d.wcs(),
    ):
        assert wcs.wcs.crval.tolist() == [ds["ra"].values[i], ds["dec"].values[i]]
    repeated = next(label for label in labels if labels.count(label) == 2)
    with pytest.raises(UsageError, match=r"more than one row; give the Zooniverse id.*140000\d\d,"):
        ds.gz3d.wcs(repeated)
    with pytest.raises(UsageError, match="has 18 subjects: name one"):
        ds.gz3d.wcs()
    with pytest.raises(UsageError, match="near matches"):
        ds.gz3d.wcs("1-60000")
    with pytest.raises(UsageError, match="only 200 of 525 pixels along x"):
        ds.isel(x=slice(200)).gz3d.wcs(number)


def test_a_file_is_read_once_for_all_that_is_asked_of_it(
    simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("reproject")
    reads: list[str] = []

    def counting(path: str, *args: object) -> object:
        reads.append(path)
        return read_file(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(source_backend, "read_file", counting)
    row = gz3d_zarr.open_source(simulated).isel(subject=7)
    target = WCS(naxis=2)
    target.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    for function in (
        row.gz3d.wcs,
        row.gz3d.sky,
        row.gz3d.to_spaxels,
        lambda: row.gz3d.reproject(None, target, (5, 5), method="interp"),
        lambda: bundle_hexagon(row),
    ):
        reads.clear()
        function()
        assert len(reads) == 1
    sky = row.gz3d.sky()
    assert {"subject_ra", "subject_dec", "scale"} < set(sky.coords)
    assert "status" in sky.coords


def test_a_file_never_read_has_no_wcs(ds: xr.Dataset) -> None:
    row = ds.isel(subject=3).load()
    row["scale"] = np.nan
    row["status"] = 1
    with pytest.raises(UsageError, match="has no WCS.*status of its file is missing"):
        row.gz3d.wcs()


def test_sky_gives_each_pixel_its_position_lazily(ds: xr.Dataset) -> None:
    subject = int(ds["zooniverse_subject_id"].values[5])
    sky = ds.gz3d.sky(subject)
    assert sky["image"].chunks is not None
    assert sky["ra"].dims == sky["dec"].dims == ("y", "x")
    assert type(sky.xindexes["ra"]).__name__ == "CoordinateTransformIndex"
    y, x = np.mgrid[:525, :525]
    expected = ds.gz3d.wcs(subject).wcs_pix2world(x.ravel(), y.ravel(), 0)
    turn = (sky["ra"].values.ravel() - expected[0] + 180) % 360 - 180
    np.testing.assert_allclose(turn, 0, atol=1e-10)
    np.testing.assert_allclose(sky["dec"].values.ravel(), expected[1], atol=1e-10)
    assert sky["subject_ra"].values == ds["ra"].values[5]
    ra, dec = (sky[name].isel(y=[40, 300], x=[10, 77]).values.diagonal() for name in ("ra", "dec"))
    points = sky["image"].sel(
        ra=xr.Variable("point", ra), dec=xr.Variable("point", dec), method="nearest"
    )
    np.testing.assert_array_equal(points, ds["image"][5].values[[40, 300], [10, 77]])
    part = sky.isel(y=slice(10, 20), x=3)
    np.testing.assert_allclose(part["dec"].values, sky["dec"].values[10:20, 3], atol=1e-12)
    transform = pickle.loads(pickle.dumps(sky.xindexes["ra"])).transform
    assert transform.equals(sky.xindexes["ra"].transform)
    assert not transform.equals(ds.isel(subject=6).gz3d.sky().xindexes["ra"].transform)
    assert_same_sky(sky.gz3d.wcs(), ds.gz3d.wcs(subject))
    with pytest.raises(StoreError, match="use the Dataset before sky"):
        part.gz3d.wcs()
    with pytest.raises(StoreError, match="use the Dataset before sky"):
        sky.gz3d.sky()


@pytest.mark.parametrize(
    ("y", "x"), [(-0.6, 261), (524.6, 261), (261, -0.6), (261, 524.6), (-300, 261), (261, 5e4)]
)
def test_a_point_outside_the_picture_is_refused(ds: xr.Dataset, y: float, x: float) -> None:
    row = ds.isel(subject=5)
    sky = row.gz3d.sky().assign(row=("y", np.arange(525)), column=("x", np.arange(525)))
    wcs = row.gz3d.wcs()

    def pixel(y: float, x: float) -> tuple[int, int]:
        ra, dec = (xr.Variable("point", [v]) for v in wcs.wcs_pix2world(x, y, 0))
        found = sky.sel(ra=ra, dec=dec, method="nearest")
        return found["row"].item(), found["column"].item()

    with pytest.raises(
        UsageError, match="is outside the image.*y from 0 to 524.*the 1 of 1 points"
    ):
        pixel(y, x)
    inside = np.clip([y, x], -0.4, 524.4)
    assert pixel(*inside) == tuple(np.round(inside))


def test_one_point_outside_the_picture_is_named_among_others(ds: xr.Dataset) -> None:
    sky = ds.isel(subject=5).gz3d.sky()
    ra, dec = sky["subject_ra"].item(), sky["subject_dec"].item()
    for other in (-dec, np.nan):  # where the projection does not reach, and nowhere
        points = {
            "ra": xr.DataArray([ra, ra + 180, ra], dims="point"),
            "dec": xr.DataArray([dec, other, dec], dims="point"),
        }
        with pytest.raises(UsageError, match=r"at y=nan, x=nan, expected .*the 1 of 3 points"):
            sky.sel(points, method="nearest")
    with pytest.raises(UsageError, match=r"not points on the sky, in degrees: .* 90"):
        sky.sel(ra=xr.Variable((), ra), dec=xr.Variable((), 101.0), method="nearest")
    with pytest.raises(UsageError, match="outside the image"):
        sky.sel(ra=xr.Variable((), ra), dec=xr.Variable((), dec + 1), method="nearest")


def test_reprojecting_averages_counts(ds: xr.Dataset) -> None:
    pytest.importorskip("reproject")
    row = ds.isel(subject=3)
    wcs = row.gz3d.wcs()
    target = wcs.slice((slice(None, None, 25), slice(None, None, 25)))
    moved = row.gz3d.reproject(None, target, (21, 21))
    counts, picture = row["segmentation"].values, row["image"].values
    np.testing.assert_allclose(
        moved["segmentation"], counts.reshape(4, 21, 25, 21, 25).mean((2, 4)), atol=1e-6
    )
    np.testing.assert_allclose(
        moved["image"], picture.reshape(21, 25, 21, 25, 3).mean((1, 3)), atol=1e-6
    )
    np.testing.assert_allclose(
        [moved["ra"].values[4, 7], moved["dec"].values[4, 7]], target.wcs_pix2world(7, 4, 0),
        atol=1e-9,
    )  # fmt: skip
    assert "wcs_crpix" not in moved["segmentation"].attrs
    same = row.gz3d.reproject(None, wcs.to_header(), (525, 525), method="interp")
    inside = np.s_[:, 1:-1, 1:-1]
    np.testing.assert_allclose(same["segmentation"].values[inside], counts[inside], atol=1e-5)


def grid(row: xr.Dataset, rows: int, columns: int) -> WCS:
    """Half an arcsecond a pixel, about the subject."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix = [columns / 2, rows / 2]
    wcs.wcs.crval = [row["ra"].item(), row["dec"].item()]
    wcs.wcs.cdelt = [-0.5 / 3600, 0.5 / 3600]
    wcs.array_shape = (rows, columns)
    return wcs


def moves(row: xr.Dataset) -> list[xr.Dataset]:
    """The row on other grids, by every way there is."""
    pytest.importorskip("reproject")
    target = grid(row, 20, 30)
    return [row.gz3d.reproject(None, target, method="interp"), row.gz3d.to_spaxels()]


@pytest.mark.parametrize("order", [("x", "y", ...), ("channel", "y", "x", ...), (..., "class")])
def test_other_grids_of_transposed_rows_are_the_same(ds: xr.Dataset, order: tuple[str]) -> None:
    row = ds.isel(subject=3).load()
    for moved, expected in zip(moves(row.transpose(*order)), moves(row), strict=True):
        xr.testing.assert_equal(moved, expected)


def test_other_grids_of_one_class_have_no_dimension_class(ds: xr.Dataset) -> None:
    row = ds.isel(subject=3).load()
    one = row.sel({"class": "spiral"})
    for moved, every in zip(moves(one), moves(row), strict=True):
        assert moved["segmentation"].dims == ("y", "x")
        np.testing.assert_array_equal(moved["segmentation"], every["segmentation"][2])
        assert moved["class"].item() == "spiral"
        np.testing.assert_array_equal(moved.gz3d.mask("spiral"), every.gz3d.mask("spiral"))
    red = row.isel(channel=0)
    np.testing.assert_array_equal(moves(red)[0]["image"], moves(row)[0]["image"][..., 0])


def test_other_grids_leave_out_other_variables_of_pixels(ds: xr.Dataset) -> None:
    row = ds.isel(subject=3).load()
    more = row.assign(arms=row.gz3d.mask("spiral"), rows=("y", np.arange(525)), weight=2.0)
    for moved, expected in zip(
        moves(more.assign_coords(x=np.arange(525))), moves(row), strict=True
    ):
        xr.testing.assert_equal(moved.drop_vars("weight"), expected)
        assert moved["weight"].item() == 2.0
    for method in (
        lambda r: r.gz3d.reproject(None, grid(row, 5, 5)),
        lambda r: r.gz3d.to_spaxels(),
    ):
        with pytest.raises(
            UsageError, match="has no dimension y: use the Dataset before a selection"
        ):
            method(row.isel(y=3))


def test_what_needs_the_scale_says_that_reproject_took_it(ds: xr.Dataset) -> None:
    moved = moves(ds.isel(subject=3))[0]
    assert moved.gz3d.mask("spiral").dims == ("y", "x")
    gz3d = moved.gz3d
    assert_same_sky(gz3d.wcs(), grid(ds.isel(subject=3), 20, 30))
    for method in (gz3d.area, gz3d.to_spaxels, gz3d.plot, gz3d.contact_sheet):
        with pytest.raises(StoreError, match="no scale, since reproject.* before reproject"):
            method()
    with pytest.raises(StoreError, match="lacks scale; keep"):
        ds.drop_vars("scale").gz3d.area()


@pytest.mark.parametrize("axes", [(1, 2, 3), (2, 3, 1), (3, 2, 1), (1, 3, 2)])
def test_a_cube_may_have_its_axes_in_any_order(ds: xr.Dataset, axes: tuple[int, ...]) -> None:
    pytest.importorskip("reproject")
    row = ds.isel(subject=3)
    header = fits.Header({"NAXIS": 3})
    of_axis = (
        {"NAXIS": 30, "CTYPE": "RA---TAN", "CRPIX": 15.0, "CRVAL": row["ra"].item(),
         "CDELT": -0.5 / 3600, "CUNIT": "deg"},
        {"NAXIS": 20, "CTYPE": "DEC--TAN", "CRPIX": 10.0, "CRVAL": row["dec"].item(),
         "CDELT": 0.5 / 3600, "CUNIT": "deg"},
        {"NAXIS": 4, "CTYPE": "WAVE", "CRPIX": 1.0, "CRVAL": 5e-7, "CDELT": 1e-10, "CUNIT": "m"},
    )  # fmt: skip
    for axis, cards in sorted(zip(axes, of_axis, strict=True)):
        header.update({f"{name}{axis}": value for name, value in cards.items()})
    moved = row.gz3d.reproject(None, header, method="interp")
    expected = row.gz3d.reproject(None, grid(row, 20, 30), method="interp")["segmentation"].values
    if axes[0] > axes[1]:
        expected = expected.swapaxes(1, 2)  # declination along x
    np.testing.assert_allclose(moved["segmentation"], expected, atol=1e-9)


def test_reprojecting_to_a_cube_and_to_other_frames(ds: xr.Dataset) -> None:
    pytest.importorskip("reproject")
    row = ds.isel(subject=3)
    header = fits.Header(
        {
            "NAXIS": 3, "NAXIS1": 30, "NAXIS2": 20, "NAXIS3": 4,
            "CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN", "CTYPE3": "WAVE",
            "CRPIX1": 15.0, "CRPIX2": 10.0, "CRPIX3": 1.0, "CRVAL3": 5e-7,
            "CDELT1": -1e-3, "CDELT2": 1e-3, "CDELT3": 1e-10,
            "CUNIT1": "deg", "CUNIT2": "deg", "CUNIT3": "m",
        }
    )  # fmt: skip
    center = SkyCoord(row["ra"].item(), row["dec"].item(), unit="deg").galactic
    header["CRVAL1"], header["CRVAL2"] = center.l.deg, center.b.deg
    moved = row.gz3d.reproject(None, header, method="interp")
    assert moved["segmentation"].shape == (4, 20, 30)
    assert moved["image"].shape == (20, 30, 3)
    middle = SkyCoord(moved["ra"].values[9, 14], moved["dec"].values[9, 14], unit="deg")
    assert middle.separation(center).arcsec < 1e-6
    assert np.isfinite(moved["image"].values[9, 14]).all()
    assert np.isnan(moved["image"].values[0, 0]).all()  # beyond the picture


def test_reprojecting_wrongly(ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ds.isel(subject=3)
    monkeypatch.setitem(sys.modules, "reproject", None)
    with pytest.raises(UsageError, match=r"needs reproject: .* pip install 'gz3d-zarr\[sky\]'"):
        row.gz3d.reproject(None, row.gz3d.wcs())
    monkeypatch.undo()
    pytest.importorskip("reproject")
    bare = WCS(row.gz3d.wcs().to_header())
    with pytest.raises(UsageError, match="give shape"):
        row.gz3d.reproject(None, bare)
    with pytest.raises(UsageError, match="the target is dict, expected an astropy WCS"):
        row.gz3d.reproject(None, {})
    with pytest.raises(UsageError, match="not a WCS of the sky"):
        row.gz3d.reproject(None, WCS(naxis=2), (5, 5))
    with pytest.raises(UsageError, match=r"expected \(rows, columns\)"):
        row.gz3d.reproject(None, bare, (5,))
    with pytest.raises(UsageError, match="method is 'cubic'"):
        row.gz3d.reproject(None, bare, (5, 5), method="cubic")


@pytest.mark.parametrize(("fibers", "side"), SPAXEL_GRIDS.items())
def test_spaxels_are_means_over_their_area(ds: xr.Dataset, fibers: int, side: int) -> None:
    row = ds.isel(subject=6)
    spaxels = row.gz3d.to_spaxels(ifu_size=fibers)
    counts = spaxels["segmentation"]
    assert counts.shape == (4, side, side)
    assert counts.chunks is not None
    # Each pixel cut in 10 x 10, each piece put where the WCS of a MaNGA cube says.
    cube = WCS(naxis=2)
    cube.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    cube.wcs.crpix = [side / 2 + 1] * 2
    cube.wcs.crval = [row["ra"].item(), row["dec"].item()]
    cube.wcs.cdelt = [-0.5 / 3600, 0.5 / 3600]
    fine = (np.arange(5250) + 0.5) / 10 - 0.5
    ra, dec = row.gz3d.wcs().wcs_pix2world(fine, fine, 0)
    x, y = (np.rint(v).astype(int) for v in cube.wcs_world2pix(ra, dec, 0))
    inside = np.outer((y >= 0) & (y < side), (x >= 0) & (x < side))
    index = np.ravel_multi_index(
        np.broadcast_arrays(np.clip(y, 0, side - 1)[:, None], np.clip(x, 0, side - 1)[None]),
        (side, side),
    )[inside]
    pieces = np.bincount(index, minlength=side**2)
    for i in (0, 3):
        values = row["segmentation"].values[i].repeat(10, 0).repeat(10, 1)[inside]
        expected = (np.bincount(index, values, side**2) / pieces).reshape(side, side)
        np.testing.assert_allclose(counts.values[i], expected, atol=0.35)
        assert abs(counts.values[i] - expected).mean() < 0.01
    np.testing.assert_allclose(
        [spaxels["ra"].values[3, 5], spaxels["dec"].values[3, 5]], cube.wcs_pix2world(5, 3, 0),
        atol=1e-9,
    )  # fmt: skip
    assert counts.attrs["wcs_crpix"] == [side / 2 + 1] * 2
    np.testing.assert_array_equal(spaxels.gz3d.mask("bar", 2.5).values, counts.values[3] > 2.5)


def test_spaxels_keep_counts_and_area(ds: xr.Dataset) -> None:
    row = ds.isel(subject=6).load()
    row["segmentation"][:] = 7
    np.testing.assert_allclose(row.gz3d.to_spaxels()["segmentation"], 7, rtol=1e-12)
    row["segmentation"][:] = 0
    row["segmentation"][:, 240:280, 250:300] = 1  # well within: the marked area is kept
    spaxels = row.gz3d.to_spaxels(ifu_size=127)
    np.testing.assert_allclose(
        spaxels["segmentation"].sum(("y", "x")) * 0.25, 40 * 50 * 0.099**2, rtol=1e-9
    )
    with pytest.raises(UsageError, match="no MaNGA bundle of 20 fibers, expected one of 7, 19"):
        row.gz3d.to_spaxels(ifu_size=20)


def test_the_bundle_is_that_drawn_by_the_project_made_larger(reference: Path) -> None:
    """The outline in the picture is the true one times 2 sqrt(3) / 5, as its own code tells."""
    ds = gz3d_zarr.open_source(reference)
    sizes = set()
    for i in range(0, 64, 2):
        row = ds.isel(subject=i)
        picture = row["image"].values.astype(int)
        magenta = np.minimum(picture[..., 0], picture[..., 2]) - picture[..., 1] > 90
        corners = bundle_hexagon(row)
        assert corners is not None
        y, x = np.nonzero(magenta)
        if len(x) < 120:  # drawn too faintly to be distinguished from the galaxy
            continue
        sizes.add(int(row["ifu_design_size"]))
        inner = 261.5 + (corners - 261.5) * 2 * np.sqrt(3) / 5
        edges = np.roll(inner, -1, axis=0) - inner
        lengths = np.hypot(*edges.T)
        away = [
            abs(edge[0] * (y - corner[1]) - edge[1] * (x - corner[0])) / length
            for corner, edge, length in zip(inner, edges, lengths, strict=True)
        ]
        assert np.percentile(np.min(away, axis=0), 95) < 2
        assert lengths[0] == pytest.approx(np.hypot(*inner[0] - 261.5))
    assert len(sizes) >= 3


def test_the_bundle_is_that_drawn_in_simulated_pictures_made_larger(ds: xr.Dataset) -> None:
    row = ds.isel(subject=2)
    picture = row["image"].values.astype(int)
    y, x = np.nonzero(np.minimum(picture[..., 0], picture[..., 2]) - picture[..., 1] > 60)
    corners = bundle_hexagon(row)
    assert corners is not None
    corners = 261.5 + (corners - 261.5) * 2 * np.sqrt(3) / 5
    np.testing.assert_allclose(
        [x.min(), x.max(), y.min(), y.max()],
        [*np.sort(corners[:, 0])[[0, -1]], *np.sort(corners[:, 1])[[0, -1]]],
        atol=2.5,
    )
