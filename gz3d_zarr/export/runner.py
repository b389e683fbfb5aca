"""What exports share: where they go, their tasks over dask, their report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dask.utils import format_bytes

from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.errors import StoreError, UsageError, plural
from gz3d_zarr.export.subset import Selection, select_rows
from gz3d_zarr.locations import is_url
from gz3d_zarr.pipeline.dask_tasks import run_tasks
from gz3d_zarr.progress import Progress
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from distributed import Client
    from numpy.typing import NDArray

    from gz3d_zarr.pipeline.plan import Resources


T = TypeVar("T")


@dataclass(frozen=True)
class WrittenFiles:
    """What one task has written."""

    subjects: int
    files: int
    stored_bytes: int


@dataclass(frozen=True)
class ExportReport:
    """What an export has written.

    Attributes
    ----------
    destination : str
        Absolute path or URL.
    subjects, files : int
        Subjects that were written, into how many files.
    left_out : int
        Subjects that were selected and whose status is not ok.
    stored_bytes : int
    seconds : float
        From the first task on.
    """

    destination: str
    subjects: int
    files: int
    left_out: int
    stored_bytes: int
    seconds: float

    def summary(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """What the command prints."""
        text = (
            f"Wrote {plural(self.subjects, 'subject')} into {plural(self.files, 'file')}, "
            f"{format_bytes(self.stored_bytes)}, in {self.seconds:.1f} s: {self.destination}"
        )
        if self.left_out:
            verb = "was" if self.left_out == 1 else "were"
            text += (
                f"\n{plural(self.left_out, 'subject')} whose status is not ok {verb} left out; "
                "gz3d-zarr info STORE counts them"
            )
        return text


def open_source_and_destination(
    store: str | Path,
    dest: str | Path,
    rows: Sequence[int] | NDArray[np.integer[Any]] | xr.Dataset | None,
    storage_options: Mapping[str, Any] | None,
    destination_options: Mapping[str, Any] | None,
    *,
    overwrite: bool,
) -> tuple[Selection, ObjectStore]:
    """The subjects to export, and the folder to write to.

    Storage options are for whichever of the two is a URL.

    Raises
    ------
    UsageError
        Nothing is selected, or none of it is ok.
    StoreError
        The store cannot be read; the folder cannot be written to, lies in the store, or holds
        files and may not be written over.
    """
    shared = storage_options or {}
    selection = select_rows(store, rows, storage_options=shared if is_url(str(store)) else None)
    options = {**(shared if is_url(str(dest)) else {}), **(destination_options or {})}
    folder = open_object_store(dest, options)
    if f"{folder.url}/".startswith(f"{selection.store.url}/"):
        raise StoreError(
            f"{folder.url} lies in the store {selection.store.url}; choose another folder"
        )
    if folder.is_writable() is False:
        raise StoreError(f"{folder.url} cannot be written to")
    if not overwrite:
        there = len(folder.list_sizes())
        if there:
            raise StoreError(
                f"{folder.url} holds {plural(there, 'file')} already; choose an empty folder, or "
                "write over those of the same names with --overwrite (overwrite=True)"
            )
    return selection, folder


def read_subjects(
    reader: ChunkReader, selection: Selection
) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Position, picture and masks of each selected subject, shard by shard, in order.

    A shard of which at least half is wanted is fetched whole.
    """
    for positions in selection.shards():
        shards = None
        if 2 * len(positions) >= selection.shard_size:
            shards = reader.fetch(int(selection.rows[positions[0]]) // selection.shard_size)
        for position in positions.tolist():
            row = int(selection.rows[position])
            image = reader.read("image", row, shards)
            yield position, image, reader.read("segmentation", row, shards)


@dataclass
class Runner(Generic[T]):
    """Runs the tasks of one export on a client.

    Attributes
    ----------
    function : callable
        Run on a worker with one task; returns `WrittenFiles`.
    name : str
        Beginning of the tasks' keys, which dask's dashboard shows.
    selection : Selection
        All the subjects.
    destination : ObjectStore
    progress : callable, optional
        Called at the start and after every task.
    """

    function: Callable[[T], WrittenFiles]
    name: str
    selection: Selection
    destination: ObjectStore
    progress: Callable[[Progress], None] | None

    def run(
        self,
        tasks: Sequence[T],
        client: Client | None,
        scheduler: str | None,
        workers: int | None,
    ) -> ExportReport:
        """Run all tasks, and report on them.

        Raises
        ------
        UsageError, BuildError
            As `use_client` and `find_resources`.
        GZ3DError
            What a task raised, or BuildError where one failed in another way.
        """
        from gz3d_zarr.pipeline.dask_client import (  # slow to import
            find_resources,
            use_client,
            use_workers,
        )

        with use_client(client, scheduler) as running:
            resources: Resources = find_resources(running, workers)
            with use_workers(running, resources, len(tasks)) as worker:
                began = time.monotonic()
                done = self._run(worker, tasks)
                seconds = time.monotonic() - began
        return ExportReport(
            self.destination.url,
            done.subjects,
            done.files,
            self.selection.left_out,
            done.stored_bytes,
            seconds,
        )

    def _run(self, client: Client, tasks: Sequence[T]) -> WrittenFiles:
        total = WrittenFiles(0, 0, 0)
        subjects, left_out = len(self.selection), self.selection.left_out
        size = self.selection.shard_size
        self._tell(Progress(0, subjects, 0, left_out))
        hint = ". What is written is whole; run it again with --overwrite (overwrite=True)"
        results = run_tasks(client, self.function, tasks, self.name, size, hint)
        with contextlib.closing(results):
            for done in results:
                total = WrittenFiles(
                    total.subjects + done.subjects,
                    total.files + done.files,
                    total.stored_bytes + done.stored_bytes,
                )
                self._tell(Progress(total.subjects, subjects, done.subjects, left_out))
        return total

    def _tell(self, progress: Progress) -> None:
        if self.progress is not None:
            self.progress(progress)


def missing_extra_error(what: str, error: ImportError, extra: str) -> UsageError:
    """The error to raise where a package of an extra is not installed."""
    return UsageError(f"{what} needs {error.name}: python3 -m pip install 'gz3d-zarr[{extra}]'")
