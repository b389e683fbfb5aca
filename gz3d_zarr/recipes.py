"""Analyses of the whole sample with dask, each in one pass over the shards.

They run on the current scheduler of dask: a `distributed.Client` if there is one, else threads. A
task reads one shard and returns a small sum, and the full survey (29,813 subjects in 466 shards) is
a graph of fewer than 3,000 tasks. Masks of `open_store`, also those of selected subjects, are
decoded a few subjects at a time, which needs little memory and takes about as long as decompressing
them; masks that were changed, or opened in another way, need the memory of a shard. Subjects whose
status is not ok are left out, and so are, for each class, those of which nobody was asked about it;
a `LeftOutWarning` counts them.

A recipe also accepts a selection, such as ``ds.gz3d.votes(spiral=0.2)``; of other Datasets, dask
then first combines rows of adjacent shards, in fewer than 4,500 tasks. Open the store with
`open_store`, whose dask chunks are whole shards. With ``xr.open_zarr`` the chunks are single
subjects: more than 100,000 tasks, and a `dask.array.PerformanceWarning`. `open_source` also works;
it reads each file twice, for its status and for its masks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from gz3d_zarr.analysis import masks
from gz3d_zarr.analysis.indexing import (
    as_shard_chunks,
    chunk_values,
    compute_variables,
    with_subject_dim,
)
from gz3d_zarr.analysis.reductions import add_annuli, add_fractions, add_masks
from gz3d_zarr.analysis.validation import find_ok, validate_dataset
from gz3d_zarr.datamodel.subject import SIDE, THRESHOLD
from gz3d_zarr.errors import LeftOutWarning, UsageError, plural

FloatArray = NDArray[np.float64]
STEP = 0.5
"""Default width of an annulus in arcsec, one spaxel of MaNGA."""
MAX_RADIUS = 26.0
"""Default outer radius of profiles in arcsec, the distance to the edges of an image."""
MAX_BINS = 1000
_MEANS: Mapping[str, str] = {
    "subjects": "fraction of subjects marked by more than {:g} volunteers",
    "counts": "mean count of volunteers",
    "fractions": "mean fraction of the volunteers who were asked",
}
"""What `mean_mask` may average, and the name of the result."""


def mean_mask(
    dataset: xr.Dataset,
    cls: str | None = "spiral",
    *,
    of: Literal["subjects", "counts", "fractions"] = "subjects",
    threshold: float = THRESHOLD,
) -> xr.DataArray:
    """Average the masks of a sample, pixel by pixel, with north up as in the images.

    Parameters
    ----------
    dataset : xarray.Dataset
        From `open_store`, or a selection from it. Volunteers were asked for spiral arms, or a bar,
        only if at least a fifth of the votes were for one; ``ds.gz3d.asked("spiral")`` selects
        those subjects.
    cls : {'center', 'star', 'spiral', 'bar'}, optional
        None: all, along the dimension ``class``.
    of : {'subjects', 'counts', 'fractions'}
        'subjects': the fraction of subjects where more than `threshold` volunteers marked the
        pixel. 'counts': the mean of the counts. 'fractions': the mean of ``ds.gz3d.fraction``,
        many times faster than by that.
    threshold : float
        0 to 254, as for ``ds.gz3d.mask``; used for 'subjects' only.

    Returns
    -------
    xarray.DataArray
        float64 ([class,] y, x), a dask array: a fraction from 0 to 1, or a number of volunteers;
        NaN for a class that no subject was asked about. The attribute ``subjects`` has the number
        of subjects of which volunteers were asked, and the coordinate ``asked_subjects`` that of
        each class. Pixels are averaged whatever
        their scale, which is usually 0.099 arcsec in the survey.

    Raises
    ------
    StoreError
        The Dataset is not of Galaxy Zoo: 3D, or lacks a variable.
    UsageError
        No subject is left, the class does not exist, or an argument is out of range.

    Warns
    -----
    LeftOutWarning
        Counts subjects whose status is not ok, or of which nobody was asked. They are left out.
    """
    if of not in _MEANS:
        raise UsageError(f"of is {of!r}, expected subjects, counts or fractions")
    whole = np.uint8(masks.whole_threshold(threshold))
    rows, planes = _planes(dataset, cls)
    volunteers = _volunteers(rows, cls, "the mean mask")
    known = volunteers > 0
    subjects, classes = known.sum(axis=0), masks.class_positions(rows, cls)
    if of == "fractions":
        total = add_fractions(dataset, planes, np.where(known, volunteers, 0), classes)
    else:
        total = add_masks(dataset, planes, known, classes, whole if of == "subjects" else None)
    return _result(
        planes[0],
        ("class", "y", "x"),
        total / np.where(subjects, subjects, np.nan)[:, None, None],
        cls,
        "mean_mask",
        {
            "long_name": _MEANS[of].format(threshold),
            "units": "1",
            "subjects": int(known.any(axis=1).sum()),
        },
        subjects,
    )


def arms_against_bars(
    dataset: xr.Dataset,
    *,
    threshold: float = THRESHOLD,
    bins: int | Sequence[float] | None = None,
) -> xr.Dataset:
    """Compare the area of each subject's spiral arms with its votes for a bar.

    An area of 0 means that volunteers were asked to draw arms, and marked nothing.

    Parameters
    ----------
    dataset : xarray.Dataset
        From `open_store`, or a selection from it.
    threshold : float
        0 to 254; arms are the pixels that more volunteers than this marked.
    bins : int or sequence of float, optional
        Bins of the vote fraction for a bar: the number of equal bins from 0 to 1, or ascending
        edges. A bin includes its lower edge, and the last bin both edges.

    Returns
    -------
    xarray.Dataset
        In memory. Along ``subject``, only those of which volunteers were asked: ``arm_area``
        (float64, arcsec2), ``bar_fraction`` and ``spiral_fraction`` (float32, 0 to 1; NaN if
        unknown), and the coordinates of the subjects. With `bins`, along ``bar_bin``, the centers
        of the bins: ``median_area`` (float64, arcsec2; NaN for an empty bin), ``number`` (int64),
        and the edges ``bar_low, bar_high``.

    Raises
    ------
    StoreError
        The Dataset is not of Galaxy Zoo: 3D, or lacks a variable.
    UsageError
        No subject is left, or an argument is out of range.

    Warns
    -----
    LeftOutWarning
        Counts subjects whose status is not ok, or of which nobody was asked. They are left out.
    """
    validate_dataset(dataset, "vote_fraction", "class", "segmentation", "status", "scale")
    edges = None if bins is None else _bar_edges(bins)
    rows = with_subject_dim(dataset)
    area = masks.class_area(rows, "spiral", threshold)
    positions = {name: masks.check_class(rows, name) for name in CLASS_PHRASES}
    is_asked = _volunteers(rows, "spiral", "arms against bars")[:, 0] > 0
    (votes,) = compute_variables(rows.transpose("subject", "class", ...), "vote_fraction")
    table: dict[str, Any] = {"arm_area": ("subject", area.values, area.attrs)}
    for name, position in positions.items():
        fraction = votes[:, position]
        # The flags -1.0 and -0.5 are not fractions.
        known = np.where(fraction >= 0, fraction, np.nan).astype(fraction.dtype)
        meaning = {
            "long_name": f"fraction of classifications that saw {CLASS_PHRASES[name]}",
            "units": "1",
        }
        table[f"{name}_fraction"] = ("subject", known, meaning)
    along = {n: c.variable.copy() for n, c in rows.coords.items() if c.dims == ("subject",)}
    result: xr.Dataset = xr.Dataset(table, along).isel(subject=np.flatnonzero(is_asked)).load()
    return result if edges is None else result.assign(_binned(result, edges))


def radial_profile(
    dataset: xr.Dataset, cls: str | None = None, *, edges: ArrayLike | None = None
) -> xr.DataArray:
    """Mean fraction of volunteers as a function of the distance from the center of the image.

    Annuli are circles around the position of the subject, pixel 261.5 counted from 0, which is the
    center of the bundle; the inclination of the galaxy is ignored. Each subject of which
    volunteers were asked has the same weight: its own profile is the mean over the pixels with
    centers in an annulus, whose radii are in arcsec for every scale.

    Parameters
    ----------
    dataset : xarray.Dataset
        From `open_store`, or a selection from it.
    cls : {'center', 'star', 'spiral', 'bar'}, optional
        By default all, along the dimension ``class``.
    edges : sequence of float, optional
        Ascending edges of the annuli in arcsec; an annulus includes its inner edge. By default 0 to
        26 in steps of 0.5: a circle of 26 arcsec reaches the edges of the image.

    Returns
    -------
    xarray.DataArray
        float64 ([class,] radius), a dask array: counts divided by ``classifications``, the number
        of volunteers who were asked, so that it may exceed 1; NaN if no pixel is in the annulus.
        The coordinates ``radius`` (the middle of each annulus), ``radius_low`` and ``radius_high``
        are in arcsec. The attribute ``subjects`` and the coordinate ``asked_subjects`` are those
        of `mean_mask`.

    Raises
    ------
    StoreError
        The Dataset is not of Galaxy Zoo: 3D, or lacks a variable.
    UsageError
        No subject is left, the class does not exist, or the edges are not ascending.

    Warns
    -----
    LeftOutWarning
        Counts subjects whose status is not ok, or of which nobody was asked. They are left out.
    """
    validate_dataset(dataset, "scale")
    default = np.arange(0, MAX_RADIUS + STEP, STEP)
    bounds = default if edges is None else _ascending(edges, "edges", 0, math.inf)
    rows, planes = _planes(dataset, cls)
    volunteers = _volunteers(rows, cls, "the radial profile")
    (scale,) = compute_variables(rows, "scale")
    classes = planes.shape[1]
    weights = np.column_stack([scale * 3600, volunteers])
    total = add_annuli(dataset, planes, weights, masks.class_positions(rows, cls), bounds)
    subjects = total[classes:]  # with a pixel in the annulus
    mean = da.where(subjects > 0, total[:classes] / da.maximum(subjects, 1), np.nan)
    profile = _result(
        planes[0, :, 0, 0],
        ("class", "radius"),
        mean,
        cls,
        "radial_profile",
        {
            "long_name": "mean fraction of volunteers",
            "units": "1",
            "subjects": int((volunteers > 0).any(axis=1).sum()),
        },
        (volunteers > 0).sum(axis=0),
    )
    unit = {"units": "arcsec"}
    return profile.assign_coords(
        radius=("radius", (bounds[1:] + bounds[:-1]) / 2, {**unit, "long_name": "radius"}),
        radius_low=("radius", bounds[:-1], unit),
        radius_high=("radius", bounds[1:], unit),
    )


CLASS_PHRASES = {"spiral": "spiral arms", "bar": "a bar"}


def _planes(dataset: xr.Dataset, cls: str | None) -> tuple[xr.Dataset, xr.DataArray]:
    """The Dataset with the dimension ``subject``, and its counts (subject, class, y, x) in dask."""
    validate_dataset(dataset, "segmentation", "class", "status", "classifications")
    rows = with_subject_dim(dataset)
    counts = as_shard_chunks(rows["segmentation"])
    if "class" not in counts.dims:
        counts = counts.expand_dims("class")
    for dim in ("y", "x"):
        if counts.sizes[dim] != SIDE:
            raise UsageError(
                f"the Dataset has {counts.sizes[dim]} pixels along {dim}, not the {SIDE} of an "
                "image: use the Dataset before pixels were selected or reprojected"
            )
    if cls is not None:
        position = masks.check_class(rows, cls)
        counts = counts.isel({"class": [position]})
    counts = counts.transpose("subject", "class", "y", "x")
    return rows, chunk_values(counts, {"class": -1, "y": -1, "x": -1})


def _volunteers(rows: xr.Dataset, cls: str | None, purpose: str) -> FloatArray:
    """How many volunteers were asked, (subject, class): 0 if nobody, or the status is not ok.

    Warns about subjects that are 0.
    """
    if not rows.sizes["subject"]:
        raise UsageError(f"there is no subject for {purpose}")
    ok = find_ok(rows, purpose, stacklevel=4)
    asked = masks.volunteers_asked(rows, cls)
    asked = asked if "class" in asked.dims else asked.expand_dims("class")
    values = asked.transpose("subject", "class").values
    numbers: FloatArray = np.where(ok[:, None], np.nan_to_num(values), 0).astype(np.float64)
    names = [str(cls)] if cls is not None else np.atleast_1d(rows["class"].values).tolist()
    missing = (ok.sum() - (numbers > 0).sum(axis=0)).tolist()
    if not numbers.any():
        raise UsageError(
            f"no subject is left for {purpose}: volunteers were not asked about "
            f"{' or '.join(names)} for any of the {plural(int(ok.sum()), 'subject')}"
        )
    if any(missing):
        counts = ", ".join(
            f"{plural(n, 'subject')} for {name}"
            for n, name in zip(missing, names, strict=True)
            if n
        )
        warnings.warn(
            f"left out of {purpose}, as volunteers were not asked: {counts}",
            LeftOutWarning,
            stacklevel=3,
        )
    return numbers


def _result(
    like: xr.DataArray,
    dims: tuple[str, ...],
    data: da.Array,
    cls: str | None,
    name: str,
    attrs: dict[str, Any],
    subjects: NDArray[np.int_],
) -> xr.DataArray:
    """A DataArray with the coordinate ``class`` of another; a single class has no dimension."""
    labels: dict[str, Any] = {"asked_subjects": ("class", subjects)}
    if "class" in like.coords:
        labels["class"] = like["class"].variable
    result: xr.DataArray = xr.DataArray(data, labels, dims, name, attrs)
    return result if cls is None else result.isel({"class": 0})


def _bar_edges(bins: int | Sequence[float]) -> FloatArray:
    if isinstance(bins, int | np.integer) and not isinstance(bins, bool):
        if not 1 <= bins <= MAX_BINS:
            raise UsageError(f"bins is {bins}, expected 1 to {MAX_BINS}, or edges")
        return np.linspace(0, 1, int(bins) + 1)
    return _ascending(bins, "bins", 0, 1)


def _ascending(values: Any, name: str, low: float, high: float) -> FloatArray:
    """Edges as float64; UsageError if they are not ascending numbers within the limits."""
    try:
        edges = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} is {values!r}, expected ascending numbers") from error
    if (
        edges.ndim != 1
        or not 2 <= len(edges) <= MAX_BINS + 1
        or not np.isfinite(edges).all()
        or (np.diff(edges) <= 0).any()
        or edges[0] < low
        or edges[-1] > high
    ):
        bounds = f"from {low:g}" + ("" if math.isinf(high) else f" to {high:g}")
        raise UsageError(
            f"{name} is {values!r}, expected 2 to {MAX_BINS + 1} ascending numbers {bounds}"
        )
    return edges


def _binned(table: xr.Dataset, edges: FloatArray) -> xr.Dataset:
    """Median area in bins of the vote fraction for a bar."""
    votes = table["bar_fraction"].values
    bounds = edges.astype(votes.dtype)  # 0.7 as float32 is not equal to 0.7 as float64
    bin_number = np.searchsorted(bounds, votes, side="right") - 1  # NaN is after the last
    bin_number[votes == bounds[-1]] = len(edges) - 2
    area = table["arm_area"].values
    areas = [area[bin_number == i] for i in range(len(edges) - 1)]
    unit = {"units": "1"}
    return xr.Dataset(
        {
            "median_area": (
                "bar_bin",
                [np.median(values) if len(values) else np.nan for values in areas],
                {"long_name": "median area of the arms", "units": "arcsec2"},
            ),
            "number": (
                "bar_bin",
                np.array([len(values) for values in areas], np.int64),
                {"long_name": "subjects in the bin", **unit},
            ),
        },
        {
            "bar_bin": (
                "bar_bin",
                (edges[1:] + edges[:-1]) / 2,
                {"long_name": "fraction of classifications that saw a bar", **unit},
            ),
            "bar_low": ("bar_bin", edges[:-1], unit),
            "bar_high": ("bar_bin", edges[1:], unit),
        },
    )
