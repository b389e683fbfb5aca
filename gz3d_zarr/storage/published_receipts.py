"""The receipts that a complete store keeps: one immutable object, named by its digest."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gz3d_zarr.datamodel.file_names import parse_name
from gz3d_zarr.datamodel.limits import (
    MAX_ALL_RECEIPTS,
    MAX_DOCUMENT,
    MAX_SUBJECT_RECEIPT,
    gunzip,
)
from gz3d_zarr.datamodel.manifest import CatalogueRow, Entry
from gz3d_zarr.datamodel.receipts import Receipt, metadata_from_json, metadata_to_json
from gz3d_zarr.datamodel.schema import RECEIPTS_ATTR, check_schema_version
from gz3d_zarr.datamodel.variables import SubjectRecord
from gz3d_zarr.errors import StoreError, error_message, quote
from gz3d_zarr.storage.build_record import ROOT_KEY, digest, read_attrs
from gz3d_zarr.storage.object_store import ObjectStore

PUBLISHED_PREFIX = "receipts/"
_PUBLISHED_KEY = re.compile(
    rf"{PUBLISHED_PREFIX}\.?[0-9a-f]{{64}}\.(json\.gz|zip)(\.\w+\.partial)?"
)


@dataclass(frozen=True)
class PublishedReceipts:
    """How a complete store was built.

    Attributes
    ----------
    receipts : tuple of Receipt
        One per shard, in order.
    records : tuple of SubjectRecord
        Each subject with its outcome and what the catalogue says, in the order of the store.
    """

    receipts: tuple[Receipt, ...]
    records: tuple[SubjectRecord, ...]


def published_key(sha256: str) -> str:
    """Key of the receipts with this digest."""
    return f"{PUBLISHED_PREFIX}{sha256}.json.gz"


def is_published_key(key: str) -> bool:
    """Whether a key is that of published receipts or of a pack, or of a partial file of them."""
    return _PUBLISHED_KEY.fullmatch(key) is not None


def encode_published_receipts(
    receipts: Sequence[Receipt], records: Sequence[SubjectRecord]
) -> tuple[str, bytes]:
    """Serialize the receipts of a store that is complete.

    Returns
    -------
    sha256, data : str, bytes
        The same receipts give the same bytes.
    """
    # Without the fingerprint of the build: an updated store then equals one built at once.
    shards = [replace(receipt, fingerprint="").to_dict() for receipt in receipts]
    content = {"receipts": shards, "catalogue": [_row_to_json(record) for record in records]}
    data = gzip.compress(json.dumps(content, allow_nan=False).encode(), 6, mtime=0)
    return digest(data), data


def read_published_receipts(store: ObjectStore, attrs: Mapping[str, Any]) -> PublishedReceipts:
    """Read the receipts of a complete store.

    Parameters
    ----------
    store : ObjectStore
    attrs : mapping
        Attributes of its root.

    Raises
    ------
    StoreError
        They do not exist, or are not as they were written.
    """
    check_schema_version(store.url, attrs)
    sha256 = str(attrs.get(RECEIPTS_ATTR, ""))
    data = store.get(published_key(sha256)) if sha256 else None
    if data is None and read_attrs(store.get(ROOT_KEY)).get(RECEIPTS_ATTR, sha256) != sha256:
        raise StoreError(f"{store.url} was updated while it was read: try again")
    if data is None:
        raise StoreError(
            f"{store.url} has no receipts, which say how it was built: it is damaged, or was "
            "written by another program; build it anew with --overwrite"
        )
    if digest(data) != sha256:
        raise StoreError(
            f"{store.url}/{published_key(sha256)} is not as it was written (SHA-256): the store is "
            "damaged; build it anew with --overwrite"
        )
    subjects = attrs.get("subjects")
    limit = min(
        MAX_ALL_RECEIPTS,
        MAX_DOCUMENT + MAX_SUBJECT_RECEIPT * (subjects if isinstance(subjects, int) else 0),
    )
    try:
        content = json.loads(gunzip(data, limit))
    except ValueError as error:
        raise StoreError(
            f"the receipts of {store.url} cannot be read ({error_message(error)}): the store was "
            "not written by gz3d-zarr; build it anew with --overwrite"
        ) from None
    receipts = tuple(Receipt.from_dict(receipt) for receipt in content["receipts"])
    outcomes = [outcome for receipt in receipts for outcome in receipt.outcomes]
    records = []
    for outcome, row in zip(outcomes, content["catalogue"], strict=True):
        file = parse_name(outcome.file_name)
        if file is None:
            raise StoreError(
                f"{quote(outcome.file_name)} in the receipts is not the name of a subject file"
            )
        metadata = outcome.metadata
        if row is not None and row["metadata"] is not None:
            metadata = metadata_from_json(row["metadata"])
        known = None
        if row is not None and metadata is not None:
            known = CatalogueRow(metadata, row["observed"])
        records.append(SubjectRecord(Entry(file, None, known), outcome))
    return PublishedReceipts(receipts, tuple(records))


def _row_to_json(record: SubjectRecord) -> dict[str, Any] | None:
    """What the catalogue says of a subject; its metadata only where the file's are not known."""
    row = record.entry.row
    if row is None:
        return None
    metadata = None
    if record.outcome.metadata is None:
        metadata = metadata_to_json(row.metadata)
    return {"observed": row.observed, "metadata": metadata}
