"""Figures of subjects: the image that the volunteers saw, and their marks."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.indexing import with_subject_dim
from gz3d_zarr.analysis.masks import check_class, whole_threshold
from gz3d_zarr.analysis.palette import BUNDLE_COLOR, CLASS_COLORS
from gz3d_zarr.analysis.plot_rings import Ring, draw_rings, read_rings
from gz3d_zarr.analysis.selection import select_any
from gz3d_zarr.analysis.sky_grids import (
    WCS_VARIABLES,
    bundle_hexagon,
    load_variables,
    require_scale,
    subject_wcs,
)
from gz3d_zarr.analysis.validation import keep_ok, status_label
from gz3d_zarr.datamodel.annotations import POINT_CLASSES
from gz3d_zarr.datamodel.subject import THRESHOLD
from gz3d_zarr.errors import Status, UsageError, missing_extra_error

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


MAX_SHEET_SUBJECTS = 200
"""Maximum number of subjects on one contact sheet."""
_IMAGE_BRIGHTNESS = 0.7
"""Of the image under the masks, relative to the original."""
_MAX_OPACITY = 0.8
"""Opacity of the color for the highest count."""
_FULL_COLOR_COUNT = 15
"""Usual number of volunteers, so that the colors of most subjects can be compared."""
_NEEDED = ("image", "segmentation", "class", "status", "ifu_design_size")


def plot_subject(
    row: xr.Dataset,
    ax: Axes | Sequence[Axes] | None = None,
    *,
    classes: str | Sequence[str] | None = None,
    threshold: float = THRESHOLD,
    hexagon: bool = True,
) -> Figure:
    """Plot one row, as `GZ3DAccessor.plot` documents."""
    require_scale(row, *_NEEDED, "ra", "dec")
    _need_matplotlib()
    level = whole_threshold(threshold)
    names = _classes(row, classes)
    rings = read_rings(row, names)
    row = load_variables(row, *_NEEDED, *WCS_VARIABLES, "classifications")
    status = int(row["status"].values)
    if status != Status.OK:
        raise UsageError(f"subject {_title(row)} has no image: its status is "
                         f"{status_label(status)}")  # fmt: skip
    bars: list[Axes | None] = [None] * len(names)
    if ax is None:
        figure, panels, bars = _new_figure(subject_wcs(row), len(names))
    else:
        panels = list(np.atleast_1d(np.asarray(ax, object)).flat)
        if len(panels) not in (1, 2):
            raise UsageError(f"plot takes one or two axes, not {len(panels)}")
        figure = cast("Figure", panels[0].figure)
    image, counts = _pixels(row, names)
    if len(panels) == 2:
        _show_image(panels[0], image)
        panels[0].set_title(_title(row))
    right = panels[-1]
    _overlay(right, image, counts, level, None if rings is None else rings[0])
    right.set_title("volunteers' counts" if len(panels) == 2 else _title(row))
    if hexagon:
        for panel in panels:
            _draw_hexagon(panel, row)
    for bar, (name, values) in zip(bars, counts.items(), strict=True):
        _count_bar(figure, right, bar, name, int(values.max()))
    unasked = _find_unasked(row, names)
    labels = {name: f"{name} (not asked)" if name in unasked else name for name in names}
    _legend(right, labels, level, hexagon, rings is not None)
    return figure


def plot_sheet(
    dataset: xr.Dataset,
    ax: Sequence[Axes] | None = None,
    *,
    columns: int | None = None,
    classes: str | Sequence[str] | None = None,
    threshold: float = THRESHOLD,
    hexagon: bool = True,
    title: str | None = None,
) -> Figure:
    """Plot many rows, as `GZ3DAccessor.contact_sheet` documents."""
    require_scale(dataset, *_NEEDED)
    _need_matplotlib()
    from matplotlib.figure import Figure

    level = whole_threshold(threshold)
    names = _classes(dataset, classes)
    rows = with_subject_dim(dataset)
    number = rows.sizes["subject"]
    if number == 0:
        raise UsageError("there is no subject to plot")
    if number > MAX_SHEET_SUBJECTS:
        raise UsageError(
            f"{number} subjects do not fit on one contact sheet: select at most "
            f"{MAX_SHEET_SUBJECTS}"
        )
    if columns is not None and columns < 1:
        raise UsageError(f"columns is {columns}, expected at least 1")
    rows = keep_ok(rows, "the contact sheet")
    number = rows.sizes["subject"]
    if ax is None:
        across = min(number, columns or math.ceil(math.sqrt(number)))
        down = -(-number // across)
        size = max(3.0 * across, 5.0), 3.25 * down + 0.7
        figure = _show_in_notebooks(Figure(figsize=size, layout="constrained"))
        panels = list(figure.subplots(down, across, squeeze=False).flat)
        for panel in panels[number:]:
            panel.set_axis_off()
    else:
        panels = list(np.atleast_1d(np.asarray(ax, object)).flat)
        if len(panels) < number:
            raise UsageError(f"{number} subjects need as many axes, not {len(panels)}")
        figure = cast("Figure", panels[0].figure)
    rings = read_rings(rows, names)
    for i in range(number):
        row = load_variables(rows.isel(subject=i), *_NEEDED, "scale", "classifications")
        image, counts = _pixels(row, names)
        _overlay(panels[i], image, counts, level, None if rings is None else rings[i])
        unasked = _find_unasked(row, names)
        note = f"\nnot asked: {', '.join(unasked)}" if unasked else ""
        panels[i].set_title(_title(row) + note, fontsize="small")
        panels[i].set_axis_off()
        if hexagon:
            _draw_hexagon(panels[i], row)
    if ax is None:
        figure.legend(
            handles=_handles({name: name for name in names}, level, hexagon, rings is not None),
            loc="outside lower center",
            ncols=3,
            frameon=False,
            fontsize="small",
        )
    if title is not None:
        figure.suptitle(title)
    return figure


def save_picture(
    dataset: xr.Dataset, subjects: Sequence[str], path: str, *, threshold: float = THRESHOLD
) -> None:
    """Plot one subject, or several on a contact sheet, and write the figure to a file.

    Parameters
    ----------
    dataset : xarray.Dataset
    subjects : sequence of str
        MaNGA and Zooniverse ids; a MaNGA id selects all its rows.
    path : str
        File to write; its suffix sets the format.
    threshold : float
        As for `plot_subject`.

    Raises
    ------
    UsageError
        As for `plot_subject` and `plot_sheet`; or the file cannot be written.
    """
    rows = select_any(dataset, subjects)
    figure = (
        plot_subject(rows.isel(subject=0), threshold=threshold)
        if rows.sizes["subject"] == 1
        else plot_sheet(rows, threshold=threshold)
    )
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UsageError(f"the figure cannot be written to {path}: {error}") from error


def _need_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401 - only to name the extra
    except ImportError as error:
        raise missing_extra_error("plotting", error, "plot") from error


def _classes(dataset: xr.Dataset, classes: str | Sequence[str] | None) -> list[str]:
    if classes is None:
        present = np.atleast_1d(dataset["class"].values).tolist()
        return [name for name in CLASS_COLORS if name in present]
    names = [classes] if isinstance(classes, str) else list(classes)
    for name in names:
        check_class(dataset, name)
    return names


def _pixels(
    row: xr.Dataset, names: Sequence[str]
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
    """Image (y, x, channel), and counts (y, x) of each class, of a row in memory."""
    ordered = row.transpose(..., "y", "x", "channel")
    image, segmentation = ordered["image"].values, ordered["segmentation"].values
    planes = segmentation.reshape(-1, *segmentation.shape[-2:])  # also if one class was selected
    return image, {name: planes[check_class(row, name)] for name in names}


def _new_figure(wcs: WCS, bars: int) -> tuple[Figure, list[Axes], list[Axes | None]]:
    """Two square panels in sky coordinates, and narrow axes of the same height for color bars."""
    from matplotlib.figure import Figure

    left, bottom, side, gap, pitch = 1.15, 0.65, 4.4, 0.15, 0.55  # inches
    width, height = left + 2 * side + gap + 0.2 + bars * pitch, bottom + side + 0.45
    figure = _show_in_notebooks(Figure(figsize=(width, height)))

    def box(x: float, across: float) -> tuple[float, float, float, float]:
        return x / width, bottom / height, across / width, side / height

    panels = [figure.add_axes(box(left + i * (side + gap), side), projection=wcs) for i in range(2)]
    for panel in panels:
        _label_sky(panel, with_dec=panel is panels[0])
    first = left + 2 * side + gap + 0.2
    return figure, panels, [figure.add_axes(box(first + i * pitch, 0.15)) for i in range(bars)]


def _show_in_notebooks(figure: Figure) -> Figure:
    """Let a notebook show a figure that was not created by pyplot."""
    vars(figure)["_repr_png_"] = partial(_png, figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _label_sky(axes: Any, *, with_dec: bool) -> None:
    ra, dec = axes.coords
    ra.set_axislabel("right ascension (ICRS)")
    ra.set_ticks(number=4)
    dec.set_ticks(number=5)
    if with_dec:
        dec.set_axislabel("declination (ICRS)")
    else:
        dec.set_ticklabel_visible(False)
        dec.set_axislabel(" ")


def _show_image(axes: Axes, image: NDArray[np.uint8]) -> None:
    """Show the image with row 0 at the top; axes in sky coordinates need origin='lower'."""
    axes.imshow(image, origin="lower", interpolation="nearest")
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)


def _find_unasked(row: xr.Dataset, names: Sequence[str]) -> list[str]:
    """Classes that nobody was asked about, of a row in memory."""
    if "classifications" not in row.variables:
        return []
    numbers = np.atleast_1d(row["classifications"].values)
    return [name for name in names if numbers[check_class(row, name)] == 0]


def _overlay(
    axes: Axes,
    image: NDArray[np.uint8],
    counts: Mapping[str, NDArray[np.uint8]],
    level: int,
    rings: Sequence[Ring] | None,
) -> None:
    """Show a darker image, and over it each class in its color: more marks, more opaque.

    Centers and stars have rings around their clusters, if these are known, instead of outlines.
    """
    _show_image(axes, np.rint(image * _IMAGE_BRIGHTNESS).astype(np.uint8))
    for name, values in counts.items():
        if not values.any():
            continue
        axes.imshow(
            values,
            cmap=_colormap(name),
            vmin=0,
            vmax=_color_limit(int(values.max())),
            origin="lower",
            interpolation="nearest",
        )
        if values.max() > level and not (rings is not None and name in POINT_CLASSES):
            color = CLASS_COLORS[name]
            axes.contour(values, [level + 0.5], colors=[color], linewidths=1.0)
    draw_rings(axes, rings or (), CLASS_COLORS)
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)


def _color_limit(count: int) -> int:
    """Count with the full color: a fixed one, or the highest count if it is larger."""
    return max(_FULL_COLOR_COUNT, count)


def _colormap(name: str) -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    color = CLASS_COLORS[name]
    return LinearSegmentedColormap.from_list(
        name, [to_rgba(color, 0), to_rgba(color, 0.35), to_rgba(color, _MAX_OPACITY)]
    )


def _count_bar(figure: Figure, axes: Axes, bar_axes: Axes | None, name: str, highest: int) -> None:
    """Draw the color bar of a class, in `bar_axes` or next to the axes."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    scale = ScalarMappable(Normalize(0, _color_limit(highest)), _colormap(name))
    if bar_axes is None:
        bar = figure.colorbar(scale, ax=axes, location="right", fraction=0.05, pad=0.04)
    else:
        bar = figure.colorbar(scale, cax=bar_axes)
    bar.ax.set_facecolor("black")  # the bar is as transparent as the masks
    bar.ax.set_title(name, fontsize="small")
    bar.ax.tick_params(labelsize="x-small")
    bar.locator = MaxNLocator(5, integer=True)
    bar.update_ticks()


def _draw_hexagon(axes: Axes, row: xr.Dataset) -> None:
    from matplotlib.patches import Polygon

    corners = bundle_hexagon(row)
    if corners is not None:
        axes.add_patch(
            Polygon(corners, closed=True, fill=False, edgecolor=BUNDLE_COLOR, linewidth=1.2)
        )


def _legend(
    axes: Axes, labels: Mapping[str, str], level: int, hexagon: bool, has_rings: bool
) -> None:
    legend = axes.legend(
        handles=_handles(labels, level, hexagon, has_rings),
        loc="upper left",
        fontsize="x-small",
        facecolor="black",
        labelcolor="white",
        framealpha=0.6,
    )
    legend.get_frame().set_linewidth(0)


def _handles(labels: Mapping[str, str], level: int, hexagon: bool, has_rings: bool) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=CLASS_COLORS[name], label=label) for name, label in labels.items()
    ]
    handles.append(
        Line2D([], [], color="#888888", linewidth=1.0, label=f"marked by more than {level}")
    )
    if has_rings:
        ring: dict[str, Any] = {"marker": "o", "fillstyle": "none", "linestyle": ""}
        handles.append(Line2D([], [], color="#888888", label="cluster of marks", **ring))
    if hexagon:
        handles.append(Patch(fill=False, edgecolor="#aaaaaa", label="MaNGA bundle"))
    return handles


def _title(row: xr.Dataset) -> str:
    return f"{row['subject'].values} ({row['zooniverse_subject_id'].values})"
