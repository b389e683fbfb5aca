"""New figures of a paper's width, and what all figures share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.masks import check_class
from gz3d_zarr.analysis.palette import CLASS_COLORS
from gz3d_zarr.analysis.plot_marks import SMALL_POINTS, TEXT_POINTS
from gz3d_zarr.datamodel.subject import CLASSES
from gz3d_zarr.errors import missing_extra_error

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SINGLE_COLUMN, DOUBLE_COLUMN = 3.5, 7.0
"""Widths of the columns of a journal, in inches."""
LEGEND_ROW = 0.15
MARGIN = 0.05
_LEFT, _RIGHT, _TOP, _GAP = 0.72, 0.12, 0.24, 0.12
"""Inches beside, above and between panels."""
_AXIS_LABELS = 0.38
_BAR_ROW, _BAR_BOTTOM, _BAR_HEIGHT, _BAR_GAP = 0.46, 0.2, 0.08, 0.18


def need_matplotlib() -> None:
    """Raise the error that names the extra if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401 - only to name the extra
    except ImportError as error:
        raise missing_extra_error("plotting", error, "plot") from error


def choose_classes(dataset: xr.Dataset, classes: str | Sequence[str] | None) -> list[str]:
    """Classes to show, by default all of the Dataset; UsageError if one does not exist."""
    if classes is None:
        present = np.atleast_1d(dataset["class"].values).tolist()
        return [name for name in CLASS_COLORS if name in present]
    for name in classes:
        check_class(dataset, name)
    return list(classes)


def new_figure(
    wcs: WCS, panels: int, bars: int, legend_rows: int, dpi: float
) -> tuple[Figure, list[Axes], list[Axes]]:
    """One or two square panels in sky coordinates, below them color bars, then the legend."""
    from matplotlib.figure import Figure

    width = DOUBLE_COLUMN if panels == 2 else SINGLE_COLUMN
    side = (width - _LEFT - _RIGHT - (panels - 1) * _GAP) / panels
    bars_at = MARGIN + legend_rows * LEGEND_ROW
    bottom = bars_at + (_BAR_ROW if bars else 0.05) + _AXIS_LABELS
    height = bottom + side + _TOP
    figure = show_in_notebooks(Figure(figsize=(width, height), dpi=dpi))

    def box(x: float, y: float, across: float, up: float) -> tuple[float, float, float, float]:
        return x / width, y / height, across / width, up / height

    axes = [
        figure.add_axes(box(_LEFT + i * (side + _GAP), bottom, side, side), projection=wcs)
        for i in range(panels)
    ]
    for panel in axes:
        _label_sky(panel, with_dec=panel is axes[0])
    pitch = (width - _LEFT - _RIGHT + _BAR_GAP) / len(CLASSES)
    y = bars_at + _BAR_BOTTOM
    bar_axes = [
        figure.add_axes(box(_LEFT + i * pitch, y, pitch - _BAR_GAP, _BAR_HEIGHT))
        for i in range(bars)
    ]
    return figure, axes, bar_axes


def _label_sky(axes: Any, *, with_dec: bool) -> None:
    ra, dec = axes.coords
    for coordinate, name, number in ((ra, "right ascension", 4), (dec, "declination", 5)):
        coordinate.set_axislabel(f"{name} (ICRS)", fontsize=TEXT_POINTS, minpad=0.8)
        coordinate.set_ticklabel(size=SMALL_POINTS, exclude_overlapping=True)
        coordinate.set_ticks(number=number)
        coordinate.tick_params(direction="in", color="white", length=3)
    if not with_dec:
        dec.set_ticklabel_visible(False)
        dec.set_axislabel(" ")


def show_in_notebooks(figure: Figure) -> Figure:
    """Let a notebook show a figure that was not created by pyplot."""
    vars(figure)["_repr_png_"] = partial(_png, figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def show_image(axes: Axes, image: NDArray[np.uint8]) -> None:
    """Show an image with row 0 at the top; axes in sky coordinates need origin='lower'."""
    axes.imshow(image, origin="lower", interpolation="nearest")
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
