"""Clusters of marks as astropy tables, and the raw marks of each volunteer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.indexing import with_subject_dim
from gz3d_zarr.analysis.store_groups import find_annotations
from gz3d_zarr.analysis.validation import validate_dataset
from gz3d_zarr.datamodel.annotations import (
    CLASS_MARKS,
    CLUSTER_COLUMNS,
    POINT_CLASSES,
    MarkTable,
    marks_from_json,
    parse_shapes,
)
from gz3d_zarr.datamodel.cluster_arrays import CLUSTER_MEANINGS
from gz3d_zarr.errors import StoreError, UsageError, missing_extra_error

if TYPE_CHECKING:
    from astropy.table import QTable

FloatArray = NDArray[np.float64]
_ASTROPY_UNITS = {"pixel": "pix", "pixel2": "pix2"}


@dataclass(frozen=True, eq=False, slots=True)
class VolunteerMarks:
    """What one volunteer marked of one class of a subject.

    Attributes
    ----------
    classification_id : int
    time_stamp : str
        As in the subject file: ``2018-02-01 04:05:00 UTC``.
    points : ndarray of float64, shape (n, 2)
        Positions (x, y) in pixels of the image, counted from 0; of ``center`` and ``star``.
    paths : tuple of ndarray of float64, each of shape (n, 2)
        Drawn outlines, likewise; of ``spiral`` and ``bar``.
    """

    classification_id: int
    time_stamp: str
    points: FloatArray
    paths: tuple[FloatArray, ...]

    def to_shapely(self) -> Any:
        """Convert the marks to shapely.

        Returns
        -------
        shapely.MultiPoint or shapely.GeometryCollection
            Points; or for paths a collection with a LineString each, and a Point for a path of one
            point. Paths are not closed, as in the file.

        Raises
        ------
        UsageError
            shapely is not installed (extra ``demo``).
        """
        try:
            import shapely
        except ImportError as error:
            raise missing_extra_error("to_shapely", error, "demo") from error
        if self.paths:
            return shapely.GeometryCollection(
                [
                    shapely.LineString(path) if len(path) > 1 else shapely.Point(path[0])
                    for path in self.paths
                ]
            )
        return shapely.MultiPoint(self.points)


def read_volunteers(row: xr.Dataset, cls: str) -> list[VolunteerMarks]:
    """Marks on one subject, as `GZ3DAccessor.marks` documents."""
    check_mark_class(cls)
    (text,) = find_annotations(row).marks()
    question, column = CLASS_MARKS[cls]
    return parse_marks(marks_from_json(text)[question], column)


def parse_marks(table: MarkTable, column: str) -> list[VolunteerMarks]:
    """Parse the JSON text of one column of marks; one item per volunteer who was asked."""
    is_points = column.endswith("_points")
    none = np.empty((0, 2))
    volunteers = []
    for number, stamp, text in zip(
        table.classification_id, table.time_stamp, table.marks[column], strict=True
    ):
        try:
            shapes = parse_shapes(text, column)
        except ValueError as error:
            raise StoreError(
                f"the {column} of classification {number} cannot be used: {error} "
                "([x, y] in pixels)"
            ) from error
        points = np.concatenate([none, *shapes]) if is_points else none
        volunteers.append(VolunteerMarks(number, stamp, points, () if is_points else tuple(shapes)))
    return volunteers


def cluster_table(dataset: xr.Dataset, cls: str) -> QTable:
    """Clusters of a class, as `GZ3DAccessor.clusters` documents."""
    validate_dataset(dataset)
    from astropy import units
    from astropy.table import QTable

    rows = with_subject_dim(dataset)
    clusters, sizes = read_clusters(rows, cls)
    table = QTable()
    table["subject"] = np.repeat(np.array(rows["subject"].values.tolist(), "U"), sizes)
    table["subject"].info.description = "MaNGA id, not unique"
    table["zooniverse_subject_id"] = np.repeat(rows["zooniverse_subject_id"].values, sizes)
    table["zooniverse_subject_id"].info.description = "Zooniverse subject id, unique"
    for (name, unit), values in zip(CLUSTER_COLUMNS.items(), clusters.T, strict=True):
        if unit == "1":
            table[name] = values.astype(np.int64)
        else:
            table[name] = units.Quantity(values, _ASTROPY_UNITS.get(unit, unit))
        table[name].info.description = CLUSTER_MEANINGS[name]
    table.meta["class"] = cls
    return table


def read_clusters(rows: xr.Dataset, cls: str) -> tuple[FloatArray, NDArray[np.int64]]:
    """Clusters of a class, for the subjects of a Dataset in their order.

    Returns
    -------
    clusters : ndarray of float64, shape (n, 11)
        Columns in the order of `CLUSTER_COLUMNS`.
    sizes : ndarray of int, shape (subject,)
        Number of clusters of each subject.
    """
    if cls not in POINT_CLASSES:
        raise UsageError(
            f"there are no clusters of {cls!r}, expected one of {', '.join(POINT_CLASSES)}"
        )
    return find_annotations(rows).clusters(cls)


def check_mark_class(cls: str, expected: Mapping[str, Any] = CLASS_MARKS) -> None:
    """UsageError if a class does not exist."""
    if cls not in expected:
        raise UsageError(f"there is no class {cls!r}, expected one of {', '.join(expected)}")
