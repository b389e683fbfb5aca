"""Masks drawn again from the volunteers' marks, by the published rules or by others.

The published rules are those of the pipeline of the catalogue (Masters et al. 2021, section 3): for
spiral and bar, each path that does not cross itself adds 1 to the integer pixel positions that it
encloses; for center and star, each cluster adds its number of marks within its 2-sigma ellipse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.annotations import (
    VolunteerMarks,
    check_mark_class,
    parse_marks,
    read_clusters,
)
from gz3d_zarr.analysis.indexing import as_shard_chunks, with_subject_dim
from gz3d_zarr.analysis.store_groups import find_annotations
from gz3d_zarr.analysis.validation import validate_dataset
from gz3d_zarr.datamodel.annotations import (
    CLASS_MARKS,
    CLUSTER_COLUMNS,
    POINT_CLASSES,
    marks_from_json,
)
from gz3d_zarr.datamodel.subject import SIDE
from gz3d_zarr.errors import UsageError, missing_extra_error

FloatArray = NDArray[np.float64]
SIGMAS = 2.0
"""Semi-axes of a cluster's ellipse, in standard deviations."""
MAX_COUNT = 255
"""Counts are stored as uint8; larger ones are stored as this."""
_ELLIPSE_COLUMNS = [
    list(CLUSTER_COLUMNS).index(name) for name in ("x", "y", "var_x", "var_y", "var_x_y", "count")
]


@dataclass(frozen=True)
class PathRules:
    """How paths are combined, as `GZ3DAccessor.redraw` documents."""

    simple_only: bool = True
    minimum_area: float = 0.0
    weights: Mapping[int, float] | None = None
    once_per_volunteer: bool = False

    def __post_init__(self) -> None:
        area = self.minimum_area
        if isinstance(area, bool) or not isinstance(area, int | float) or not 0 <= area < math.inf:
            raise UsageError(f"minimum_area is {area!r}, expected a number of pixels from 0 on")
        if self.weights is not None and not isinstance(self.weights, Mapping):
            raise UsageError(
                "weights is not a mapping, expected one of classification_id to weight, such as "
                "{88001366: 0.5}"
            )
        for number, weight in (self.weights or {}).items():
            if not isinstance(number, int | np.integer):
                raise UsageError(
                    f"weights has {number!r}, expected a classification_id, which is an int"
                )
            if not isinstance(weight, int | float | np.number) or not 0 <= weight < math.inf:
                raise UsageError(
                    f"the weight of classification {number} is {weight!r}, expected a number from "
                    "0 on"
                )


def redraw(dataset: xr.Dataset, cls: str, rules: PathRules) -> xr.DataArray:
    """Masks of a class, as `GZ3DAccessor.redraw` documents."""
    import dask.array as da

    validate_dataset(dataset, "segmentation")
    check_mark_class(cls)
    rows = with_subject_dim(dataset)
    sizes = as_shard_chunks(rows["segmentation"]).variable.chunksizes["subject"]
    function: Callable[..., NDArray[Any]]
    options: dict[str, Any]
    inputs: da.Array
    if cls in POINT_CLASSES:
        if rules != PathRules():
            raise UsageError(
                f"the mask of {cls} is drawn from clusters, without options: simple_only, "
                "minimum_area, weights and once_per_volunteer are for spiral and bar"
            )
        clusters, numbers = read_clusters(rows, cls)
        tables = np.empty(len(numbers), object)
        tables[:] = np.split(clusters[:, _ELLIPSE_COLUMNS], np.cumsum(numbers)[:-1])
        inputs = da.from_array(tables, chunks=(sizes,))
        function, options = _draw_clusters, {}
    else:
        _require_libraries(rules.simple_only)
        inputs = find_annotations(rows).lazy_marks(sizes)
        function, options = _draw_marks, {"cls": cls, "rules": rules}
    dtype = np.dtype("uint8" if rules.weights is None else "float32")
    data = da.map_blocks(
        function,
        inputs,
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype),
        new_axis=[1, 2],
        chunks=(sizes, (SIDE,), (SIDE,)),
        **options,
    )
    along = {n: c.variable for n, c in rows.coords.items() if c.dims == ("subject",)}
    what = "weighted volunteers" if rules.weights is not None else "volunteers' marks"
    attrs = {"long_name": f"{what} of {cls}, drawn again", "units": "1"}
    return xr.DataArray(data, along, ("subject", "y", "x"), "redraw", attrs)


def _draw_clusters(block: NDArray[Any]) -> NDArray[np.uint8]:
    masks = np.zeros((len(block), SIDE, SIDE), np.uint8)
    for mask, clusters in zip(masks, block, strict=True):
        mask[:] = np.minimum(draw_ellipses(clusters), MAX_COUNT)
    return masks


def draw_ellipses(clusters: FloatArray) -> FloatArray:
    """Sum of the 2-sigma ellipses of clusters.

    Parameters
    ----------
    clusters : ndarray of float64, shape (n, 6)
        Columns x, y, var_x, var_y, var_x_y, count. A cluster of marks on a line, or with a value
        that is not finite, has no ellipse.

    Returns
    -------
    ndarray of float64, shape (525, 525)
    """
    mask = np.zeros((SIDE, SIDE))
    for x0, y0, var_x, var_y, var_x_y, count in clusters.tolist():
        covariance = np.array([[var_x, var_x_y], [var_x_y, var_y]])
        known = np.isfinite([x0, y0, count]).all() and np.isfinite(covariance).all()
        if not known or np.linalg.eigvalsh(covariance)[0] <= 0:
            continue
        (a, b), (_, c) = np.linalg.inv(covariance)
        columns = _span(x0 - SIGMAS * math.sqrt(var_x), x0 + SIGMAS * math.sqrt(var_x))
        lines = _span(y0 - SIGMAS * math.sqrt(var_y), y0 + SIGMAS * math.sqrt(var_y))
        dx = np.arange(columns.start, columns.stop) - x0
        dy = (np.arange(lines.start, lines.stop) - y0)[:, None]
        mask[lines, columns] += count * (a * dx * dx + 2 * b * dx * dy + c * dy * dy <= SIGMAS**2)
    return mask


def _draw_marks(block: NDArray[Any], cls: str, rules: PathRules) -> NDArray[Any]:
    question, column = CLASS_MARKS[cls]
    dtype = np.uint8 if rules.weights is None else np.float32
    masks = np.zeros((len(block), SIDE, SIDE), dtype)
    for mask, text in zip(masks, block, strict=True):
        drawn = draw_paths(parse_marks(marks_from_json(text)[question], column), rules)
        mask[:] = np.minimum(drawn, MAX_COUNT) if rules.weights is None else drawn
    return masks


def draw_paths(volunteers: Sequence[VolunteerMarks], rules: PathRules) -> FloatArray:
    """Sum of what the paths of volunteers enclose, shape (525, 525)."""
    mask = np.zeros((SIDE, SIDE))
    for volunteer in volunteers:
        weight = (rules.weights or {}).get(volunteer.classification_id, 1.0)
        own = np.zeros((SIDE, SIDE)) if rules.once_per_volunteer and volunteer.paths else None
        for path in volunteer.paths:
            if rules.simple_only and not is_simple(path):
                continue
            lines, columns, inside = enclosed_pixels(path)
            if not inside.any() or inside.sum() < rules.minimum_area:
                continue
            if own is None:
                mask[lines, columns] += weight * inside
            else:
                own[lines, columns] = np.maximum(own[lines, columns], inside)
        if own is not None:
            mask += weight * own
    return mask


def is_simple(path: FloatArray) -> bool:
    """Whether a path, which is not closed, does not cross itself."""
    from shapely.geometry import LineString

    return len(path) < 2 or bool(LineString(path).is_simple)


def enclosed_pixels(path: FloatArray) -> tuple[slice, slice, NDArray[np.bool_]]:
    """Pixels whose integer positions are within a closed path: rows, columns, which of them."""
    from matplotlib.path import Path

    lines = _span(path[:, 1].min(), path[:, 1].max())
    columns = _span(path[:, 0].min(), path[:, 0].max())
    y, x = np.mgrid[lines, columns]
    corners = np.concatenate([path, path[:1]])
    inside = Path(corners).contains_points(np.column_stack([x.ravel(), y.ravel()]))
    return lines, columns, inside.reshape(x.shape)


def _span(low: float, high: float) -> slice:
    """Pixels of an image from `low` to `high`; one more at each end, against rounding."""
    start, stop = np.clip([math.floor(low) - 1, math.ceil(high) + 2], 0, SIDE).tolist()
    return slice(start, stop)


def _require_libraries(simple_only: bool) -> None:
    try:
        import matplotlib.path  # noqa: F401 - only to name the extra

        if simple_only:
            import shapely  # noqa: F401
    except ImportError as error:
        raise missing_extra_error("drawing masks again", error, "demo") from error
