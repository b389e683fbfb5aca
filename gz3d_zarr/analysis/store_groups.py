"""Marks and clusters of the subjects of a Dataset, from its store or from its files.

With `reductions`, the only module of `analysis` that reads from a store itself; all others use the
Dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.datamodel.annotations import CLUSTER_COLUMNS, marks_to_json
from gz3d_zarr.datamodel.arrays import CATALOGUE_GROUP, CLUSTERS_GROUP, MARKS
from gz3d_zarr.datamodel.cluster_arrays import ROW_SIZES
from gz3d_zarr.errors import StoreError, UsageError, plural

if TYPE_CHECKING:
    import dask.array as da

FloatArray = NDArray[np.float64]


class SubjectAnnotations(Protocol):
    """What volunteers marked on the subjects of a Dataset, in their order."""

    def marks(self) -> list[str]:
        """Raw marks of each subject, as `marks_from_json` takes them."""

    def lazy_marks(self, sizes: tuple[int, ...]) -> da.Array:
        """The same as a dask array of objects, in chunks of these sizes."""

    def clusters(self, cls: str) -> tuple[FloatArray, NDArray[np.int64]]:
        """Clusters of a class, shape (n, 11); and how many of them each subject has."""

    def part(self, rows: slice) -> SubjectAnnotations:
        """Those of some of the subjects."""

    def compute_with(self, dataset: xr.Dataset) -> xr.Dataset:
        """Load a Dataset of the same subjects, and from files the annotations in one read."""


def find_annotations(dataset: xr.Dataset) -> SubjectAnnotations:
    """Find where the marks and clusters of the subjects of a Dataset are.

    Raises
    ------
    UsageError
        The Dataset does not say what it was opened from, or has subjects that are not there.
    StoreError
        Its store cannot be read, or was replaced or changed after the Dataset was opened.
    """
    from gz3d_zarr.backends import annotations as backend

    files = backend.find_file_annotations(dataset)
    return _StoreGroups(dataset) if files is None else _FileAnnotations(dataset, files)


def find_texts(dataset: xr.Dataset, names: Sequence[str]) -> dict[str, NDArray[Any]] | None:
    """Columns of the group ``catalogue``, for the subjects of a Dataset in their order.

    Returns
    -------
    dict of str to ndarray of text, or None
        None if the Dataset does not say what it was opened from, or that has no such group: it is
        files, or a copy that xarray wrote.

    Raises
    ------
    StoreError
        The store cannot be read, or was replaced or changed after the Dataset was opened.
    """
    from gz3d_zarr.backends import annotations

    if annotations.find_file_annotations(dataset) is not None:
        return None
    try:
        groups = _StoreGroups(dataset)
    except UsageError:
        return None
    return groups.texts(names)


class _StoreGroups:
    """Groups of a store; reads the ids of all its subjects."""

    def __init__(self, dataset: xr.Dataset) -> None:
        from gz3d_zarr.backends import store as backend

        self._store: Any = backend.find_object_store(dataset)
        self._root = backend.find_root(dataset, self._store)
        ids = backend.read_rows(self._store, "zooniverse_subject_id", root=self._root)
        self._rows = _find_rows(dataset, ids, f"the store {self._store.url}")
        self._group: xr.Dataset | None = None

    def texts(self, names: Sequence[str]) -> dict[str, NDArray[Any]] | None:
        from gz3d_zarr.backends import store as backend

        if CATALOGUE_GROUP not in self._root.group:
            return None
        group = backend.read_group(
            self._store, CATALOGUE_GROUP, generation=self._root.generation.id
        )
        return {name: group[name].values[self._rows] for name in names if name in group}

    def marks(self) -> list[str]:
        from gz3d_zarr.backends import store as backend

        texts: list[str] = backend.read_rows(self._store, MARKS, self._rows, self._root).tolist()
        return texts

    def lazy_marks(self, sizes: tuple[int, ...]) -> da.Array:
        import dask.array as da  # slow to import

        rows = da.from_array(self._rows, chunks=(sizes,))
        texts: da.Array = da.map_blocks(
            _read_marks,
            rows,
            store=self._store,
            generation=self._root.generation.id,
            dtype=object,
            meta=np.empty(0, object),
        )
        return texts

    def clusters(self, cls: str) -> tuple[FloatArray, NDArray[np.int64]]:
        from gz3d_zarr.backends import store as backend

        if self._group is None:
            self._group = backend.read_group(
                self._store, CLUSTERS_GROUP, generation=self._root.generation.id
            )
        try:
            return select_clusters(self._group, self._rows, cls)
        except (LookupError, TypeError, ValueError) as error:
            raise StoreError(
                f"the group {CLUSTERS_GROUP} of {self._store.url} does not have the {cls} clusters "
                "that it should: the store is damaged; gz3d-zarr verify says where"
            ) from error

    def part(self, rows: slice) -> _StoreGroups:
        chosen = copy(self)
        chosen._rows = self._rows[rows]
        return chosen

    def compute_with(self, dataset: xr.Dataset) -> xr.Dataset:
        return dataset.compute()


class _FileAnnotations:
    """Subject files, each decoded when it is needed."""

    def __init__(self, dataset: xr.Dataset, files: Any) -> None:
        rows = _find_rows(dataset, files.subject_ids, "the files")
        self._annotations: da.Array = files.annotations[rows]
        self._computed: NDArray[Any] | None = None

    def marks(self) -> list[str]:
        texts: list[str] = _to_texts(self._compute()).tolist()
        return texts

    def lazy_marks(self, sizes: tuple[int, ...]) -> da.Array:
        import dask.array as da  # slow to import

        texts: da.Array = da.map_blocks(
            _to_texts, self._annotations, dtype=object, meta=np.empty(0, object)
        ).rechunk((sizes,))
        return texts

    def clusters(self, cls: str) -> tuple[FloatArray, NDArray[np.int64]]:
        none = np.empty((0, len(CLUSTER_COLUMNS)))
        tables = [none if a is None else a.clusters[cls] for a in self._compute()]
        return np.concatenate([none, *tables]), np.array([len(table) for table in tables], np.int64)

    def part(self, rows: slice) -> _FileAnnotations:
        chosen = copy(self)
        chosen._annotations = self._annotations[rows]
        chosen._computed = None if self._computed is None else self._computed[rows]
        return chosen

    def compute_with(self, dataset: xr.Dataset) -> xr.Dataset:
        from dask.base import compute  # slow to import

        loaded: xr.Dataset
        loaded, self._computed = compute(dataset, self._annotations)
        return loaded

    def _compute(self) -> NDArray[Any]:
        """All annotations, of which each file is read only once."""
        if self._computed is None:
            self._computed = self._annotations.compute()
        return self._computed


def select_clusters(
    stored: xr.Dataset, rows: NDArray[np.intp], cls: str
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Clusters of some rows of a store, from its whole group ``clusters``."""
    every = stored[ROW_SIZES[cls][0]].values.astype(np.int64)
    first = np.cumsum(every) - every
    sizes = every[rows]
    if any(stored[f"{cls}_{name}"].shape != (every.sum(),) for name in CLUSTER_COLUMNS):
        raise ValueError("another number of clusters than the subjects have")
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.repeat(first[rows], sizes) + within
    columns = [stored[f"{cls}_{name}"].values[chosen] for name in CLUSTER_COLUMNS]
    return np.column_stack(columns), sizes


def _find_rows(dataset: xr.Dataset, ids: NDArray[Any], where: str) -> NDArray[np.intp]:
    """Positions of the subjects of a Dataset among these Zooniverse ids."""
    wanted = np.atleast_1d(dataset["zooniverse_subject_id"].values)
    order = np.argsort(ids)
    found = np.searchsorted(ids, wanted, sorter=order)
    rows: NDArray[np.intp] = order[np.minimum(found, len(order) - 1)]
    missing = np.flatnonzero(ids[rows] != wanted)
    if len(missing):
        raise UsageError(
            f"{plural(len(missing), 'subject')} of the Dataset, such as {wanted[missing[0]]}, "
            f"not in {where} that it was opened from: use the Dataset before other subjects were "
            "added"
        )
    return rows


def _read_marks(rows: NDArray[np.intp], store: Any, generation: str) -> NDArray[Any]:
    """Raw marks in some rows of a store; for tasks, which open it themselves."""
    from gz3d_zarr.backends import root
    from gz3d_zarr.backends import store as backend

    opened = root.open_root(store, generation=generation)
    return backend.read_rows(store, MARKS, rows, opened).astype(object)


def _to_texts(annotations: NDArray[Any]) -> NDArray[Any]:
    """Raw marks of each subject; empty where its file could not be read."""
    texts = np.empty(len(annotations), object)
    texts[:] = ["" if a is None else marks_to_json(a.tables) for a in annotations]
    return texts
