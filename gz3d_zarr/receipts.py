"""What a finished shard leaves behind: the only thing that resume and finalise read."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gz3d_zarr.errors import Status, StoreError
from gz3d_zarr.objects import ObjectFolder
from gz3d_zarr.subject import SubjectMetadata

WORK_PREFIX = ".gz3d/"
"""Where a build keeps its plan and receipts inside the store until it is complete."""
PLAN_KEY = WORK_PREFIX + "plan.json"
RECEIPTS_PREFIX = WORK_PREFIX + "receipts/"
FILES_KEY = WORK_PREFIX + "files.txt"
"""Names of the subject files, in the order of the store."""
BASE_KEY = WORK_PREFIX + "base.json.gz"
"""Receipts of the complete store that an update or a retry began with."""
ROOT_DIGEST = "root_sha256"
"""In a plan whose store is being published."""
LEASE_KEY = WORK_PREFIX + "lease.json"
"""Who builds here now."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one subject.

    Attributes
    ----------
    file_name : str
        Base name of the subject file.
    status : Status
    reason : str
        Why it is not ok; empty where it is.
    sha1 : str
        Digest of the bytes that were read; empty where there were none.
    size : int
        How many bytes were read; -1 where none could be.
    metadata : SubjectMetadata or None
        What the file says; None where it could not be decoded.
    """

    file_name: str
    status: Status
    reason: str
    sha1: str
    size: int
    metadata: SubjectMetadata | None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as written."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that a shard has been written, and all that finalise needs to know of it."""

    shard: int
    fingerprint: str
    outcomes: tuple[Outcome, ...]
    objects: tuple[StoredObject, ...]

    @property
    def key(self) -> str:
        """Name of the receipt in the store."""
        return receipt_key(self.shard)

    @property
    def is_ok(self) -> bool:
        """Whether all its subjects are ok."""
        return all(outcome.status is Status.OK for outcome in self.outcomes)

    def to_json(self) -> bytes:
        """Serialise; floats survive exactly, NaN becomes null."""
        record = asdict(self)
        for outcome in record["outcomes"]:
            metadata = outcome["metadata"]
            if metadata is not None and math.isnan(metadata["scale"]):
                metadata["scale"] = None
        return json.dumps(record, allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes, key: str) -> Receipt:
        """Parse; StoreError where `data` is no receipt."""
        try:
            record = json.loads(data)
            return cls(
                record["shard"],
                record["fingerprint"],
                tuple(_outcome(outcome) for outcome in record["outcomes"]),
                tuple(StoredObject(**stored) for stored in record["objects"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"the receipt {key} cannot be read ({error}); delete it and resume, and its shard "
                "is built again"
            ) from None


def receipt_key(shard: int) -> str:
    """Name of a shard's receipt in the store."""
    return f"{RECEIPTS_PREFIX}{shard:06d}.json"


def pack_receipts(receipts: Sequence[Receipt]) -> bytes:
    """Serialise many receipts to one gzipped document."""
    documents = [receipt.to_json().decode() for receipt in receipts]
    return gzip.compress(json.dumps(documents).encode(), 1, mtime=0)


def unpack_receipts(data: bytes) -> list[Receipt]:
    """Parse what `pack_receipts` gives; StoreError where `data` is none."""
    try:
        documents = json.loads(gzip.decompress(data))
        return [Receipt.from_json(document.encode(), BASE_KEY) for document in documents]
    except (OSError, EOFError, ValueError, AttributeError, TypeError) as error:
        raise StoreError(
            f"{BASE_KEY} cannot be read ({error}); build the store anew with --overwrite"
        ) from None


def _outcome(record: dict[str, Any]) -> Outcome:
    metadata = record["metadata"]
    if metadata is not None:
        if metadata["scale"] is None:
            metadata["scale"] = math.nan
        metadata = SubjectMetadata(**metadata)
    return Outcome(**{**record, "status": Status(record["status"]), "metadata": metadata})


def sign_plan(plan: bytes, root: bytes) -> bytes:
    """The plan with the digest of the root that is put next; see `is_published`."""
    return json.dumps({**json.loads(plan), ROOT_DIGEST: _digest(root)}, indent=1).encode()


def is_published(plan: Mapping[str, Any], root: bytes) -> bool:
    """Whether the root that stands there is the one that this plan, or this copy, ends with."""
    return _digest(root) in (plan.get(ROOT_DIGEST), plan.get("copy_of"))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_build(folder: ObjectFolder, build_id: str) -> bytes:
    """See that a place still belongs to this build; its plan.

    Raises
    ------
    StoreError
        Where another build has taken it over, or ended it.
    """
    plan = folder.get(PLAN_KEY)
    if plan is None or json.loads(plan).get("build_id") != build_id:
        raise StoreError(
            f"{folder.url} was taken over by another build while this one ran; nothing more is "
            "written. Let one build at a time work there"
        )
    return plan
