"""What is being built or copied at a store: the record of it, and the keys of its documents."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gz3d_zarr.datamodel.arrays import GROUPS
from gz3d_zarr.datamodel.layout import Layout, read_layout
from gz3d_zarr.datamodel.root_claims import find_excess
from gz3d_zarr.datamodel.schema import SCHEMA, SCHEMA_VERSION
from gz3d_zarr.datamodel.sealed_json import PARSE_ERRORS, check_fields, seal, unseal
from gz3d_zarr.errors import StoreError, UsageError, error_message
from gz3d_zarr.storage.base_store import ObjectStore

ROOT_KEY = "zarr.json"
WORK_PREFIX = ".gz3d/"
"""Where a build keeps its documents inside the store until the store is complete."""
RECORD_KEY = WORK_PREFIX + "plan.json"
"""The `BuildRecord`."""
RECEIPTS_PREFIX = WORK_PREFIX + "receipts/"
FILES_KEY = WORK_PREFIX + "files.txt"
"""Names of the subject files, in the order of the store."""
OLD_ROOT_KEY = WORK_PREFIX + "old-root.json"
"""Root of the store that a build has deleted to write in its place: others may have added to it."""
LEASE_KEY = WORK_PREFIX + "lease.json"
"""Which process builds here now."""
BUILDING_SUFFIX = ".building"
"""Ending of the folder in which a new store is built beside the one that it replaces."""
REPLACED_SUFFIX = ".replaced"
"""Ending of the folder of the old store, between the two renames that replace it."""

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BuildRecord:
    """A build or a copy that has not ended.

    Attributes
    ----------
    build_id : str
        Of the process that builds; tasks of any other write nothing.
    fingerprint : str
        Of the plan; empty for a copy.
    order : str
    layout : Layout or None
        None for a copy.
    shards_to_write : tuple of int, or None
        Shards of a published store that this build writes, and may have half written. None where
        no published store is kept: all shards.
    retry_failed : bool
        Subjects that failed before are read again.
    root_sha256 : str
        Digest of the root ``zarr.json`` that ends this build; empty until it is known.
    parent : str
        Of a subset, the store that its subjects are taken from; empty for a build or a copy.
    """

    build_id: str
    fingerprint: str = ""
    order: str = ""
    layout: Layout | None = None
    shards_to_write: tuple[int, ...] | None = None
    retry_failed: bool = False
    root_sha256: str = ""
    parent: str = ""

    def to_json(self) -> bytes:
        """Serialize."""
        content = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **asdict(self)}
        layout = content.pop("layout") or {}
        return seal({**content, **layout}, indent=1)

    @classmethod
    def from_json(cls, data: bytes) -> BuildRecord:
        """Parse; StoreError where `data` is damaged or was written by another version."""
        try:
            version = _read_version(data)
            if version == SCHEMA_VERSION:
                content = unseal(data)
                shards = content["shards_to_write"]
                return check_fields(
                    cls(
                        content["build_id"],
                        content["fingerprint"],
                        content["order"],
                        read_layout(content) if "subjects" in content else None,
                        None if shards is None else tuple(shards),
                        content["retry_failed"],
                        content["root_sha256"],
                        content["parent"],
                    )
                )
        except (*PARSE_ERRORS, StoreError) as error:
            raise StoreError(
                f"{RECORD_KEY} cannot be read ({type(error).__name__}); build the store anew with "
                "--overwrite"
            ) from None
        raise StoreError(
            f"{RECORD_KEY} is of a build by another version of gz3d-zarr (schema version "
            f"{version!s:.20}, expected {SCHEMA_VERSION}); build the store anew with --overwrite"
        )

    def ends_with(self, root: bytes) -> bool:
        """Whether this is the root ``zarr.json`` that ends this build."""
        return digest(root) == self.root_sha256


def parse_root(url: str, data: bytes) -> dict[str, Any]:
    """Parse a root ``zarr.json``.

    Raises
    ------
    StoreError
        It is none, or it claims more than any store holds: reading that would need memory and
        time without end.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"{url} cannot be opened as a Zarr 3 store: {error_message(error)}"
        ) from error
    if not isinstance(document, dict):
        raise StoreError(f"{url} cannot be opened as a Zarr 3 store: {ROOT_KEY} is no object")
    excess = root_excess(data)
    if excess:
        raise StoreError(f"{url} is damaged ({excess}): build it anew with --overwrite")
    return document


def root_excess(data: bytes) -> str:
    """What a root that can be parsed claims beyond any store, in words; empty if nothing."""
    excess = find_excess(json.loads(data))
    return excess and f"its {ROOT_KEY} claims more than a store can hold: {excess}"


def refuse_dataset(url: str, root: bytes | None) -> None:
    """Refuse what ``to_zarr`` of xarray wrote of a Dataset that was opened from a store.

    It has the attributes of that store, and would else be taken for a damaged one.

    Raises
    ------
    StoreError
        Says what it is.
    """
    try:
        members = json.loads(root or b"{}")["consolidated_metadata"]["metadata"]
    except PARSE_ERRORS:
        return
    if read_attrs(root).get("schema") == SCHEMA and not any(name in members for name in GROUPS):
        raise StoreError(
            f"{url} holds a Dataset as to_zarr of xarray writes it, not a store of gz3d-zarr: it "
            "has no catalogue, marks or receipts (open_store and xr.open_zarr open it; "
            "ds.gz3d.save and gz3d-zarr subset make stores)"
        )


def note_file(store: ObjectStore) -> str:
    """Words for the end of a message where files are in the place of a store; else empty."""
    if not store.is_local:
        return ""
    place = Path(store.url)
    if place.is_file():
        return ", which is a file: a store is a folder (xr.open_dataset opens netCDF files)"
    if any(place.glob("gz3d_*.fits.gz")):
        return ", which has subject files: gz3d-zarr build makes a store of them"
    return ""


def read_attrs(root: bytes | None) -> dict[str, Any]:
    """Attributes in a root ``zarr.json``; empty where there are none that can be read."""
    try:
        attrs = json.loads(root or b"{}")["attributes"]
    except PARSE_ERRORS:
        return {}
    return attrs if isinstance(attrs, dict) else {}


def _read_version(data: bytes) -> object:
    """Version of the schema in a build record; one of `PARSE_ERRORS` where it is none."""
    content = json.loads(data)
    if content["schema"] != SCHEMA:
        raise ValueError("another schema")
    return content.get("schema_version")


def put_record(store: ObjectStore, record: BuildRecord) -> None:
    """Put a record so that a power failure leaves it whole or not at all."""
    store.put(RECORD_KEY, record.to_json())
    store.sync([RECORD_KEY])


def digest(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def parse_digest(text: str) -> str:
    """Check that a text is a hexadecimal SHA-256; its letters may be large.

    Raises
    ------
    UsageError
        It is not.
    """
    sha256 = text.strip().lower() if isinstance(text, str) else ""
    if not SHA256.fullmatch(sha256):
        raise UsageError(
            f"the digest is {text!r:.80}, expected the 64 hexadecimal digits that gz3d-zarr info "
            "shows"
        )
    return sha256


def check_digest(url: str, root: bytes, expected: str) -> None:
    """Refuse a store whose root ``zarr.json`` is not the one that was published.

    Raises
    ------
    StoreError
        Names both digests.
    """
    found = digest(root)
    if found != expected:
        raise StoreError(
            f"{url} has the digest {found}, expected {expected}: it is another version of the "
            "store, or was changed"
        )


def receipt_key(shard: int) -> str:
    """Key of the receipt that a shard has until the store is complete."""
    return f"{RECEIPTS_PREFIX}{shard:06d}.json"


def check_owner(store: ObjectStore, build_id: str) -> BuildRecord:
    """Read the record of this build, and refuse to continue where another build has replaced it.

    Raises
    ------
    StoreError
        Another build has taken the store over, or has ended it; or this process finds nothing.
    """
    data = store.get(RECORD_KEY)
    record = None
    if data is not None:
        record = BuildRecord.from_json(data)
    else:
        check_reached(store)
    if record is None or record.build_id != build_id:
        raise StoreError(
            f"{store.url} was taken over by another build while this one ran; nothing more is "
            "written. Let only one build run there at a time"
        )
    return record


def check_reached(store: ObjectStore) -> None:
    """Refuse to go on where the client has a store and this worker finds none.

    Raises
    ------
    StoreError
        There is no root and no record of a build.
    """
    if store.get(ROOT_KEY) is None and store.get(RECORD_KEY) is None:
        raise StoreError(
            f"a worker finds nothing at {store.url}: it was deleted meanwhile, or is another place "
            "for that worker; workers and client must reach the same store under this name"
        )
