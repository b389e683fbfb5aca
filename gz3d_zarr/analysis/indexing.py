"""Rows of a Dataset: the dimension ``subject``, selection by position, dask chunks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.datamodel.layout import DEFAULT_SHARD_SIZE
from gz3d_zarr.datamodel.variables import VARIABLES
from gz3d_zarr.errors import StoreError, plural

MAX_DASK_CHUNKS = 4000
"""Dask chunks of an array along ``subject``; with more, dask takes many seconds to start."""


def with_subject_dim(dataset: xr.Dataset) -> xr.Dataset:
    """Restore the dimension ``subject`` of a single subject, such as ``ds.isel(subject=0)``.

    Raises
    ------
    StoreError
        The subjects are along another dimension.
    """
    if "subject" in dataset.dims:
        return dataset
    along = dataset["subject"].dims
    if along:
        raise StoreError(
            f"this Dataset of Galaxy Zoo: 3D has its rows along {', '.join(map(str, along))}, not "
            "subject: use the Dataset before the dimensions were swapped, or swap them back with "
            f"ds.swap_dims({along[0]}='subject')"
        )
    names = ("subject", "object_id", *VARIABLES, *BIG_ARRAYS)
    rows = {
        name: variable.set_dims(("subject", *variable.dims))
        for name in names
        if (variable := dataset.variables.get(name)) is not None
    }
    coordinates = {name: rows.pop(name) for name in list(rows) if name in dataset.coords}
    whole: xr.Dataset = dataset.drop_vars(list(coordinates)).assign(rows)
    return whole.assign_coords(coordinates)


def compute_variables(dataset: xr.Dataset, *names: str) -> list[NDArray[Any]]:
    """Compute small variables together, so that a file is read once for all of them."""
    small = xr.Dataset({f"{name}_": dataset.variables[name].to_base_variable() for name in names})
    computed = small.compute()
    return [computed[f"{name}_"].values for name in names]


def isel_subjects(dataset: xr.Dataset, rows: Sequence[int] | NDArray[np.intp]) -> xr.Dataset:
    """Rows of a Dataset by position, in this order; nothing is read."""
    chosen = np.arange(dataset.sizes["subject"])[np.asarray(rows, np.intp)]  # resolves negatives
    if len(chosen) and np.array_equal(chosen, np.arange(chosen[0], chosen[0] + len(chosen))):
        # Dask reads part of a shard for a slice, but a whole shard for a list.
        return dataset.isel(subject=slice(int(chosen[0]), int(chosen[0]) + len(chosen)))
    taken = dataset.isel(subject=chosen)
    separate = {
        name: taken.variables[name].copy(data=few)
        for name, variable in dataset.variables.items()
        if (few := _few_rows(variable, chosen)) is not None
    }
    return taken.assign(separate) if separate else taken


class _Rows:
    """Some rows of the array that dask reads from, for `dask.array.from_array`."""

    def __init__(self, source: Any, axis: int, rows: NDArray[np.intp]) -> None:
        self.source, self.axis, self.rows = source, axis, rows
        self.shape = (*source.shape[:axis], len(rows), *source.shape[axis + 1 :])
        self.dtype, self.ndim = source.dtype, len(source.shape)

    def __getitem__(self, key: tuple[Any, ...]) -> NDArray[Any]:
        within = list(key)
        rows = np.atleast_1d(self.rows[within[self.axis]])
        within[self.axis] = 0 if isinstance(within[self.axis], int | np.integer) else slice(None)
        # Read slices: for a list, zarr copies pixel by pixel, which takes 100 times as long.
        parts = []
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            span = slice(int(run[0]), int(run[-1]) + 1) if len(run) else slice(0)
            parts.append(np.asarray(self.source[(slice(None),) * self.axis + (span,)]))
        values: NDArray[Any] = np.concatenate(parts, self.axis)[tuple(within)]
        return values


def _few_rows(variable: xr.Variable, rows: NDArray[np.intp]) -> Any:
    """Rows of a dask variable, each read separately; None if whole chunks are as fast.

    Whole chunks are as fast if at least a quarter of their rows are wanted: of a shard of 64 masks,
    16 separate rows take as long as the whole shard. They are also faster if dask computes the
    variable instead of reading it, as each row would repeat the computation of its chunk.
    """
    if variable.chunks is None or "subject" not in variable.dims or not len(rows):
        return None
    array: Any = variable.data
    axis = variable.get_axis_num("subject")
    sizes = np.asarray(array.chunks[axis])
    touched = np.unique(np.searchsorted(np.cumsum(sizes), rows, side="right"))
    original = f"original-{array.name}"  # dask's name for the array that it reads from
    if 4 * len(rows) >= sizes[touched].sum() or original not in array.dask.layers:
        return None
    import dask.array as da  # slow to import
    from dask.base import tokenize
    from dask.local import get_sync

    source = get_sync(array.dask.layers[original], original)
    chunks = (*array.chunks[:axis], int(sizes.max()), *array.chunks[axis + 1 :])
    name = f"rows-{tokenize(array.name, rows)}"
    return da.from_array(_Rows(source, axis, rows), chunks, name, meta=array._meta)


def as_shard_chunks(array: xr.DataArray) -> xr.DataArray:
    """The array as a dask array; in whole shards if it was opened without chunks."""
    if array.chunks is not None:
        _warn_of_many_chunks(array)
        return array
    shards = array.encoding.get("shards") or (DEFAULT_SHARD_SIZE,)
    return chunk_values(array, {"subject": shards[0]} if "subject" in array.dims else {})


def _warn_of_many_chunks(array: xr.DataArray) -> None:
    """Warn, and say how to open the store, if shards were cut into very many dask chunks."""
    sizes = array.variable.chunksizes.get("subject", ())
    shards = array.encoding.get("shards")
    if not shards or len(sizes) <= MAX_DASK_CHUNKS or max(sizes) >= shards[0]:
        return
    from dask.array import PerformanceWarning  # slow to import

    warnings.warn(
        f"{array.name} has {len(sizes)} dask chunks of {plural(max(sizes), 'subject')}, each with "
        f"several tasks, although the store has shards of {shards[0]}: open it with "
        f'gz3d_zarr.open_store(path), or xr.open_zarr(path, chunks={{"subject": {shards[0]}}})',
        PerformanceWarning,
        stacklevel=5,
    )


def chunk_values(array: xr.DataArray, chunks: Mapping[str, int | tuple[int, ...]]) -> xr.DataArray:
    """The array in these dask chunks, with its coordinates unchanged.

    ``array.chunk`` also chunks the coordinates. xarray then computes them to compare them whenever
    it combines the array with another.
    """
    cut: xr.DataArray = array.copy(data=array.variable.chunk(chunks).data)
    return cut
