"""Export to the layout of the Multimodal Universe: one HDF5 file per HEALPix pixel.

Names, types and shapes are those of its scripts for GZ3D
(https://github.com/MultimodalUniverse/MultimodalUniverse, ``scripts/gz3d``): the columns of HDU 5
in lower case, the image as ``false_color``, one column per mask, ``object_id`` and ``healpix``.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.datamodel.healpix import healpix_pixels
from gz3d_zarr.datamodel.subject import CLASSES, SIDE
from gz3d_zarr.errors import missing_extra_error
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
    import h5py
    from distributed import Client

    from gz3d_zarr.export.subset import Rows


MMU_NSIDE = 16
"""HEALPix resolution of the Multimodal Universe, NESTED; that of the store may differ."""
FILE_NAME = "001-of-001.hdf5"
IMAGE_COLUMN = "false_color"
# Column, type, and the variable or the column of the group catalogue that has the value.
_NUMBERS = (
    ("ra", "f4", "ra"),
    ("dec", "f4", "dec"),
    ("ifudesignsize", "f8", "ifu_design_size"),
    ("manga_tileid", "f8", "manga_tile_id"),
    ("nsa_id", "i8", "nsa_id"),
    ("gz_total_classifications", "i2", "total_classifications"),
    ("gz_bar_votes", "i2", "bar_votes"),
    ("gz_spiral_votes", "i2", "spiral_votes"),
)
_TEXTS = (
    ("object_id", "subject"),
    ("mangaid", "manga_id"),
    ("iauname", "iauname"),
    ("explorer_link", "explorer_link"),
    ("sample", "sample_name"),
)


@dataclass(frozen=True)
class _Task:
    """Whole HEALPix pixels: the pixel (file) of each selected subject, and its row in the file."""

    selection: Selection
    pixels: NDArray[np.int64]
    file_rows: NDArray[np.int64]
    texts: Mapping[str, NDArray[np.object_]]
    destination: ObjectStore


def export_mmu(
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
    """Write ``DEST/healpix=N/001-of-001.hdf5``, with N NESTED at nside 16.

    In a file, subjects are sorted by ``object_id``, then by Zooniverse id, so that the order of the
    store does not matter. Text is fixed-length bytes; images and masks are uncompressed uint8.

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
        Called with a `Progress` after every task, which has about as many subjects as a shard.
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
        h5py is not installed, no subject is selected, or no selected subject has the status ok.
    StoreError
        The store cannot be read, or `dest` has files or cannot be written.
    BuildError
        A task failed for another reason; existing files are complete.
    """
    _import_h5py()  # fail before any work
    selection, destination = open_source_and_destination(
        store, dest, rows, storage_options, destination_options, overwrite=overwrite
    )
    tasks = list(_plan(selection, destination))
    runner = Runner(_write_pixels, "gz3d-export-mmu", selection, destination, progress)
    return runner.run(tasks, client, scheduler, workers)


def _plan(selection: Selection, destination: ObjectStore) -> Iterator[_Task]:
    """Yield tasks of whole pixels in the order of the store; each is at least a shard long."""
    table, texts = selection.table, read_texts(selection)
    pixels = healpix_pixels(table["ra"], table["dec"], MMU_NSIDE)
    labels = np.array(table["subject"].tolist(), str)
    order = np.lexsort((table["zooniverse_subject_id"], labels, pixels))
    starts = np.flatnonzero(np.diff(pixels[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    file_rows = np.empty(len(order), np.int64)
    file_rows[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    members = np.split(order, starts[1:])
    members.sort(key=lambda positions: int(positions.min()))
    group: list[NDArray[np.intp]] = []
    for i, positions in enumerate(members, 1):
        group.append(positions)
        if sum(map(len, group)) >= selection.shard_size or i == len(members):
            taken = np.sort(np.concatenate(group))
            yield _Task(
                selection.take(taken),
                pixels[taken],
                file_rows[taken],
                {name: values[taken] for name, values in texts.items()},
                destination,
            )
            group = []


def _write_pixels(task: _Task) -> WrittenFiles:
    h5py = _import_h5py()
    reader = ChunkReader(task.selection.generation)
    buffers = {pixel: io.BytesIO() for pixel in np.unique(task.pixels).tolist()}
    with contextlib.ExitStack() as stack:
        files = {}
        for pixel, buffer in buffers.items():
            files[pixel] = stack.enter_context(h5py.File(buffer, "w"))
            _write_table(files[pixel], task, pixel)
        for i, image, segmentation in read_subjects(reader, task.selection):
            file, row = files[int(task.pixels[i])], int(task.file_rows[i])
            file[IMAGE_COLUMN][row] = image
            for name, mask in zip(CLASSES, segmentation, strict=True):
                file[name][row] = mask
    size = 0
    for pixel, buffer in buffers.items():
        data = buffer.getvalue()
        task.destination.put(f"healpix={pixel}/{FILE_NAME}", data)
        size += len(data)
    return WrittenFiles(len(task.selection), len(buffers), size)


def _write_table(file: h5py.File, task: _Task, pixel: int) -> None:
    """Write the small columns of one pixel, and create the big ones."""
    members = np.flatnonzero(task.pixels == pixel)
    members = members[np.argsort(task.file_rows[members])]
    columns = {**task.selection.table, **task.texts}
    for name, key in _TEXTS:
        file[name] = np.array([str(value).encode() for value in columns[key][members]])
    for name, dtype, key in _NUMBERS:
        values = columns[key][members]
        if name == "manga_tileid":
            values = np.where(values == -1, np.nan, values)
        wide = dtype == "i2" and values.max() > np.iinfo(np.int16).max
        file[name] = values.astype("i4" if wide else dtype)
    file["healpix"] = np.full(len(members), pixel, np.int64)
    file.create_dataset(IMAGE_COLUMN, (len(members), SIDE, SIDE, 3), np.uint8)
    for name in CLASSES:
        file.create_dataset(name, (len(members), SIDE, SIDE), np.uint8)


def _import_h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise missing_extra_error("export mmu", error, "mmu") from error
    return h5py
