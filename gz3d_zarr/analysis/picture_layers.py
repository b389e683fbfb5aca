"""Masks blended over an image, and the lines that are drawn on it, without matplotlib's artists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.analysis.palette import CLASS_COLORS
from gz3d_zarr.analysis.picture import Picture
from gz3d_zarr.datamodel.annotations import POINT_CLASSES

BUNDLE = "bundle"
"""Key of the true outline of the bundle among the lines of classes."""
Line = NDArray[np.float64]
MIN_RADIUS = 8.0
"""Of rings, in pixels: 3 points in a figure with two panels."""
_IMAGE_BRIGHTNESS = 0.7
"""Of the image under the masks, relative to the original."""
_OPACITY = (0.0, 0.35, 0.8)
"""Opacity of the color for no count, for half of the highest, and for the highest."""
_FULL_COLOR_COUNT = 15
"""Usual number of volunteers, so that the colors of most subjects can be compared."""


def blend_masks(picture: Picture) -> NDArray[np.uint8]:
    """A darker image, and over it each class in its color: more marks, more opaque."""
    blended = picture.image * np.float32(_IMAGE_BRIGHTNESS)
    for name, counts in picture.counts.items():
        marked = counts > 0
        values = counts[marked]
        if not len(values):
            continue
        opacity = find_opacity(values, color_limit(values.max()))[:, None]
        blended[marked] = blended[marked] * (1 - opacity) + opacity * rgb(CLASS_COLORS[name])
    pixels: NDArray[np.uint8] = np.rint(blended).astype(np.uint8)
    return pixels


def color_ramp(name: str) -> NDArray[np.float64]:
    """Colors of the counts from 0 to the limit on a black image, shape (256, 3), from 0 to 1."""
    opacity = find_opacity(np.arange(256), 255)
    ramp: NDArray[np.float64] = opacity[:, None] * rgb(CLASS_COLORS[name]) / 255
    return ramp


def find_opacity(counts: NDArray[Any], limit: float) -> NDArray[np.float64]:
    """Opacity of counts, from 0 to 1."""
    return np.interp(counts / limit, (0, 0.5, 1), _OPACITY)


def color_limit(highest: float) -> float:
    """Count with the full color: a fixed one, or the highest count if it is larger."""
    return max(_FULL_COLOR_COUNT, float(highest))


def rgb(color: str) -> NDArray[np.float64]:
    """Red, green and blue of a color like #80d0ff, from 0 to 255."""
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], np.float64)


def find_lines(
    picture: Picture, threshold: float, min_radius: float, *, hexagon: bool, masks: bool
) -> dict[str, list[Line]]:
    """Lines on a picture: outlines of masks, rings of clusters, the bundle.

    Centers and stars have rings around their clusters, if these are known, instead of outlines.

    Parameters
    ----------
    threshold : float
        Outline what has more marks than this.
    min_radius : float
        Of rings, in pixels.

    Returns
    -------
    dict of str to list of ndarray of float64, shape (n, 2)
        Class or `BUNDLE` to lines of points (x, y), in pixels counted from 0.
    """
    lines: dict[str, list[Line]] = {}
    if hexagon and picture.corners is not None:
        lines[BUNDLE] = [np.concatenate([picture.corners, picture.corners[:1]])]
    if not masks:
        return lines
    for name, counts in picture.counts.items():
        if not has_rings(picture.rings, name):
            lines[name] = outline_mask(counts > threshold)
    for ring in picture.rings or ():
        lines.setdefault(ring.cls, []).append(ring.outline(min_radius))
    return {name: parts for name, parts in lines.items() if parts}


def has_rings(rings: Sequence[object] | None, name: str) -> bool:
    """Whether a class is shown by rings."""
    return rings is not None and name in POINT_CLASSES


def outline_mask(mask: NDArray[np.bool_]) -> list[Line]:
    """Outlines of a mask (y, x), between its pixels and those outside."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    from contourpy import contour_generator  # comes with matplotlib

    top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
    cut = mask[top : rows[-1] + 2, left : columns[-1] + 2]
    if min(cut.shape) < 2:  # of an image with one row or column of pixels
        return []
    generator = contour_generator(z=cut.astype(np.float64), line_type="Separate")
    return [np.add(line, (left, top)) for line in cast("list[Line]", generator.lines(0.5))]


def move_lines(
    lines: Mapping[str, Sequence[Line]], factor: float, x: float, y: float, side: float
) -> dict[str, list[Line]]:
    """Scale lines about the corner of an image and shift it to (x, y); cut at its new side."""
    return {
        name: [np.add(np.clip((line + 0.5) * factor, 0, side), (x, y)) for line in parts]
        for name, parts in lines.items()
    }
