"""Lines, scale bar, arrows and legend of figures, as matplotlib draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gz3d_zarr.analysis.palette import (
    BUNDLE_COLOR,
    BURNT_COLOR,
    CLASS_COLORS,
    CLASS_DASHES,
    EDGE_COLOR,
)
from gz3d_zarr.analysis.picture_layers import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEXT_POINTS = 7.0
"""Size of most text: that of the captions of journals is 8 to 9."""
SMALL_POINTS = 6.0
_HANDLE_POINTS, _RING_POINTS = 1.4, 1.0
_TEXT_BOX: Mapping[str, Any] = {"facecolor": EDGE_COLOR, "alpha": 0.4, "lw": 0, "pad": 0.5}
"""Behind white text, for bright parts of an image; a dark edge would thin small letters out."""
_LENGTHS_ARCSEC = (1, 2, 5, 10, 15, 20, 30, 60)
"""Of scale bars."""
_BAR_FRACTION = 0.25
"""Longest scale bar, relative to the image."""


def draw_lines(axes: Axes, lines: Mapping[str, Sequence[Line]], width: float) -> None:
    """Draw the lines of `find_lines` in colors and styles of the classes, one artist for each."""
    from matplotlib.collections import LineCollection

    for name, parts in lines.items():
        collection = LineCollection(
            parts,
            colors=CLASS_COLORS.get(name, BUNDLE_COLOR),
            linestyles=[_line_style(name)],
            linewidths=width,
            path_effects=_dark_edge(width),
            label=name,
        )
        axes.add_collection(collection, autolim=False)


def _line_style(name: str) -> Any:
    dashes = CLASS_DASHES.get(name, ())
    return (0, dashes) if dashes else "solid"


def _dark_edge(width: float) -> list[Any]:
    """Bright lines are readable on bright parts of an image, and on paper."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=width + 0.7, foreground=EDGE_COLOR), Normal()]


def choose_length(arcsec: float) -> int | None:
    """Length of the scale bar of an image of this width, in arcsec; None if none fits."""
    fitting = [length for length in _LENGTHS_ARCSEC if length <= _BAR_FRACTION * arcsec]
    return fitting[-1] if fitting else None


def scale_bar(length: float, side: float) -> Line:
    """Ends of a scale bar in the lower left corner of an image with row 0 at the top; in pixels."""
    left, y = 0.06 * side, 0.94 * side
    return np.array([[left, y], [left + length, y]])


def draw_scale_bars(axes: Axes, bars: Sequence[tuple[Line, int]], points: float) -> None:
    """Draw scale bars, each with its length in arcsec above its middle."""
    from matplotlib.collections import LineCollection

    lines = LineCollection(
        [bar for bar, _ in bars],
        colors="white",
        linewidths=1.2,
        path_effects=_dark_edge(1.2),
        label="scale",
    )
    axes.add_collection(lines, autolim=False)
    for bar, length in bars:
        axes.annotate(
            f"{length}″",
            bar.mean(axis=0),
            (0, 1.5),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color="white",
            fontsize=points,
            bbox=dict(_TEXT_BOX),
        )


def draw_arrows(axes: Axes, side: float, points: float) -> None:
    """Draw arrows to the north and east in the lower right corner; row 0 is in the north."""
    corner, length = 0.94 * side, 0.11 * side
    arrow: dict[str, Any] = {
        "arrowstyle": "<|-",
        "color": "white",
        "lw": 0.8,
        "shrinkA": 1,
        "shrinkB": 0,
    }
    for label, dx, dy in (("N", 0.0, -length), ("E", -length, 0.0)):
        axes.annotate(
            label,
            (corner, corner),
            (corner + dx, corner + dy),
            color="white",
            fontsize=points,
            ha="center",
            va="center",
            arrowprops=arrow,
            bbox=dict(_TEXT_BOX),
        )


def legend_handles(
    classes: Mapping[str, str], rings: Sequence[str], *, hexagon: bool, masks: bool
) -> list[Any]:
    """Handles of a legend.

    Parameters
    ----------
    classes : mapping
        Class to label.
    rings : sequence of str
        Classes that are shown by rings.
    hexagon, masks : bool
        Whether the true bundle and the masks are drawn.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle

    edge = _dark_edge(_HANDLE_POINTS)

    def line(color: str, label: str, style: Any = "solid") -> Line2D:
        return Line2D(
            [], [], color=color, lw=_HANDLE_POINTS, ls=style, path_effects=edge, label=label
        )

    handles: list[Any] = []
    for name, label in classes.items() if masks else ():
        color, style = CLASS_COLORS[name], _line_style(name)
        if name not in rings:
            handles.append(line(color, label, style))
            continue
        ring = Circle((0, 0), fill=False, edgecolor=color, lw=_RING_POINTS, ls=style, label=label)
        ring.set_path_effects(_dark_edge(_RING_POINTS))
        handles.append(ring)
    if hexagon:
        handles.append(line(BUNDLE_COLOR, "MaNGA bundle"))
    handles.append(Line2D([], [], color=BURNT_COLOR, lw=0.8, label="outline in image (too small)"))
    return handles


def legend_title(level: int, *, rings: bool) -> str:
    """What lines and rings mean."""
    outlined = f"Outlined: more than {level} marks."
    return f"{outlined} Rings: clusters of marks." if rings else outlined


def legend_style() -> dict[str, Any]:
    """Arguments of a legend of such handles."""
    from matplotlib.legend_handler import HandlerPatch
    from matplotlib.patches import Circle

    handler = HandlerPatch(patch_func=_ring_handle)
    return {**_LEGEND_STYLE, "handler_map": {Circle: handler}}


def _ring_handle(
    *_: Any, xdescent: float, ydescent: float, width: float, height: float, **__: Any
) -> Any:
    from matplotlib.patches import Circle

    return Circle(((width - xdescent) / 2, (height - ydescent) / 2), 0.55 * height)


_LEGEND_STYLE: Mapping[str, Any] = {
    "fontsize": TEXT_POINTS,
    "title_fontsize": TEXT_POINTS,
    "frameon": False,
    "borderpad": 0,
    "borderaxespad": 0,
    "labelspacing": 0.35,
    "columnspacing": 1.5,
    "handlelength": 2.4,
}
