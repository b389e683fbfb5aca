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
        # Dask reads part of a shard of xr.open_zarr for a slice, but a whole shard for a list.
        return dataset.isel(subject=slice(int(chosen[0]), int(chosen[0]) + len(chosen)))
    return dataset.isel(subject=chosen)


def as_shard_chunks(array: xr.DataArray) -> xr.DataArray:
    """The array as a dask array; in whole shards if it was opened without chunks."""
    if array.chunks is not None:
        _warn_of_many_chunks(array)
        return array
    size = _find_shard_size(array) or DEFAULT_SHARD_SIZE
    return chunk_values(array, {"subject": size} if "subject" in array.dims else {})


def _find_shard_size(array: xr.DataArray) -> int | None:
    """Subjects per shard, of `open_store` or of ``xr.open_zarr``; None if it is not known."""
    shards = array.encoding.get("shards")
    size = shards[0] if shards else (array.encoding.get("preferred_chunks") or {}).get("subject")
    return None if size is None else int(size)


def _warn_of_many_chunks(array: xr.DataArray) -> None:
    """Warn, and say how to open the store, if shards were cut into very many dask chunks."""
    sizes = array.variable.chunksizes.get("subject", ())
    size = _find_shard_size(array)
    if size is None or len(sizes) <= MAX_DASK_CHUNKS or max(sizes) >= size:
        return
    from dask.array import PerformanceWarning  # slow to import

    warnings.warn(
        f"{array.name} has {len(sizes)} dask chunks of {plural(max(sizes), 'subject')}, each with "
        f"several tasks, although the store has shards of {size}: open it with "
        f'gz3d_zarr.open_store(path), or xr.open_zarr(path, chunks={{"subject": {size}}})',
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


def chunk_like(counts: xr.DataArray, values: xr.DataArray) -> xr.DataArray:
    """Values per subject in the chunks of the counts: dask itself needs more tasks per shard."""
    if values.chunks is not None or "subject" not in values.dims:
        return values
    return chunk_values(values, {"subject": counts.variable.chunksizes["subject"]})
