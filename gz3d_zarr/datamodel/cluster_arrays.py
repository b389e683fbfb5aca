"""Clusters of marks of all subjects as contiguous ragged arrays (CF conventions 1.11, 9.3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.annotations import CLUSTER_COLUMNS, decode_clusters
from gz3d_zarr.datamodel.variables import SubjectRecord

ROW_SIZES: Mapping[str, tuple[str, str]] = {
    "center": ("number_galaxy_centers", "galaxy_center"),
    "star": ("number_foreground_stars", "foreground_star"),
}
"""Class to the variable with the number of clusters of each subject, and their dimension."""
CLUSTER_MEANINGS: Mapping[str, str] = {
    "x": "position along x of the cluster, in pixels of the image, of which the first is 0",
    "y": "position along y of the cluster, in pixels of the image, of which the first is 0",
    "var_x": "variance of x",
    "var_y": "variance of y",
    "var_x_y": "covariance of x and y",
    "ra": "right ascension of the cluster, ICRS, computed with the first pixel as 1, not 0",
    "dec": "declination of the cluster, ICRS, computed with the first pixel as 1, not 0",
    "var_ra": "variance of ra",
    "var_dec": "variance of dec",
    "var_ra_dec": "covariance of ra and dec",
    "count": "marks in the cluster",
}


@dataclass(frozen=True, slots=True)
class ClusterArray:
    """One array of the group ``clusters``."""

    dims: tuple[str, ...]
    values: NDArray[Any]
    attrs: Mapping[str, Any]


def cluster_arrays(records: Sequence[SubjectRecord]) -> dict[str, ClusterArray]:
    """Ragged arrays of these subjects, one row per cluster.

    Parameters
    ----------
    records : sequence of SubjectRecord
        In the order of the store. One whose file was not read has no clusters.

    Returns
    -------
    dict
        Name in the group ``clusters`` to array: the row sizes (int32, along ``subject``), then the
        columns of HDUs 6 and 7 (float64), such as ``center_x`` along ``galaxy_center``.
    """
    arrays = {}
    for cls, (size_name, dim) in ROW_SIZES.items():
        tables = [
            decode_clusters("" if m is None else getattr(m, f"{cls}_clusters"))
            for m in (record.outcome.metadata for record in records)
        ]
        sizes = np.array([len(table) for table in tables], np.int32)
        arrays[size_name] = ClusterArray(
            ("subject",),
            sizes,
            {"long_name": f"clusters of {cls} marks that are stored", "sample_dimension": dim},
        )
        whole = np.concatenate([*tables, np.empty((0, len(CLUSTER_COLUMNS)))])
        for i, (column, unit) in enumerate(CLUSTER_COLUMNS.items()):
            attrs = {"long_name": CLUSTER_MEANINGS[column], "units": unit}
            arrays[f"{cls}_{column}"] = ClusterArray(
                (dim,), np.ascontiguousarray(whole[:, i]), attrs
            )
    return arrays
