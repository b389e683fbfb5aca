"""Counts on the grid of MaNGA's cubes and maps, for one subject or many.

A spaxel is 0.5 arcsec wide, and the grid of a bundle of fibers is centered on it (Law et al. 2016,
AJ 152, 83): its position is the center of spaxel n/2, counted from 0, that is CRPIX = n/2 + 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.area_average import average_over_cells, average_over_rectangles
from gz3d_zarr.analysis.indexing import (
    as_shard_chunks,
    chunk_like,
    compute_variables,
    isel_subjects,
    with_subject_dim,
)
from gz3d_zarr.analysis.sky_grids import (
    WCS_VARIABLES,
    load_variables,
    name_of,
    need_planes,
    on_sky,
    require_image_pixels,
    require_scale,
    subject_wcs,
)
from gz3d_zarr.analysis.sky_targets import Grid, find_grid, is_plain
from gz3d_zarr.analysis.validation import keep_ok, validate_dataset
from gz3d_zarr.datamodel.subject import CRPIX, SIDE
from gz3d_zarr.datamodel.wcs import grid_attrs, grid_wcs, tangent_wcs
from gz3d_zarr.errors import UsageError, error_message, missing_extra_error, shorten

if TYPE_CHECKING:
    from astropy.wcs import WCS

FloatArray = NDArray[np.float64]
SPAXEL_ARCSEC = 0.5
SPAXEL_GRIDS: Mapping[int, int] = {7: 24, 19: 34, 37: 44, 61: 54, 91: 64, 127: 74}
"""Fibers in a bundle, and spaxels along each side of its cubes."""
METHODS = ("exact", "marvin")
MARVIN_PIXEL_ARCSEC = 0.099
"""Width of a pixel for Marvin, in every file."""
MARVIN_LEAST = 0.5
"""Marvin sets lower values to 0."""
MARVIN_WEST, MARVIN_NORTH = (
    SPAXEL_ARCSEC / 2 + MARVIN_PIXEL_ARCSEC,
    SPAXEL_ARCSEC / 2 - MARVIN_PIXEL_ARCSEC,
)
"""From the center of a spaxel to where Marvin samples the mask, in arcsec: 0.349 and 0.151."""


def spaxel_wcs(ra: float, dec: float, side: int) -> WCS:
    """WCS of a cube of MaNGA, and of its maps.

    Parameters
    ----------
    ra, dec : float
        Position of the bundle in degrees, ICRS: IFURA and IFUDEC of DRPall.
    side : int
        Spaxels along each side.
    """
    step = SPAXEL_ARCSEC / 3600
    return tangent_wcs(ra, dec, (-step, step), side / 2 + 1, (side, side))


def check_method(method: str) -> None:
    """UsageError if there is no such method, or what it needs is not installed."""
    if method not in METHODS:
        raise UsageError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    if method == "marvin":
        load_splines()


def grid_side(fibers: Any) -> int:
    """Spaxels along each side of the cubes of a bundle; UsageError if there is no such bundle."""
    is_number = isinstance(fibers, int | float | np.integer | np.floating)
    side = SPAXEL_GRIDS.get(fibers) if is_number else None
    if side is None:
        raise UsageError(
            f"there is no MaNGA bundle of {shorten(fibers)} fibers, expected one of "
            f"{', '.join(map(str, SPAXEL_GRIDS))}"
        )
    return side


def spaxels(
    dataset: xr.Dataset,
    ifu_size: int | None,
    target: Any,
    shape: tuple[int, int] | None,
    method: str,
) -> xr.Dataset:
    """Counts of one row, or of many, as `GZ3DAccessor.to_spaxels` documents."""
    check_method(method)
    if target is not None and ifu_size is not None:
        raise UsageError("give ifu_size or a target, not both: each has a grid of its own")
    if "subject" not in dataset.dims:
        return _of_one(dataset, ifu_size, target, shape, method)
    if target is not None:
        raise UsageError(
            "a target is the grid of one subject: name the subject, or choose it by "
            "isel(subject=0); gz3d-zarr export spaxels writes the grids of a survey table"
        )
    return _of_many(dataset, ifu_size, method)


def spaxels_by_size(dataset: xr.Dataset, method: str) -> dict[int, xr.Dataset]:
    """Counts by size of the bundle, as `GZ3DAccessor.to_spaxels_by_size` documents."""
    require_scale(dataset, "ifu_design_size", "status")
    rows = keep_ok(with_subject_dim(dataset), "spaxels")
    (fibers,) = compute_variables(rows, "ifu_design_size")
    return {
        int(size): spaxels(
            isel_subjects(rows, np.flatnonzero(fibers == size)), int(size), None, None, method
        )
        for size in np.unique(fibers)
        if grid_side(size)
    }


def _of_one(
    row: xr.Dataset,
    ifu_size: int | None,
    target: Any,
    shape: tuple[int, int] | None,
    method: str,
) -> xr.Dataset:
    validate_dataset(row, "segmentation", "ifu_design_size")
    need_planes(row, "segmentation")
    row = load_variables(row, *WCS_VARIABLES, "ifu_design_size")
    source = subject_wcs(row)
    ra, dec = source.wcs.crval.tolist()
    counts = as_shard_chunks(row["segmentation"])
    if target is None:
        fibers = row["ifu_design_size"].values.item() if ifu_size is None else ifu_size
        wcs = spaxel_wcs(ra, dec, grid_side(fibers))
    else:
        grid = find_grid(target, shape)
        grid.require_position(ra, dec, name_of(row))
        wcs = _plain_wcs(grid)
    if target is None or method == "marvin":
        averaged = _on_bundle(counts, float(row["scale"].values), _side_of(wcs), method)
    else:
        options = {"corners": find_corners(wcs, source)}
        averaged = _apply(_average, counts, shape=wcs.array_shape, options=options)
    averaged.attrs = {**_describe(method), **grid_attrs(wcs)}
    step = float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))))
    moved = _replace_pixels(row, averaged)
    return on_sky(moved.assign_coords(scale=((), step, row["scale"].attrs)), wcs)


def _of_many(dataset: xr.Dataset, ifu_size: int | None, method: str) -> xr.Dataset:
    require_scale(dataset, "segmentation", "ifu_design_size", "ra", "dec", "status")
    need_planes(dataset, "segmentation")
    require_image_pixels(dataset)
    rows = keep_ok(dataset, "spaxels")
    fibers, scale = compute_variables(rows, "ifu_design_size", "scale")
    side = grid_side(_common_size(fibers) if ifu_size is None else ifu_size)
    counts = as_shard_chunks(rows["segmentation"])
    averaged = _on_bundle(counts, xr.DataArray(scale, dims="subject"), side, method)
    wcs = spaxel_wcs(0.0, 0.0, side)
    averaged.attrs = {**_describe(method), **grid_attrs(wcs), "wcs_crval": "ra dec"}
    step = np.full(len(scale), SPAXEL_ARCSEC / 3600)
    moved = _replace_pixels(rows, averaged)
    return moved.assign_coords(scale=("subject", step, rows["scale"].attrs))


def _common_size(fibers: NDArray[Any]) -> int:
    sizes = np.unique(fibers).tolist()
    if not sizes:
        raise UsageError("there is no subject")
    if len(sizes) > 1:
        raise UsageError(
            f"the subjects have bundles of {', '.join(f'{size:g}' for size in sizes)} fibers, each "
            f"with a grid of its own: use to_spaxels_by_size, or give ifu_size={max(sizes):g} for "
            "one grid that is large enough for all"
        )
    size: int = sizes[0]
    return size


def _plain_wcs(grid: Grid) -> WCS:
    """The WCS of a target, as its attributes alone describe it."""
    try:
        attrs = grid_attrs(grid.wcs)
        wcs = grid_wcs(attrs, attrs["wcs_crval"])
        if is_plain(grid.wcs, wcs):
            return wcs
        found = ", ".join(attrs["wcs_ctype"])
    except (TypeError, ValueError) as error:
        found = error_message(error)
    raise UsageError(
        f"the WCS of {grid.name} is not a plain projection of right ascension and declination, as "
        f"that of a MaNGA cube is ({found}): use reproject for it"
    )


def _side_of(wcs: WCS) -> int:
    rows, columns = wcs.array_shape
    if rows != columns:
        raise UsageError(f"the grid has {rows} x {columns} spaxels, but Marvin's are squares")
    return int(rows)


def _replace_pixels(rows: xr.Dataset, averaged: xr.DataArray) -> xr.Dataset:
    rest = rows.drop_dims(["y", "x"]).drop_vars("channel", errors="ignore")
    moved: xr.Dataset = rest.assign(segmentation=averaged)
    return moved


def _describe(method: str) -> dict[str, Any]:
    row_order = "row 0 is at the bottom, as in MaNGA's cubes: north is up, east to the left"
    if method == "exact":
        return {
            "long_name": "how many volunteers marked each spaxel, averaged over its area",
            "units": "1",
            "comment": row_order,
        }
    return {
        "long_name": "how many volunteers marked each spaxel, as Marvin's galaxyzoo3d samples it",
        "units": "1",
        "comment": f"{row_order}; as in Marvin, the mask is sampled {MARVIN_WEST:.2f} arcsec west "
        f"and {MARVIN_NORTH:.2f} arcsec north of the center of each spaxel",
    }


def _apply(
    function: Any,
    counts: xr.DataArray,
    *more: Any,
    shape: tuple[int, int],
    options: Mapping[str, Any],
) -> xr.DataArray:
    """Apply a function of whole planes that gives planes of another shape, float64."""
    moved: xr.DataArray = xr.apply_ufunc(
        function,
        counts,
        *more,
        input_core_dims=[["y", "x"], *([] for _ in more)],
        output_core_dims=[["spaxel_y", "spaxel_x"]],
        kwargs=options,
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={
            "output_sizes": {"spaxel_y": shape[0], "spaxel_x": shape[1]},
            "allow_rechunk": True,
        },
    ).rename(spaxel_y="y", spaxel_x="x")
    return moved


def _on_bundle(
    counts: xr.DataArray, scale: xr.DataArray | float, side: int, method: str
) -> xr.DataArray:
    """Counts on the grid of a bundle whose position is that of the subject."""
    if isinstance(scale, xr.DataArray):
        scale = chunk_like(counts, scale)
    options = {"side": side, "method": method}
    return _apply(resample, counts, scale, shape=(side, side), options=options)


def resample(counts: NDArray[Any], scale: Any, side: int, method: str) -> FloatArray:
    """Counts on the grid of a bundle about the subject.

    Both grids are parallel and tangent at the same point. The subject's position is pixel 261.5,
    counted from 0, and the center of spaxel side / 2, as in the cubes.

    Parameters
    ----------
    counts : ndarray, shape (..., 525, 525)
    scale : array_like, shape (...) or broadcast to it
        Degrees per pixel.
    side : int
        Spaxels along each side of the grid.
    method : {'exact', 'marvin'}

    Returns
    -------
    ndarray of float64, shape (..., side, side)
    """
    scales = np.broadcast_to(scale, counts.shape[:-2])
    spaxels = np.zeros((*counts.shape[:-2], side, side))
    across = _spline_weights(side) if method == "marvin" else None
    for index in np.ndindex(scales.shape):
        plane = counts[index]
        y, x = (np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0))
        if not len(y):
            continue
        # A box about what is marked, which is often a small part of the image.
        rows, columns = slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)
        box = plane[rows, columns]
        if across is not None:
            box = box.astype(np.float64)
            spaxels[index] = across[::-1, rows] @ box @ across[:, columns].T
            continue
        edges = (np.arange(side + 1) - (side + 1) / 2) * SPAXEL_ARCSEC / 3600 / scales[index]
        up, right = CRPIX - 1 - edges - y[0], CRPIX - 1 + edges - x[0]
        spaxels[index] = average_over_rectangles(box, up, right)
    if method == "marvin":
        spaxels[spaxels < MARVIN_LEAST] = 0
    return spaxels


def _spline_weights(side: int) -> FloatArray:
    """Value at each spaxel of the cubic spline through a line of pixels, shape (side, 525).

    As in Marvin, the spaxels are centered on pixel 262.5, counted from 0. A spline is linear in
    the values that it goes through.
    """
    steps = np.arange(side) - (side - 1) / 2
    points = CRPIX + steps * SPAXEL_ARCSEC / MARVIN_PIXEL_ARCSEC
    make_interp_spline = load_splines()
    weights: FloatArray = make_interp_spline(np.arange(SIDE), np.eye(SIDE), k=3)(points)
    weights[abs(weights) < 1e-18] = 0  # the smallest numbers are slow to multiply
    return weights


def load_splines() -> Any:
    """Import scipy's function; UsageError if scipy is not installed."""
    try:
        from scipy.interpolate import make_interp_spline
    except ImportError as error:
        raise missing_extra_error("method='marvin'", error, "sky") from error
    return make_interp_spline


def find_corners(target: WCS, source: WCS) -> FloatArray:
    """Corners of the spaxels of a grid in pixels of the image, for `average_over_cells`."""
    from astropy.wcs.utils import pixel_to_pixel

    rows, columns = target.array_shape
    y, x = np.mgrid[: rows + 1, : columns + 1] - 0.5
    corners: FloatArray = np.stack(pixel_to_pixel(target, source, x, y), axis=-1)
    return corners


def _average(counts: NDArray[Any], corners: FloatArray) -> FloatArray:
    rows, columns = (length - 1 for length in corners.shape[:2])
    planes = counts.reshape(-1, *counts.shape[-2:])
    return average_over_cells(planes, corners).reshape(*counts.shape[:-2], rows, columns)
