"""Rows of a big array: by `ChunkReader`, but by zarr where they are many and local.

zarr reads arrays with another layout too, such as those of a copy that another program wrote.
"""

from __future__ import annotations

import os
import pickle
import uuid
from typing import Any

import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.backends.codec_pipeline import find_sharding, open_array
from gz3d_zarr.backends.generation import Generation
from gz3d_zarr.backends.root import READ_ERRORS
from gz3d_zarr.errors import StoreError, access_errors, error_message
from gz3d_zarr.storage.shards import ignore_zarr_spec_warnings

MIN_RUN = 8
"""Consecutive rows that zarr reads at least as fast as `ChunkReader` does."""


class PixelSource:
    """One big array of a store; after each read, the generation is checked.

    Parameters
    ----------
    name : {'image', 'segmentation'}
    metadata : zarr.core.metadata.v3.ArrayV3Metadata
    reader : ChunkReader
        Of the same store.
    generation : Generation

    Attributes
    ----------
    token : str
        The same for the same pixels.
    """

    def __init__(
        self, name: str, metadata: Any, reader: ChunkReader, generation: Generation
    ) -> None:
        self.name, self.shape, self.dtype = name, metadata.shape, np.dtype("uint8")
        self._metadata, self._reader, self._store = metadata, reader, generation.store
        self._opened: tuple[int, Any] = (-1, None)
        self._is_built = find_sharding(name, metadata) is not None
        identity = generation.id or uuid.uuid4().hex  # without an id, it may have been replaced
        self.token: str = tokenize(self._store.url, name, identity, self.shape)

    def __getstate__(self) -> dict[str, Any]:
        # Another process may have other pipelines, and reads zarr's warnings about codecs.
        return {
            **self.__dict__,
            "_metadata": pickle.dumps(self._metadata),
            "_opened": (-1, None),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        with ignore_zarr_spec_warnings():
            metadata = pickle.loads(state["_metadata"])  # noqa: S301 - it is part of a pickle
        self.__dict__.update({**state, "_metadata": metadata})

    @property
    def array(self) -> Any:
        """The zarr array; opened once in each process."""
        process, array = self._opened
        if process != os.getpid():
            array = open_array(self._store, self.name, self._metadata)
            self._opened = os.getpid(), array
        return array

    def read_rows(self, rows: NDArray[np.intp], rest: tuple[Any, ...] = ()) -> NDArray[np.uint8]:
        """Read rows in this order, and the part of each that `rest` indexes.

        Parameters
        ----------
        rows : ndarray of int
            Not negative.
        rest : tuple of int, slice or array
            Index of the other axes, each by itself.

        Raises
        ------
        StoreError
            They cannot be read, or the store was replaced or changed.
        """
        if len(rows) == 1 and (self._store.is_local or self._is_built):  # no copy
            return _outer(self._reader.read(self.name, int(rows[0])), rest)[np.newaxis]
        shape = _outer(np.empty(self.shape[1:], np.uint8), rest).shape
        pixels = np.empty((len(rows), *shape), np.uint8)
        with self._reader.checked():
            if self._is_built and not self._store.is_local:
                for position, plane in self._reader.decode_rows(self.name, rows):
                    pixels[position] = _outer(plane, rest)
            else:
                self._read_runs(rows, rest, pixels)
        return pixels

    def _read_runs(
        self, rows: NDArray[np.intp], rest: tuple[Any, ...], pixels: NDArray[np.uint8]
    ) -> None:
        """Read consecutive rows together."""
        done = 0
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else ():
            into = pixels[done : done + len(run)]
            done += len(run)
            if len(run) >= MIN_RUN or not self._store.is_local:
                into[...] = self._read_run(int(run[0]), int(run[-1]) + 1, rest)
                continue
            for row, plane in zip(run.tolist(), into, strict=True):
                plane[...] = _outer(self._reader.decode(self.name, row), rest)

    def _read_run(self, start: int, stop: int, rest: tuple[Any, ...]) -> NDArray[np.uint8]:
        is_basic = all(
            isinstance(part, int | np.integer)
            or (isinstance(part, slice) and (part.step is None or part.step > 0))
            for part in rest
        )
        try:
            if self._store.is_local and self._is_built:
                self._reader.require_rows(self.name, start, stop)
            if is_basic:
                return np.asarray(self.array[(slice(start, stop), *rest)])
            block = np.asarray(self.array[start:stop])
        except access_errors(*READ_ERRORS) as error:
            raise StoreError(
                f"{self.name} of rows {start} to {stop - 1} in {self._store.url} cannot be read: "
                f"{error_message(error)}"
            ) from error
        return _outer(block, (slice(None), *rest))


def _outer(pixels: NDArray[np.uint8], key: tuple[Any, ...]) -> NDArray[np.uint8]:
    """Index each axis separately; the last axis first, as an integer removes its axis."""
    for axis in reversed(range(len(key))):
        if not (isinstance(key[axis], slice) and key[axis] == slice(None)):
            pixels = pixels[(slice(None),) * axis + (key[axis],)]
    return pixels
