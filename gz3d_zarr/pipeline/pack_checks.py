"""Check the packs of small arrays, which our readers use, against what all other programs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gz3d_zarr.errors import StoreError
from gz3d_zarr.pipeline.build_state import is_ours, is_shard
from gz3d_zarr.pipeline.store_checks import Check, check_that, stored_keys
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.packs import PACK_ATTRS, pack_digests, read_packs


def check_packs(store: ObjectStore, attrs: Mapping[str, Any]) -> list[Check]:
    """Compare each pack with the objects that it repeats.

    Parameters
    ----------
    store : ObjectStore
    attrs : mapping
        Attributes of its root.

    Raises
    ------
    StoreError
        An object, or the metadata of an array, cannot be read.
    """
    checks, packed = [], set()
    for name in PACK_ATTRS:
        finding = ""
        try:
            chunks = read_packs(store, attrs, (name,))
        except StoreError as error:
            chunks, finding = {}, str(error)
        if name not in pack_digests(attrs):
            finding = "the root does not name it"
        elif chunks is None:
            finding = "it is missing"
        different = [key for key, data in sorted((chunks or {}).items()) if store.get(key) != data]
        if different:
            finding = f"{different[0]} is not as it is there"
        packed |= set(chunks or ())
        checks.append(check_that("pack", name, finding))
    if all(check.passed for check in checks):
        small = {
            key
            for key in stored_keys(store, len(store.list_sizes()))
            if is_ours(key) and not is_shard(key)
        }
        lost = sorted(key for key in small - packed if "/c/" in key)
        checks.append(check_that("pack", "all", f"{lost[0]} is in none" if lost else ""))
    return checks
