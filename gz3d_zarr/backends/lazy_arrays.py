"""Arrays of a store as lazy xarray arrays, without dask."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.backends.generation import Generation
from gz3d_zarr.datamodel.sentinels import SENTINELS, mask_sentinels, masked_attrs, masked_dtype
from gz3d_zarr.storage.shards import ignore_zarr_spec_warnings


def lazy_variable(reader: ChunkReader, name: str, array: xr.DataArray) -> xr.Variable:
    """The same variable, read subject by subject with `ChunkReader`.

    Parameters
    ----------
    reader : ChunkReader
        Reads the store that `array` was opened from.
    name : {'image', 'segmentation'}
    array : xarray.DataArray
        Defines dimensions, shape and attributes.

    Returns
    -------
    xarray.Variable
        uint8; a subject is read and decoded when its values are needed.
    """
    lazy = indexing.LazilyIndexedArray(ShardedArray(reader, name, array.shape))
    return xr.Variable(array.dims, lazy, array.attrs, array.encoding)


def checked_variable(
    array: Any, generation: Generation, described: xr.DataArray, size: int
) -> xr.Variable:
    """The same variable in dask chunks of `size` subjects, read by zarr.

    Parameters
    ----------
    array : zarr.Array
        In the store that `described` was opened from.
    generation : Generation
    described : xarray.DataArray
        Defines dimensions, attributes and encoding.
    size : int
    """
    lazy = indexing.LazilyIndexedArray(CheckedArray(array, generation))
    variable = xr.Variable(described.dims, lazy, described.attrs, described.encoding)
    chunked: xr.Variable = variable.chunk({"subject": size})
    return chunked


class CheckedArray(BackendArray):
    """One big array of a store, read by zarr; after each read, the generation is checked."""

    def __init__(self, array: Any, generation: Generation) -> None:
        self.shape, self.dtype = array.shape, np.dtype("uint8")
        self._array, self._generation = array, generation

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (pickle.dumps(self._array), self._generation)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._take
        )

    def _take(self, key: tuple[Any, ...]) -> Any:
        is_basic = all(isinstance(part, int | np.integer | slice) for part in key)
        with self._generation.unchanged():
            return self._array[key] if is_basic else self._array.oindex[key]


def _restore(data: bytes, generation: Generation) -> CheckedArray:
    """Unpickle in a worker, which zarr's warnings about codecs would fill with lines."""
    with ignore_zarr_spec_warnings():
        return CheckedArray(pickle.loads(data), generation)  # noqa: S301 - it is part of a pickle


class ShardedArray(BackendArray):
    """One big array of a store, read row by row along its first axis."""

    def __init__(self, reader: ChunkReader, name: str, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype = shape, np.dtype("uint8")
        self._reader, self._name = reader, name

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._take
        )

    def _take(self, key: tuple[Any, ...]) -> NDArray[np.uint8]:
        rows = np.arange(self.shape[0])[key[0]]
        if rows.ndim == 0:
            return _outer(self._reader.read(self._name, int(rows)), key[1:])
        with self._reader.checked():
            planes = [
                _outer(self._reader.decode(self._name, row), key[1:]) for row in rows.tolist()
            ]
        if planes:
            return np.stack(planes)
        return np.zeros((0, *_outer(np.empty(self.shape[1:], np.uint8), key[1:]).shape), np.uint8)


def mask_dataset(dataset: xr.Dataset) -> xr.Dataset:
    """Replace the sentinels of all variables by NaN, lazily; integers become floats."""
    masked = {
        name: _masked_variable(name, dataset.variables[name])
        for name in SENTINELS
        if name in dataset.variables
    }
    coordinates = {name: masked.pop(name) for name in list(masked) if name in dataset.coords}
    return dataset.assign(masked).assign_coords(coordinates)


def _masked_variable(name: str, variable: xr.Variable) -> xr.Variable:
    data: Any
    if variable.chunks is not None:
        data = variable.data.map_blocks(
            lambda block: mask_sentinels(name, block), dtype=masked_dtype(variable.dtype)
        )
    else:
        data = indexing.LazilyIndexedArray(MaskedArray(name, variable))
    return xr.Variable(variable.dims, data, masked_attrs(name, variable.attrs))


class MaskedArray(BackendArray):
    """One variable with NaN in place of its sentinels."""

    def __init__(self, name: str, variable: xr.Variable) -> None:
        self.shape, self.dtype = variable.shape, masked_dtype(variable.dtype)
        self._name, self._variable = name, variable

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._take
        )

    def _take(self, key: tuple[Any, ...]) -> Any:
        return mask_sentinels(self._name, self._variable[key].values)


def _outer(pixels: NDArray[np.uint8], key: tuple[Any, ...]) -> NDArray[np.uint8]:
    """Index each axis separately; the last axis first, as an integer removes its axis."""
    for axis in reversed(range(len(key))):
        if not (isinstance(key[axis], slice) and key[axis] == slice(None)):
            pixels = pixels[(slice(None),) * axis + (key[axis],)]
    return pixels
