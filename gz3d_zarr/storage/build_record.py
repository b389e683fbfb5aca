"""Keys and documents of a build that has not ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gz3d_zarr.errors import StoreError
from gz3d_zarr.storage.object_store import ObjectStore

if TYPE_CHECKING:
    pass
import hashlib
import json

ROOT_KEY = "zarr.json"
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


def receipt_key(shard: int) -> str:
    """Name of a shard's receipt in the store."""
    return f"{RECEIPTS_PREFIX}{shard:06d}.json"


def sign_plan(plan: bytes, root: bytes) -> bytes:
    """The plan with the digest of the root that is put next; see `is_published`."""
    return json.dumps({**json.loads(plan), ROOT_DIGEST: _digest(root)}, indent=1).encode()


def is_published(plan: Mapping[str, Any], root: bytes) -> bool:
    """Whether the root that stands there is the one that this plan, or this copy, ends with."""
    return _digest(root) in (plan.get(ROOT_DIGEST), plan.get("copy_of"))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_build(folder: ObjectStore, build_id: str) -> bytes:
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
