"""Simulated volunteers: marks on a simulated galaxy, and the published rules that combine them.

The rules are those of the pipeline of the catalogue (Masters et al. 2021, section 3). Marks are
clustered by DBSCAN (eps 5 pixels, at least 3 marks); each cluster becomes its 2-sigma ellipse with
the number of marks as value. Paths that cross themselves are left out; every other path adds 1 to
each integer pixel position that it encloses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.subject import SIDE
from gz3d_zarr.errors import missing_extra_error

EPS = 5.0
MIN_SAMPLES = 3
SIGMAS = 2.0
NOTHING_FRACTION = 0.1
"""Share of volunteers who draw no path though they were asked."""
Points = list[list[float]]
Paths = list[Points]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cluster:
    """A cluster of marks.

    Attributes
    ----------
    mean : ndarray, shape (2,)
        Position (x, y) in pixels.
    covariance : ndarray, shape (2, 2)
    members : ndarray of bool
        Which marks belong to it.
    """

    mean: FloatArray
    covariance: FloatArray
    members: NDArray[np.bool_]

    @property
    def count(self) -> int:
        """Number of marks."""
        return int(self.members.sum())


def cluster_marks(marks: FloatArray) -> list[Cluster]:
    """Cluster marks, shape (n, 2) in pixels, by DBSCAN; marks outside clusters are noise."""
    if len(marks) == 0:
        return []
    near = np.hypot(*(marks[:, None] - marks[None]).transpose(2, 0, 1)) <= EPS
    core = near.sum(axis=1) >= MIN_SAMPLES
    free = np.ones(len(marks), bool)
    clusters = []
    for seed in np.flatnonzero(core):
        if not free[seed]:
            continue
        members = np.zeros(len(marks), bool)
        added = np.zeros(len(marks), bool)
        added[seed] = True
        while added.any():
            members |= added
            added = near[added & core].any(axis=0) & free & ~members
        free &= ~members
        clusters.append(Cluster(marks[members].mean(axis=0), np.cov(marks[members].T), members))
    return clusters


def mark_mask(clusters: Sequence[Cluster]) -> FloatArray:
    """Sum of the ellipses of the clusters, shape (525, 525)."""
    mask = np.zeros((SIDE, SIDE))
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    for cluster in clusters:
        if np.linalg.eigvalsh(cluster.covariance)[0] <= 0:
            continue  # marks on a line or point have no ellipse
        dx, dy = x - cluster.mean[0], y - cluster.mean[1]
        (a, b), (_, c) = np.linalg.inv(cluster.covariance)
        mask += cluster.count * (a * dx * dx + 2 * b * dx * dy + c * dy * dy <= SIGMAS**2)
    return mask


def path_mask(paths: Sequence[Points]) -> FloatArray:
    """Number of simple paths that enclose each pixel, shape (525, 525)."""
    try:
        from matplotlib.path import Path
        from shapely.geometry import LineString
    except ImportError as error:
        raise missing_extra_error("simulating", error, "demo") from error
    mask = np.zeros((SIDE, SIDE))
    for points in paths:
        if len(points) > 1 and not LineString(points).is_simple:
            continue
        corners = np.array(points)
        low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, SIDE)
        high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, SIDE)
        y, x = np.mgrid[low[1] : high[1], low[0] : high[0]]
        inside = Path([*points, points[0]]).contains_points(np.column_stack([x.ravel(), y.ravel()]))
        mask[low[1] : high[1], low[0] : high[0]] += inside.reshape(x.shape)
    return mask


def draw_marks(
    rng: np.random.Generator, targets: Sequence[FloatArray], volunteers: int, spread: float
) -> list[Points]:
    """Points that each volunteer marks: most of the targets, with scatter."""
    drawn = []
    for _ in range(volunteers):
        points = [rng.normal(target, spread) for target in targets if rng.random() < 0.93]
        if rng.random() < 0.04:
            points.append(rng.uniform(0, SIDE - 1, 2))  # noise
        drawn.append(_rounded(np.array(points).reshape(-1, 2)))
    return drawn


def draw_outlines(
    rng: np.random.Generator, outlines: Sequence[FloatArray], volunteers: int, repeats: int = 1
) -> list[Paths]:
    """Paths that each volunteer draws around the same structures.

    Some volunteers draw nothing, some a single point, and some paths cross themselves. Each
    volunteer draws every structure `repeats` times.
    """
    drawn: list[Paths] = []
    for _ in range(volunteers):
        paths: Paths = []
        shift, spread = rng.normal(0, 3, 2), rng.uniform(0.8, 2.0)
        for outline in outlines if rng.random() >= NOTHING_FRACTION else []:
            for _ in range(repeats):
                if rng.random() < 0.08:
                    continue
                points = _rounded(outline + shift + rng.normal(0, spread, outline.shape))
                kind = rng.random()
                if kind < 0.03:
                    points = points[:1]
                elif kind < 0.08:
                    points[1], points[-2] = points[-2], points[1]
                paths.append(points)
        drawn.append(paths)
    return drawn


def _rounded(points: FloatArray) -> Points:
    """Points, shape (n, 2), within the image and to a tenth of a pixel."""
    rounded: Points = np.round(np.clip(points, 0, SIDE - 1), 1).tolist()
    return rounded
