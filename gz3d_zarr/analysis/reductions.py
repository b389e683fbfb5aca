"""Sums over all subjects, block by block with dask, for `gz3d_zarr.recipes`.

Of masks that are still as `open_store` gave them, a task reads the shard itself, chunk by chunk
into memory that is used again; of others, dask computes whole blocks of masks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.backends.mask_reader import MaskReader, StoredMasks, find_stored_masks
from gz3d_zarr.datamodel.subject import CRPIX, SIDE

FloatArray = NDArray[np.float64]
MAX_SCALES = 16
"""Numbers of annuli that are kept, half a MB for each scale; the survey has one scale, or few."""


def add_masks(
    dataset: xr.Dataset,
    planes: xr.DataArray,
    known: NDArray[np.bool_],
    classes: Sequence[int],
    level: np.uint8 | None,
) -> da.Array:
    """Sum of the counts, or of counts > level, where `known` (subject, class): (class, y, x).

    `planes` are the counts of these classes of the Dataset.
    """
    stored, shape = find_stored_masks(dataset), planes.shape[1:]
    if stored is None:
        return sum_blocks(sum_masks, planes, known, shape, level=level)
    return sum_stored(sum_stored_masks, stored, known, shape, classes=classes, level=level)


def add_fractions(
    dataset: xr.Dataset, planes: xr.DataArray, volunteers: FloatArray, classes: Sequence[int]
) -> da.Array:
    """Sum of the counts divided by `volunteers` (subject, class), where these are above 0.

    `planes` as for `add_masks`.
    """
    stored, shape = find_stored_masks(dataset), planes.shape[1:]
    if stored is None:
        return sum_blocks(sum_fractions, planes, volunteers, shape)
    return sum_stored(sum_stored_fractions, stored, volunteers, shape, classes=classes)


def add_annuli(
    dataset: xr.Dataset,
    planes: xr.DataArray,
    weights: FloatArray,
    classes: Sequence[int],
    edges: FloatArray,
) -> da.Array:
    """Sum of the profiles of all subjects, as `sum_annuli`; `planes` as for `add_masks`."""
    stored, shape = find_stored_masks(dataset), (2 * len(classes), len(edges) - 1)
    if stored is None:
        return sum_blocks(sum_annuli, planes, weights, shape, edges=edges)
    used = np.where(np.isfinite(weights[:, :1]), weights, 0)
    return sum_stored(sum_stored_annuli, stored, used, shape, classes=classes, edges=edges)


def sum_blocks(
    function: Callable[..., Any],
    planes: xr.DataArray,
    weights: NDArray[Any],
    shape: tuple[int, ...],
    **options: Any,
) -> da.Array:
    """Sum the results of a function of each block of rows and the weights of these rows.

    `weights` has the shape (subject, n). The function returns float64 with `shape`; nothing else
    of a block is kept in memory.
    """
    block = da.from_array(weights, chunks=(planes.variable.chunksizes["subject"], -1))
    return _sum_parts(function, (planes.data, "sklm", block, "sw"), shape, **options)


def sum_stored(
    function: Callable[..., Any],
    masks: StoredMasks,
    weights: NDArray[Any],
    shape: tuple[int, ...],
    **options: Any,
) -> da.Array:
    """Sum the results of a function of the rows of each shard, and the weights of these rows.

    The function takes rows of the store, weights and a MaskReader, and else does as for
    `sum_blocks`. Rows without any weight are not read.
    """
    used = np.flatnonzero(weights.any(axis=1))
    order = used[np.argsort(masks.rows[used], kind="stable")]
    _, sizes = np.unique(masks.rows[order] // masks.reader.sharding.size, return_counts=True)
    chunks = tuple(sizes.tolist())
    rows = da.from_array(masks.rows[order], chunks=(chunks,))
    block = da.from_array(weights[order], chunks=(chunks, -1))
    return _sum_parts(function, (rows, "s", block, "sw"), shape, reader=masks.reader, **options)


def map_stored(
    function: Callable[..., None],
    masks: StoredMasks,
    weights: NDArray[Any],
    classes: Sequence[int],
    dtype: type[Any],
) -> da.Array:
    """A dask array (row, class, y, x) of the results of a function of each mask.

    The function takes the counts, the weight of the row and class, and where to put its result.
    """
    sizes = masks.sizes
    planes: da.Array = da.blockwise(
        _fill_planes,
        "sklm",
        da.from_array(masks.rows, chunks=(sizes,)),
        "s",
        da.from_array(weights, chunks=(sizes, -1)),
        "sw",
        new_axes={"k": len(classes), "l": SIDE, "m": SIDE},
        concatenate=True,
        dtype=dtype,
        meta=np.empty((0,) * 4, dtype),
        function=function,
        reader=masks.reader,
        classes=classes,
        out_dtype=dtype,
    )
    return planes


def _fill_planes(
    rows: NDArray[np.intp],
    weights: NDArray[Any],
    *,
    function: Callable[..., None],
    reader: MaskReader,
    classes: Sequence[int],
    out_dtype: type[Any],
) -> NDArray[Any]:
    planes = np.empty((len(rows), len(classes), SIDE, SIDE), out_dtype)
    for i, masks in reader.read(rows):
        for j, cls in enumerate(classes):
            function(masks[cls], weights[i, j], planes[i, j])
    return planes


def count_stored(masks: StoredMasks, classes: Sequence[int], level: int) -> da.Array:
    """Number of pixels with counts > level, float64 (row, class).

    Where the store has this number, no masks are read.
    """
    sizes = masks.sizes
    counted = masks.counted.get(level)
    numbers: da.Array
    if counted is not None:
        values = counted[masks.rows][:, list(classes)].astype(np.float64)
        numbers = da.from_array(values, chunks=(sizes, -1))
        return numbers
    numbers = da.map_blocks(
        count_marked,
        da.from_array(masks.rows, chunks=(sizes,)),
        new_axis=1,
        chunks=(sizes, (len(classes),)),
        dtype=np.float64,
        meta=np.empty((0, 0)),
        reader=masks.reader,
        classes=classes,
        level=np.uint8(level),
    )
    return numbers


def _sum_parts(
    function: Callable[..., Any], blocks: tuple[Any, ...], shape: tuple[int, ...], **options: Any
) -> da.Array:
    letters = "abcdef"[: len(shape)]
    parts = da.blockwise(
        function,
        "s" + letters,
        *blocks,
        new_axes=dict(zip(letters, shape, strict=True)),
        adjust_chunks={"s": 1},
        concatenate=True,
        dtype=np.float64,
        meta=np.empty((0,) * (1 + len(shape))),
        **options,
    )
    total: da.Array = parts.sum(axis=0)
    return total


def sum_masks(counts: NDArray[Any], known: NDArray[np.bool_], level: float | None) -> FloatArray:
    """Sum of the counts, or of counts > level, where `known` (row, class): (1, class, y, x)."""
    total = np.zeros(counts.shape[1:])
    for i, j in np.argwhere(known):  # one by one, to need little memory in addition to the block
        total[j] += counts[i, j] if level is None else counts[i, j] > level
    return total[None]


def sum_stored_masks(
    rows: NDArray[np.intp],
    known: NDArray[np.bool_],
    *,
    reader: MaskReader,
    classes: Sequence[int],
    level: np.uint8 | None,
) -> FloatArray:
    """Do as `sum_masks` for rows of a store and some classes."""
    highest = len(rows) * (255 if level is None else 1)
    total = np.zeros((len(classes), SIDE, SIDE), np.min_scalar_type(highest))
    marked = np.empty((SIDE, SIDE), np.bool_)
    for i, masks in reader.read(rows):
        for j in np.flatnonzero(known[i]).tolist():
            if level is None:
                total[j] += masks[classes[j]]
            else:
                np.greater(masks[classes[j]], level, out=marked)
                total[j] += marked.view(np.uint8)
    return total[None].astype(np.float64)


def sum_fractions(counts: NDArray[Any], volunteers: FloatArray) -> FloatArray:
    """Sum of counts / volunteers, where these are above 0 (row, class): (1, class, y, x)."""
    total = np.zeros(counts.shape[1:])
    for i, j in np.argwhere(volunteers > 0):
        total[j] += counts[i, j] / volunteers[i, j]
    return total[None]


def sum_stored_fractions(
    rows: NDArray[np.intp], volunteers: FloatArray, *, reader: MaskReader, classes: Sequence[int]
) -> FloatArray:
    """Do as `sum_fractions` for rows of a store and some classes."""
    total = np.zeros((len(classes), SIDE, SIDE))
    for i, masks in reader.read(rows):
        for j in np.flatnonzero(volunteers[i] > 0).tolist():
            counts = masks[classes[j]]
            box = _find_marked(counts)
            total[j][box] += counts[box] / volunteers[i, j]
    return total[None]


def count_marked(
    rows: NDArray[np.intp], *, reader: MaskReader, classes: Sequence[int], level: np.uint8
) -> FloatArray:
    """Number of pixels with counts > level, (row, class), for rows of a store."""
    number = np.zeros((len(rows), len(classes)))
    marked = np.empty((SIDE, SIDE), np.bool_)
    for i, masks in reader.read(rows):
        for j, cls in enumerate(classes):
            np.greater(masks[cls], level, out=marked)
            number[i, j] = np.count_nonzero(marked)
    return number


def sum_annuli(counts: NDArray[Any], weights: FloatArray, edges: FloatArray) -> FloatArray:
    """Sum of the profiles of all rows, shape (1, 2 x class, annulus).

    The second half are the numbers of rows with a pixel in the annulus. `weights` (row, 1 + class)
    are the scale in arcsec, and the volunteers who were asked about each class; 0 of them leaves
    a row out. A profile is linear in the counts, so that the counts of all rows with the same
    scale and number of volunteers are added first.
    """
    pixel, volunteers = weights[:, 0], weights[:, 1:]
    classes = counts.shape[1]
    total = np.zeros((2 * classes, len(edges) - 1))
    for scale in np.unique(pixel[np.isfinite(pixel)]):
        annulus, within = _number_annuli(tuple(edges.tolist()), float(scale))
        for number in np.unique(volunteers[volunteers > 0]):
            known = (pixel == scale)[:, None] & (volunteers == number)
            planes = sum_masks(counts, known, None)[0].reshape(classes, -1)
            for i in np.flatnonzero(known.any(axis=0)):
                sums = np.bincount(annulus.ravel(), planes[i], minlength=len(edges) + 1)[1:-1]
                total[i] += sums / np.maximum(within, 1) / number
                total[classes + i] += known[:, i].sum() * (within > 0)
    return total[None]


def sum_stored_annuli(
    rows: NDArray[np.intp],
    weights: FloatArray,
    *,
    reader: MaskReader,
    classes: Sequence[int],
    edges: FloatArray,
) -> FloatArray:
    """Do as `sum_annuli` for rows of a store and some classes; each scale is finite."""
    total = np.zeros((2 * len(classes), len(edges) - 1))
    scales, which = np.unique(weights[:, 0], return_inverse=True)
    annuli = [_number_annuli(tuple(edges.tolist()), float(scale)) for scale in scales]
    for i, masks in reader.read(rows):
        annulus, within = annuli[which[i]]
        for j in np.flatnonzero(weights[i, 1:] > 0).tolist():
            sums = _sum_in_annuli(masks[classes[j]], annulus, len(edges) + 1)
            total[j] += sums / np.maximum(within, 1) / weights[i, 1 + j]
            total[len(classes) + j] += within > 0
    return total[None]


def _sum_in_annuli(
    counts: NDArray[np.uint8], annulus: NDArray[np.uint16], number: int
) -> FloatArray:
    """Sum of the counts in each annulus."""
    box = _find_marked(counts)
    sums: Any = np.bincount(annulus[box].ravel(), counts[box].ravel(), number)
    return np.asarray(sums[1:-1], np.float64)


def _find_marked(counts: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns of a mask that are not all 0; most are."""
    y = np.flatnonzero(np.maximum.reduce(counts, axis=1))
    if not len(y):
        return slice(0), slice(0)
    x = np.flatnonzero(np.maximum.reduce(counts, axis=0))
    return slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)


@functools.lru_cache(maxsize=MAX_SCALES)
def _number_annuli(
    edges: tuple[float, ...], scale: float
) -> tuple[NDArray[np.uint16], NDArray[np.intp]]:
    """Number of each pixel's annulus, 0 within the first edge; and the pixels in each annulus."""
    offset = np.arange(SIDE) - (CRPIX - 1)
    distance = np.hypot(offset[:, None], offset)
    annulus = np.searchsorted(edges, distance * scale, side="right").astype(np.uint16)
    return annulus, np.bincount(annulus.ravel(), minlength=len(edges) + 1)[1:-1]
