"""The volunteers' own marks (HDUs 8 to 10) and the clusters of marks (HDUs 6 and 7) of a subject.

Names of HDUs and columns are those of the SDSS data model of the catalogue (Masters et al. 2021,
MNRAS 507, 3923).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.fits_table import FitsTable
from gz3d_zarr.datamodel.sealed_json import PARSE_ERRORS
from gz3d_zarr.errors import Status, StoreError, SubjectError, quote

CLUSTER_HDUS: Mapping[str, int] = {"center": 6, "star": 7}
"""Class to the HDU of its clusters."""
CLUSTER_COLUMNS: Mapping[str, str] = {
    "x": "pixel",
    "y": "pixel",
    "var_x": "pixel2",
    "var_y": "pixel2",
    "var_x_y": "pixel2",
    "ra": "deg",
    "dec": "deg",
    "var_ra": "deg2",
    "var_dec": "deg2",
    "var_ra_dec": "deg2",
    "count": "1",
}
"""Columns of a cluster table, with their units."""
MARK_COLUMNS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "center_star": (8, ("center_points", "star_points")),
    "spiral": (9, ("spiral_paths",)),
    "bar": (10, ("bar_paths",)),
}
"""Name of a question to the volunteers, its HDU, and the columns of that with their marks."""
CLASS_MARKS: Mapping[str, tuple[str, str]] = {
    "center": ("center_star", "center_points"),
    "star": ("center_star", "star_points"),
    "spiral": ("spiral", "spiral_paths"),
    "bar": ("bar", "bar_paths"),
}
"""Class to the question that asked for it, and the column with its marks."""
POINT_CLASSES = tuple(CLUSTER_HDUS)
"""Classes of which volunteers mark points, which are clustered; of others they draw paths."""
MAX_VOLUNTEERS = 2**15 - 1
"""Rows of a table of marks; their number is stored as int16, and is tens in real files."""
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class MarkTable:
    """Raw marks of the volunteers who were asked one question; one row per volunteer.

    Attributes
    ----------
    classification_id : tuple of int
    time_stamp : tuple of str
    marks : mapping of str to tuple of str
        Column to JSON text of each row: a list of points [x, y], or of paths, each a list of
        points, in pixels of the image.
    """

    classification_id: tuple[int, ...] = ()
    time_stamp: tuple[str, ...] = ()
    marks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.classification_id)


@dataclass(frozen=True, slots=True)
class Annotations:
    """What volunteers drew on a subject.

    Attributes
    ----------
    tables : mapping of str to MarkTable
        For each key of `MARK_COLUMNS`; empty where nobody was asked.
    clusters : mapping of str to ndarray of float64, shape (n, 11)
        Class to the rows of its clusters, columns in the order of `CLUSTER_COLUMNS`.
    """

    tables: Mapping[str, MarkTable]
    clusters: Mapping[str, NDArray[np.float64]]

    @property
    def asked(self) -> tuple[int, ...]:
        """How many volunteers were asked about each class, in the order of `CLASS_MARKS`."""
        return tuple(len(self.tables[question]) for question, _ in CLASS_MARKS.values())

    @property
    def drawn(self) -> tuple[int, ...]:
        """How many of them marked anything."""
        return tuple(
            sum(_DIGIT.search(text) is not None for text in self.tables[question].marks[column])
            for question, column in CLASS_MARKS.values()
        )


def read_annotations(tables: Mapping[int, FitsTable]) -> Annotations:
    """Read HDUs 6 to 10, given as tables by their index.

    Columns are read by name: whatever else a release holds, such as user names, is left out.

    Raises
    ------
    SubjectError
        Invalid: a table that has rows lacks a column, a column has another type, or a table of
        marks has more rows than `MAX_VOLUNTEERS`.
    """
    marks = {}
    for question, (hdu, columns) in MARK_COLUMNS.items():
        table = tables[hdu]
        if not table.rows:  # then all its columns are of type D
            marks[question] = MarkTable(marks=dict.fromkeys(columns, ()))
            continue
        if table.rows > MAX_VOLUNTEERS:
            raise SubjectError(
                Status.INVALID,
                f"HDU {hdu} has {table.rows} rows, expected at most {MAX_VOLUNTEERS}",
            )
        marks[question] = MarkTable(
            tuple(table.integers("classification_id")),
            tuple(table.texts("time_stamp")),
            {column: tuple(table.texts(column)) for column in columns},
        )
    clusters = {}
    for name, hdu in CLUSTER_HDUS.items():
        table = tables[hdu]
        values = [table.numbers(column) for column in CLUSTER_COLUMNS] if table.rows else []
        clusters[name] = np.array(values, np.float64).reshape(len(CLUSTER_COLUMNS), -1).T
    return Annotations(marks, clusters)


def marks_to_json(tables: Mapping[str, MarkTable]) -> str:
    """Serialize the raw marks of a subject; the same marks give the same text."""
    content = {
        question: {
            "classification_id": table.classification_id,
            "time_stamp": table.time_stamp,
            **table.marks,
        }
        for question, table in tables.items()
    }
    return json.dumps(content, separators=(",", ":"))


def marks_from_json(text: str) -> dict[str, MarkTable]:
    """Parse what `marks_to_json` gives; empty tables where `text` is empty.

    Raises
    ------
    StoreError
        The text is something else.
    """
    try:
        content: dict[str, Any] = json.loads(text) if text else {}
        tables = {}
        for question, (_, columns) in MARK_COLUMNS.items():
            table = content.get(question, {})
            tables[question] = _check_table(
                MarkTable(
                    tuple(table.get("classification_id", ())),
                    tuple(table.get("time_stamp", ())),
                    {column: tuple(table.get(column, ())) for column in columns},
                )
            )
    except PARSE_ERRORS as error:
        raise StoreError(
            f"the marks of a subject cannot be understood: {quote(text)}; another program changed "
            "the store"
        ) from error
    return tables


def _check_table(table: MarkTable) -> MarkTable:
    """Return a table whose columns have values of their types, one a volunteer."""
    volunteers = len(table.classification_id)
    for column, kind in (
        (table.classification_id, int),
        *((column, str) for column in (table.time_stamp, *table.marks.values())),
    ):
        if len(column) != volunteers or not all(type(value) is kind for value in column):
            raise ValueError
    return table


def parse_shapes(text: str, column: str) -> list[NDArray[np.float64]]:
    """Parse one cell of a column of marks.

    Parameters
    ----------
    text : str
        JSON: a list of points [x, y], or of paths, each a list of points.
    column : str
        Such as ``star_points`` or ``bar_paths``.

    Returns
    -------
    list of ndarray of float64, shape (n, 2)
        Each point, with n = 1; or each path that has points.

    Raises
    ------
    ValueError
        The text is something else.
    """
    try:
        drawn = json.loads(text.strip() or "[]")
        if column.endswith("_points"):
            drawn = [[point] for point in drawn]
        shapes = [np.array(shape, np.float64) for shape in drawn]
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{text[:40]!r} is not a list of points or paths") from error
    shapes = [shape for shape in shapes if shape.size]
    if any(s.ndim != 2 or s.shape[1] != 2 or not np.isfinite(s).all() for s in shapes):
        raise ValueError(f"{text[:40]!r} is not a list of points or paths")
    return shapes


def encode_clusters(clusters: NDArray[np.float64]) -> str:
    """Rows of clusters as text, exactly."""
    return base64.b64encode(clusters.astype("<f8").tobytes()).decode()


def decode_clusters(text: str) -> NDArray[np.float64]:
    """Rows of clusters, shape (n, 11), from what `encode_clusters` gives."""
    values = np.frombuffer(base64.b64decode(text), "<f8").astype(np.float64)
    return values.reshape(-1, len(CLUSTER_COLUMNS))
