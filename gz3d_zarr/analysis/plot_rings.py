"""Rings around the clusters of center and star marks, for figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.analysis.store_groups import SubjectAnnotations
from gz3d_zarr.datamodel.annotations import CLUSTER_COLUMNS, POINT_CLASSES

_SIGMAS = 2.0
_CORNERS = 36
_RING_COLUMNS = [
    list(CLUSTER_COLUMNS).index(name) for name in ("x", "y", "var_x", "var_y", "var_x_y")
]


@dataclass(frozen=True, slots=True)
class Ring:
    """The 2-sigma ellipse of a cluster.

    Attributes
    ----------
    cls : str
    x, y : float
        Center in pixels of the image.
    radii : tuple of float
        Half axes in pixels.
    angle : float
        Of the first axis, in radians from x toward y.
    """

    cls: str
    x: float
    y: float
    radii: tuple[float, float]
    angle: float

    def outline(self, min_radius: float) -> NDArray[np.float64]:
        """Points (x, y) along the ring, shape (37, 2), at least as large as `min_radius`.

        The ellipses of many stars are so small that nobody would see them.
        """
        a, b = np.maximum(self.radii, min_radius)
        t = np.linspace(0, 2 * np.pi, _CORNERS + 1)
        u, v = a * np.cos(t), b * np.sin(t)
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.column_stack([self.x + u * cos - v * sin, self.y + u * sin + v * cos])


def read_rings(
    annotations: SubjectAnnotations, classes: Sequence[str], subjects: int
) -> list[list[Ring]]:
    """Rings of each subject, for those of the classes that have clusters."""
    rings: list[list[Ring]] = [[] for _ in range(subjects)]
    for name in classes:
        if name not in POINT_CLASSES:
            continue
        table, sizes = annotations.clusters(name)
        owners = np.repeat(np.arange(len(sizes)), sizes).tolist()
        for owner, values in zip(owners, table[:, _RING_COLUMNS].tolist(), strict=True):
            rings[owner].append(make_ring(name, *values))
    return rings


def make_ring(cls: str, x: float, y: float, var_x: float, var_y: float, var_x_y: float) -> Ring:
    """The ring of one cluster, from its mean position and covariance in pixels."""
    covariance = np.nan_to_num(np.array([[var_x, var_x_y], [var_x_y, var_y]]), posinf=0, neginf=0)
    variances, vectors = np.linalg.eigh(covariance)
    first, second = (float(r) for r in _SIGMAS * np.sqrt(np.maximum(variances, 0)))
    return Ring(cls, x, y, (first, second), math.atan2(vectors[1, 0], vectors[0, 0]))
