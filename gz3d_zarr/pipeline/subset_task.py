"""The task of one shard of a subset: take its subjects from shards of the parent store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.backends.generation import Generation
from gz3d_zarr.datamodel.arrays import SHARD_ARRAYS, BigArray
from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.receipts import Receipt, StoredObject, SubjectOutcome
from gz3d_zarr.errors import StoreError, error_message
from gz3d_zarr.pipeline.store_checks import find_damage
from gz3d_zarr.storage.build_record import check_owner, digest, receipt_key
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.shards import (
    cut_chunk,
    decode_shard,
    encode_chunk,
    encode_shard,
    index_size,
    join_chunks,
    read_index,
    shard_key,
    whole_chunk,
)
from gz3d_zarr.storage.zstd_frames import decode_into

MAX_REQUESTS = 8
"""Chunks of one shard that a task fetches at the same time."""


@dataclass(frozen=True)
class ParentPart:
    """Subjects that a shard of a subset takes from one shard of the parent.

    Attributes
    ----------
    shard : int
        Number of the parent's shard.
    count : int
        Subjects of the parent's shard.
    objects : mapping of str to StoredObject
        Of the parent's shard, by array.
    rows : tuple of int
        Their positions in the parent's shard, ascending.
    """

    shard: int
    count: int
    objects: Mapping[str, StoredObject]
    rows: tuple[int, ...]

    @property
    def is_whole(self) -> bool:
        """Whether these are all subjects of the parent's shard."""
        return len(self.rows) == self.count


@dataclass(frozen=True)
class SubsetTask:
    """All that a worker needs to write one shard of a subset.

    Attributes
    ----------
    shard : int
    fingerprint : str
        Of the plan of the subset.
    build_id : str
        Of this run; tasks of any other write nothing.
    parent : Generation
        The store that subjects are taken from.
    target : ObjectStore
    layout : Layout
        Of the subset; shard size and codec are those of the parent.
    parent_documents, documents : mapping
        Metadata documents of the arrays of both stores, from `array_documents`.
    parts : tuple of ParentPart
        In the order of the parent.
    outcomes : tuple of SubjectOutcome
        Of the subjects of `parts`, in order.
    """

    shard: int
    fingerprint: str
    build_id: str
    parent: Generation
    target: ObjectStore
    layout: Layout
    parent_documents: Mapping[str, bytes]
    documents: Mapping[str, bytes]
    parts: tuple[ParentPart, ...]
    outcomes: tuple[SubjectOutcome, ...]

    @property
    def is_copy(self) -> bool:
        """Whether the shard has exactly the subjects of a shard of the parent."""
        return len(self.parts) == 1 and self.parts[0].is_whole


def write_subset_shard(task: SubsetTask) -> Receipt:
    """Write one shard of every big array, then its receipt.

    A shard that has exactly the subjects of a parent's shard is copied as it is. Otherwise encoded
    chunks are copied; only chunks of several subjects, and texts, are encoded again.

    Raises
    ------
    StoreError
        The parent is damaged or was replaced, an object cannot be written, or another build has
        taken the target over.
    """
    objects: dict[str, bytes] = {}
    with task.parent.unchanged():
        for name, array in SHARD_ARRAYS.items():
            key = shard_key(name, task.shard)
            if task.is_copy:
                objects[key] = _get_whole(task, task.parts[0], name)
            elif array.is_text:
                block = np.concatenate([*_decode_parts(task, name)])
                objects[key] = encode_shard(task.documents, name, task.shard, block)[1]
            else:
                objects[key] = _join_parts(task, name, array)
    check_owner(task.target, task.build_id)
    task.target.put_all(objects)
    check_owner(task.target, task.build_id)
    stored = tuple(StoredObject(key, len(data), digest(data)) for key, data in objects.items())
    receipt = Receipt(task.shard, task.fingerprint, task.outcomes, stored)
    task.target.put(receipt_key(receipt.shard), receipt.to_json())
    return receipt


def _get_whole(task: SubsetTask, part: ParentPart, name: str) -> bytes:
    """A shard of the parent, as it was written."""
    store, stored = task.parent.store, part.objects[name]
    data = store.get_up_to(stored.key, stored.size)
    finding = find_damage(stored, data)
    if finding or data is None:
        raise _damaged(store, stored.key, finding)
    return data


def _decode_parts(task: SubsetTask, name: str) -> Iterator[NDArray[np.generic]]:
    """Values of the subjects from each part."""
    for part in task.parts:
        data = _get_whole(task, part, name)
        block = decode_shard(task.parent_documents, name, part.shard, data, part.count)
        yield block[list(part.rows)]


def _join_parts(task: SubsetTask, name: str, array: BigArray) -> bytes:
    """A shard of an array of pixels, made of chunks of the parent."""
    size, chunk = task.layout.shard_size, array.chunk_size(task.layout.shard_size)
    wanted = [(i, row) for i, part in enumerate(task.parts) for row in part.rows]
    numbers = [sorted({row // chunk for row in part.rows}) for part in task.parts]
    encoded = {
        (i, number): data
        for i, part in enumerate(task.parts)
        for number, data in _read_chunks(task, part, name, array, numbers[i]).items()
    }
    decoded: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def take(i: int, row: int) -> NDArray[np.uint8]:
        place = i, row // chunk
        if place not in decoded:
            decoded.clear()  # rows ascend: an earlier chunk is not needed any more
            decoded[place] = _decode(encoded[place], (chunk, *array.shape))
        pixels: NDArray[np.uint8] = decoded[place][row % chunk]
        return pixels

    chunks: list[bytes | memoryview] = []
    for first in range(0, len(wanted), chunk):
        rows = wanted[first : first + chunk]
        i, row = rows[0]
        same = min(chunk, task.parts[i].count - row)  # subjects of the parent's chunk
        if row % chunk == 0 and rows == [(i, row + k) for k in range(same)]:
            chunks.append(encoded[i, row // chunk])
            continue
        block = np.zeros((chunk, *array.shape), np.uint8)
        for k, (i, row) in enumerate(rows):
            block[k] = take(i, row)
        chunks.append(encode_chunk(name, task.layout.codec, block))
    return join_chunks(chunks, size // chunk)


def _read_chunks(
    task: SubsetTask, part: ParentPart, name: str, array: BigArray, numbers: list[int]
) -> dict[int, bytes | memoryview]:
    """Encoded chunks of a shard of the parent, checked.

    If at least half of the subjects are taken, or more than a quarter on a local disk, the whole
    shard is read and its digest compared; otherwise these chunks only, which have to be decoded to
    compare their checksums.
    """
    store, stored = task.parent.store, part.objects[name]
    chunk = array.chunk_size(task.layout.shard_size)
    size = task.layout.shard_size // chunk
    try:
        share = len(part.rows) / part.count
        if share >= 1 / 2 or (store.is_local and share > 1 / 4):
            whole = _get_whole(task, part, name)
            index = read_index(whole, size)
            return {number: _present(cut_chunk(whole, index[number])) for number in numbers}
        tail = store.get_range(stored.key, stored.size - index_size(size), stored.size)
        index = read_index(tail or b"", size)
        ranges = [(stored.key, int(index[n, 0]), int(index[n].sum())) for n in numbers]
        if any(not start < stop <= stored.size for _, start, stop in ranges):
            raise ValueError("its index has chunks that it does not hold")
        with ThreadPoolExecutor(MAX_REQUESTS, "gz3d-range") as executor:
            found = [*executor.map(lambda each: store.get_range(*each), ranges)]
        chunks = {}
        for number, data, (_, start, stop) in zip(numbers, found, ranges, strict=True):
            chunks[number] = whole_chunk(data or b"", stop - start)
            _decode(chunks[number], (chunk, *array.shape))
    except (ValueError, RuntimeError) as error:
        raise _damaged(store, stored.key, error_message(error)) from error
    return chunks


def _present(data: bytes | memoryview) -> bytes | memoryview:
    if not len(data):
        raise ValueError("a chunk is missing")
    return data


def _decode(data: bytes | memoryview, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Decompress a chunk, and check its checksum; filters of a codec are not undone."""
    pixels = np.empty(shape, np.uint8)
    decode_into(data, pixels)
    return pixels


def _damaged(store: ObjectStore, key: str, finding: str) -> StoreError:
    return StoreError(
        f"{store.url}/{key} is damaged ({finding}), and no subset is made of it; run gz3d-zarr "
        "verify for details"
    )
