"""Write subject files from a store, with all HDUs of the original files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deflate
import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.datamodel.annotations import (
    CLUSTER_COLUMNS,
    CLUSTER_HDUS,
    MARK_COLUMNS,
    MarkTable,
)
from gz3d_zarr.datamodel.file_names import base_name
from gz3d_zarr.datamodel.wcs import image_wcs
from gz3d_zarr.export.annotations import Clusters, read_clusters, read_marks
from gz3d_zarr.export.runner import (
    ExportReport,
    Runner,
    WrittenFiles,
    open_source_and_destination,
    read_subjects,
)
from gz3d_zarr.export.subset import Selection, read_texts
from gz3d_zarr.progress import ProgressOption
from gz3d_zarr.storage.object_store import ObjectStore

if TYPE_CHECKING:
    from astropy.io.fits import BinTableHDU, HDUList
    from distributed import Client

    from gz3d_zarr.export.subset import Rows


COMPRESSION = 6
_Column = tuple[str, str, NDArray[Any]]
"""Name, FITS format, and values of a column."""
# Name, FITS format, and the variable or the column of the group catalogue that has the value.
# Order and formats are those of release v4_0_0.
_COLUMNS = (
    ("ra", "E", "ra"),
    ("dec", "E", "dec"),
    ("MANGAID", "11A", "manga_id"),
    ("IAUNAME", "19A", "iauname"),
    ("IFUDESIGNSIZE", "D", "ifu_design_size"),
    ("MANGA_TILEID", "D", "manga_tile_id"),
    ("nsa_id", "K", "nsa_id"),
    ("explorer_link", "90A", "explorer_link"),
    ("GZ_total_classifications", "I", "total_classifications"),
    ("GZ_bar_votes", "I", "bar_votes"),
    ("GZ_spiral_votes", "I", "spiral_votes"),
    ("sample", "70A", "sample_name"),
)


@dataclass(frozen=True)
class _Task:
    """The subjects of one shard; `texts` and `clusters` have one value per subject."""

    selection: Selection
    texts: Mapping[str, list[str]]
    clusters: Sequence[Clusters]
    destination: ObjectStore


def export_fits(
    store: str | Path,
    dest: str | Path,
    client: Client | None = None,
    *,
    rows: Rows = None,
    scheduler: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: ProgressOption = None,
    storage_options: Mapping[str, Any] | None = None,
    destination_options: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write gzipped subject files with the names of the original files.

    All 11 HDUs have the original values, columns, types and WCS. A ``MANGA_TILEID`` of -1 in the
    store is written as NaN, as in the original file. Columns of marks are as wide as their longest
    text; all columns of a table without rows are of type D, as in the original file.

    Parameters
    ----------
    store : str or Path
        A complete store.
    dest : str or Path
        Folder or fsspec URL; a missing folder is created.
    client : distributed.Client, optional
        Runs the tasks, as for `build`.
    rows : sequence of int or bool, slice, Dataset, or RowRules, optional
        Positions along ``subject``, a bool for every subject of the store, a slice, a Dataset that
        was selected from the store, or rules; by default all. Subjects whose status is not ok are
        left out, and counted.
    scheduler, workers
        As for `build`.
    overwrite : bool
        Replace files with the same names.
    progress : callable or bool, optional
        Called with a `Progress` after every shard.
    storage_options : mapping, optional
        Options for fsspec, for those of `store` and `dest` that are URLs.
    destination_options : mapping, optional
        Additional options for `dest`.

    Returns
    -------
    ExportReport

    Raises
    ------
    UsageError
        No subject is selected, or no selected subject has the status ok.
    StoreError
        The store cannot be read, or `dest` has files or cannot be written.
    BuildError
        A task failed for another reason; existing files are complete.
    """
    selection, destination = open_source_and_destination(
        store, dest, rows, storage_options, destination_options, overwrite=overwrite
    )
    texts, clusters = read_texts(selection), read_clusters(selection)
    tasks = [
        _Task(
            selection.take(positions),
            {name: values[positions].tolist() for name, values in texts.items()},
            [clusters[position] for position in positions],
            destination,
        )
        for positions in selection.shards()
    ]
    runner = Runner(_write_shard, "gz3d-export-fits", selection, destination, progress)
    return runner.run(tasks, client, scheduler, workers)


def _write_shard(task: _Task) -> WrittenFiles:
    size = 0
    reader = ChunkReader(task.selection.generation)
    marks = read_marks(task.selection)
    for i, image, segmentation in read_subjects(reader, task.selection):
        values = {name: column[i] for name, column in task.selection.table.items()}
        values |= {name: column[i] for name, column in task.texts.items()}
        buffer = io.BytesIO()
        make_hdus(values, image, segmentation, task.clusters[i], marks[i]).writeto(buffer)
        data = bytes(deflate.gzip_compress(buffer.getbuffer(), COMPRESSION))
        task.destination.put(base_name(values["file_name"]), data)
        size += len(data)
    return WrittenFiles(len(task.selection), len(task.selection), size)


def make_hdus(
    values: Mapping[str, Any],
    image: NDArray[np.uint8],
    segmentation: NDArray[np.uint8],
    clusters: Clusters,
    marks: Mapping[str, MarkTable],
) -> HDUList:
    """The 11 HDUs of a subject file.

    Parameters
    ----------
    values : mapping
        Small variables of the store and columns `TEXTS` of its catalogue, for this subject.
    image : ndarray of uint8, shape (525, 525, 3)
    segmentation : ndarray of uint8, shape (4, 525, 525)
        Written as float64, as in the original file.
    clusters : mapping of str to ndarray of float64, shape (n, 11)
        Class to the rows of HDUs 6 and 7.
    marks : mapping of str to MarkTable
        HDUs 8 to 10, by the keys of `MARK_COLUMNS`.

    Returns
    -------
    astropy.io.fits.HDUList
    """
    from astropy.io import fits

    header = image_wcs(*(float(values[name]) for name in ("ra", "dec", "scale"))).to_header()
    masks = [fits.ImageHDU(mask.astype(np.float64), header) for mask in segmentation]
    return fits.HDUList(
        [
            fits.PrimaryHDU(image, header),
            *masks,
            _table(_metadata_columns(values)),
            *(_table(_cluster_columns(clusters[cls])) for cls in CLUSTER_HDUS),
            *(_table(_mark_columns(marks[question])) for question in MARK_COLUMNS),
        ]
    )


def _table(columns: Iterable[_Column]) -> BinTableHDU:
    from astropy.io import fits

    return fits.BinTableHDU.from_columns(
        [
            fits.Column(name, form if len(array) else "D", array=array)
            for name, form, array in columns
        ]
    )


def _metadata_columns(values: Mapping[str, Any]) -> Iterator[_Column]:
    """Columns of HDU 5."""
    for name, form, key in _COLUMNS:
        value = values[key]
        if name == "MANGA_TILEID" and value == -1:
            value = np.nan
        if form == "I" and value > np.iinfo(np.int16).max:
            form = "J"
        if form.endswith("A"):
            form = f"{max(int(form[:-1]), len(value))}A"
        yield name, form, np.array([value])


def _cluster_columns(rows: NDArray[np.float64]) -> Iterator[_Column]:
    """Columns of HDU 6 or 7; counts are integers, as in the original file."""
    for name, column in zip(CLUSTER_COLUMNS, rows.T, strict=True):
        is_integer = name == "count" and not (column % 1).any()
        yield name, "K" if is_integer else "D", column


def _mark_columns(table: MarkTable) -> Iterator[_Column]:
    """Columns of one of HDUs 8 to 10."""
    yield "classification_id", "K", np.array(table.classification_id, np.int64)
    for name, texts in {"time_stamp": table.time_stamp, **table.marks}.items():
        column = np.array(texts, np.bytes_)
        yield name, f"{column.dtype.itemsize}A", column
