"""Receipts: the outcome of each subject of a shard, and digests of the stored objects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gz3d_zarr.datamodel.sealed_json import PARSE_ERRORS, check_fields, seal, unseal
from gz3d_zarr.datamodel.subject import SubjectMetadata
from gz3d_zarr.errors import Status


@dataclass(frozen=True, slots=True)
class SubjectOutcome:
    """The outcome of reading one subject file.

    Attributes
    ----------
    file_name : str
        Base name of the subject file.
    status : Status
    reason : str
        Why the status is not ok; empty if it is.
    sha1 : str
        Digest of the bytes that were read; empty if none were.
    size : int
        Number of bytes that were read; -1 if none could be.
    metadata : SubjectMetadata or None
        Values in the file; None if it could not be decoded.
    """

    file_name: str
    status: Status
    reason: str
    sha1: str
    size: int
    metadata: SubjectMetadata | None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Key, size in bytes and digest of one object as written."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that a shard has been written, and all that publishing needs to know about it."""

    shard: int
    fingerprint: str
    outcomes: tuple[SubjectOutcome, ...]
    objects: tuple[StoredObject, ...]

    @property
    def is_ok(self) -> bool:
        """Whether all its subjects are ok."""
        return all(outcome.status is Status.OK for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Content for JSON; floats survive exactly, NaN becomes null."""
        outcomes = [
            {**_fields(o), "metadata": None if o.metadata is None else metadata_to_json(o.metadata)}
            for o in self.outcomes
        ]
        return {**_fields(self), "outcomes": outcomes, "objects": [*map(_fields, self.objects)]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Receipt:
        """Rebuild a receipt; one of `PARSE_ERRORS` where `content` is none."""
        return check_fields(
            cls(
                content["shard"],
                content["fingerprint"],
                tuple(_outcome(outcome) for outcome in content["outcomes"]),
                tuple(check_fields(StoredObject(**stored)) for stored in content["objects"]),
            )
        )

    def to_json(self) -> bytes:
        """Serialize."""
        return seal(self.to_dict())

    @classmethod
    def from_json(cls, data: bytes) -> Receipt | None:
        """Parse; None if `data` is not a receipt as it was written."""
        try:
            return cls.from_dict(unseal(data))
        except PARSE_ERRORS:
            return None


def metadata_to_json(metadata: SubjectMetadata) -> dict[str, Any]:
    """Fields for JSON, where NaN is null."""
    scale = None if math.isnan(metadata.scale) else metadata.scale
    return {**_fields(metadata), "scale": scale}


def metadata_from_json(content: Mapping[str, Any]) -> SubjectMetadata:
    """Rebuild the metadata from what `metadata_to_json` gives."""
    scale = math.nan if content["scale"] is None else content["scale"]
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    return check_fields(SubjectMetadata(**{**values, "scale": scale}))


def _fields(record: Any) -> dict[str, Any]:
    """Fields of a dataclass by name, not copied: ``asdict`` takes ten times as long."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _outcome(content: Mapping[str, Any]) -> SubjectOutcome:
    known = content["metadata"]
    metadata = None if known is None else metadata_from_json(known)
    status = Status(content["status"])
    return check_fields(SubjectOutcome(**{**content, "status": status, "metadata": metadata}))
