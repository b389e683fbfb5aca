"""Decode the masks of whole shards into memory that is used again, for reductions.

zarr decodes a shard into fresh memory, 70 MB for 64 subjects, and asking the system for it takes
longer than decoding. Here, one chunk at a time is decoded and reduced.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.backends.generation import Generation
from gz3d_zarr.backends.root import READ_ERRORS
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.datamodel.subject import THRESHOLD
from gz3d_zarr.errors import StoreError, access_errors, error_message
from gz3d_zarr.storage.shards import Sharding, cut_chunk, read_index, shard_key
from gz3d_zarr.storage.zstd_frames import decode_into

MASKS = "segmentation"
SHAPE = BIG_ARRAYS[MASKS].shape
COUNTED_LEVELS = {0: "marked_pixels", THRESHOLD: "marked_pixels_above_3"}
"""Variable of a store that counts the pixels above a level."""
MASKS_ENCODING = "stored_masks"
"""Key in the encoding of a Dataset: the StoredMasks that its masks were opened from."""


@dataclass(frozen=True)
class MaskReader:
    """Reads masks of any rows of a store, one shard at a time; small to pickle.

    Attributes
    ----------
    generation : Generation
        Of a complete store; what is read is of that generation, or an error is raised.
    sharding : Sharding
        Of the masks, with the codec ``portable``.
    """

    generation: Generation
    sharding: Sharding
    _buffers: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[MaskReader], tuple[Generation, Sharding]]:
        return MaskReader, (self.generation, self.sharding)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return MaskReader.__name__, self.generation, self.sharding

    def read(self, rows: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Decode the masks of these rows, each chunk once.

        Parameters
        ----------
        rows : ndarray of int
            In any order; they are grouped by shard and chunk.

        Yields
        ------
        position, masks : int, ndarray of uint8
            Position in `rows`, and its masks (class, y, x), which must be used before the next.

        Raises
        ------
        StoreError
            A chunk is damaged or missing; or, after the last row, the store was replaced or
            changed after it was opened.
        """
        numbers, inside = np.divmod(rows, self.sharding.chunk)
        order = np.argsort(numbers, kind="stable")
        with self.generation.unchanged(), self._buffer() as masks:
            shard, data, last = -1, b"", -1
            for position in order.tolist():
                number = int(numbers[position])
                if number != last:
                    if number // self.sharding.chunks != shard:
                        shard = number // self.sharding.chunks
                        data = self._fetch(shard)
                    self._decode(data, number, masks)
                    last = number
                yield position, masks[inside[position]]

    def _fetch(self, shard: int) -> bytes:
        key = shard_key(MASKS, shard)
        data = self.generation.store.get(key, self.sharding.max_bytes(MASKS))
        if data is None:
            raise StoreError(
                f"{key} of {self.generation.store.url} is missing: the store is damaged; gz3d-zarr "
                "verify lists all such objects"
            )
        return data

    def _decode(self, data: bytes, number: int, masks: NDArray[np.uint8]) -> None:
        shard, within = divmod(number, self.sharding.chunks)
        try:
            stored = cut_chunk(data, read_index(data, self.sharding.chunks)[within])
            if len(stored):
                decode_into(stored, masks)
            else:
                masks.fill(0)
        except access_errors(*READ_ERRORS) as error:
            first = number * self.sharding.chunk
            raise StoreError(
                f"{MASKS} of rows {first} to {first + self.sharding.chunk - 1} in "
                f"{self.generation.store.url} cannot be read: chunk {within} of "
                f"{shard_key(MASKS, shard)}: {error_message(error)}"
            ) from error

    @contextlib.contextmanager
    def _buffer(self) -> Iterator[NDArray[np.uint8]]:
        """Memory of this thread for one chunk; taken away while it is in use."""
        kept = vars(self._buffers)
        masks = kept.pop("masks", None)
        if masks is None:
            masks = np.empty((self.sharding.chunk, *SHAPE), np.uint8)
        try:
            yield masks
        finally:
            kept["masks"] = masks


@dataclass(frozen=True)
class StoredMasks:
    """Which rows of which store the masks of a Dataset are.

    Attributes
    ----------
    reader : MaskReader
    rows : ndarray of int
        Row of each subject.
    sizes : tuple of int
        Subjects in each dask chunk.
    counted : mapping
        Number of pixels whose count exceeds a level, for all rows of the store and all classes, by
        level; for some levels.
    """

    reader: MaskReader
    rows: NDArray[np.intp] = field(repr=False)
    sizes: tuple[int, ...] = field(repr=False)
    counted: Mapping[int, NDArray[np.int32]] = field(repr=False)


@dataclass(frozen=True)
class OpenedMasks:
    """The masks of a store as they were opened.

    Attributes
    ----------
    reader : MaskReader
    token : str
        Of the PixelSource of the masks.
    counted : mapping
        As in `StoredMasks`.
    """

    reader: MaskReader
    token: str
    counted: Mapping[int, NDArray[np.int32]] = field(repr=False)


def find_stored_masks(dataset: xr.Dataset) -> StoredMasks | None:
    """Find which rows of a store the masks of a Dataset are; None if that is not certain.

    They are if the Dataset has the RowArray that `open_store` made, or a selection from it.
    Whatever was computed from it, or assigned in its place, is another array.
    """
    variable, opened = dataset.variables.get(MASKS), dataset.encoding.get(MASKS_ENCODING)
    if variable is None or variable.chunks is None or not isinstance(opened, OpenedMasks):
        return None
    from gz3d_zarr.backends.row_array import RowArray  # imports dask.array, which is slow

    array: Any = variable.data
    stored = array.stored if isinstance(array, RowArray) else None
    if stored is None or stored.source.token != opened.token:
        return None
    if variable.dims != BIG_ARRAYS[MASKS].dims or array.shape[1:] != SHAPE:
        return None
    return StoredMasks(opened.reader, stored.rows, array.chunks[0], opened.counted)
