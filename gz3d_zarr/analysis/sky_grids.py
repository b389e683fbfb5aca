"""Sky positions of a subject's pixels, and its image and masks on other grids.

The WCS of image and masks is rebuilt from `ra`, `dec` and `scale` and the constants of the
published files: a gnomonic projection (TAN) at pixel 262.5, counted from 1, with north up, east to
the left and row 0 at the top. Bundles and spaxels are those of MaNGA (Drory et al. 2015, AJ 149,
77; Law et al. 2016, AJ 152, 83).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.indexes import CoordinateTransform, CoordinateTransformIndex

from gz3d_zarr.analysis.indexing import as_shard_chunks, compute_variables
from gz3d_zarr.analysis.validation import status_label, validate_dataset
from gz3d_zarr.datamodel.subject import BUNDLE_ARCSEC, CRPIX, SIDE
from gz3d_zarr.datamodel.wcs import image_wcs, tangent_wcs
from gz3d_zarr.errors import StoreError, UsageError, missing_extra_error

if TYPE_CHECKING:
    from astropy.wcs import WCS


SPAXEL_ARCSEC = 0.5
SPAXEL_GRIDS: Mapping[int, int] = {7: 24, 19: 34, 37: 44, 61: 54, 91: 64, 127: 74}
"""Fibers in a bundle, and spaxels along each side of its cubes."""
METHODS = ("exact", "interp", "adaptive")
WCS_VARIABLES = ("ra", "dec", "scale", "status")
"""Variables that `subject_wcs` reads."""
WCS_TOLERANCE = 1e-11
"""Allowed difference between numbers of equal WCSs: pickling rounds them to twelve digits."""
FloatArray = NDArray[np.float64]


class SkyTransform(CoordinateTransform):
    """Transform pixels to right ascension and declination, ICRS, in degrees, with a WCS.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        A celestial WCS with two axes, x and y.
    shape : tuple of int
        Length of ``y`` and ``x``.
    """

    def __init__(self, wcs: WCS, shape: tuple[int, int]) -> None:
        super().__init__(("ra", "dec"), {"y": shape[0], "x": shape[1]}, np.dtype(np.float64))
        self.wcs = wcs

    def forward(self, dim_positions: dict[str, Any]) -> dict[Hashable, Any]:
        """Transform pixel positions ``y, x``, counted from 0, to ``ra, dec``."""
        sky = self.wcs.pixel_to_world(dim_positions["x"], dim_positions["y"]).icrs
        return {"ra": sky.ra.deg, "dec": sky.dec.deg}

    def reverse(self, coord_labels: dict[Hashable, Any]) -> dict[str, Any]:
        """Transform ``ra, dec`` to pixel positions ``y, x``; UsageError outside the image."""
        from astropy.coordinates import SkyCoord

        try:
            sky = SkyCoord(coord_labels["ra"], coord_labels["dec"], unit="deg", frame="icrs")
        except ValueError as error:
            raise UsageError(
                f"ra and dec are not points on the sky, in degrees: {error}"
            ) from error
        x, y = self.wcs.world_to_pixel(sky)
        rows, columns = self.dim_size["y"], self.dim_size["x"]
        # xarray rounds the same way, but counts negative pixels from the opposite edge. Points that
        # the projection does not reach are NaN, which is not inside either.
        row, column = np.round(y), np.round(x)
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        if not inside.all():
            first = [float(np.ravel(v)[np.argmin(inside)]) for v in (sky.ra.deg, sky.dec.deg, y, x)]
            raise UsageError(
                "ra={:.6f}, dec={:.6f} is outside the image, at y={:.6g}, x={:.6g}".format(*first)
                + f", expected y from 0 to {rows - 1} and x from 0 to {columns - 1}; leave out the "
                f"{np.sum(~inside)} of {np.size(inside)} points that are outside"
            )
        return {"y": y, "x": x}

    def equals(
        self,
        other: CoordinateTransform,
        *,
        exclude: frozenset[Hashable] | None = None,  # noqa: ARG002 - y and x go together
    ) -> bool:
        """Whether the other is the same grid on the sky."""
        return (
            isinstance(other, SkyTransform)
            and self.dim_size == other.dim_size
            and bool(self.wcs.wcs.compare(other.wcs.wcs, tolerance=WCS_TOLERANCE))
        )


def require_scale(dataset: xr.Dataset, *names: str) -> None:
    """Check the variables and `scale`; the error says so if `reproject` removed `scale`."""
    if "scale" not in dataset.variables and "subject_ra" in dataset.variables:
        raise StoreError(
            "this Dataset has no scale, since reproject changed the grid of its pixels: use the "
            "Dataset before reproject. For an area on the new grid, count the pixels of the mask "
            "and multiply by the area of one"
        )
    validate_dataset(dataset, "scale", *names)


def load_variables(row: xr.Dataset, *names: str) -> xr.Dataset:
    """Load those of these variables that the row has, together: a file is read once."""
    held = [name for name in names if name in row.variables and name not in row.xindexes]
    values = zip(held, compute_variables(row, *held), strict=True)
    loaded: xr.Dataset = row.assign({n: row.variables[n].copy(data=array) for n, array in values})
    return loaded


def subject_wcs(row: xr.Dataset) -> WCS:
    """WCS of one row, as `GZ3DAccessor.wcs` documents."""
    require_scale(row, "ra", "dec")
    if any(row[name].ndim for name in ("ra", "dec", "scale")):
        raise StoreError(
            "ra and dec of this Dataset are no longer those of its subject: use the Dataset "
            "before sky, reproject or to_spaxels"
        )
    for dim in ("y", "x"):
        if row.sizes.get(dim, SIDE) != SIDE:
            raise UsageError(
                f"the Dataset has only {row.sizes[dim]} of {SIDE} pixels along {dim}, and it is "
                "unknown which: use the Dataset before pixels were selected"
            )
    row = load_variables(row, *WCS_VARIABLES)
    ra, dec, scale = (float(row[name].values) for name in ("ra", "dec", "scale"))
    if not np.isfinite([ra, dec, scale]).all():
        status = status_label(int(row["status"].values)) if "status" in row else "unknown"
        raise UsageError(
            f"subject {_name(row)} has no WCS: its position or scale is unknown, since the status "
            f"of its file is {status}"
        )
    return image_wcs(ra, dec, scale)


def with_sky(row: xr.Dataset) -> xr.Dataset:
    """One row with the position of each pixel, as `GZ3DAccessor.sky` documents."""
    return _on_sky(row, subject_wcs(row))


def _on_sky(row: xr.Dataset, wcs: WCS) -> xr.Dataset:
    """Lazy ``ra, dec`` of each pixel; the subject's own become ``subject_ra, subject_dec``."""
    index = CoordinateTransformIndex(SkyTransform(wcs, wcs.array_shape))
    named = row.rename({n: f"subject_{n}" for n in ("ra", "dec") if n in row.variables})
    placed: xr.Dataset = named.assign_coords(xr.Coordinates.from_xindex(index))
    for name, meaning in (("ra", "right ascension"), ("dec", "declination")):
        placed[name].attrs.update(long_name=f"{meaning} of the pixel, ICRS", units="deg")
    return placed


def reprojected(
    row: xr.Dataset, target: Any, shape: tuple[int, int] | None, method: str
) -> xr.Dataset:
    """One row on another grid, as `GZ3DAccessor.reproject` documents."""
    validate_dataset(row, "image", "segmentation")
    try:
        import reproject
    except ImportError as error:
        raise missing_extra_error("reprojecting", error, "sky") from error
    if method not in METHODS:
        raise UsageError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    _need_planes(row, "image", "segmentation")
    wcs = _target(target, shape)
    row = load_variables(row, *WCS_VARIABLES, "image", "segmentation")
    source = subject_wcs(row)
    function = getattr(reproject, f"reproject_{method}")

    def onto(name: str) -> xr.Variable:
        # Any order of dimensions; without class or channel if one was selected.
        planes = row[name].transpose(..., "y", "x")
        values = function(
            (planes.values.astype(float), source),
            wcs,
            shape_out=wcs.array_shape,
            return_footprint=False,
        )
        return xr.Variable(planes.dims, values, _grid_independent_attrs(planes))

    moved = {"image": onto("image").transpose("y", "x", ...), "segmentation": onto("segmentation")}
    return _on_sky(row.drop_dims(["y", "x"]).drop_vars("scale").assign(moved), wcs)


def _need_planes(row: xr.Dataset, *names: str) -> None:
    for name in names:
        lacks = [dim for dim in ("y", "x") if dim not in row[name].dims]
        if lacks:
            raise UsageError(
                f"{name} has no dimension {' or '.join(lacks)}: use the Dataset before a selection "
                "or a sum removed it"
            )


def _target(target: Any, shape: tuple[int, int] | None) -> WCS:
    """The WCS to reproject to, with its shape."""
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    if not isinstance(target, WCS | Header):
        raise UsageError(
            f"the target is {type(target).__name__}, expected an astropy WCS or FITS header"
        )
    wcs = WCS(target) if isinstance(target, Header) else target
    if not wcs.has_celestial:
        raise UsageError("the target WCS is not a WCS of the sky")
    wcs = wcs.celestial  # a copy, with only the celestial axes of a cube
    shape = wcs.array_shape if shape is None else shape
    if shape is None:
        raise UsageError("the target WCS has no shape: give shape=(rows, columns)")
    if len(shape) != 2 or min(shape) < 1:
        raise UsageError(f"shape is {shape!r}, expected (rows, columns)")
    wcs.array_shape = shape
    return wcs


def spaxels(row: xr.Dataset, ifu_size: int | None) -> xr.Dataset:
    """Counts of one row on MaNGA's grid, as `GZ3DAccessor.to_spaxels` documents."""
    validate_dataset(row, "segmentation", "ifu_design_size")
    _need_planes(row, "segmentation")
    row = load_variables(row, *WCS_VARIABLES, "ifu_design_size")
    if ifu_size is None:
        ifu_size = int(row["ifu_design_size"].values)
    side = SPAXEL_GRIDS.get(ifu_size)
    if side is None:
        raise UsageError(
            f"there is no MaNGA bundle of {ifu_size} fibers, expected one of "
            f"{', '.join(map(str, SPAXEL_GRIDS))}"
        )
    source = subject_wcs(row)
    scale = abs(float(source.wcs.pc[0, 0]))
    ra, dec = source.wcs.crval.tolist()
    step = SPAXEL_ARCSEC / 3600
    wcs = tangent_wcs(ra, dec, (-step, step), side / 2 + 1, (side, side))
    # Both grids are parallel and tangent at the same point, so that the overlaps along x and along
    # y are independent.
    across = _shares(side, step / scale)
    up = _shares(side, -step / scale)
    averaged = xr.apply_ufunc(
        _average,
        as_shard_chunks(row["segmentation"]),
        input_core_dims=[["y", "x"]],
        output_core_dims=[["spaxel_y", "spaxel_x"]],
        kwargs={"up": up, "across": across},
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"spaxel_y": side, "spaxel_x": side}},
    ).rename(spaxel_y="y", spaxel_x="x")
    averaged.attrs = {
        "long_name": "how many volunteers marked each spaxel, averaged over its area",
        "units": "1",
        "comment": "row 0 is at the bottom, as in MaNGA's cubes: north is up, east to the left",
        "wcs_ctype": list(wcs.wcs.ctype),
        "wcs_crpix": wcs.wcs.crpix.tolist(),
        "wcs_cdelt": (np.diag(wcs.wcs.pc) * wcs.wcs.cdelt).tolist(),
        "wcs_crval": wcs.wcs.crval.tolist(),
    }
    rest = row.drop_dims(["y", "x"]).drop_vars("channel", errors="ignore")
    moved = rest.assign(segmentation=averaged).assign_coords(scale=((), step, row["scale"].attrs))
    return _on_sky(moved, wcs)


def _shares(side: int, step: float) -> FloatArray:
    """Fraction of each spaxel that every pixel covers along one axis, shape (side, 525).

    Rows add up to 1. The subject's position is pixel 261.5, counted from 0, and the center of
    spaxel side / 2, as in the cubes. With a negative step, spaxels and pixels have opposite
    directions.
    """
    edges = (np.arange(side + 1) - 0.5 - side / 2) * step + (CRPIX - 1)
    low, high = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
    pixel = np.arange(SIDE)
    overlap = np.minimum(high[:, None], pixel + 0.5) - np.maximum(low[:, None], pixel - 0.5)
    shares: FloatArray = np.clip(overlap, 0, None) / (high - low)[:, None]
    return shares


def _average(counts: NDArray[Any], up: FloatArray, across: FloatArray) -> FloatArray:
    averaged: FloatArray = up @ counts.astype(float) @ across.T
    return averaged


def bundle_hexagon(row: xr.Dataset) -> FloatArray | None:
    """True corners of the bundle on the image, not those that volunteers saw.

    The hexagon has corners to the east and west, and its center is the subject. The outline in the
    image is smaller by the factor 2 sqrt(3) / 5. This is a mistake of the project, which its own
    code (C. Krawczyk, GZ3D_production) and Marvin document.

    Returns
    -------
    ndarray of float64, shape (6, 2), or None
        Positions (x, y) in pixels, counted from 0; None if the size of the bundle is unknown.
    """
    validate_dataset(row, "ifu_design_size", "scale")
    fibers, scale = (value.item() for value in compute_variables(row, "ifu_design_size", "scale"))
    width = BUNDLE_ARCSEC.get(fibers)
    if width is None or not np.isfinite(scale):
        return None
    angles = np.radians(np.arange(0, 360, 60))
    radius = width / 2 / (scale * 3600)
    corners: FloatArray = CRPIX - 1 + radius * np.column_stack([np.cos(angles), np.sin(angles)])
    return corners


def _grid_independent_attrs(array: xr.DataArray) -> dict[str, Any]:
    """Attributes that are valid on any grid."""
    out: Iterable[tuple[Hashable, Any]] = array.attrs.items()
    return {str(k): v for k, v in out if k != "comment" and not str(k).startswith("wcs_")}


def _name(row: xr.Dataset) -> str:
    return f"{row['subject'].values} ({row['zooniverse_subject_id'].values})"
