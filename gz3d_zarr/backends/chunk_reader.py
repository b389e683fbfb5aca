"""Read the pixels of chosen subjects directly from the shards of a store.

zarr and xarray read the same chunks through an event loop and threads, in 4 to 5 ms per subject,
although decoding takes only 1 ms; over a network they ask for each chunk, and for the index of its
shard every time. Exports and loaders use this module, and selections of an opened store.

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

from gz3d_zarr.backends.chunk_cache import ChunkCache, CroppedMasks
from gz3d_zarr.backends.chunk_fetcher import ChunkFetcher, Chunks, missing_shard
from gz3d_zarr.backends.generation import Generation
from gz3d_zarr.backends.pixel_part import EVERYTHING, PixelPart
from gz3d_zarr.backends.root import READ_ERRORS, open_root, read_member
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.errors import StoreError, access_errors, error_message
from gz3d_zarr.locations import open_regular
from gz3d_zarr.storage.shards import (
    ABSENT_CHUNK,
    Sharding,
    decode_chunk,
    index_size,
    parse_sharding,
    read_index,
    shard_key,
    whole_chunk,
)
from gz3d_zarr.storage.zstd_frames import HEADER_BYTES, check_size

Fetched = Mapping[str, Chunks]
"""Stored chunks of some subjects, by array."""
MAX_CHUNKS = 64
"""Chunks that are fetched together; of pictures, 22 MB."""


@dataclass
class _ProcessState:
    """State of one process; a forked process starts with an empty one."""

    pid: int
    fetcher: ChunkFetcher
    indices: dict[tuple[str, int], tuple[tuple[int, ...], NDArray[np.uint64]]] = field(
        default_factory=dict
    )
    """Of local shards; the fetcher has the others."""
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
    shardings : mapping, optional
        Layout of each array, as the root has it, or None where it is another one; by default it is
        read from the array's own metadata.
    """

    def __init__(
        self,
        generation: Generation,
        part: PixelPart = EVERYTHING,
        shardings: Mapping[str, Sharding | None] | None = None,
    ) -> None:
        self._generation, self._store, self._part = generation, generation.store, part
        self._shardings = dict(shardings or {})  # the same for ever in one generation
        self._state = self._new_state(-1)

    def __reduce__(self) -> tuple[type[ChunkReader], tuple[Any, ...]]:
        return ChunkReader, (self._generation, self._part, self._shardings)

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
            self._state = self._new_state(-1)  # it may hold what is of another generation
            raise

    def fetch(self, rows: NDArray[np.integer[Any]], names: Iterable[str] = BIG_ARRAYS) -> Fetched:
        """Fetch stored chunks of rows of one shard, for `read` with any of them.

        Where at least half of the shard is wanted, one request reads all of it. Otherwise the
        chunks are read, near ones together; none of a local shard, from which single chunks are
        read as fast.

        Parameters
        ----------
        rows : ndarray of int
        names : iterable of str
            Arrays; those with another layout are left out.

        Raises
        ------
        StoreError
            A shard is missing or cannot be read.
        """
        found: dict[str, Chunks] = {}
        fetcher = self._current_state().fetcher
        with self.checked():
            for name in names:
                sharding = self._sharding(name)
                if sharding is None:
                    continue
                with self._our_errors(name, int(rows[0]), sharding):
                    if 2 * len(rows) >= sharding.size:
                        shard = int(rows[0]) // sharding.size
                        found[name] = fetcher.fetch_shard(name, sharding, shard)
                    elif not self._store.is_local:
                        numbers = np.unique(rows // sharding.chunk).tolist()
                        found[name] = fetcher.fetch(name, sharding, numbers)
        return found

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
                raise missing_shard(self._store, name, shard) from error
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
                    check_size(_read_at(file, offset, HEADER_BYTES), expected)

    def read_subject(
        self, row: int, fetched: Fetched | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Decode one subject's image and masks; parameters and errors as for `read`."""
        pixels = self.read_arrays(("image", "segmentation"), row, fetched)
        return pixels["image"], pixels["segmentation"]

    def read(self, name: str, row: int, fetched: Fetched | None = None) -> NDArray[np.uint8]:
        """Decode one subject's pixels.

        Parameters
        ----------
        name : {'image', 'segmentation'}
        row : int
            Position along ``subject``.
        fetched : mapping, optional
            Result of `fetch` for some rows of its shard; without it, or for another row, only one
            chunk is read.

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
        return self.read_arrays((name,), row, fetched)[name]

    def read_arrays(
        self, names: Iterable[str], row: int, fetched: Fetched | None = None
    ) -> dict[str, NDArray[np.uint8]]:
        """Do as `read` for several arrays."""
        names = tuple(names)
        with self.reading(names, row, fetched):
            return {name: self.decode(name, row, fetched) for name in names}

    @contextlib.contextmanager
    def reading(
        self, names: Iterable[str], row: int, fetched: Fetched | None = None
    ) -> Iterator[None]:
        """Do as `checked`, unless these arrays of a row were checked when they were fetched."""
        is_fetched = all(self._find_fetched(name, row, fetched) is not None for name in names)
        with contextlib.nullcontext() if is_fetched else self.checked():
            yield

    def decode(self, name: str, row: int, fetched: Fetched | None = None) -> NDArray[np.uint8]:
        """Do as `read` without its check, within a context of `checked`."""
        sharding = self._sharding(name)
        with self._our_errors(name, row, sharding):
            if sharding is None:
                return self._by_zarr(name, row)
            return self._read_chunk(name, sharding, row, self._find_fetched(name, row, fetched))

    def decode_marked(self, row: int, fetched: Fetched | None = None) -> CroppedMasks:
        """Do as `decode` for masks, without the zeros around what is marked."""
        name = "segmentation"
        sharding = self._sharding(name)
        if sharding is None or sharding.chunk == 1:
            return CroppedMasks.crop(self.decode(name, row, fetched))
        with self._our_errors(name, row, sharding):
            return self._read_marked(name, sharding, row, self._find_fetched(name, row, fetched))

    def decode_rows(
        self, name: str, rows: NDArray[np.intp]
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Decode rows of an array with our layout, each chunk once, within a context of `checked`.

        Yields
        ------
        position, pixels : int, ndarray of uint8
            Position in `rows`, and its pixels, in the order of the store.
        """
        sharding = self._sharding(name)
        if sharding is None:
            raise TypeError(f"{name} has another layout")
        numbers = rows // sharding.chunk
        order = np.argsort(numbers, kind="stable")
        chunks, starts = np.unique(numbers[order], return_index=True)
        members = np.split(order, starts[1:])
        for first in range(0, len(chunks), MAX_CHUNKS):
            wanted = chunks[first : first + MAX_CHUNKS].tolist()
            with self._our_errors(name, int(rows[members[first][0]]), sharding):
                stored = self._current_state().fetcher.fetch(name, sharding, wanted)
            for number, positions in zip(wanted, members[first:], strict=False):
                with self._our_errors(name, int(rows[positions[0]]), sharding):
                    block = self._decode_block(name, sharding, number, stored[number])
                for position in positions.tolist():
                    pixels = block[rows[position] % sharding.chunk]
                    yield position, self._part.cut(name, pixels)

    @contextlib.contextmanager
    def _our_errors(self, name: str, row: int, sharding: Sharding | None) -> Iterator[None]:
        """Raise StoreError, which names the row, in place of what reading and decoding raise."""
        try:
            yield
        except FileNotFoundError as error:
            shard = row // (sharding.size if sharding else 1)
            raise missing_shard(self._store, name, shard) from error
        except access_errors(*READ_ERRORS) as error:
            raise StoreError(
                f"{name} of row {row} in {self._store.url} cannot be read: {error_message(error)}"
            ) from error

    def _find_fetched(
        self, name: str, row: int, fetched: Fetched | None
    ) -> bytes | memoryview | None:
        """Stored chunk of a row among those that were fetched."""
        chunks = (fetched or {}).get(name)
        if chunks is None:
            return None
        sharding = self._sharding(name)
        return None if sharding is None else chunks.get(row // sharding.chunk)

    def _read_chunk(
        self, name: str, sharding: Sharding, row: int, stored: bytes | memoryview | None
    ) -> NDArray[np.uint8]:
        """Decode a subject's chunk, or take it from those that were decoded before."""
        if sharding.chunk > 1:
            return self._read_marked(name, sharding, row, stored).restore(self._part.shape(name))
        return self._part.cut(name, self._decode_block(name, sharding, row, stored)[0])

    def _read_marked(
        self, name: str, sharding: Sharding, row: int, stored: bytes | memoryview | None
    ) -> CroppedMasks:
        """A subject's masks; those of its chunk are kept."""
        number, position = divmod(row, sharding.chunk)
        cache = self._current_state().cache
        marked = cache.get((name, number), position)
        if marked is None:
            block = self._decode_block(name, sharding, number, stored)
            marked = cache.put((name, number), self._part.cut(name, block))[position]
        return marked

    def _decode_block(
        self, name: str, sharding: Sharding, number: int, stored: bytes | memoryview | None
    ) -> NDArray[np.uint8]:
        """Decode one chunk, which is read unless it has been fetched: (subject, ...)."""
        shape = (sharding.chunk, *BIG_ARRAYS[name].shape)
        fetcher = self._current_state().fetcher
        if stored is None:
            if self._store.is_local:
                stored = self._from_file(name, sharding, number)
            else:
                stored = fetcher.fetch(name, sharding, [number])[number]
        try:
            return decode_chunk(stored, shape, compact=sharding.compact)
        except (RuntimeError, ValueError):
            if self._store.is_local:
                raise
        # Its shard may have got more subjects since the index was read.
        stored = fetcher.fetch(name, sharding, [number], is_fresh=True)[number]
        return decode_chunk(stored, shape, compact=sharding.compact)

    def _from_file(self, name: str, sharding: Sharding, number: int) -> bytes | memoryview:
        """Read one chunk of a local shard; the index of the shard is kept as long as its file."""
        shard, inside = divmod(number, sharding.chunks)
        with open_regular(Path(self._store.url, shard_key(name, shard))) as file:
            index = self._index_of(file, name, sharding, shard)
            offset, size = (int(value) for value in index[inside])
            if offset == ABSENT_CHUNK:
                return b""
            return whole_chunk(_read_at(file, offset, size), size)

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
            self._state = self._new_state(os.getpid())
        return self._state

    def _new_state(self, pid: int) -> _ProcessState:
        return _ProcessState(pid, ChunkFetcher(self._store))


def _read_at(file: FileIO, offset: int, size: int) -> bytes:
    file.seek(offset)  # nobody else has this file open by this handle; Windows has no pread
    return file.read(size)
