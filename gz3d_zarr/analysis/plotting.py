"""Figures of one subject: the image that the volunteers saw, and their marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr

from gz3d_zarr.analysis.indexing import with_subject_dim
from gz3d_zarr.analysis.masks import whole_threshold
from gz3d_zarr.analysis.picture import NEEDED, Picture, read_pictures
from gz3d_zarr.analysis.picture_layers import (
    MIN_RADIUS,
    blend_masks,
    color_limit,
    color_ramp,
    find_lines,
    has_rings,
)
from gz3d_zarr.analysis.picture_options import PictureOptions
from gz3d_zarr.analysis.plot_layout import (
    MARGIN,
    choose_classes,
    need_matplotlib,
    new_figure,
    show_image,
)
from gz3d_zarr.analysis.plot_marks import (
    SMALL_POINTS,
    TEXT_POINTS,
    choose_length,
    draw_arrows,
    draw_lines,
    draw_scale_bars,
    legend_handles,
    legend_style,
    legend_title,
    scale_bar,
)
from gz3d_zarr.analysis.plot_sheet import plot_sheet
from gz3d_zarr.analysis.selection import select_any
from gz3d_zarr.analysis.sky_grids import require_scale, subject_wcs
from gz3d_zarr.analysis.validation import status_label
from gz3d_zarr.datamodel.option_fields import check_options
from gz3d_zarr.errors import Status, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINE_POINTS = 1.0
_BAR_TICKS = 4
_BELOW_AXES = 5.0
"""Of the legend of axes that were given: below their tick labels, in units of the text size."""


def plot_subject(
    row: xr.Dataset, ax: Axes | Sequence[Axes] | None, options: PictureOptions
) -> Figure:
    """Plot one row, as `GZ3DAccessor.plot` documents."""
    require_scale(row, *NEEDED, "ra", "dec")
    need_matplotlib()
    level = whole_threshold(options.threshold)
    names = choose_classes(row, options.classes)
    given = None if ax is None else list(np.atleast_1d(np.asarray(ax, object)).flat)
    kinds = _choose_panels(given, options.panels)
    (picture,) = read_pictures(with_subject_dim(row), names, by_spaxel=options.spaxels)
    if picture.status != Status.OK:
        raise UsageError(
            f"subject {picture.title} has no image: its status is {status_label(picture.status)}"
        )
    masks = "masks" in kinds
    ringed = [name for name in names if has_rings(picture.rings, name)]
    handles = legend_handles(_label_classes(picture), ringed, hexagon=options.hexagon, masks=masks)
    legend: dict[str, Any] = {
        **legend_style(),
        "handles": handles,
        "title": legend_title(level, rings=bool(ringed)) if masks else None,
        "alignment": "left",
    }
    shown = picture.shown if masks else []
    if given is None:
        columns = 3 if len(kinds) == 2 else 2
        rows = -(-len(handles) // columns) + masks
        wcs = subject_wcs(picture.row)
        figure, panels, bars = new_figure(wcs, len(kinds), len(shown), rows, options.dpi)
        size = figure.get_size_inches()
        figure.legend(
            loc="lower center", bbox_to_anchor=(0.5, MARGIN / size[1]), ncols=columns, **legend
        )
    else:
        figure, panels = cast("Figure", given[0].figure), given
        bars = [panels[-1].inset_axes((1.05 + 0.14 * i, 0, 0.03, 1)) for i in range(len(shown))]
        legend["borderaxespad"] = _BELOW_AXES
        panels[-1].legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=2, **legend)
    for panel, kind in zip(panels, kinds, strict=True):
        _draw_panel(panel, picture, options, masks=kind == "masks")
    panels[0].set_title(picture.title, fontsize=TEXT_POINTS + 1)
    if len(panels) == 2:
        panels[1].set_title(_quantity(options), fontsize=TEXT_POINTS + 1)
    for bar, name in zip(bars, shown, strict=True):
        _draw_bar(bar, name, float(picture.counts[name].max()), is_flat=given is None)
    return figure


def save_picture(
    dataset: xr.Dataset, subjects: Sequence[str | int], path: str, **options: Any
) -> None:
    """Plot one subject, or several on a contact sheet, and write the figure to a file.

    Parameters
    ----------
    dataset : xarray.Dataset
    subjects : sequence of str or int
        MaNGA and Zooniverse ids; a MaNGA id selects all its rows.
    path : str
        File to write; its suffix sets the format.
    **options
        Fields of `PictureOptions`, as for `GZ3DAccessor.plot`.

    Raises
    ------
    UsageError
        As for `plot_subject` and `plot_sheet`; or the file cannot be written.
    """
    check_options(save_picture, options, PictureOptions)
    chosen = PictureOptions(**options)
    if "://" in path:  # not shown: it may hold a secret
        raise UsageError("the figure's file is a URL, expected a local path")
    rows = select_any(dataset, subjects)
    figure = (
        plot_subject(rows.isel(subject=0), None, chosen)
        if rows.sizes["subject"] == 1
        else plot_sheet(rows, None, chosen)
    )
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"the figure cannot be written to {path}: {error}") from error


def _choose_panels(given: list[Axes] | None, panels: str | None) -> list[str]:
    """Kinds of the panels of a figure: ``image``, ``masks``."""
    if given is not None and len(given) not in (1, 2):
        raise UsageError(f"plot takes one or two axes, not {len(given)}")
    if panels is None:
        panels = "both" if given is None or len(given) == 2 else "masks"
    kinds = ["image", "masks"] if panels == "both" else [panels]
    if given is not None and len(given) != len(kinds):
        raise UsageError(
            f"panels is {panels}, which needs as many axes as panels: {len(kinds)}, not "
            f"{len(given)}"
        )
    return kinds


def _quantity(options: PictureOptions) -> str:
    return "mean number of marks in a spaxel" if options.spaxels else "number of marks"


def _label_classes(picture: Picture) -> dict[str, str]:
    labels = {}
    for name, counts in picture.counts.items():
        if name in picture.unasked:
            labels[name] = f"{name} (not asked)"
        else:
            labels[name] = name if counts.any() else f"{name} (no marks)"
    return labels


def _draw_panel(axes: Axes, picture: Picture, options: PictureOptions, *, masks: bool) -> None:
    show_image(axes, blend_masks(picture) if masks else picture.image)
    lines = find_lines(picture, options.threshold, MIN_RADIUS, hexagon=options.hexagon, masks=masks)
    draw_lines(axes, lines, _LINE_POINTS)
    side = min(picture.image.shape[:2])
    length = choose_length(side * picture.arcsec)
    if length is not None:
        bar = scale_bar(length / picture.arcsec, side)
        draw_scale_bars(axes, [(bar, length)], TEXT_POINTS)
    draw_arrows(axes, side, TEXT_POINTS)


def _draw_bar(axes: Axes, name: str, highest: float, *, is_flat: bool) -> None:
    """Draw the color bar of a class."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    colors = ListedColormap(color_ramp(name).tolist(), name=name)
    scale = ScalarMappable(Normalize(0, color_limit(highest)), colors)
    figure = cast("Figure", axes.figure)
    bar = figure.colorbar(scale, cax=axes, orientation="horizontal" if is_flat else "vertical")
    bar.ax.set_title(name, fontsize=TEXT_POINTS, pad=2 if is_flat else 6)
    bar.ax.tick_params(labelsize=SMALL_POINTS, length=2, pad=1.5)
    bar.outline.set_linewidth(0.5)
    limit = int(color_limit(highest))
    bar.set_ticks(np.unique(np.rint(np.linspace(0, limit, _BAR_TICKS))).astype(int).tolist())
