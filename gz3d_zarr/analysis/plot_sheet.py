"""Contact sheets: small pictures of many subjects, as one image and few artists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.indexing import with_subject_dim
from gz3d_zarr.analysis.masks import whole_threshold
from gz3d_zarr.analysis.picture import NEEDED, Picture, read_pictures
from gz3d_zarr.analysis.picture_layers import (
    MIN_RADIUS,
    Line,
    blend_masks,
    find_lines,
    has_rings,
    move_lines,
)
from gz3d_zarr.analysis.picture_options import PictureOptions
from gz3d_zarr.analysis.plot_layout import (
    DOUBLE_COLUMN,
    LEGEND_ROW,
    MARGIN,
    SINGLE_COLUMN,
    choose_classes,
    need_matplotlib,
    show_image,
    show_in_notebooks,
)
from gz3d_zarr.analysis.plot_marks import (
    SMALL_POINTS,
    TEXT_POINTS,
    choose_length,
    draw_lines,
    draw_scale_bars,
    legend_handles,
    legend_style,
    legend_title,
    scale_bar,
)
from gz3d_zarr.analysis.sky_grids import require_scale
from gz3d_zarr.analysis.validation import find_ok
from gz3d_zarr.errors import Status, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SHEET_SUBJECTS = 200
"""Maximum number of subjects on one contact sheet."""
MAX_PIXELS = 200_000_000
"""Of a sheet: 800 MB in memory while it is drawn."""
_USUAL_COLUMNS = 6
"""At most, unless more are asked for: so that titles can be read on a page."""
_LEAST_PITCH = DOUBLE_COLUMN / _USUAL_COLUMNS
_GAP = 0.06
_LINE = 0.105
"""Inches between the lines of titles."""
_HEAD = 0.24
"""For the title of the sheet."""
_LINE_POINTS = 0.7
_RING_POINTS = 2.4
"""Least radius of rings."""
_NOTE_COLOR = "#555555"


@dataclass(frozen=True, eq=False)
class _Tile:
    """A subject on a contact sheet.

    Attributes
    ----------
    title : str
    image : ndarray of uint8, shape (y, x, 3)
        In the pixels of the sheet.
    lines : dict
        In the pixels of the original image, as from `find_lines`.
    across : int
        Pixels of the original image.
    arcsec : float
        Its width.
    unasked : tuple of str
        Classes that nobody was asked about.
    has_rings : bool
    """

    title: str
    image: NDArray[np.uint8]
    lines: dict[str, list[Line]]
    across: int
    arcsec: float
    unasked: tuple[str, ...]
    has_rings: bool

    @property
    def note(self) -> str:
        return f"not asked: {', '.join(self.unasked)}" if self.unasked else ""


@dataclass(frozen=True)
class _Grid:
    """Places of tiles on a sheet, in inches."""

    tiles: int
    columns: int
    title_lines: int
    head: float
    foot: float

    @property
    def rows(self) -> int:
        return -(-self.tiles // self.columns)

    @property
    def width(self) -> float:
        return max(self.columns * self.pitch, SINGLE_COLUMN)

    @property
    def pitch(self) -> float:
        return _find_pitch(self.columns)

    @property
    def side(self) -> float:
        return self.pitch - _GAP

    @property
    def titles(self) -> float:
        """Height of the titles of a row."""
        return self.title_lines * _LINE + 0.05

    @property
    def height(self) -> float:
        return self.head + self.rows * (self.side + self.titles + _GAP) + self.foot

    def corner(self, i: int) -> tuple[float, float]:
        """Upper left corner of a tile, from the upper left corner of the sheet."""
        row, column = divmod(i, self.columns)
        left = (self.width - self.columns * self.pitch + _GAP) / 2
        down = self.head + self.titles + row * (self.side + self.titles + _GAP)
        return left + column * self.pitch, down


def _find_pitch(columns: int) -> float:
    """Inches from one column to the next."""
    return float(np.clip(DOUBLE_COLUMN / columns, _LEAST_PITCH, SINGLE_COLUMN))


def plot_sheet(
    dataset: xr.Dataset,
    ax: Sequence[Axes] | None,
    options: PictureOptions,
    *,
    columns: int | None = None,
    title: str | None = None,
) -> Figure:
    """Plot many rows, as `GZ3DAccessor.contact_sheet` documents."""
    require_scale(dataset, *NEEDED)
    need_matplotlib()
    level = whole_threshold(options.threshold)
    names = choose_classes(dataset, options.classes)
    rows = with_subject_dim(dataset)
    number = rows.sizes["subject"]
    if options.panels == "both":
        raise UsageError(
            "panels is both, but a contact sheet has one picture of each subject: expected image "
            "or masks"
        )
    if number == 0:
        raise UsageError("there is no subject to plot")
    if number > MAX_SHEET_SUBJECTS:
        raise UsageError(
            f"{number} subjects do not fit on one contact sheet: select at most "
            f"{MAX_SHEET_SUBJECTS}"
        )
    if columns is not None and columns < 1:
        raise UsageError(f"columns is {columns}, expected at least 1")
    columns = min(columns or min(math.ceil(math.sqrt(number)), _USUAL_COLUMNS), number)
    pixels = None if ax is not None else round((_find_pitch(columns) - _GAP) * options.dpi)
    tiles = _read_tiles(rows, names, pixels, options)
    if ax is not None:
        return _draw_in_axes(list(np.atleast_1d(np.asarray(ax, object)).flat), tiles, title)
    masks = options.panels != "image"
    ringed = [name for name in names if has_rings(() if tiles[0].has_rings else None, name)]
    labels = {name: name for name in names}
    handles = legend_handles(labels, ringed, hexagon=options.hexagon, masks=masks)
    columns = min(columns, len(tiles))
    legend_columns = 3 if columns * _find_pitch(columns) > 1.4 * SINGLE_COLUMN else 2
    grid = _Grid(
        len(tiles),
        columns,
        title_lines=2 if any(tile.unasked for tile in tiles) else 1,
        head=_HEAD if title else 0.0,
        foot=(1 - -len(handles) // legend_columns) * LEGEND_ROW + 2 * MARGIN,
    )
    figure = _draw_sheet(grid, tiles, options.dpi)
    meaning = [legend_title(level, rings=bool(ringed))] if masks else []
    figure.legend(
        handles=handles,
        title=" ".join([*meaning, "North is up, east to the left."]),
        loc="lower center",
        bbox_to_anchor=(0.5, MARGIN / grid.height),
        ncols=legend_columns,
        **legend_style(),
    )
    if title is not None:
        figure.suptitle(title, fontsize=TEXT_POINTS + 2, y=1 - MARGIN / grid.height, va="top")
    return figure


def _read_tiles(
    rows: xr.Dataset, names: Sequence[str], pixels: int | None, options: PictureOptions
) -> list[_Tile]:
    """Tiles of the subjects that are ok; the others are counted in a warning."""
    tiles, status = [], []
    for picture in read_pictures(rows, names, by_spaxel=options.spaxels):
        status.append(picture.status)
        if picture.status == Status.OK:
            tiles.append(_make_tile(picture, pixels, options))
    known = rows.assign(status=("subject", np.array(status)))
    find_ok(known, "the contact sheet", stacklevel=5)
    return tiles


def _make_tile(picture: Picture, pixels: int | None, options: PictureOptions) -> _Tile:
    masks = options.panels != "image"
    image = blend_masks(picture) if masks else picture.image
    across = max(image.shape[:2])
    radius = MIN_RADIUS
    if pixels is not None:
        radius = max(radius, _RING_POINTS / 72 * options.dpi * across / pixels)
    lines = find_lines(picture, options.threshold, radius, hexagon=options.hexagon, masks=masks)
    return _Tile(
        f"{picture.row['subject'].values} ({picture.number})",
        image if pixels is None else _resize(image, pixels / across),
        lines,
        across,
        across * picture.arcsec,
        picture.unasked,
        picture.rings is not None,
    )


def _resize(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    from PIL import Image  # comes with matplotlib

    rows, columns = (max(1, round(length * factor)) for length in image.shape[:2])
    way = Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((columns, rows), way))


def _draw_sheet(grid: _Grid, tiles: Sequence[_Tile], dpi: float) -> Figure:
    """One image of all tiles on axes that cover the figure, in inches from its upper left."""
    from matplotlib.figure import Figure

    columns, rows = math.ceil(grid.width * dpi), math.ceil(grid.height * dpi)
    if columns * rows > MAX_PIXELS:
        raise UsageError(
            f"the contact sheet would have {columns} x {rows} pixels, expected at most "
            f"{MAX_PIXELS:,}: choose a smaller dpi, or fewer subjects"
        )
    width, height = columns / dpi, rows / dpi
    figure = show_in_notebooks(Figure(figsize=(width, height), dpi=dpi))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    sheet = np.full((rows, columns, 3), 255, np.uint8)
    lines: dict[str, list[Line]] = {}
    bars = []
    for i, tile in enumerate(tiles):
        x, y = grid.corner(i)
        left, top = round(x * dpi), round(y * dpi)
        up, across = tile.image.shape[:2]
        sheet[top : top + up, left : left + across] = tile.image
        moved = move_lines(tile.lines, grid.side / tile.across, x, y, grid.side)
        for name, parts in moved.items():
            lines.setdefault(name, []).extend(parts)
        length = choose_length(tile.arcsec)
        if length is not None:
            bar = scale_bar(length / tile.arcsec * grid.side, grid.side)
            bars.append((np.add(bar, (x, y)), length))
        _write_title(axes, tile, x + grid.side / 2, y, grid.title_lines)
    axes.imshow(sheet, extent=(0, width, height, 0), aspect="auto", interpolation="nearest")
    draw_lines(axes, lines, _LINE_POINTS)
    draw_scale_bars(axes, bars, SMALL_POINTS)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    return figure


def _write_title(axes: Axes, tile: _Tile, x: float, y: float, lines: int) -> None:
    style: dict[str, Any] = {"ha": "center", "va": "baseline"}
    base = y - 0.04
    axes.text(x, base - (lines - 1) * _LINE, tile.title, fontsize=SMALL_POINTS + 0.5, **style)
    if tile.note:
        axes.text(x, base, tile.note, fontsize=SMALL_POINTS, color=_NOTE_COLOR, **style)


def _draw_in_axes(axes: list[Axes], tiles: Sequence[_Tile], title: str | None) -> Figure:
    """Draw each tile in axes that were given."""
    if len(axes) < len(tiles):
        raise UsageError(f"{len(tiles)} subjects need as many axes, not {len(axes)}")
    figure = cast("Figure", axes[0].figure)
    for panel, tile in zip(axes, tiles, strict=False):
        show_image(panel, tile.image)
        draw_lines(panel, tile.lines, _LINE_POINTS)
        length = choose_length(tile.arcsec)
        if length is not None:
            bar = scale_bar(length / tile.arcsec * tile.across, tile.across)
            draw_scale_bars(panel, [(bar, length)], SMALL_POINTS)
        panel.set_title("\n".join(filter(None, [tile.title, tile.note])), fontsize=TEXT_POINTS)
        panel.set_axis_off()
    if title is not None:
        figure.suptitle(title)
    return figure
