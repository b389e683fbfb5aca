"""Pixels of single subjects, straight from the shards of a store.

zarr and xarray read the same chunks through an event loop and threads: 4 to 5 ms a subject where
decoding takes 1. What reads every subject (exports, loaders) or one at a time reads with this.

A shard is laid out as the Zarr 3 codec ``sharding_indexed`` says
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/): chunks, then offset and
size of each, then the CRC-32C of these. Arrays of another layout, such as a copy that another
program has written, are left to zarr.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.schema import BIG_ARRAYS
from gz3d_zarr.errors import StoreError, access_errors, error_message
from gz3d_zarr.locations import is_url
from gz3d_zarr.storage.object_store import ObjectStore
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


@dataclass
class _Process:
    """What one process has found and opened; none of it outlives a fork."""

    pid: int
    shardings: dict[str, Sharding | None] = field(default_factory=dict)
    indices: dict[tuple[str, int], NDArray[np.uint64]] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)


class ChunkReader:
    """Reads pictures and masks by row; pickled or forked, it opens the store anew.

    Parameters
    ----------
    folder : ObjectStore
        A complete store.
    """

    def __init__(self, folder: ObjectStore) -> None:
        self._folder = folder
        self._process = _Process(-1)

    def __reduce__(self) -> tuple[type[ChunkReader], tuple[ObjectStore]]:
        return ChunkReader, (self._folder,)

    def fetch(self, shard: int) -> dict[str, bytes]:
        """Stored bytes of a whole shard of each big array, one request each.

        Returns
        -------
        dict
            To be given to `read` with each of its rows. Arrays of another layout are not in it.

        Raises
        ------
        StoreError
            Where one is not there or cannot be read.
        """
        found: dict[str, bytes] = {}
        for name in BIG_ARRAYS:
            if self._sharding(name) is not None:
                data = self._folder.get(shard_key(name, shard))
                if data is None:
                    raise self._lost(name, shard)
                found[name] = data
        return found

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
            What `fetch` gave for the shard that holds the row; without it only the one chunk is
            read.

        Returns
        -------
        ndarray of uint8
            Shape (525, 525, 3) or (4, 525, 525); a view of another order in memory where the
            store has one.

        Raises
        ------
        StoreError
            Where it cannot be read, or a checksum says that it is damaged.
        """
        sharding = self._sharding(name)
        whole = (shards or {}).get(name)
        try:
            if sharding is None or (whole is None and is_url(self._folder.url)):
                return self._by_zarr(name, row)
            if whole is None:
                return self._by_index(name, sharding, row)
            chunk = cut_chunk(whole, read_index(whole, sharding.size)[row % sharding.size])
            return decode_chunk(chunk, BIG_ARRAYS[name].shape, compact=sharding.compact)
        except FileNotFoundError as error:
            raise self._lost(name, row // (sharding.size if sharding else 1)) from error
        except access_errors(RuntimeError, ValueError) as error:
            raise StoreError(
                f"{name} of row {row} in {self._folder.url} cannot be read: {error_message(error)}"
            ) from error

    def _by_index(self, name: str, sharding: Sharding, row: int) -> NDArray[np.uint8]:
        """Decode a subject of a local shard, whose index is kept as long as it serves."""
        indices, shard = self._here().indices, row // sharding.size
        was_kept = (name, shard) in indices
        try:
            chunk = self._from_file(name, sharding, row)
            return decode_chunk(chunk, BIG_ARRAYS[name].shape, compact=sharding.compact)
        except (RuntimeError, ValueError):
            indices.pop((name, shard), None)
            if not was_kept:
                raise
        # A retry may have written the shard anew since.
        chunk = self._from_file(name, sharding, row)
        return decode_chunk(chunk, BIG_ARRAYS[name].shape, compact=sharding.compact)

    def _from_file(self, name: str, sharding: Sharding, row: int) -> bytes | memoryview:
        """One chunk of a local shard."""
        indices = self._here().indices
        shard, position = divmod(row, sharding.size)
        with Path(self._folder.url, shard_key(name, shard)).open("rb", buffering=0) as file:
            index = indices.get((name, shard))
            if index is None:
                file.seek(-min(index_size(sharding.size), os.fstat(file.fileno()).st_size), 2)
                index = indices[name, shard] = read_index(file.read(), sharding.size)
            offset, size = (int(number) for number in index[position])
            if offset == ABSENT_CHUNK:
                return b""
            return whole_chunk(os.pread(file.fileno(), size, offset), size)

    def _by_zarr(self, name: str, row: int) -> NDArray[np.uint8]:
        import zarr

        arrays = self._here().arrays
        if name not in arrays:
            arrays[name] = zarr.open_array(
                self._folder.url,
                path=name,
                mode="r",
                zarr_format=3,
                storage_options=dict(self._folder.storage_options) or None,
            )
        return np.asarray(arrays[name][row])

    def _sharding(self, name: str) -> Sharding | None:
        known = self._here().shardings
        if name not in known:
            document = self._folder.get(f"{name}/zarr.json")
            if document is None:
                raise StoreError(f"{self._folder.url} has no array {name}")
            known[name] = parse_sharding(json.loads(document), name)
        return known[name]

    def _here(self) -> _Process:
        if self._process.pid != os.getpid():
            self._process = _Process(os.getpid())
        return self._process

    def _lost(self, name: str, shard: int) -> StoreError:
        return StoreError(
            f"shard {shard} of {name} in {self._folder.url} is not there: the store is damaged"
        )
