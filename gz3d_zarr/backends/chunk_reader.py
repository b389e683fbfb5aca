"""Read the pixels of single subjects directly from the shards of a store.

zarr and xarray read the same chunks through an event loop and threads, in 4 to 5 ms per subject,
although decoding takes only 1 ms. Exports and loaders, which read subjects one by one, use this
module.

The layout of a shard is that of the Zarr 3 codec ``sharding_indexed``
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/): chunks, then the offset
and size of each, then the CRC-32C of these. zarr reads arrays with another layout, such as those of
a copy that another program wrote.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.backends.chunk_cache import ChunkCache
from gz3d_zarr.backends.generation import Generation
from gz3d_zarr.backends.missing_chunks import refuse_missing_chunks
from gz3d_zarr.backends.root import READ_ERRORS, open_root, read_member
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.datamodel.subject import CLASSES, SIDE
from gz3d_zarr.errors import StoreError, access_errors, error_message
from gz3d_zarr.locations import is_url, open_regular
from gz3d_zarr.storage.shards import (
    ABSENT_CHUNK,
    Sharding,
    cut_chunk,
    decode_chunk,
    index_size,
    parse_sharding,
    read_index,
    shard_key,
    whole_chunk,
)
from gz3d_zarr.storage.zstd_frames import HEADER_BYTES, check_size


@dataclass(frozen=True, slots=True)
class PixelPart:
    """What a reader returns of each subject; by default, everything.

    Attributes
    ----------
    classes : tuple of int
        Positions of the masks along ``class``, in the order wanted.
    side : int
        Pixels along each side of a square about the center.
    """

    classes: tuple[int, ...] = tuple(range(len(CLASSES)))
    side: int = SIDE

    @property
    def start(self) -> int:
        """First row and column of the square."""
        return (SIDE - self.side) // 2

    def cut(self, name: str, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut this part out of the pixels of one or more subjects."""
        window = slice(self.start, self.start + self.side)
        if name == "image":
            return pixels[..., window, window, :]
        cropped = pixels[..., window, window]
        if self.classes == tuple(range(len(CLASSES))):
            return cropped
        return cropped[..., list(self.classes), :, :]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one subject's pixels."""
        sides = self.side, self.side
        return (*sides, 3) if name == "image" else (len(self.classes), *sides)


@dataclass
class _ProcessState:
    """State of one process; a forked process starts with an empty one."""

    pid: int
    indices: dict[tuple[str, int], tuple[tuple[int, ...], NDArray[np.uint64]]] = field(
        default_factory=dict
    )
    arrays: dict[str, Any] = field(default_factory=dict)
    cache: ChunkCache = field(default_factory=ChunkCache)


class ChunkReader:
    """Reads images and masks by row; in another process, it reopens the store.

    Parameters
    ----------
    generation : Generation
        Of a complete store; what is read is of that generation, or an error is raised.
    part : PixelPart
        Only this part of the pixels of each subject is kept and returned.
    """

    def __init__(self, generation: Generation, part: PixelPart = PixelPart()) -> None:
        self._generation, self._store, self._part = generation, generation.store, part
        self._state = _ProcessState(-1)
        self._shardings: dict[str, Sharding | None] = {}  # the same for ever in one generation

    def __reduce__(self) -> tuple[type[ChunkReader], tuple[Generation, PixelPart]]:
        return ChunkReader, (self._generation, self._part)

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        """Read within this context; at its end, check that the store is as it was opened.

        Raises
        ------
        StoreError
            It was replaced or changed.
        """
        try:
            with self._generation.unchanged():
                yield
        except StoreError:
            self._state = _ProcessState(-1)  # it may hold what is of another generation
            raise

    def fetch(self, shard: int, names: Iterable[str] = tuple(BIG_ARRAYS)) -> dict[str, bytes]:
        """Fetch a whole shard of each big array in `names`, with one request each.

        Returns
        -------
        dict
            Stored bytes by array, for `read` with each row of the shard. Arrays with another layout
            are not included.

        Raises
        ------
        StoreError
            A shard is missing or cannot be read.
        """
        shards: dict[str, bytes] = {}
        with self.checked():
            for name in names:
                sharding = self._sharding(name)
                if sharding is not None:
                    data = self._store.get(shard_key(name, shard), sharding.max_bytes(name))
                    if data is None:
                        raise self._missing(name, shard)
                    shards[name] = data
        return shards

    def require_rows(self, name: str, start: int, stop: int) -> None:
        """Check local shards before another program decodes rows of them.

        Some pipelines give zeros for what is missing, and end the process where the header of a
        chunk claims more memory than there is.

        Raises
        ------
        StoreError
            A shard is missing, or cut short, or a chunk of the rows claims another size.
        """
        sharding = self._sharding(name)
        if sharding is None:
            return
        for shard in range(start // sharding.size, -(-stop // sharding.size)):
            first = max(start - shard * sharding.size, 0) // sharding.chunk
            last = -(-min(stop - shard * sharding.size, sharding.size) // sharding.chunk)
            try:
                self._require_chunks(name, sharding, shard, slice(first, last))
            except FileNotFoundError as error:
                raise self._missing(name, shard) from error
            except access_errors(*READ_ERRORS) as error:
                raise StoreError(
                    f"shard {shard} of {name} in {self._store.url} cannot be read: "
                    f"{error_message(error)}"
                ) from error

    def _require_chunks(self, name: str, sharding: Sharding, shard: int, chunks: slice) -> None:
        expected = sharding.chunk * math.prod(BIG_ARRAYS[name].shape)
        with open_regular(Path(self._store.url, shard_key(name, shard))) as file:
            index = self._index_of(file, name, sharding, shard)
            stored = index[index[:, 0] != ABSENT_CHUNK]
            end = max((sum(entry) for entry in stored.tolist()), default=0)
            end += index_size(sharding.chunks)
            if os.fstat(file.fileno()).st_size < end:
                raise ValueError(f"it has fewer than {end} bytes")
            for offset, _ in index[chunks].tolist():
                if offset != ABSENT_CHUNK:
                    check_size(os.pread(file.fileno(), HEADER_BYTES, offset), expected)

    def read_subject(
        self, row: int, shards: Mapping[str, bytes] | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Decode one subject's image and masks; parameters and errors as for `read`."""
        if shards and len(shards) == len(BIG_ARRAYS):  # checked when they were fetched
            return self.decode("image", row, shards), self.decode("segmentation", row, shards)
        with self.checked():
            return self.decode("image", row, shards), self.decode("segmentation", row, shards)

    def read(
        self, name: str, row: int, shards: Mapping[str, bytes] | None = None
    ) -> NDArray[np.uint8]:
        """Decode one subject's pixels.

        Parameters
        ----------
        name : {'image', 'segmentation'}
        row : int
            Position along ``subject``.
        shards : mapping, optional
            Result of `fetch` for the shard of the row; without it, only one chunk is read.

        Returns
        -------
        ndarray of uint8
            Shape (525, 525, 3) or (4, 525, 525), or that of the part of the reader; it may be a
            view that is not C-contiguous.

        Raises
        ------
        StoreError
            The chunk cannot be read, or its checksum is wrong; or the store was replaced or changed
            after it was opened.
        """
        if shards and name in shards:  # checked when they were fetched
            return self.decode(name, row, shards)
        with self.checked():
            return self.decode(name, row, shards)

    def decode(
        self, name: str, row: int, shards: Mapping[str, bytes] | None = None
    ) -> NDArray[np.uint8]:
        """Do as `read` without its check, within a context of `checked`."""
        sharding = self._sharding(name)
        whole = (shards or {}).get(name)
        try:
            if sharding is None or (whole is None and is_url(self._store.url)):
                return self._by_zarr(name, row)
            return self._read_chunk(name, sharding, row, whole)
        except FileNotFoundError as error:
            raise self._missing(name, row // (sharding.size if sharding else 1)) from error
        except access_errors(*READ_ERRORS) as error:
            raise StoreError(
                f"{name} of row {row} in {self._store.url} cannot be read: {error_message(error)}"
            ) from error

    def _read_chunk(
        self, name: str, sharding: Sharding, row: int, whole: bytes | None
    ) -> NDArray[np.uint8]:
        """Decode a subject's chunk, from the whole shard or from a local file."""
        shard, inside = divmod(row, sharding.size)
        number, position = divmod(inside, sharding.chunk)
        shape, cache = BIG_ARRAYS[name].shape, self._current_state().cache
        # Only chunks of several subjects are worth keeping.
        key = (name, shard, number) if sharding.chunk > 1 else None
        if key is not None:
            masks = cache.get(key, position, self._part.shape(name))
            if masks is not None:
                return masks
        if whole is not None:
            stored = cut_chunk(whole, read_index(whole, sharding.chunks)[number])
            block = decode_chunk(stored, (sharding.chunk, *shape), compact=sharding.compact)
        else:
            block = self._from_file(name, sharding, shard, number)
        if key is None:
            return self._part.cut(name, block[position])
        block = self._part.cut(name, block)
        cache.put(key, block)
        pixels: NDArray[np.uint8] = block[position].copy()  # lets the rest of the chunk go
        return pixels

    def _from_file(
        self, name: str, sharding: Sharding, shard: int, number: int
    ) -> NDArray[np.uint8]:
        """Decode one chunk of a local shard; the index of the shard is kept as long as its file."""
        with open_regular(Path(self._store.url, shard_key(name, shard))) as file:
            index = self._index_of(file, name, sharding, shard)
            offset, size = (int(value) for value in index[number])
            stored: bytes | memoryview = b""
            if offset != ABSENT_CHUNK:
                stored = whole_chunk(os.pread(file.fileno(), size, offset), size)
        shape = (sharding.chunk, *BIG_ARRAYS[name].shape)
        return decode_chunk(stored, shape, compact=sharding.compact)

    def _index_of(
        self, file: FileIO, name: str, sharding: Sharding, shard: int
    ) -> NDArray[np.uint64]:
        indices = self._current_state().indices
        found = os.fstat(file.fileno())
        identity = found.st_ino, found.st_mtime_ns, found.st_size
        known, index = indices.get((name, shard), (None, None))
        if index is None or known != identity:  # an update replaces the file of a shard
            file.seek(-min(index_size(sharding.chunks), found.st_size), 2)
            index = read_index(file.read(), sharding.chunks)
            indices[name, shard] = identity, index
        return index

    def _by_zarr(self, name: str, row: int) -> NDArray[np.uint8]:
        arrays = self._current_state().arrays
        if name not in arrays:
            group = open_root(self._store, generation=self._generation.id).group
            if self._sharding(name) is not None:  # a build writes every shard
                group = refuse_missing_chunks(group, self._store.url)
            arrays[name] = group[name]
        pixels: NDArray[np.uint8] = self._part.cut(name, np.asarray(arrays[name][row]))
        return pixels

    def _sharding(self, name: str) -> Sharding | None:
        known = self._shardings
        if name not in known:
            known[name] = parse_sharding(read_member(self._generation, name), name)
        return known[name]

    def _current_state(self) -> _ProcessState:
        if self._state.pid != os.getpid():
            self._state = _ProcessState(os.getpid())
        return self._state

    def _missing(self, name: str, shard: int) -> StoreError:
        return StoreError(
            f"shard {shard} of {name} in {self._store.url} is missing: the store is damaged"
        )
