"""The receipts that a complete store keeps: one immutable object, named by its digest."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from gz3d_zarr.datamodel.file_names import parse_name
from gz3d_zarr.datamodel.layout import Layout, read_layout
from gz3d_zarr.datamodel.limits import (
    MAX_ALL_RECEIPTS,
    MAX_DOCUMENT,
    MAX_RECEIPTS_RATIO,
    MAX_SUBJECT_RECEIPT,
    MAX_SUBJECTS,
    gunzip,
)
from gz3d_zarr.datamodel.manifest import CatalogueRow, Entry
from gz3d_zarr.datamodel.receipts import (
    Receipt,
    StoredObject,
    metadata_from_json,
    metadata_to_json,
)
from gz3d_zarr.datamodel.schema import RECEIPTS_ATTR, check_schema_version
from gz3d_zarr.datamodel.sealed_json import PARSE_ERRORS, check_fields
from gz3d_zarr.datamodel.variables import SubjectRecord
from gz3d_zarr.errors import StoreError, error_message, quote
from gz3d_zarr.storage.build_record import ROOT_KEY, SHA256, digest, read_attrs
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.shards import find_receipt_fault

PUBLISHED_PREFIX = "receipts/"
BLANK_SHA256 = "0" * 64
"""In a root, for the digest of receipts that do not exist yet."""
_PUBLISHED_KEY = re.compile(rf"{PUBLISHED_PREFIX}[0-9a-f]{{64}}\.(json\.gz|zip)")


@dataclass(frozen=True)
class PublishedReceipts:
    """How a complete store was built, and all that it consists of.

    Attributes
    ----------
    receipts : tuple of Receipt
        One per shard, in order.
    records : tuple of SubjectRecord
        Each subject with its outcome and what the catalogue says, in the order of the store.
    small_objects : tuple of StoredObject
        Every object besides the shards, the root and these receipts.
    attributes : mapping
        Of the root, as it was written.
    root_sha256 : str
        Digest of the root ``zarr.json`` with `BLANK_SHA256` for the digest of these receipts.
    """

    receipts: tuple[Receipt, ...]
    records: tuple[SubjectRecord, ...]
    small_objects: tuple[StoredObject, ...]
    attributes: Mapping[str, Any]
    root_sha256: str

    @property
    def layout(self) -> Layout:
        """Of the store."""
        return read_layout(self.attributes)

    @property
    def objects(self) -> dict[str, StoredObject]:
        """Every object besides the root and these receipts, by key."""
        shards = (stored for receipt in self.receipts for stored in receipt.objects)
        return {stored.key: stored for stored in (*shards, *self.small_objects)}

    def is_root(self, root: bytes) -> bool:
        """Whether these are the bytes of the root that was written with these receipts."""
        mine = str(self.attributes[RECEIPTS_ATTR]).encode()
        return digest(root.replace(mine, BLANK_SHA256.encode())) == self.root_sha256


def published_key(sha256: str) -> str:
    """Key of the receipts with this digest."""
    return f"{PUBLISHED_PREFIX}{sha256}.json.gz"


def is_published_key(key: str) -> bool:
    """Whether a key is that of published receipts or of a pack."""
    return _PUBLISHED_KEY.fullmatch(key) is not None


def encode_published_receipts(
    receipts: Sequence[Receipt],
    records: Sequence[SubjectRecord],
    small_objects: Mapping[str, bytes],
    root: bytes,
) -> tuple[str, bytes]:
    """Serialize the receipts of a store that is complete.

    Parameters
    ----------
    small_objects : mapping of str to bytes
        Every object besides the shards, the root and these receipts, by key.
    root : bytes
        The root ``zarr.json``, with `BLANK_SHA256` for the digest of these receipts.

    Returns
    -------
    sha256, data : str, bytes
        The same arguments give the same bytes.
    """
    # Without the fingerprint of the build that wrote a shard: an update may keep some.
    shards = [replace(receipt, fingerprint="").to_dict() for receipt in receipts]
    content = {
        "receipts": shards,
        "catalogue": [_row_to_json(record) for record in records],
        "objects": [
            asdict(StoredObject(key, len(data), digest(data)))
            for key, data in sorted(small_objects.items())
        ],
        "attributes": json.loads(root)["attributes"],
        "root_sha256": digest(root),
    }
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
    sha256 = attrs.get(RECEIPTS_ATTR)
    known = isinstance(sha256, str) and SHA256.fullmatch(sha256)
    data = store.get(published_key(str(sha256))) if known else None
    if data is None and read_attrs(store.get(ROOT_KEY)).get(RECEIPTS_ATTR, sha256) != sha256:
        raise StoreError(f"{store.url} was updated while it was read: try again")
    if data is None:
        raise StoreError(
            f"{store.url} has no receipts, which say how it was built: it is damaged, or was "
            "written by another program; build it anew with --overwrite"
        )
    subjects = attrs.get("subjects")
    return _decode(store, data, str(sha256), subjects if type(subjects) is int else 0)


def find_published_receipts(store: ObjectStore) -> list[PublishedReceipts]:
    """Read the receipts that lie at a store, whatever its root says; damaged ones are left out."""
    found = []
    for key in sorted(store.list_sizes(PUBLISHED_PREFIX)):
        sha256 = key.removeprefix(PUBLISHED_PREFIX).partition(".")[0]
        data = store.get(key) if SHA256.fullmatch(sha256) and key == published_key(sha256) else None
        if data is not None:
            with contextlib.suppress(StoreError):
                found.append(_decode(store, data, sha256, MAX_SUBJECTS))
    return found


def _decode(store: ObjectStore, data: bytes, sha256: str, subjects: int) -> PublishedReceipts:
    """Check, unpack and parse receipts of a store that has so many subjects at most."""
    where = f"{store.url}/{published_key(sha256)}"
    if digest(data) != sha256:
        raise StoreError(
            f"{where} is not as it was written (SHA-256): the store is damaged; build it anew with "
            "--overwrite"
        )
    limit = min(
        MAX_ALL_RECEIPTS,
        MAX_DOCUMENT + MAX_SUBJECT_RECEIPT * subjects,
        MAX_DOCUMENT + MAX_RECEIPTS_RATIO * len(data),
    )
    try:
        return _parse(json.loads(gunzip(data, limit)), sha256)
    except (*PARSE_ERRORS, StoreError) as error:
        raise StoreError(
            f"{where} cannot be understood ({type(error).__name__}: {error_message(error)}): it "
            "was written by another program or version; build the store anew with --overwrite"
        ) from error


def _parse(content: Mapping[str, Any], sha256: str) -> PublishedReceipts:
    """Rebuild receipts; one of several exceptions where `content` is none."""
    attributes = {**content["attributes"], RECEIPTS_ATTR: sha256}
    layout = read_layout(attributes)
    receipts = tuple(Receipt.from_dict(receipt) for receipt in content["receipts"])
    if [receipt.shard for receipt in receipts] != list(range(layout.shards)):
        raise ValueError(f"they are not of the shards 0 to {layout.shards - 1}")
    for receipt in receipts:
        problem = find_receipt_fault(receipt, layout)
        if problem:
            raise ValueError(f"receipt {receipt.shard}: {problem}")
    outcomes = [outcome for receipt in receipts for outcome in receipt.outcomes]
    records = []
    for outcome, row in zip(outcomes, content["catalogue"], strict=True):
        file = parse_name(outcome.file_name)
        if file is None:
            raise ValueError(f"{quote(outcome.file_name)} is not the name of a subject file")
        metadata = outcome.metadata
        if row is not None and row["metadata"] is not None:
            metadata = metadata_from_json(row["metadata"])
        known = None
        if row is not None and metadata is not None:
            known = check_fields(CatalogueRow(metadata, row["observed"]))
        records.append(SubjectRecord(Entry(file, None, known), outcome))
    return PublishedReceipts(
        receipts,
        tuple(records),
        tuple(check_fields(StoredObject(**stored)) for stored in content["objects"]),
        attributes,
        str(content["root_sha256"]),
    )


def _row_to_json(record: SubjectRecord) -> dict[str, Any] | None:
    """What the catalogue says of a subject; its metadata only where the file's are not known."""
    row = record.entry.row
    if row is None:
        return None
    metadata = None
    if record.outcome.metadata is None:
        metadata = metadata_to_json(row.metadata)
    return {"observed": row.observed, "metadata": metadata}
