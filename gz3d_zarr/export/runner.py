"""Shared by all exports: open source and destination, run tasks on dask, report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dask.utils import format_bytes

from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.datamodel.text_report import TextReport
from gz3d_zarr.errors import StoreError, plural
from gz3d_zarr.export.subset import Selection, select_rows
from gz3d_zarr.locations import is_url, whole_key
from gz3d_zarr.pipeline.dask_tasks import run_tasks
from gz3d_zarr.progress import Progress, ProgressOption, choose_progress
from gz3d_zarr.storage.build_record import ROOT_KEY, refuse_dataset
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store

if TYPE_CHECKING:
    import numpy as np
    from distributed import Client
    from numpy.typing import NDArray

    from gz3d_zarr.export.subset import Rows
    from gz3d_zarr.pipeline.plan import Resources


T = TypeVar("T")


@dataclass(frozen=True)
class WrittenFiles:
    """Number and size of the files that a task wrote."""

    subjects: int
    files: int
    stored_bytes: int


@dataclass(frozen=True)
class ExportReport(TextReport):
    """Result of an export.

    Attributes
    ----------
    destination : str
        Absolute path or URL.
    subjects, files : int
        Number of subjects written, and of files.
    left_out : int
        Number of selected subjects whose status is not ok.
    stored_bytes : int
        Total size of the files.
    seconds : float
        Time since the first task started.
    """

    destination: str
    subjects: int
    files: int
    left_out: int
    stored_bytes: int
    seconds: float

    def summary(self) -> dict[str, Any]:
        """The output of ``--json``."""
        return asdict(self)

    def to_text(self) -> str:
        """The output of the command."""
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
    rows: Rows,
    storage_options: Mapping[str, Any] | None,
    destination_options: Mapping[str, Any] | None,
    *,
    overwrite: bool,
) -> tuple[Selection, ObjectStore]:
    """Select the subjects to export, and open the destination.

    `storage_options` apply to those of the two that are URLs.

    Raises
    ------
    UsageError
        No subject is selected, or no selected subject has the status ok.
    StoreError
        The store cannot be read; the destination cannot be written to or is inside the store, or
        it has files and `overwrite` is false.
    """
    check_type("overwrite", overwrite, bool)
    of_store, of_dest = share_options(store, dest, storage_options, destination_options)
    selection = select_rows(store, rows, storage_options=of_store)
    refuse_dataset(selection.store.url, selection.store.get(ROOT_KEY))
    destination = open_object_store(dest, of_dest)
    if f"{destination.url}/".startswith(f"{selection.store.url}/"):
        raise StoreError(
            f"{destination.url} is inside the store {selection.store.url}; choose another folder"
        )
    if destination.is_writable() is False:
        raise StoreError(f"{destination.url} cannot be written to")
    if not overwrite:
        existing = sum(whole_key(key) is None for key in destination.list_sizes())
        if existing:
            raise StoreError(
                f"{destination.url} already has {plural(existing, 'file')}; choose an empty "
                "folder, or replace files with the same names with --overwrite (overwrite=True)"
            )
    return selection, destination


def share_options(
    store: str | Path | None,
    dest: str | Path,
    storage_options: Mapping[str, Any] | None,
    destination_options: Mapping[str, Any] | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the store and of the destination; `storage_options` are for each that is a URL.

    Raises
    ------
    UsageError
        One of them is no mapping.
    """
    shared = check_type("storage_options", storage_options, dict, is_shown=False) or {}
    more = check_type("destination_options", destination_options, dict, is_shown=False) or {}
    of_store, of_dest = ({**shared} if is_url(str(place)) else {} for place in (store, dest))
    return of_store, {**of_dest, **more}


@contextlib.contextmanager
def removing_leftovers(destination: ObjectStore) -> Iterator[None]:
    """Delete the partial files that a killed export left, when the context ends without an error.

    One of another export that is running now gets its name long before: it is not there any more.
    """
    left = _find_partial(destination)
    yield
    destination.delete(sorted(left & _find_partial(destination)))


def _find_partial(destination: ObjectStore) -> set[str]:
    if not destination.is_local:  # an object store shows whole objects only
        return set()
    return {key for key in destination.list_sizes() if whole_key(key) is not None}


def read_subjects(
    reader: ChunkReader, selection: Selection
) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield position, image and masks of each selected subject, in the order of the store."""
    for positions in selection.shards():
        rows = selection.rows[positions]
        fetched = reader.fetch(rows)
        for position, row in zip(positions.tolist(), rows.tolist(), strict=True):
            yield position, *reader.read_subject(row, fetched)


@dataclass
class Runner(Generic[T]):
    """Runs the tasks of one export on a client.

    Attributes
    ----------
    function : callable
        Runs one task on a worker, and returns `WrittenFiles`.
    name : str
        Prefix of the tasks' keys, which the dashboard of dask shows.
    selection : Selection
        All subjects of the export.
    destination : ObjectStore
    progress : callable or bool, optional
        Called at the start and after every task; True shows a bar.
    """

    function: Callable[[T], WrittenFiles]
    name: str
    selection: Selection
    destination: ObjectStore
    progress: ProgressOption

    def run(
        self,
        tasks: Sequence[T],
        client: Client | None,
        scheduler: str | None,
        workers: int | None,
    ) -> ExportReport:
        """Run all tasks, and report the result.

        Raises
        ------
        UsageError, BuildError
            As for `use_client` and `find_resources`.
        GZ3DError
            Raised by a task; BuildError if one failed for another reason.
        """
        from gz3d_zarr.pipeline.dask_client import (  # slow to import
            find_resources,
            use_client,
            use_workers,
        )

        with use_client(client, scheduler) as running:
            resources: Resources = find_resources(running, workers)
            with (
                removing_leftovers(self.destination),
                use_workers(running, resources, len(tasks)) as worker,
            ):
                start = time.monotonic()
                done = self._run(worker, tasks)
                seconds = time.monotonic() - start
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
        hint = ". Existing files are complete; run it again with --overwrite (overwrite=True)"
        results = run_tasks(client, self.function, tasks, self.name, size, hint)
        with contextlib.closing(results), choose_progress(self.progress) as report:
            report(Progress(0, subjects, 0, left_out))
            for done in results:
                total = WrittenFiles(
                    total.subjects + done.subjects,
                    total.files + done.files,
                    total.stored_bytes + done.stored_bytes,
                )
                report(Progress(total.subjects, subjects, done.subjects, left_out))
        return total
