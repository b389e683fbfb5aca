"""Arrays of a store as lazy xarray variables, with dask and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from gz3d_zarr.backends.pixel_source import PixelSource
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.datamodel.sentinels import SENTINELS, mask_sentinels, masked_attrs, masked_dtype


def chunked_variable(source: PixelSource, array: xr.DataArray, size: int) -> xr.Variable:
    """The same variable in dask chunks of `size` subjects; a selection of it reads its rows only.

    Parameters
    ----------
    source : PixelSource
    array : xarray.DataArray
        Defines dimensions, attributes and encoding.
    size : int
    """
    # Imports dask.array, which is slow.
    from gz3d_zarr.backends.row_array import RowArray, StoredRows

    rows = RowArray(StoredRows(source, np.arange(array.shape[0])), size)
    return xr.Variable(array.dims, rows, array.attrs, array.encoding)


def lazy_variable(source: PixelSource, array: xr.DataArray) -> xr.Variable:
    """The same variable without dask, read when its values are needed.

    Parameters
    ----------
    source : PixelSource
    array : xarray.DataArray
        Defines dimensions, attributes and encoding.
    """
    lazy = indexing.LazilyIndexedArray(UnchunkedArray(source))
    return xr.Variable(array.dims, lazy, array.attrs, array.encoding)


class UnchunkedArray(BackendArray):
    """One big array of a store as xarray reads it without dask."""

    def __init__(self, source: PixelSource) -> None:
        self.shape, self.dtype = source.shape, source.dtype
        self._source = source

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._take
        )

    def _take(self, key: tuple[Any, ...]) -> NDArray[np.uint8]:
        rows = np.arange(self.shape[0])[key[0]]
        pixels = self._source.read_rows(np.atleast_1d(rows), key[1:])
        return pixels if rows.ndim else pixels[0]


def writable_encoding(array: xr.DataArray, size: int) -> dict[str, Any]:
    """Encoding with which ``to_zarr`` writes any selection of a variable, however it is chunked.

    Not the store's own: xarray refuses dask chunks that are not whole shards of its encoding
    (https://github.com/pydata/xarray/issues/11460), and codecs that need all dimensions.

    Parameters
    ----------
    array : xarray.DataArray
        As xarray opened it.
    size : int
        Subjects per shard, which dask should prefer.
    """
    if array.name not in BIG_ARRAYS:
        chunking = {"chunks", "preferred_chunks", "shards"}
        return {name: value for name, value in array.encoding.items() if name not in chunking}
    return {"chunks": (1, *array.shape[1:]), "preferred_chunks": {"subject": size}}


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
