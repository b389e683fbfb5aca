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
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray

from gz3d_zarr.errors import StoreError, access_errors, describe
from gz3d_zarr.objects import ObjectFolder
from gz3d_zarr.schema import BIG_ARRAYS
from gz3d_zarr.source import is_url

_ABSENT = 2**64 - 1
_ENTRY = 16
_CRC = 4
_INDEX_CODECS = ["bytes", "crc32c"]
_PLAIN = ["bytes", "zstd"]
_COMPACT = ["transpose", "numcodecs.delta", "bytes", "zstd"]
_COMPACT_ORDER = [0, 1, 3, 2]


@dataclass(frozen=True, slots=True)
class _Sharding:
    """How one big array of our own lies in its shards."""

    size: int
    compact: bool


@dataclass
class _Process:
    """What one process has found and opened; none of it outlives a fork."""

    pid: int
    shardings: dict[str, _Sharding | None] = field(default_factory=dict)
    indices: dict[tuple[str, int], NDArray[np.uint64]] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)


class PixelReader:
    """Reads pictures and masks by row; pickled or forked, it opens the store anew.

    Parameters
    ----------
    folder : ObjectFolder
        A complete store.
    """

    def __init__(self, folder: ObjectFolder) -> None:
        self._folder = folder
        self._process = _Process(-1)

    def __reduce__(self) -> tuple[type[PixelReader], tuple[ObjectFolder]]:
        return PixelReader, (self._folder,)

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
                data = self._folder.get(_key(name, shard))
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
            chunk = _cut(whole, _index(whole, sharding.size)[row % sharding.size])
            return _decode(chunk, BIG_ARRAYS[name].shape, compact=sharding.compact)
        except FileNotFoundError as error:
            raise self._lost(name, row // (sharding.size if sharding else 1)) from error
        except access_errors(RuntimeError, ValueError) as error:
            raise StoreError(
                f"{name} of row {row} in {self._folder.url} cannot be read: {describe(error)}"
            ) from error

    def _by_index(self, name: str, sharding: _Sharding, row: int) -> NDArray[np.uint8]:
        """Decode a subject of a local shard, whose index is kept as long as it serves."""
        indices, shard = self._here().indices, row // sharding.size
        was_kept = (name, shard) in indices
        try:
            chunk = self._from_file(name, sharding, row)
            return _decode(chunk, BIG_ARRAYS[name].shape, compact=sharding.compact)
        except (RuntimeError, ValueError):
            indices.pop((name, shard), None)
            if not was_kept:
                raise
        # A retry may have written the shard anew since.
        chunk = self._from_file(name, sharding, row)
        return _decode(chunk, BIG_ARRAYS[name].shape, compact=sharding.compact)

    def _from_file(self, name: str, sharding: _Sharding, row: int) -> bytes | memoryview:
        """One chunk of a local shard."""
        indices = self._here().indices
        shard, position = divmod(row, sharding.size)
        with Path(self._folder.url, _key(name, shard)).open("rb", buffering=0) as file:
            index = indices.get((name, shard))
            if index is None:
                file.seek(-min(_index_size(sharding.size), os.fstat(file.fileno()).st_size), 2)
                index = indices[name, shard] = _index(file.read(), sharding.size)
            offset, size = (int(number) for number in index[position])
            if offset == _ABSENT:
                return b""
            return _whole(os.pread(file.fileno(), size, offset), size)

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

    def _sharding(self, name: str) -> _Sharding | None:
        known = self._here().shardings
        if name not in known:
            document = self._folder.get(f"{name}/zarr.json")
            if document is None:
                raise StoreError(f"{self._folder.url} has no array {name}")
            known[name] = _parse(json.loads(document), name)
        return known[name]

    def _here(self) -> _Process:
        if self._process.pid != os.getpid():
            self._process = _Process(os.getpid())
        return self._process

    def _lost(self, name: str, shard: int) -> StoreError:
        return StoreError(
            f"shard {shard} of {name} in {self._folder.url} is not there: the store is damaged"
        )


def _whole(chunk: bytes | memoryview, size: int) -> bytes | memoryview:
    """A chunk that is all there; ValueError where its shard was cut short."""
    if len(chunk) < max(1, size):
        raise ValueError(f"the shard is cut short: {len(chunk)} of {size} bytes of a chunk")
    return chunk


def _key(name: str, shard: int) -> str:
    return f"{name}/c/{shard}" + "/0" * len(BIG_ARRAYS[name].shape)


def _parse(document: Mapping[str, Any], name: str) -> _Sharding | None:
    """Layout from an array's metadata document; None where it is not one of ours."""
    shape = list(BIG_ARRAYS[name].shape)
    try:
        outer = document["chunk_grid"]["configuration"]["chunk_shape"]
        (codec,) = document["codecs"]
        inner = codec["configuration"]
        chain = [part["name"] for part in inner["codecs"]]
        ours = (
            codec["name"] == "sharding_indexed"
            and document["chunk_key_encoding"]["name"] == "default"
            and document["chunk_key_encoding"].get("configuration", {}).get("separator", "/") == "/"
            and document["data_type"] == "uint8"
            and outer[1:] == shape
            and inner["chunk_shape"] == [1, *shape]
            and [part["name"] for part in inner["index_codecs"]] == _INDEX_CODECS
            and inner.get("index_location", "end") == "end"
            and (
                chain == _PLAIN
                or (
                    chain == _COMPACT
                    and inner["codecs"][0]["configuration"]["order"] == _COMPACT_ORDER
                    and inner["codecs"][1]["configuration"]["dtype"] in ("|u1", "u1")
                )
            )
        )
    except (KeyError, TypeError, ValueError):
        return None
    return _Sharding(int(outer[0]), chain == _COMPACT) if ours else None


def _index_size(size: int) -> int:
    return size * _ENTRY + _CRC


def _index(tail: bytes, size: int) -> NDArray[np.uint64]:
    """Offset and size of each chunk, from bytes that end as the shard does."""
    index = tail[-_index_size(size) :]
    if len(index) != _index_size(size) or google_crc32c.value(index[:-_CRC]) != int.from_bytes(
        index[-_CRC:], "little"
    ):
        raise ValueError("the index of its shard is damaged")
    return np.frombuffer(index, "<u8", 2 * size).reshape(size, 2)


def _cut(whole: bytes, entry: NDArray[np.uint64]) -> bytes | memoryview:
    offset, size = (int(number) for number in entry)
    if offset == _ABSENT:
        return b""
    return _whole(memoryview(whole)[offset : offset + size], size)


def _decode(
    chunk: bytes | memoryview, shape: tuple[int, ...], *, compact: bool
) -> NDArray[np.uint8]:
    """Undo the codecs of one chunk; an absent one is all zero."""
    if not len(chunk):
        return np.zeros(shape, np.uint8)
    pixels = np.empty(math.prod(shape), np.uint8)
    Zstd().decode(chunk, pixels)  # which checks the checksum
    if not compact:
        return pixels.reshape(shape)
    rows, columns, channels = shape  # stored as (y, channel, x), each the difference to the last
    np.add.accumulate(pixels, out=pixels)
    return pixels.reshape(rows, channels, columns).transpose(0, 2, 1)
