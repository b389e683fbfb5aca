"""What a figure shows of a subject: its image, counts, rings and bundle, read together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.masks import check_class
from gz3d_zarr.analysis.plot_rings import Ring, read_rings
from gz3d_zarr.analysis.sky_grids import bundle_corners
from gz3d_zarr.analysis.spaxels import SPAXEL_ARCSEC, spaxels
from gz3d_zarr.analysis.store_groups import SubjectAnnotations, find_annotations
from gz3d_zarr.datamodel.annotations import POINT_CLASSES
from gz3d_zarr.datamodel.subject import CRPIX
from gz3d_zarr.errors import Status, StoreError, UsageError

NEEDED = ("image", "segmentation", "class", "status", "ifu_design_size")
"""Variables of a Dataset that figures need, besides `scale`."""
_ALSO_READ = ("scale", "ra", "dec", "classifications")
_BLOCK = 16
"""Subjects that are read together: 2 MB each."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One subject.

    Attributes
    ----------
    row : xarray.Dataset
        In memory, with the variables that figures need.
    status : int
        Where it is not ok, there are no pixels.
    image : ndarray of uint8, shape (y, x, 3)
    counts : mapping
        Class to counts (y, x); with spaxels, float64 and equal over each spaxel.
    unasked : tuple of str
        Classes that nobody was asked about.
    rings : tuple of Ring, or None
        None if the Dataset has no clusters to read.
    corners : ndarray of float64, shape (6, 2), or None
        Of the true bundle, in pixels; None if its size is unknown.
    arcsec : float
        Per pixel; NaN if it is unknown.
    """

    row: xr.Dataset
    status: int
    image: NDArray[np.uint8]
    counts: Mapping[str, NDArray[Any]]
    unasked: tuple[str, ...]
    rings: tuple[Ring, ...] | None
    corners: NDArray[np.float64] | None
    arcsec: float

    @property
    def title(self) -> str:
        """Both ids."""
        return f"MaNGA {self.row['subject'].values}, Zooniverse {self.number}"

    @property
    def number(self) -> int:
        """Zooniverse id."""
        return int(self.row["zooniverse_subject_id"].values)

    @property
    def shown(self) -> list[str]:
        """Classes of which anything is marked."""
        return [name for name, values in self.counts.items() if values.any()]


def read_pictures(
    rows: xr.Dataset, classes: Sequence[str], *, by_spaxel: bool = False
) -> Iterator[Picture]:
    """Read each row of a Dataset with the dimension ``subject``, of a file all at once.

    A selection that xarray wrote to a new store has no rings.
    """
    annotations = None
    if any(name in POINT_CLASSES for name in classes):
        try:
            annotations = find_annotations(rows)
        except (StoreError, UsageError):
            annotations = None
    held = [name for name in (*NEEDED, *_ALSO_READ) if name in rows.variables]
    lean = rows[held]
    for start in range(0, rows.sizes["subject"], _BLOCK):
        part = slice(start, start + _BLOCK)
        block = lean.isel(subject=part)
        block, rings = _load(block, annotations and annotations.part(part), classes)
        for i in range(block.sizes["subject"]):
            yield _make_picture(
                block.isel(subject=i),
                classes,
                None if rings is None else tuple(rings[i]),
                by_spaxel=by_spaxel,
            )


def _load(
    block: xr.Dataset, annotations: SubjectAnnotations | None, classes: Sequence[str]
) -> tuple[xr.Dataset, list[list[Ring]] | None]:
    if annotations is None:
        return block.compute(), None
    loaded = annotations.compute_with(block)
    try:
        return loaded, read_rings(annotations, classes, loaded.sizes["subject"])
    except (StoreError, UsageError):
        return loaded, None


def _make_picture(
    row: xr.Dataset,
    classes: Sequence[str],
    rings: tuple[Ring, ...] | None,
    *,
    by_spaxel: bool,
) -> Picture:
    status = int(row["status"].values)
    scale = float(row["scale"].values)
    image = row["image"].transpose("y", "x", "channel").values
    counts: dict[str, NDArray[Any]] = {}
    if status == Status.OK:
        planes = _planes(spaxels(row, None, None, None, "exact") if by_spaxel else row)
        planes = _spread(planes, scale, image.shape[:2]) if by_spaxel else planes
        counts = {name: planes[check_class(row, name)] for name in classes}
    return Picture(
        row,
        status,
        image,
        counts,
        tuple(_find_unasked(row, classes)),
        rings,
        bundle_corners(int(row["ifu_design_size"].values), scale),
        scale * 3600,
    )


def _planes(row: xr.Dataset) -> NDArray[Any]:
    """Counts (class, y, x), also if one class was selected."""
    values: NDArray[Any] = row["segmentation"].transpose(..., "y", "x").values
    return values.reshape(-1, *values.shape[-2:])


def _spread(planes: NDArray[Any], scale: float, shape: tuple[int, int]) -> NDArray[Any]:
    """Give each pixel the value of its spaxel, or 0 if it is in none."""
    step, side = SPAXEL_ARCSEC / (scale * 3600), planes.shape[-1]
    x = np.floor((np.arange(shape[1]) - (CRPIX - 1)) / step + side / 2 + 0.5).astype(int)
    y = np.floor((CRPIX - 1 - np.arange(shape[0])) / step + side / 2 + 0.5).astype(int)
    padded = np.pad(planes, ((0, 0), (1, 1), (1, 1)))
    x, y = np.clip(x + 1, 0, side + 1), np.clip(y + 1, 0, side + 1)
    return padded[:, y[:, None], x[None]]


def _find_unasked(row: xr.Dataset, classes: Sequence[str]) -> list[str]:
    if "classifications" not in row.variables:
        return []
    numbers = np.atleast_1d(row["classifications"].values)
    return [name for name in classes if numbers[check_class(row, name)] == 0]
