"""Other groups of the store that a Dataset was opened from: clusters and marks.

The only module of `analysis` that reads from a store itself; all others use the Dataset.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.datamodel.arrays import MARKS
from gz3d_zarr.errors import UsageError, plural


class StoreGroups:
    """The groups of a store, for the subjects of a Dataset that was opened from it.

    Opening reads the root's metadata and the ids of all subjects.

    Parameters
    ----------
    dataset : xarray.Dataset
        With the dimension ``subject``.

    Attributes
    ----------
    store : ObjectStore
    rows : ndarray of int, shape (subject,)
        Row of each subject of the Dataset in the store.

    Raises
    ------
    UsageError
        The Dataset was not opened from a store, or has subjects that the store does not have.
    StoreError
        The store cannot be read.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        from gz3d_zarr.backends import store as backend

        self.store: Any = backend.find_object_store(dataset)
        self._root = backend.open_root(self.store)
        name = "zooniverse_subject_id"
        every = backend.read_rows(self.store, name, root=self._root)
        wanted = dataset[name].values
        order = np.argsort(every)
        found = np.searchsorted(every, wanted, sorter=order)
        self.rows: NDArray[np.intp] = order[np.minimum(found, len(order) - 1)]
        missing = np.flatnonzero(every[self.rows] != wanted)
        if len(missing):
            raise UsageError(
                f"{plural(len(missing), 'subject')} of the Dataset, such as {wanted[missing[0]]}, "
                f"are not in the store {self.store.url} that it was opened from: use the Dataset "
                "before subjects of another store were added"
            )

    def group(self, name: str) -> xr.Dataset:
        """A whole group, in memory."""
        from gz3d_zarr.backends import store as backend

        return backend.read_group(self.store, name, self._root)

    def marks(self) -> list[str]:
        """Raw marks of each subject of the Dataset, as `marks_from_json` takes them."""
        from gz3d_zarr.backends import store as backend

        texts: list[str] = backend.read_rows(self.store, MARKS, self.rows, self._root).tolist()
        return texts


def read_marks(store: Any, rows: NDArray[np.intp]) -> list[str]:
    """Raw marks in some rows of a store; for tasks, which open it themselves."""
    from gz3d_zarr.backends import store as backend

    texts: list[str] = backend.read_rows(store, MARKS, rows).tolist()
    return texts
