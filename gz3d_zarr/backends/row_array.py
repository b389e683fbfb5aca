"""The big arrays of a store as dask arrays that read only the rows that are chosen.

dask selects rows of what it has read, which is a shard at least. xarray selects by ``array[key]``,
for `isel`, boolean masks, ``where(drop=True)`` and `sel`; so `RowArray` defines that for its first
axis, and is a plain dask array for everything else.
"""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from gz3d_zarr.backends.pixel_source import PixelSource

MIN_TASK_ROWS = 8
"""Rows of a task, where rows are far apart; below, the scheduling costs as much as the reading."""
MAX_SCATTERED_TASKS = 64
"""Tasks of rows that are far apart, unless each would hold more than a chunk of the array."""

_Array: Any = da.Array  # its methods have no types


class StoredRows:
    """Rows of a big array, in any order, as an array that `dask.array.from_array` reads from."""

    def __init__(self, source: PixelSource, rows: NDArray[np.intp]) -> None:
        self.source, self.rows = source, rows
        self.shape, self.dtype = (len(rows), *source.shape[1:]), source.dtype
        self.ndim = len(self.shape)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        chosen = self.rows[rows]
        pixels = self.source.read_rows(np.atleast_1d(chosen), tuple(rest))
        return pixels if chosen.ndim else pixels[0]


class _DaskArrayType(type):
    """Equal to `dask.array.Array`: xarray combines chunked arrays of one type only."""

    def __eq__(cls, other: object) -> bool:
        return cls is other or other is da.Array

    def __hash__(cls) -> int:
        return hash(da.Array)


class RowArray(da.Array, metaclass=_DaskArrayType):
    """A dask array over chosen rows of a big array; choosing among them again reads less.

    Parameters
    ----------
    stored : StoredRows
    size : int
        Rows in a chunk of the whole array.
    """

    _stored: StoredRows
    _size: int
    _read_name: str

    def __new__(cls, stored: StoredRows, size: int) -> RowArray:
        """Make the dask graph; `da.Array` has no ``__init__``."""
        source = stored.source
        name = f"{source.name}-{tokenize(source.token, stored.rows, size)}"
        chunks = (chunk_rows(stored.rows, size), *((length,) for length in stored.shape[1:]))
        meta = np.empty((0,) * stored.ndim, stored.dtype)
        plain = da.from_array(stored, chunks, name, meta=meta)
        self: RowArray = _Array.__new__(cls, plain.dask, plain.name, plain.chunks, meta=meta)
        self._stored, self._size, self._read_name = stored, size, plain.name
        return self

    def __reduce__(self) -> Any:
        if self._is_assigned:
            return _Array.__reduce__(self)
        return RowArray, (self._stored, self._size)

    @property
    def _is_assigned(self) -> bool:
        """Whether ``array[key] = value`` made this array another one, in place."""
        return bool(self.name != self._read_name)

    @property
    def stored(self) -> StoredRows | None:
        """The rows whose values this array has; None if it was assigned others."""
        return None if self._is_assigned else self._stored

    def copy(self) -> Any:
        """The same rows; xarray copies whatever it aligns."""
        return _Array.copy(self) if self._is_assigned else RowArray(self._stored, self._size)

    def __getitem__(self, index: Any) -> Any:
        """Choose rows before they are read; on other axes as dask does."""
        key = index if isinstance(index, tuple) else (index,)
        if self._is_assigned or not key or not _chooses_rows(key[0]) or _are_several_lists(key):
            return _Array.__getitem__(self, index)
        rows = key[0]
        is_one = isinstance(rows, int | np.integer)
        if isinstance(rows, list):
            rows = np.asarray(rows, None if rows else np.intp)
        chosen = np.atleast_1d(self._stored.rows[rows])
        taken = RowArray(StoredRows(self._stored.source, chosen), self._size)
        rest = (0 if is_one else slice(None), *key[1:])
        return _Array.__getitem__(taken, rest)


def chunk_rows(rows: NDArray[np.intp], size: int) -> tuple[int, ...]:
    """Cut rows into chunks of at most `size`, one for each task.

    They are cut where the chunks of the whole array are, so that one task reads all that is wanted
    of a shard; into equal chunks if these would have few rows.
    """
    if not len(rows):
        return (0,)
    ends = np.flatnonzero(np.diff(rows // size)) + 1
    pieces = np.diff(np.concatenate([[0], ends, [len(rows)]]))
    if len(rows) < MIN_TASK_ROWS * len(pieces) and len(pieces) > 1:
        pieces = np.array([len(rows)])
        size = min(size, max(MIN_TASK_ROWS, -(-len(rows) // MAX_SCATTERED_TASKS)))
    return tuple(
        min(size, int(piece) - done) for piece in pieces for done in range(0, int(piece), size)
    )


def _chooses_rows(part: Any) -> bool:
    """Whether part of an index chooses some rows, rather than all; dask arrays are left to dask."""
    if isinstance(part, slice):
        return part != slice(None)
    if isinstance(part, list | np.ndarray):
        values = np.asarray(part)
        return values.ndim == 1 and (values.dtype.kind in "iub" or not values.size)
    return isinstance(part, int | np.integer) and not isinstance(part, bool)


def _are_several_lists(key: tuple[Any, ...]) -> bool:
    """Whether dask refuses this index; xarray then indexes one axis after another."""
    return (
        sum(not isinstance(part, slice | int | np.integer) for part in key if part is not ...) > 1
    )
