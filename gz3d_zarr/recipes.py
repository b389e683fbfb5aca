"""Analyses of the whole sample over dask, each in one pass over the shards.

They run on whatever scheduler dask has: a `distributed.Client` where there is one, otherwise
threads. A task reads one shard and gives a small sum of it, so that its memory is a shard's and
the full survey, 29,813 subjects in 466 shards, is a graph of less than 3,000 tasks. Subjects whose
status is not ok weigh nothing; a `LeftOutWarning` tells how many.

Every recipe takes a selection too, such as ``ds.gz3d.votes(spiral=0.2)``: dask then puts the rows
of neighbouring shards together first, in less than 4,500 tasks. Open the store with
`open_store`, which cuts it into whole shards; a plain ``xr.open_zarr`` cuts it into subjects, more
than 100,000 tasks, of which a `dask.array.PerformanceWarning` tells. `open_source` works, and reads
each file twice: for its status and for its masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
from gz3d_zarr.analysis.validation import find_ok, validate_dataset
from gz3d_zarr.datamodel.subject import CRPIX, SIDE, THRESHOLD
from gz3d_zarr.errors import UsageError

FloatArray = NDArray[np.float64]
STEP = 0.5
"""Width of an annulus in arcsec: a spaxel of MaNGA."""
REACH = 26.0
"""Where profiles end by default, in arcsec: at the nearest edges of a picture."""
MAX_BINS = 1000


def mean_mask(
    dataset: xr.Dataset,
    cls: str | None = "spiral",
    *,
    of: Literal["subjects", "counts"] = "subjects",
    threshold: float = THRESHOLD,
) -> xr.DataArray:
    """Average the masks of a sample, pixel by pixel, as the pictures lie: north up.

    Parameters
    ----------
    dataset : xarray.Dataset
        From `open_store`, or a selection of it. Volunteers were asked for spiral arms, or a bar,
        only where a fifth had voted for one: take ``ds.gz3d.votes(spiral=0.2)`` of them.
    cls : {'center', 'star', 'spiral', 'bar'}, optional
        None: all, along the dimension ``class``.
    of : {'subjects', 'counts'}
        The share of subjects that more than `threshold` volunteers marked there; or the mean of
        the counts.
    threshold : float
        From 0 to 254, as for ``ds.gz3d.mask``; counts have no use for it.

    Returns
    -------
    xarray.DataArray
        float64 ([class,] y, x), over dask: a share from 0 to 1, or a number of volunteers. Pixels
        are averaged, whatever their scale; in the survey it is 0.099 arcsec as a rule.

    Raises
    ------
    StoreError
        The Dataset is not of Galaxy Zoo: 3D, or lacks a variable.
    UsageError
        No subject is left, there is no such class, or an argument is out of range.

    Warns
    -----
    LeftOutWarning
        Subjects whose status is not ok are left out; how many.
    """
    if of not in ("subjects", "counts"):
        raise UsageError(f"of is {of!r}, expected subjects or counts")
    masks.whole_threshold(threshold)  # refuses what is out of range
    rows, planes = _planes(dataset, cls)
    ok = _ok(rows, "the mean mask")
    level = threshold if of == "subjects" else None
    total = _sum_blocks(_sum_masks, planes, ok, planes.shape[1:], level=level)
    marked = f"share of subjects marked by more than {threshold:g} volunteers"
    meaning = marked if of == "subjects" else "mean count of volunteers"
    return _result(
        planes[0],
        ("class", "y", "x"),
        total / int(ok.sum()),
        cls,
        "mean_mask",
        {"long_name": meaning, "units": "1", "subjects": int(ok.sum())},
    )


def arms_against_bars(
    dataset: xr.Dataset,
    *,
    threshold: float = THRESHOLD,
    bins: int | Sequence[float] | None = None,
) -> xr.Dataset:
    """Put the area of each subject's spiral arms beside its votes for a bar.

    Subjects that too few called spiral were never asked about, and have no area: select
    ``ds.gz3d.votes(spiral=0.2)`` before, where zeros should mean that nothing was marked.

    Parameters
    ----------
    dataset : xarray.Dataset
        From `open_store`, or a selection of it.
    threshold : float
        From 0 to 254: an arm is where more volunteers marked one.
    bins : int or sequence of float, optional
        Number of equal bins from 0 to 1, or the edges of bins, ascending, of the votes for a bar.
        A bin has its lower edge, and the last one both.

    Returns
    -------
    xarray.Dataset
        In memory. Along ``subject``, only those whose status is ok: ``arm_area`` (float64, square
        arcsec), ``bar_fraction`` and ``spiral_fraction`` (float32, from 0 to 1; NaN where it is
        not known), and the coordinates of a row. With `bins`, along ``bar_bin``, the middles:
        ``median_area`` (float64, square arcsec; NaN where a bin is empty), ``number`` (int64), and
        the edges ``bar_low, bar_high``.

    Raises
    ------
    StoreError
        The Dataset is not of Galaxy Zoo: 3D, or lacks a variable.
    UsageError
        No subject is left, or an argument is out of range.

    Warns
    -----
    LeftOutWarning
        Subjects whose status is not ok are left out; how many.
    """
    validate_dataset(dataset, "vote_fraction", "class", "segmentation", "status", "scale")
    edges = None if bins is None else _bar_edges(bins)
    rows = with_subject_dim(dataset)
    area = masks.class_area(rows, "spiral", threshold)
    positions = {name: masks.check_class(rows, name) for name in CLASS_PHRASES}
    ok = _ok(rows, "arms against bars")
    (votes,) = compute_variables(rows.transpose("subject", "class", ...), "vote_fraction")
    table: dict[str, Any] = {"arm_area": ("subject", area.values, area.attrs)}
    for name, position in positions.items():
        share = votes[:, position]
        # The flags, -1.0 and -0.5, are no shares.
        known = np.where(share >= 0, share, np.nan).astype(share.dtype)
        meaning = {
            "long_name": f"share of classifications that saw {CLASS_PHRASES[name]}",
            "units": "1",
        }
        table[f"{name}_fraction"] = ("subject", known, meaning)
    along = {n: c.variable.copy() for n, c in rows.coords.items() if c.dims == ("subject",)}
    found: xr.Dataset = xr.Dataset(table, along).isel(subject=np.flatnonzero(ok)).load()
    return found if edges is None else found.assign(_binned(found, edges))


def radial_profile(
    dataset: xr.Dataset, cls: str | None = None, *, edges: ArrayLike | None = None
) -> xr.DataArray:
    """Mean share of volunteers against the distance from the middle of the picture.

    Circles about the subject's position, pixel 261.5 counted from 0, which is where the bundle is
    placed; a galaxy's inclination is left out of account. Each subject counts the same: its own
    profile is the mean over the pixels whose middles are in an annulus of so many arcsec, whatever
    its scale.

    Parameters
    ----------
    dataset : xarray.Dataset
        From `open_store`, or a selection of it.
    cls : {'center', 'star', 'spiral', 'bar'}, optional
        By default all, along the dimension ``class``.
    edges : sequence of float, optional
        Of the annuli, in arcsec, ascending; each has its inner edge. By default 0 to 26 in steps of
        0.5: at 26 arcsec a circle reaches the edges of the picture.

    Returns
    -------
    xarray.DataArray
        float64 ([class,] radius), over dask: counts over the 15 volunteers that were asked as a
        rule, so that it may exceed 1; NaN where no pixel is in the annulus. Coordinates
        ``radius``, the middle of each annulus, ``radius_low`` and ``radius_high`` in arcsec.

    Raises
    ------
    StoreError
        The Dataset is not of Galaxy Zoo: 3D, or lacks a variable.
    UsageError
        No subject is left, there is no such class, or the edges are not ascending.

    Warns
    -----
    LeftOutWarning
        Subjects whose status is not ok are left out; how many.
    """
    validate_dataset(dataset, "scale")
    default = np.arange(0, REACH + STEP, STEP)
    bounds = default if edges is None else _ascending(edges, "edges", 0, math.inf)
    rows, planes = _planes(dataset, cls)
    ok = _ok(rows, "the radial profile")
    (scale,) = compute_variables(rows, "scale")
    shape = planes.shape[1] + 1, len(bounds) - 1
    pixel = np.where(ok, scale * 3600, np.nan)
    total = _sum_blocks(_sum_annuli, planes, pixel, shape, edges=bounds)
    subjects = total[-1]  # that have a pixel there
    mean = da.where(subjects > 0, total[:-1] / da.maximum(subjects, 1), np.nan) / masks.VOLUNTEERS
    profile = _result(
        planes[0, :, 0, 0],
        ("class", "radius"),
        mean,
        cls,
        "radial_profile",
        {"long_name": "mean share of volunteers", "units": "1", "subjects": int(ok.sum())},
    )
    unit = {"units": "arcsec"}
    return profile.assign_coords(
        radius=("radius", (bounds[1:] + bounds[:-1]) / 2, {**unit, "long_name": "radius"}),
        radius_low=("radius", bounds[:-1], unit),
        radius_high=("radius", bounds[1:], unit),
    )


CLASS_PHRASES = {"spiral": "spiral arms", "bar": "a bar"}


def _planes(dataset: xr.Dataset, cls: str | None) -> tuple[xr.Dataset, xr.DataArray]:
    """The Dataset with its dimension, and its counts (subject, class, y, x) over dask."""
    validate_dataset(dataset, "segmentation", "class", "status")
    rows = with_subject_dim(dataset)
    counts = as_shard_chunks(rows["segmentation"])
    if "class" not in counts.dims:
        counts = counts.expand_dims("class")
    for dim in ("y", "x"):
        if counts.sizes[dim] != SIDE:
            raise UsageError(
                f"the Dataset has {counts.sizes[dim]} pixels along {dim}, not the {SIDE} of a "
                "picture: use it from before they were cut or put on another grid"
            )
    if cls is not None:
        position = masks.check_class(rows, cls)
        counts = counts.isel({"class": [position]})
    counts = counts.transpose("subject", "class", "y", "x")
    return rows, chunk_values(counts, {"class": -1, "y": -1, "x": -1})


def _ok(rows: xr.Dataset, purpose: str) -> NDArray[np.bool_]:
    if not rows.sizes["subject"]:
        raise UsageError(f"there is no subject for {purpose}")
    return find_ok(rows, purpose, stacklevel=4)


def _sum_blocks(
    function: Callable[..., Any],
    planes: xr.DataArray,
    weights: NDArray[Any],
    shape: tuple[int, ...],
    **options: Any,
) -> da.Array:
    """Add up what a function makes of each block of rows, and of the weights of these rows.

    The function gives float64 of `shape`; only so much of a block is kept.
    """
    block = da.from_array(weights, chunks=(planes.variable.chunksizes["subject"],))
    letters = "abcdef"[: len(shape)]
    parts = da.blockwise(
        function,
        "s" + letters,
        planes.data,
        "sklm",
        block,
        "s",
        new_axes=dict(zip(letters, shape, strict=True)),
        adjust_chunks={"s": 1},
        concatenate=True,
        dtype=np.float64,
        meta=np.empty((0,) * (1 + len(shape))),
        **options,
    )
    total: da.Array = parts.sum(axis=0)
    return total


def _sum_masks(counts: NDArray[Any], ok: NDArray[np.bool_], level: float | None) -> FloatArray:
    """Sum over the rows that are ok, shape (1, class, y, x): of counts, or of where they exceed."""
    total = np.zeros(counts.shape[1:])
    for i in np.flatnonzero(ok):  # row by row: what this needs beside the block is small
        total += counts[i] if level is None else counts[i] > level
    return total[None]


def _sum_annuli(counts: NDArray[Any], pixel: FloatArray, edges: FloatArray) -> FloatArray:
    """Sum of the rows' profiles, shape (1, class + 1, annulus); last, how many rows have one.

    A profile is linear in the counts, so those of one scale are added up before. The scale `pixel`
    is in arcsec; rows where it is NaN are left out.
    """
    total = np.zeros((counts.shape[1] + 1, len(edges) - 1))
    offset = np.arange(SIDE) - (CRPIX - 1)
    distance = np.hypot(offset[:, None], offset).ravel()
    for scale in np.unique(pixel[np.isfinite(pixel)]):
        annulus = np.searchsorted(edges, distance * scale, side="right")  # 0: within all edges
        within = np.bincount(annulus, minlength=len(edges) + 1)[1:-1]
        rows = np.flatnonzero(pixel == scale)
        added = _sum_masks(counts, pixel == scale, None)[0].reshape(counts.shape[1], -1)
        for i, plane in enumerate(added):
            sums = np.bincount(annulus, plane, minlength=len(edges) + 1)[1:-1]
            total[i] += sums / np.maximum(within, 1)
        total[-1] += len(rows) * (within > 0)
    return total[None]


def _result(
    like: xr.DataArray,
    dims: tuple[str, ...],
    data: da.Array,
    cls: str | None,
    name: str,
    attrs: dict[str, Any],
) -> xr.DataArray:
    """A DataArray with the coordinate ``class`` of another; without the dimension for one class."""
    labels = {"class": like["class"].variable} if "class" in like.coords else {}
    result: xr.DataArray = xr.DataArray(data, labels, dims, name, attrs)
    return result if cls is None else result.isel({"class": 0})


def _bar_edges(bins: int | Sequence[float]) -> FloatArray:
    if isinstance(bins, int | np.integer) and not isinstance(bins, bool):
        if not 1 <= bins <= MAX_BINS:
            raise UsageError(f"bins is {bins}, expected 1 to {MAX_BINS}, or edges")
        return np.linspace(0, 1, int(bins) + 1)
    return _ascending(bins, "bins", 0, 1)


def _ascending(values: Any, name: str, low: float, high: float) -> FloatArray:
    """Edges as float64; UsageError where they are none."""
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
    """Median area in bins of votes for a bar."""
    votes = table["bar_fraction"].values
    bounds = edges.astype(votes.dtype)  # 0.7 is below 0.7 where only one of them is float32
    place = np.searchsorted(bounds, votes, side="right") - 1  # NaN comes behind the last
    place[votes == bounds[-1]] = len(edges) - 2
    area = table["arm_area"].values
    held = [area[place == i] for i in range(len(edges) - 1)]
    unit = {"units": "1"}
    return xr.Dataset(
        {
            "median_area": (
                "bar_bin",
                [np.median(values) if len(values) else np.nan for values in held],
                {"long_name": "median area of the arms", "units": "arcsec2"},
            ),
            "number": (
                "bar_bin",
                np.array([len(values) for values in held], np.int64),
                {"long_name": "subjects in the bin", **unit},
            ),
        },
        {
            "bar_bin": (
                "bar_bin",
                (edges[1:] + edges[:-1]) / 2,
                {"long_name": "share of classifications that saw a bar", **unit},
            ),
            "bar_low": ("bar_bin", edges[:-1], unit),
            "bar_high": ("bar_bin", edges[1:], unit),
        },
    )
