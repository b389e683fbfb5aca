"""Sums over all subjects, block by block with dask, for `gz3d_zarr.recipes`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.datamodel.subject import CRPIX, SIDE

FloatArray = NDArray[np.float64]


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
    letters = "abcdef"[: len(shape)]
    parts = da.blockwise(
        function,
        "s" + letters,
        planes.data,
        "sklm",
        block,
        "sw",
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
    offset = np.arange(SIDE) - (CRPIX - 1)
    distance = np.hypot(offset[:, None], offset).ravel()
    for scale in np.unique(pixel[np.isfinite(pixel)]):
        annulus = np.searchsorted(edges, distance * scale, side="right")  # 0: inside the first edge
        within = np.bincount(annulus, minlength=len(edges) + 1)[1:-1]
        for number in np.unique(volunteers[volunteers > 0]):
            known = (pixel == scale)[:, None] & (volunteers == number)
            planes = sum_masks(counts, known, None)[0].reshape(classes, -1)
            for i in np.flatnonzero(known.any(axis=0)):
                sums = np.bincount(annulus, planes[i], minlength=len(edges) + 1)[1:-1]
                total[i] += sums / np.maximum(within, 1) / number
                total[classes + i] += known[:, i].sum() * (within > 0)
    return total[None]
