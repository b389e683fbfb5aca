"""Encode, decode and index one shard; array metadata."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import Zstd
from numpy.typing import NDArray
from zarr.buffer import cpu
from zarr.storage import MemoryStore

from gz3d_zarr.datamodel.arrays import SHARD_ARRAYS
from gz3d_zarr.datamodel.codecs import array_codec
from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.limits import MAX_TEXT_CHUNK
from gz3d_zarr.datamodel.receipts import Receipt
from gz3d_zarr.datamodel.sealed_json import PARSE_ERRORS
from gz3d_zarr.errors import CLIENT_ERRORS, StoreError, error_message
from gz3d_zarr.storage.build_record import ROOT_KEY, SHA256
from gz3d_zarr.storage.zstd_frames import decode_into, refuse_large

ABSENT_CHUNK = 2**64 - 1
"""Offset and size, in the index of a shard, of a chunk that is not stored."""
INDEX_ENTRY_BYTES = 16
CRC_BYTES = 4
INDEX_CODECS = ["bytes", "crc32c"]
PORTABLE_CODECS = ["bytes", "zstd"]
COMPACT_CODECS = ["transpose", "numcodecs.delta", "bytes", "zstd"]
MAX_INNER_CHUNK = 64
"""Subjects in an inner chunk, beyond which zarr is left to read it; a build writes 1 or 8."""
COMPACT_ORDER = [0, 1, 3, 2]
open_lock = threading.Lock()
"""Held while an array is opened: zarr then reads settings of the whole process."""


def array_documents(layout: Layout) -> dict[str, bytes]:
    """Metadata documents of all arrays of `SHARD_ARRAYS`.

    Returns
    -------
    dict
        Name to the bytes of its ``zarr.json``.
    """
    documents: dict[str, Any] = {}
    for name, array in SHARD_ARRAYS.items():
        codec = array_codec(name, layout.codec)
        chunk = array.chunk_size(layout.shard_size)
        with ignore_zarr_spec_warnings():
            zarr.create_array(
                MemoryStore(documents),
                name=name,
                shape=(layout.subjects, *array.shape),
                dtype=array.dtype,
                chunks=(chunk, *array.shape),
                shards=None if array.is_text else (layout.shard_size, *array.shape),
                filters=codec.filters,
                compressors=codec.compressors,
                fill_value="" if array.is_text else 0,
                attributes=dict(array.attrs),
                dimension_names=array.dims,
                zarr_format=3,
            )
    return {name: documents[f"{name}/{ROOT_KEY}"].to_bytes() for name in SHARD_ARRAYS}


def encode_shard(
    documents: Mapping[str, bytes], name: str, shard: int, block: NDArray[Any]
) -> tuple[str, bytes]:
    """Encode one whole shard of a big array in memory.

    Parameters
    ----------
    documents : mapping
        From `array_documents`.
    name : str
        A key of `SHARD_ARRAYS`.
    shard : int
    block : ndarray of uint8 or of text
        All subjects of the shard; fewer than the shard size only in the last shard.

    Returns
    -------
    key, data : str, bytes
        The one object to put.

    Raises
    ------
    StoreError
        If the block does not fill its shard; zarr would accept it silently.
    """
    memory: dict[str, Any] = {}
    store = MemoryStore(memory)
    memory[f"{name}/{ROOT_KEY}"] = cpu.Buffer.from_bytes(documents[name])
    # All-zero chunks are written too, so that a missing chunk means damage.
    with (
        open_lock,
        ignore_zarr_spec_warnings(),
        zarr.config.set({"array.write_empty_chunks": True}),
    ):
        array = zarr.open_array(store, path=name, mode="r+", zarr_format=3)
    array[_rows_of(array, shard, block)] = block
    key = shard_key(name, shard)
    return key, memory[key].to_bytes()


def shard_key(name: str, shard: int) -> str:
    """Key of the object that holds one shard of a big array."""
    return f"{name}/c/{shard}" + "/0" * len(SHARD_ARRAYS[name].shape)


def find_receipt_fault(receipt: Receipt, layout: Layout) -> str:
    """Why a receipt cannot be of a shard of this layout; empty if it can."""
    if not 0 <= receipt.shard < layout.shards:
        return f"it is of shard {receipt.shard}, expected 0 to {layout.shards - 1}"
    rows = layout.rows(receipt.shard)
    if len(receipt.outcomes) != rows.stop - rows.start:
        return f"it has {len(receipt.outcomes)} subjects, expected {rows.stop - rows.start}"
    keys = [shard_key(name, receipt.shard) for name in SHARD_ARRAYS]
    if [stored.key for stored in receipt.objects] != keys:
        return f"its objects are not {', '.join(keys)}"
    if any(type(o.size) is not int or not SHA256.fullmatch(str(o.sha256)) for o in receipt.objects):
        return "the size or SHA-256 of an object is none"
    return ""


def decode_shard(
    documents: Mapping[str, bytes], name: str, shard: int, data: bytes, subjects: int
) -> NDArray[Any]:
    """Decode the first subjects of a shard and check all their checksums.

    Parameters
    ----------
    documents : mapping
        From `array_documents`.
    name : str
        A key of `SHARD_ARRAYS`.
    shard : int
    data : bytes
        The object as stored.
    subjects : int
        How many subjects to decode.

    Returns
    -------
    ndarray of uint8 or of text
        Shape (subjects, ...), as `SHARD_ARRAYS` has it.

    Raises
    ------
    StoreError
        If the bytes are damaged.
    """
    decode = _decode_text if SHARD_ARRAYS[name].is_text else _decode_pixels
    try:
        return decode(documents[name], name, shard, data, subjects)
    except (*CLIENT_ERRORS, MemoryError) as error:  # each codec has its own
        raise StoreError(f"{shard_key(name, shard)} is damaged: {error_message(error)}") from None


def _decode_pixels(
    document: bytes, name: str, _: int, data: bytes, subjects: int
) -> NDArray[np.uint8]:
    sharding = parse_sharding(json.loads(document), name)
    if sharding is None:
        raise ValueError("its array has not the layout of a build")
    shape = SHARD_ARRAYS[name].shape
    block = np.empty((subjects, *shape), np.uint8)
    index = read_index(data, sharding.chunks)
    for start in range(0, subjects, sharding.chunk):
        stored = cut_chunk(data, index[start // sharding.chunk])
        chunk = decode_chunk(stored, (sharding.chunk, *shape), compact=sharding.compact)
        block[start : start + sharding.chunk] = chunk[: subjects - start]
    return block


def _decode_text(
    document: bytes, name: str, shard: int, data: bytes, subjects: int
) -> NDArray[Any]:
    refuse_large(data, MAX_TEXT_CHUNK)
    memory: dict[str, Any] = {
        f"{name}/{ROOT_KEY}": cpu.Buffer.from_bytes(document),
        shard_key(name, shard): cpu.Buffer.from_bytes(data),
    }
    with open_lock, ignore_zarr_spec_warnings():
        array = zarr.open_array(MemoryStore(memory), path=name, mode="r", zarr_format=3)
    first = shard * array.chunks[0]
    block = np.asarray(array[first : first + subjects], SHARD_ARRAYS[name].dtype)
    if block.shape != (subjects,):
        raise ValueError(f"it has {len(block)} subjects, expected {subjects}")
    return block


def _rows_of(array: zarr.Array[Any], shard: int, block: NDArray[Any]) -> slice:
    """Rows of the shard's subjects; StoreError unless the block fills exactly these."""
    size = (array.shards or array.chunks)[0]
    rows = slice(shard * size, min((shard + 1) * size, array.shape[0]))
    shape = (rows.stop - rows.start, *array.shape[1:])
    if block.shape != shape or block.dtype != array.dtype:
        raise StoreError(
            f"shard {shard} of {array.name} takes {array.dtype} of shape {shape}, not "
            f"{block.dtype} of shape {block.shape}"
        )
    return rows


@contextlib.contextmanager
def ignore_zarr_spec_warnings() -> Iterator[None]:
    """Ignore zarr's warnings about features that a store uses on purpose."""
    with warnings.catch_warnings():
        for message in (
            "Consolidated metadata is currently not part",
            "Numcodecs codecs are not in the Zarr version 3",
            "The (codec|dtype) .* is currently not part in the Zarr (format|version) 3",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield


@dataclass(frozen=True, slots=True)
class Sharding:
    """Layout of one of our big arrays in its shards.

    Attributes
    ----------
    size : int
        Subjects per shard.
    chunk : int
        Subjects per inner chunk.
    compact : bool
        Whether the codec is ``compact`` rather than ``portable``.
    """

    size: int
    chunk: int
    compact: bool

    @property
    def chunks(self) -> int:
        """Inner chunks per shard."""
        return self.size // self.chunk

    def max_bytes(self, name: str) -> int:
        """More bytes than a shard of this array has: twice those of its values."""
        return 2 * self.size * math.prod(SHARD_ARRAYS[name].shape) + index_size(self.chunks)


def whole_chunk(chunk: bytes | memoryview, size: int) -> bytes | memoryview:
    """Return the chunk if it is complete; ValueError if its shard was cut short."""
    if len(chunk) < max(1, size):
        raise ValueError(f"the shard is cut short: {len(chunk)} of {size} bytes of a chunk")
    return chunk


def parse_sharding(document: Mapping[str, Any], name: str) -> Sharding | None:
    """Read the layout from an array's metadata document; None if it is not one of ours."""
    shape = list(SHARD_ARRAYS[name].shape)
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
            and inner["chunk_shape"][1:] == shape
            and type(outer[0]) is type(inner["chunk_shape"][0]) is int
            and 0 < inner["chunk_shape"][0] <= MAX_INNER_CHUNK
            and outer[0] > 0
            and outer[0] % inner["chunk_shape"][0] == 0
            and [part["name"] for part in inner["index_codecs"]] == INDEX_CODECS
            and inner.get("index_location", "end") == "end"
            and (
                chain == PORTABLE_CODECS
                or (
                    chain == COMPACT_CODECS
                    and inner["codecs"][0]["configuration"]["order"] == COMPACT_ORDER
                    and inner["codecs"][1]["configuration"]["dtype"] in ("|u1", "u1")
                )
            )
        )
    except PARSE_ERRORS:
        return None
    if not ours:
        return None
    return Sharding(int(outer[0]), int(inner["chunk_shape"][0]), chain == COMPACT_CODECS)


def index_size(size: int) -> int:
    """Bytes of the index of a shard of `size` chunks."""
    return size * INDEX_ENTRY_BYTES + CRC_BYTES


def read_index(tail: bytes, size: int) -> NDArray[np.uint64]:
    """Read the index of a shard from its last bytes.

    Returns
    -------
    ndarray of uint64
        Offset and size of each chunk; shape (size, 2).

    Raises
    ------
    ValueError
        If its checksum does not match.
    """
    index = tail[-index_size(size) :]
    if len(index) != index_size(size) or google_crc32c.value(index[:-CRC_BYTES]) != int.from_bytes(
        index[-CRC_BYTES:], "little"
    ):
        raise ValueError("the index of its shard is damaged")
    return np.frombuffer(index, "<u8", 2 * size).reshape(size, 2)


def cut_chunk(whole: bytes, entry: NDArray[np.uint64]) -> bytes | memoryview:
    """Cut the stored bytes of one chunk out of a whole shard; empty if it is absent."""
    offset, size = (int(number) for number in entry)
    if offset == ABSENT_CHUNK:
        return b""
    return whole_chunk(memoryview(whole)[offset : offset + size], size)


def join_chunks(chunks: Sequence[bytes | memoryview], size: int) -> bytes:
    """Join stored chunks to a shard of `size` chunks, as zarr writes it; those after them are none.

    Parameters
    ----------
    chunks : sequence of bytes
        The first chunks of the shard, encoded.
    size : int
        Chunks per shard.
    """
    index = np.full((size, 2), ABSENT_CHUNK, "<u8")
    index[: len(chunks), 1] = [len(chunk) for chunk in chunks]
    index[: len(chunks), 0] = np.cumsum(index[: len(chunks), 1]) - index[: len(chunks), 1]
    tail = index.tobytes()
    crc = google_crc32c.value(tail).to_bytes(CRC_BYTES, "little")
    return b"".join([*chunks, tail, crc])


def encode_chunk(name: str, codec: str, block: NDArray[np.uint8]) -> bytes:
    """Encode one chunk of a big array as zarr does; not of images, whose codec may have filters.

    Parameters
    ----------
    name : str
        A key of `SHARD_ARRAYS`.
    codec : str
        A key of `CODECS`.
    block : ndarray of uint8
        All values of the chunk, C-contiguous.
    """
    chain = array_codec(name, codec)
    if chain.filters:
        raise ValueError(f"chunks of {name} have filters")
    (compressor,) = chain.compressors
    return bytes(Zstd(**compressor["configuration"]).encode(block))


def decode_chunk(
    chunk: bytes | memoryview, shape: tuple[int, ...], *, compact: bool
) -> NDArray[np.uint8]:
    """Decode one chunk of this shape (subject, ...); an absent one is all zero."""
    if not len(chunk):
        return np.zeros(shape, np.uint8)
    pixels = np.empty(math.prod(shape), np.uint8)
    decode_into(chunk, pixels)
    if not compact:
        return pixels.reshape(shape)
    subjects, rows, columns, channels = shape  # stored as (y, channel, x), as differences
    np.add.accumulate(pixels, out=pixels)
    return pixels.reshape(subjects, rows, channels, columns).transpose(0, 1, 3, 2)
