"""Stored chunks of big arrays, read over a network in few requests.

The index of a shard is read once. Chunks that are near each other in a shard come by one request,
and several requests are sent at a time.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.errors import StoreError, error_message
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.ranges import Range, read_ends, read_ranges
from gz3d_zarr.storage.shards import (
    ABSENT_CHUNK,
    Sharding,
    cut_chunk,
    index_size,
    read_index,
    shard_key,
    whole_chunk,
)

Chunks = Mapping[int, bytes | memoryview]
"""Stored bytes by number of the chunk in its array; empty for one that is absent."""


@dataclass
class ChunkFetcher:
    """Reads stored chunks, and keeps the indices of their shards: 1 kB for 64 pictures."""

    store: ObjectStore
    _indices: dict[str, NDArray[np.uint64]] = field(default_factory=dict)

    def fetch_shard(self, name: str, sharding: Sharding, shard: int) -> Chunks:
        """Read a whole shard by one request; errors as for `fetch`."""
        key = shard_key(name, shard)
        data = self.store.get(key, sharding.max_bytes(name))
        if data is None:
            raise missing_shard(self.store, name, shard)
        with self._naming(name, shard):
            index = self._indices[key] = read_index(data, sharding.chunks)
        first = shard * sharding.chunks
        return {first + i: cut_chunk(data, entry) for i, entry in enumerate(index)}

    def fetch(
        self, name: str, sharding: Sharding, numbers: Collection[int], *, is_fresh: bool = False
    ) -> Chunks:
        """Read chunks of any shards.

        Parameters
        ----------
        name : str
        sharding : Sharding
        numbers : collection of int
        is_fresh : bool
            Read the indices again.

        Raises
        ------
        StoreError
            A shard is missing, cannot be read, or has a damaged index.
        ValueError
            One is cut short.
        """
        known = {} if is_fresh else dict(self._indices)
        wanted: dict[int, set[int]] = defaultdict(set)
        for number in numbers:
            wanted[number // sharding.chunks].add(number)
        keys = {shard: shard_key(name, shard) for shard in wanted}
        chunks: dict[int, bytes | memoryview] = {}
        for shard, key in keys.items():
            if key not in known and len(wanted[shard]) == sharding.chunks:
                chunks |= self.fetch_shard(name, sharding, shard)
        rest = {shard: key for shard, key in keys.items() if not wanted[shard] <= chunks.keys()}
        unknown = {key: shard for shard, key in rest.items() if key not in known}
        self._read_indices(name, sharding, unknown)
        try:
            return {**chunks, **self._fetch_parts(name, rest, wanted, sharding)}
        except ValueError:
            if known.keys().isdisjoint(rest.values()):
                raise
        return self.fetch(name, sharding, numbers, is_fresh=True)  # a shard has got more subjects

    def _read_indices(self, name: str, sharding: Sharding, shards: Mapping[str, int]) -> None:
        for key, tail in read_ends(self.store, shards, index_size(sharding.chunks)).items():
            if tail is None:
                raise missing_shard(self.store, name, shards[key])
            with self._naming(name, shards[key]):
                self._indices[key] = read_index(tail, sharding.chunks)

    def _fetch_parts(
        self,
        name: str,
        keys: Mapping[int, str],
        wanted: Mapping[int, set[int]],
        sharding: Sharding,
    ) -> Chunks:
        """Read chunks of shards whose indices are known."""
        chunks: dict[int, bytes | memoryview] = {}
        ranges: dict[int, Range] = {}
        for shard, key in keys.items():
            for number in wanted[shard]:
                entry = self._indices[key][number % sharding.chunks]
                offset, size = (int(value) for value in entry)
                if offset == ABSENT_CHUNK:
                    chunks[number] = b""
                elif offset + size > sharding.max_bytes(name):
                    raise ValueError("the index of its shard has chunks beyond the end")
                else:
                    ranges[number] = key, offset, offset + size
        found = read_ranges(self.store, ranges.values())
        for number, part in ranges.items():
            data = found[part]
            if data is None:
                raise missing_shard(self.store, name, number // sharding.chunks)
            chunks[number] = whole_chunk(data, part[2] - part[1])
        return chunks

    @contextlib.contextmanager
    def _naming(self, name: str, shard: int) -> Iterator[None]:
        """Say which of several shards cannot be read."""
        try:
            yield
        except ValueError as error:
            raise StoreError(
                f"shard {shard} of {name} in {self.store.url} cannot be read: "
                f"{error_message(error)}"
            ) from error


def missing_shard(store: ObjectStore, name: str, shard: int) -> StoreError:
    """What to raise where a shard does not exist."""
    return StoreError(f"shard {shard} of {name} in {store.url} is missing: the store is damaged")
