"""The task that a dask worker runs: fetch, decode and store one shard, and leave a receipt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.errors import Status, SubjectError
from gz3d_zarr.objects import ObjectFolder
from gz3d_zarr.receipts import Outcome, Receipt, StoredObject
from gz3d_zarr.schema import BIG_ARRAYS
from gz3d_zarr.source import base_name, read_subject_file
from gz3d_zarr.store import encode_shard
from gz3d_zarr.subject import Subject, decode


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to build one shard; a few kilobytes.

    Attributes
    ----------
    files : tuple of (path, sha1 or None)
        Subject files in the order of the store.
    documents : mapping
        Metadata documents of the big arrays, from `store.array_documents`.
    strict : bool
        Raise the first `SubjectError` instead of writing it down.
    """

    shard: int
    fingerprint: str
    files: tuple[tuple[str, str | None], ...]
    documents: Mapping[str, bytes]
    folder: ObjectFolder
    source_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    strict: bool = False


def build_shard(task: ShardTask) -> Receipt:
    """Build one shard of every big array, one put each, then its receipt.

    Raises
    ------
    StoreError
        Where an object cannot be written.
    SubjectError
        Where a subject is not ok and the task is strict.
    """
    blocks = {
        name: np.empty((len(task.files), *array.shape), array.dtype)
        for name, array in BIG_ARRAYS.items()
    }
    outcomes = []
    for i, (path, sha1) in enumerate(task.files):
        subject, outcome = read_subject(path, sha1, task.source_options, strict=task.strict)
        blocks["image"][i] = 0 if subject is None else subject.image
        blocks["segmentation"][i] = 0 if subject is None else subject.segmentation
        outcomes.append(outcome)
    stored = []
    for name in BIG_ARRAYS:
        stored.append(_store(task, name, blocks.pop(name)))
    receipt = Receipt(task.shard, task.fingerprint, tuple(outcomes), tuple(stored))
    task.folder.put(receipt.key, receipt.to_json())
    return receipt


def read_subject(
    path: str,
    sha1: str | None,
    source_options: Mapping[str, Any] | None = None,
    *,
    strict: bool = False,
) -> tuple[Subject | None, Outcome]:
    """Fetch and decode one subject; a failure becomes an outcome unless `strict`."""
    name = base_name(path)
    digest, size = "", -1
    try:
        data = read_subject_file(path, source_options)
        digest, size = hashlib.sha1(data, usedforsecurity=False).hexdigest(), len(data)
        if sha1 is not None and digest != sha1:
            raise SubjectError(Status.CORRUPT, f"its sha1 is {digest}, the sha1 list says {sha1}")
        subject = decode(data)
    except SubjectError as error:
        if strict:
            raise SubjectError(error.status, f"{path}: {error.reason}") from None
        return None, Outcome(name, error.status, error.reason, digest, size, None)
    return subject, Outcome(name, Status.OK, "", digest, size, subject.metadata)


def _store(task: ShardTask, name: str, block: NDArray[np.uint8]) -> StoredObject:
    key, data = encode_shard(task.documents, name, task.shard, block)
    task.folder.put(key, data)
    return StoredObject(key, len(data), hashlib.sha256(data).hexdigest())
