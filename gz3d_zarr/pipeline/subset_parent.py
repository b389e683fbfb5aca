"""The complete store that a subset is taken from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.backends.generation import Generation
from gz3d_zarr.datamodel.variables import SubjectRecord
from gz3d_zarr.errors import StoreError, UsageError
from gz3d_zarr.storage.build_record import ROOT_KEY, digest, refuse_dataset
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.published_receipts import PublishedReceipts, read_published_receipts

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class ParentStore:
    """A complete store as it was at one time, and the subjects to take from it."""

    store: ObjectStore
    root: bytes
    generation: Generation
    published: PublishedReceipts
    rows: NDArray[np.int64]

    @property
    def records(self) -> list[SubjectRecord]:
        """Of the subjects that are taken."""
        return [self.published.records[row] for row in self.rows.tolist()]


def open_parent(
    source: ObjectStore, find_rows: Callable[[xr.Dataset], NDArray[np.int64]]
) -> ParentStore:
    """Open a complete store, and find the rows to take, ascending, each once.

    Raises
    ------
    StoreError
        It is incomplete or damaged.
    UsageError
        No subject is selected.
    """
    from gz3d_zarr.backends.store import open_dataset  # slow to import

    root = source.get(ROOT_KEY) or b""
    refuse_dataset(source.url, root)
    # Without a root, this says what there is instead.
    dataset = open_dataset(source, digest=digest(root) if root else None)
    published = read_published_receipts(source, dataset.attrs)
    if dataset.sizes["subject"] != published.layout.subjects:
        raise StoreError(
            f"{source.url} is damaged: its root has {dataset.sizes['subject']} subjects, its "
            f"receipts {published.layout.subjects}; run gz3d-zarr verify for details"
        )
    rows = find_rows(dataset)
    if not len(rows):
        raise UsageError("no subject is selected")
    return ParentStore(source, root, Generation.from_root(source, root), published, rows)
