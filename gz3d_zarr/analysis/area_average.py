"""Averages of pixels over the cells of another grid: exact, for rectangles and any quadrangles.

The gnomonic projection shows great circles as straight lines. A cell of one such image is therefore
a quadrangle with straight sides in another, also where the two are tangent at different points or
are rotated. The integral over it is the sum of integrals along its sides (Green's theorem).
``reproject_exact`` gives the same on the sphere, in half a second for each subject; this takes
hundredths of one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
_SIDES_AT_ONCE = 2**14
"""Sides of cells that are integrated together: it bounds the memory, to about 50 MB."""


def average_over_cells(planes: NDArray[Any], corners: FloatArray) -> FloatArray:
    """Average images over the area of each cell of a grid.

    Parameters
    ----------
    planes : ndarray, shape (n, y, x)
        Images; a pixel has the same value all over its area.
    corners : ndarray of float64, shape (rows + 1, columns + 1, 2)
        Positions (x, y) of the corners of the cells in pixels; the center of the first pixel is 0.

    Returns
    -------
    ndarray of float64, shape (n, rows, columns)
        A cell that is partly outside is averaged over the part inside; NaN where it is outside.
    """
    edges = corners + 0.5  # the left edge of the first pixel is 0
    # Only the part of the image that the grid covers.
    first = np.floor(edges.min(axis=(0, 1))).clip(0, None).astype(int)
    last = np.ceil(edges.max(axis=(0, 1))).clip(first + 1, None).astype(int)
    planes = planes[:, first[1] : last[1], first[0] : last[0]]
    if not planes.size:
        return np.full((len(planes), *(length - 1 for length in corners.shape[:2])), np.nan)
    edges -= first
    # Along x, from the left edge; the last plane gives the area of each cell within the image.
    sums = np.zeros((len(planes) + 1, planes.shape[1], planes.shape[2] + 1))
    np.cumsum(planes, axis=2, dtype=np.float64, out=sums[:-1, :, 1:])
    sums[-1] = np.arange(planes.shape[2] + 1)
    along_x = _integrate(sums, edges[:, :-1], edges[:, 1:])
    along_y = _integrate(sums, edges[:-1], edges[1:])
    around = along_x[:, :-1] + along_y[:, :, 1:] - along_x[:, 1:] - along_y[:, :, :-1]
    area = np.where(abs(around[-1]) > 1e-9, around[-1], np.nan)
    averages: FloatArray = around[:-1] / area
    return averages


def average_over_rectangles(
    plane: NDArray[Any], y_edges: FloatArray, x_edges: FloatArray
) -> FloatArray:
    """Average an image over cells whose sides are parallel to those of its pixels.

    Without matrices, whose products have threads of their own beside those of dask.

    Parameters
    ----------
    plane : ndarray, shape (y, x)
        What is outside counts as 0.
    y_edges, x_edges : ndarray of float64, shape (rows + 1,) and (columns + 1,)
        Edges of the cells in pixels, ascending or descending; the center of the first pixel is 0.

    Returns
    -------
    ndarray of float64, shape (rows, columns)
    """
    by_row = _integrate_between(plane, y_edges)
    averages: FloatArray = _integrate_between(by_row.T, x_edges).T
    averages /= np.diff(y_edges)[:, None] * np.diff(x_edges)
    return averages


def _integrate_between(values: NDArray[Any], edges: FloatArray) -> FloatArray:
    """Integrate along the first axis between neighboring edges."""
    sums = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, dtype=np.float64, out=sums[1:])
    at = np.clip(edges + 0.5, 0, len(values))
    whole = np.minimum(at.astype(np.intp), len(values) - 1)
    below = sums[whole]
    return np.diff(below + (at - whole)[:, None] * (sums[whole + 1] - below), axis=0)


def _integrate(sums: FloatArray, start: FloatArray, end: FloatArray) -> FloatArray:
    """Integrate `sums` over y along straight lines: shape (planes, *lines)."""
    lines = start.shape[:-1]
    start, end = start.reshape(-1, 2), end.reshape(-1, 2)
    parts = [
        _integrate_lines(sums, start[i : i + _SIDES_AT_ONCE], end[i : i + _SIDES_AT_ONCE])
        for i in range(0, len(start), _SIDES_AT_ONCE)
    ]
    return np.concatenate(parts, axis=1).reshape(len(sums), *lines)


def _integrate_lines(sums: FloatArray, start: FloatArray, end: FloatArray) -> FloatArray:
    length = end - start
    # Cut each line where it crosses an edge of a pixel: between, `sums` is linear along it.
    first = np.ceil(np.minimum(start, end))
    count = int(np.floor(abs(length).max(initial=0))) + 2
    with np.errstate(divide="ignore", invalid="ignore"):
        cuts = (first[..., None] + np.arange(count) - start[..., None]) / length[..., None]
    cuts = np.where((cuts > 0) & (cuts < 1), cuts, 1).reshape(len(start), -1)
    ends = np.sort(np.pad(cuts, ((0, 0), (1, 1)), constant_values=(0, 1)))
    middle = (ends[:, 1:] + ends[:, :-1]) / 2
    x, y = (start[:, i, None] + middle * length[:, i, None] for i in (0, 1))
    step = np.diff(ends) * length[:, 1, None]
    rows, columns = sums.shape[1], sums.shape[2] - 1
    row = np.floor(y)
    step[(row < 0) | (row >= rows)] = 0
    row = np.clip(row, 0, rows - 1).astype(np.intp)
    x = np.clip(x, 0, columns)
    column = np.minimum(np.floor(x), columns - 1).astype(np.intp)
    integrals = np.empty((len(sums), len(start)))
    for plane, integral in zip(sums, integrals, strict=True):
        left = plane[row, column]
        value = left + (x - column) * (plane[row, column + 1] - left)
        np.einsum("ij,ij->i", value, step, out=integral)
    return integrals
