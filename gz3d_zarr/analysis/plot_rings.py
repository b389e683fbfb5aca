"""Rings around the clusters of center and star marks, for figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from gz3d_zarr.analysis.indexing import with_subject_dim
from gz3d_zarr.analysis.store_groups import find_annotations
from gz3d_zarr.datamodel.annotations import CLUSTER_COLUMNS, POINT_CLASSES
from gz3d_zarr.errors import StoreError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIN_RADIUS = 5.0
"""Pixels; the ellipses of many stars are so small that nobody would see their rings."""
_SIGMAS = 2.0
_RING_COLUMNS = [
    list(CLUSTER_COLUMNS).index(name) for name in ("x", "y", "var_x", "var_y", "var_x_y")
]


@dataclass(frozen=True, slots=True)
class Ring:
    """The 2-sigma ellipse of a cluster, at least as large as `MIN_RADIUS`.

    Attributes
    ----------
    cls : str
    x, y : float
        Center in pixels of the image.
    width, height : float
        Axes in pixels.
    angle : float
        Of the first axis, in degrees from x towards y.
    """

    cls: str
    x: float
    y: float
    width: float
    height: float
    angle: float


def read_rings(dataset: xr.Dataset, classes: Sequence[str]) -> list[list[Ring]] | None:
    """Rings of each subject of a Dataset, in its order; None if it has no clusters to read.

    A selection that xarray wrote to a new store has none.
    """
    wanted = [name for name in classes if name in POINT_CLASSES]
    if not wanted:
        return None
    rows = with_subject_dim(dataset)
    try:
        annotations = find_annotations(rows)
        clusters = {name: annotations.clusters(name) for name in wanted}
    except (StoreError, UsageError):
        return None
    rings: list[list[Ring]] = [[] for _ in range(rows.sizes["subject"])]
    for name, (table, sizes) in clusters.items():
        owners = np.repeat(np.arange(len(sizes)), sizes).tolist()
        for owner, values in zip(owners, table[:, _RING_COLUMNS].tolist(), strict=True):
            rings[owner].append(make_ring(name, *values))
    return rings


def make_ring(cls: str, x: float, y: float, var_x: float, var_y: float, var_x_y: float) -> Ring:
    """The ring of one cluster, from its mean position and covariance in pixels."""
    covariance = np.nan_to_num(np.array([[var_x, var_x_y], [var_x_y, var_y]]), posinf=0, neginf=0)
    variances, vectors = np.linalg.eigh(covariance)
    radii = np.maximum(_SIGMAS * np.sqrt(np.maximum(variances, 0)), MIN_RADIUS)
    angle = math.degrees(math.atan2(vectors[1, 0], vectors[0, 0]))
    return Ring(cls, x, y, 2 * float(radii[0]), 2 * float(radii[1]), angle)


def draw_rings(axes: Axes, rings: Sequence[Ring], colors: Mapping[str, str]) -> None:
    """Draw rings in the colors of their classes."""
    from matplotlib.patches import Ellipse

    for ring in rings:
        axes.add_patch(
            Ellipse(
                (ring.x, ring.y),
                ring.width,
                ring.height,
                angle=ring.angle,
                fill=False,
                edgecolor=colors[ring.cls],
                linewidth=1.2,
            )
        )
