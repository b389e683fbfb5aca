"""Export the volunteers' raw marks to GeoParquet, one row per path or point.

The format is GeoParquet 1.1 (https://geoparquet.org/releases/v1.1.0/): geometries as well-known
binary (WKB), described by the key ``geo`` of the file's metadata.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.annotations import CLASS_MARKS, MarkTable, parse_shapes
from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.datamodel.wcs import image_wcs
from gz3d_zarr.errors import UsageError, missing_extra_error, plural
from gz3d_zarr.export.annotations import read_marks
from gz3d_zarr.export.one_file import open_file, partial_file
from gz3d_zarr.export.runner import ExportReport, share_options
from gz3d_zarr.export.subset import Selection, select_rows
from gz3d_zarr.progress import Progress, ProgressOption, choose_progress
from gz3d_zarr.storage.build_record import ROOT_KEY, refuse_dataset

if TYPE_CHECKING:
    import pyarrow as pa
    from astropy.wcs import WCS

    from gz3d_zarr.export.subset import Rows


PIXELS, SKY = "geometry", "geometry_icrs"
"""Columns with the geometries: in pixels of the image, and in degrees."""
_LITTLE_ENDIAN, _POINT, _LINE_STRING = 1, 1, 2
"""Codes of WKB (OGC 06-103r4)."""


@dataclass(frozen=True)
class MarksReport(ExportReport):
    """Result of an export of marks.

    Attributes
    ----------
    marks : int
        Number of rows: paths and points.
    unreadable : int
        Number of cells of the subject files whose text is not a list of points or paths.
    """

    marks: int
    unreadable: int

    def to_text(self) -> str:
        """The output of the command."""
        text = f"{super().to_text()}\nIt has {plural(self.marks, 'row')}, one per path or point"
        if self.unreadable:
            text += (
                f"\n{plural(self.unreadable, 'cell')} with text that is not a list of points or "
                "paths left out; gz3d-zarr export fits writes the text"
            )
        return text


def export_marks(
    store: str | Path,
    dest: str | Path,
    *,
    rows: Rows = None,
    classes: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: ProgressOption = None,
    storage_options: Mapping[str, Any] | None = None,
    destination_options: Mapping[str, Any] | None = None,
) -> MarksReport:
    """Write the raw marks of every volunteer into one GeoParquet file.

    A row is a path (spiral, bar) or a point (center, star), in the order of the store, then of
    the classes, then of the file. Its columns:

    - ``subject`` (MaNGA id) and ``class``: string;
    - ``zooniverse_subject_id`` and ``classification_id``: int64;
    - ``time_stamp``: string, the text of the file;
    - ``geometry``: WKB, x and y in pixels of the image, the center of the first pixel is (0, 0);
    - ``geometry_icrs``: WKB, right ascension (0 to 360) and declination in degrees, ICRS, from
      the WCS of the image.

    A path is a LineString of the points that the volunteer drew, without the closing line from
    the last point to the first, so that it also holds paths that cross themselves; a path of a
    single point is a Point. Paths without points are left out. The published ``ra, dec`` of
    clusters differ from ``geometry_icrs`` by one pixel (0.1 arcsec) in x and y, since they count
    the first pixel as 1.

    Parameters
    ----------
    store : str or Path
        A complete store.
    dest : str or Path
        Path or fsspec URL of the file. It is written under a temporary name and renamed.
    rows : sequence of int or bool, slice, Dataset, or RowRules, optional
        Positions along ``subject``, a bool for every subject of the store, a slice, a Dataset that
        was selected from the store, or rules; by default all. Subjects whose status is not ok are
        left out, and counted.
    classes : sequence of {'center', 'star', 'spiral', 'bar'}, optional
        By default all.
    overwrite : bool
        Replace an existing file.
    progress : callable or bool, optional
        Called with a `Progress` after every shard.
    storage_options : mapping, optional
        Options for fsspec, for those of `store` and `dest` that are URLs.
    destination_options : mapping, optional
        Additional options for `dest`.

    Returns
    -------
    MarksReport

    Raises
    ------
    UsageError
        pyarrow is not installed, a class is unknown, no subject is selected, or no selected
        subject has the status ok.
    StoreError
        The store cannot be read, or `dest` exists or cannot be written.
    """
    _import_pyarrow()  # fail before any work
    check_type("overwrite", overwrite, bool)
    check_type("classes", classes, list)
    unknown = sorted({f"{cls!s:.60}" for cls in classes or ()} - {*CLASS_MARKS})
    if unknown:
        raise UsageError(
            f"there is no class {', '.join(unknown)}; expected some of {', '.join(CLASS_MARKS)}"
        )
    of_store, options = share_options(store, dest, storage_options, destination_options)
    selection = select_rows(store, rows, storage_options=of_store)
    refuse_dataset(selection.store.url, selection.store.get(ROOT_KEY))
    folder, name = open_file(
        dest, options, selection.store.url, "marks.parquet", overwrite=overwrite
    )
    start = time.monotonic()
    with partial_file(folder, name) as path, choose_progress(progress) as report:
        wanted = [cls for cls in CLASS_MARKS if not classes or cls in classes]
        batches = _read_batches(selection, wanted)
        marks, unreadable = _write(path, batches, selection, report)
        size = path.stat().st_size
    return MarksReport(
        f"{folder.url}/{name}",
        len(selection),
        1,
        selection.left_out,
        size,
        time.monotonic() - start,
        marks,
        unreadable,
    )


@dataclass(frozen=True)
class _Batch:
    """Marks of the selected subjects of one shard; `columns` has one value per mark."""

    subjects: int
    columns: Mapping[str, list[Any]]
    unreadable: int


def _write(
    path: Path,
    batches: Iterable[_Batch],
    selection: Selection,
    report: Callable[[Progress], None],
) -> tuple[int, int]:
    """Write one row group per shard; return the numbers of rows and of unreadable cells."""
    import pyarrow.parquet as pq

    done = marks = unreadable = 0
    total, left_out = len(selection), selection.left_out
    report(Progress(done, total, 0, left_out))
    pa, schema = _import_pyarrow(), make_schema()
    texts = [field.name for field in schema if field.type == pa.string()]
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=texts) as writer:
        for batch in batches:
            table = pa.table(batch.columns, schema=schema)
            writer.write_table(table)
            done += batch.subjects
            marks += table.num_rows
            unreadable += batch.unreadable
            report(Progress(done, total, batch.subjects, left_out))
    return marks, unreadable


def _read_batches(selection: Selection, classes: Sequence[str]) -> Iterator[_Batch]:
    for positions in selection.shards():
        shard = selection.take(positions)
        columns: dict[str, list[Any]] = {name: [] for name in make_schema().names}
        unreadable = 0
        for i, tables in enumerate(read_marks(shard)):
            values = {name: column[i] for name, column in shard.table.items()}
            wcs = image_wcs(*(float(values[name]) for name in ("ra", "dec", "scale")))
            for cls in classes:
                question, column = CLASS_MARKS[cls]
                unreadable += _append(columns, values, wcs, cls, tables[question], column)
        yield _Batch(len(shard), columns, unreadable)


def _append(
    columns: Mapping[str, list[Any]],
    values: Mapping[str, Any],
    wcs: WCS,
    cls: str,
    table: MarkTable,
    column: str,
) -> int:
    """Append all marks of one subject and class; return the number of unreadable cells."""
    shapes: list[NDArray[np.float64]] = []
    unreadable = 0
    answers = zip(table.classification_id, table.time_stamp, table.marks[column], strict=True)
    for classification, stamp, text in answers:
        try:
            drawn = parse_shapes(text, column)
        except ValueError:
            unreadable += 1
            continue
        shapes += drawn
        columns["classification_id"] += [classification] * len(drawn)
        columns["time_stamp"] += [stamp] * len(drawn)
    if shapes:
        # Origin 0, as that of the masks: a path encloses the same pixels in both columns.
        sky = wcs.wcs_pix2world(np.concatenate(shapes), 0)
        on_sky = np.split(sky, np.cumsum([len(shape) for shape in shapes])[:-1])
        columns[PIXELS] += map(to_wkb, shapes)
        columns[SKY] += map(to_wkb, on_sky)
    for name in ("subject", "zooniverse_subject_id"):
        columns[name] += [values[name]] * len(shapes)
    columns["class"] += [cls] * len(shapes)
    return unreadable


def to_wkb(points: NDArray[np.float64]) -> bytes:
    """WKB of a Point for one row x, y, and of a LineString for several."""
    coordinates = np.ascontiguousarray(points, "<f8").tobytes()
    if len(points) == 1:
        return struct.pack("<BI", _LITTLE_ENDIAN, _POINT) + coordinates
    return struct.pack("<BII", _LITTLE_ENDIAN, _LINE_STRING, len(points)) + coordinates


def make_schema() -> pa.Schema:
    """Columns of the file, with the metadata of GeoParquet."""
    pa = _import_pyarrow()
    shared = {"encoding": "WKB", "geometry_types": ["LineString", "Point"], "crs": None}
    # Without a key crs, readers would take positions for longitudes on the Earth. A line in the
    # tangent plane is a great circle.
    geo = {
        "version": "1.1.0",
        "primary_column": PIXELS,
        "columns": {PIXELS: shared, SKY: {**shared, "edges": "spherical"}},
    }
    pixels = {"unit": "pixel", "description": "x, y; the center of the first pixel is 0, 0"}
    sky = {"unit": "deg", "description": "right ascension, declination, ICRS"}
    return pa.schema(
        [
            pa.field("subject", pa.string()),
            pa.field("zooniverse_subject_id", pa.int64()),
            pa.field("class", pa.string()),
            pa.field("classification_id", pa.int64()),
            pa.field("time_stamp", pa.string()),
            pa.field(PIXELS, pa.binary(), metadata=pixels),
            pa.field(SKY, pa.binary(), metadata=sky),
        ],
        metadata={"geo": json.dumps(geo)},
    )


def _import_pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise missing_extra_error("export marks", error, "marks") from error
    return pyarrow
