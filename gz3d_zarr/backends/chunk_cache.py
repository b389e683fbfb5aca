"""Decoded masks of recently read chunks, kept without the zeros around them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_CACHED_BYTES = 64 * 2**20
"""Enough for the masks of several shards: most pixels of a mask are 0."""


@dataclass(frozen=True, slots=True)
class CroppedMasks:
    """Masks of one subject, cut to the rows and columns that are not all 0.

    Attributes
    ----------
    rows, columns : slice
        Where `values` were cut out.
    values : ndarray of uint8, shape (class, y, x)
    """

    rows: slice
    columns: slice
    values: NDArray[np.uint8]

    @classmethod
    def crop(cls, masks: NDArray[np.uint8]) -> CroppedMasks:
        """Cut masks, shape (class, y, x)."""
        rows = np.flatnonzero(masks.any(axis=(0, 2)))
        columns = np.flatnonzero(masks.any(axis=(0, 1)))
        if not rows.size:
            return cls(slice(0), slice(0), np.zeros((len(masks), 0, 0), np.uint8))
        inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        return cls(*inside, masks[:, inside[0], inside[1]].copy())

    def restore(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The masks as they were."""
        masks = np.zeros(shape, np.uint8)
        masks[:, self.rows, self.columns] = self.values
        return masks


class ChunkCache:
    """Keeps the masks of the chunks that were read last, up to `MAX_CACHED_BYTES`."""

    def __init__(self) -> None:
        self._chunks: OrderedDict[Hashable, list[CroppedMasks]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, position: int) -> CroppedMasks | None:
        """Masks of one subject of a chunk; None if the chunk is not kept."""
        with self._lock:
            chunk = self._chunks.get(key)
            if chunk is None:
                return None
            self._chunks.move_to_end(key)
        return chunk[position]

    def put(self, key: Hashable, block: NDArray[np.uint8]) -> list[CroppedMasks]:
        """Keep the masks of a chunk, shape (subjects, class, y, x), and return them cropped."""
        chunk = [CroppedMasks.crop(masks) for masks in block]
        with self._lock:
            self._bytes += sum(part.values.nbytes for part in chunk)
            self._bytes -= sum(part.values.nbytes for part in self._chunks.pop(key, []))
            self._chunks[key] = chunk
            while self._bytes > MAX_CACHED_BYTES and len(self._chunks) > 1:
                _, oldest = self._chunks.popitem(last=False)
                self._bytes -= sum(part.values.nbytes for part in oldest)
        return chunk
