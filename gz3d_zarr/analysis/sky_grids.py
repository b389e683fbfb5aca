"""Sky positions of a subject's pixels, and its image and masks reprojected to other grids.

The WCS of image and masks is rebuilt from `ra`, `dec` and `scale` and the constants of the
published files: a gnomonic projection (TAN) at pixel 262.5, counted from 1, with north up, east to
the left and row 0 at the top. Bundles are those of MaNGA (Drory et al. 2015, AJ 149, 77).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.indexes import CoordinateTransform, CoordinateTransformIndex

from gz3d_zarr.analysis.indexing import compute_variables
from gz3d_zarr.analysis.sky_targets import find_grid
from gz3d_zarr.analysis.validation import status_label, validate_dataset
from gz3d_zarr.datamodel.subject import BUNDLE_ARCSEC, CRPIX, SIDE
from gz3d_zarr.datamodel.wcs import grid_wcs, image_wcs
from gz3d_zarr.errors import StoreError, UsageError, error_message, missing_extra_error

if TYPE_CHECKING:
    from astropy.wcs import WCS


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
    _require_own_position(row)
    require_image_pixels(row)
    row = load_variables(row, *WCS_VARIABLES)
    ra, dec, scale = (float(row[name].values) for name in ("ra", "dec", "scale"))
    if not np.isfinite([ra, dec, scale]).all():
        status = status_label(int(row["status"].values)) if "status" in row else "unknown"
        raise UsageError(
            f"subject {name_of(row)} has no WCS: its position or scale is unknown, since the "
            f"status of its file is {status}"
        )
    return image_wcs(ra, dec, scale)


def require_image_pixels(dataset: xr.Dataset) -> None:
    """Check that the pixels are all those of the stored images."""
    if "segmentation" in dataset.variables and "wcs_shape" in dataset["segmentation"].attrs:
        raise UsageError(
            "the pixels of this Dataset are spaxels: use the Dataset before to_spaxels"
        )
    for dim in ("y", "x"):
        if dataset.sizes.get(dim, SIDE) != SIDE:
            raise UsageError(
                f"the Dataset has only {dataset.sizes[dim]} of {SIDE} pixels along {dim}, and it "
                "is unknown which: use the Dataset before pixels were selected"
            )


def _require_own_position(row: xr.Dataset) -> None:
    if any(row[name].ndim for name in ("ra", "dec", "scale") if name in row.variables):
        raise StoreError(
            "ra and dec of this Dataset are no longer those of its subject: use the Dataset "
            "before sky, reproject or to_spaxels"
        )


def pixel_wcs(row: xr.Dataset) -> WCS:
    """WCS of the pixels that one row has now, as `GZ3DAccessor.wcs` documents."""
    index = row.xindexes.get("ra")
    if isinstance(index, CoordinateTransformIndex) and isinstance(index.transform, SkyTransform):
        return index.transform.wcs.deepcopy()
    attrs = row["segmentation"].attrs if "segmentation" in row.variables else {}
    if "wcs_shape" not in attrs:
        return subject_wcs(row)
    try:
        crval: Any = attrs["wcs_crval"]
        if isinstance(crval, str):
            row = load_variables(row, "ra", "dec")
            crval = [float(row[name].values) for name in ("ra", "dec")]
        wcs = grid_wcs(attrs, crval)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            "the attributes of segmentation no longer describe the grid of its spaxels "
            f"({error_message(error)}): use the Dataset that to_spaxels gave"
        ) from error
    if wcs.array_shape != tuple(row.sizes.get(dim) for dim in ("y", "x")):
        raise UsageError(
            f"the Dataset no longer has all {wcs.array_shape[0]} x {wcs.array_shape[1]} spaxels of "
            "its grid, and it is unknown which: use the Dataset before spaxels were selected"
        )
    return wcs


def with_sky(row: xr.Dataset) -> xr.Dataset:
    """One row with the position of each pixel, as `GZ3DAccessor.sky` documents."""
    _require_own_position(row)
    return on_sky(row, pixel_wcs(row))


def on_sky(row: xr.Dataset, wcs: WCS) -> xr.Dataset:
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
    need_planes(row, "image", "segmentation")
    grid = find_grid(target, shape)
    row = load_variables(row, *WCS_VARIABLES, "image", "segmentation")
    source, wcs = subject_wcs(row), grid.wcs
    if grid.is_manga:
        ra, dec = source.wcs.crval.tolist()
        grid.require_position(ra, dec, name_of(row))
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
    return on_sky(row.drop_dims(["y", "x"]).drop_vars("scale").assign(moved), wcs)


def need_planes(row: xr.Dataset, *names: str) -> None:
    """Check that these variables have the dimensions y and x."""
    for name in names:
        lacks = [dim for dim in ("y", "x") if dim not in row[name].dims]
        if lacks:
            raise UsageError(
                f"{name} has no dimension {' or '.join(lacks)}: use the Dataset before a selection "
                "or a sum removed it"
            )


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
    return bundle_corners(fibers, scale)


def bundle_corners(fibers: int, scale: float) -> FloatArray | None:
    """The corners of `bundle_hexagon`, from the size of the bundle and the degrees per pixel."""
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


def name_of(row: xr.Dataset) -> str:
    """Both ids of one row, for messages."""
    return f"{row['subject'].values} ({row['zooniverse_subject_id'].values})"
