"""Publish a store that is built, and replace an older one by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.receipts import Receipt
from gz3d_zarr.datamodel.schema import (
    Provenance,
    SubjectRecord,
)
from gz3d_zarr.errors import StoreError, error_message
from gz3d_zarr.storage.build_record import PLAN_KEY, check_build, sign_plan
from gz3d_zarr.storage.object_store import ObjectStore

if TYPE_CHECKING:
    pass
import shutil
from pathlib import Path

from gz3d_zarr.pipeline.build_state import Mode, inspect, is_only_ours
from gz3d_zarr.storage.build_record import ROOT_KEY
from gz3d_zarr.storage.lease import Lease
from gz3d_zarr.storage.small_arrays import encode_small_objects


def publish(
    folder: ObjectStore,
    rows: Sequence[SubjectRecord],
    receipts: Sequence[Receipt],
    layout: Layout,
    made: Provenance,
    build_id: str,
) -> None:
    """Write all that is not a shard, the consolidated metadata last.

    Raises
    ------
    StoreError
        Where an object cannot be written; the store is then still incomplete.
    """
    objects = encode_small_objects(rows, receipts, layout, made)
    root = objects.pop(ROOT_KEY)
    # Values before metadata: who goes by the old metadata reads old rows, which do not change.
    metadata = {key: objects.pop(key) for key in [*objects] if key.endswith(ROOT_KEY)}
    for part in (objects, metadata):
        check_build(folder, build_id)
        folder.put_all(part)
    plan = check_build(folder, build_id)
    shards = {stored.key for receipt in receipts for stored in receipt.objects}
    folder.sync([*shards, *objects, *metadata])  # after a power failure too, the root is the last
    folder.put(PLAN_KEY, sign_plan(plan, root))
    folder.put(ROOT_KEY, root)
    folder.sync([ROOT_KEY])


BUILDING_SUFFIX = ".building"
"""Ending of the folder in which the new store grows."""
REPLACED_SUFFIX = ".replaced"
"""Ending of the folder that the old store has for the moment of the switch."""


def choose_place(folder: ObjectStore, mode: Mode) -> ObjectStore:
    """Where a build writes: the store's own place, or beside it, to be switched in at the end.

    Object stores cannot rename; there, and where a person keeps files of his own in the store's
    folder, overwriting deletes first and builds in place. Nothing is written here.

    Raises
    ------
    StoreError
        A build beside has not ended, and the mode does not go on with it.
    """
    if not folder.is_local:
        return folder
    side = ObjectStore(folder.url + BUILDING_SUFFIX)
    left = inspect(side)
    if mode is Mode.OVERWRITE:
        there = inspect(folder)
        switches = there is not None and there.store is not None and _can_switch(folder)
        return side if switches else folder
    if left is not None and mode is Mode.RESUME:
        return side
    if left is not None:
        raise StoreError(
            f"{side.url} holds a build that was to replace {folder.url} and has not ended; use "
            "--resume to go on with it, or --overwrite to begin it anew"
        )
    return folder


def clear_beside(folder: ObjectStore, place: ObjectStore, mode: Mode) -> None:
    """Remove what killed builds left beside a store, as its only builder.

    That is an old store that has been replaced, and, where another one is built in the store's
    own place, a new one that never was.
    """
    if not folder.is_local:
        return
    leftovers = []
    there = inspect(folder)
    if there is not None and there.store is not None:
        leftovers.append(REPLACED_SUFFIX)
    if mode is Mode.OVERWRITE and place is folder:
        leftovers.append(BUILDING_SUFFIX)
    for suffix in leftovers:
        left = ObjectStore(folder.url + suffix)
        if Path(left.url).is_dir() and is_only_ours(left):
            shutil.rmtree(left.url, ignore_errors=True)


def switch(side: ObjectStore, folder: ObjectStore, lease: Lease) -> None:
    """Put the store that was built beside in its place, and delete the one that stood there.

    Raises
    ------
    StoreError
        Where it cannot be renamed; ``--resume`` tries again.
    """
    old = Path(folder.url + REPLACED_SUFFIX)
    try:
        if old.exists() and is_only_ours(ObjectStore(str(old))):
            shutil.rmtree(old)
        with lease.paused():
            if not lease.is_ours():
                raise StoreError(
                    f"{folder.url} was taken over by another build while this one ran; the new "
                    f"store stays at {side.url}"
                )
            if Path(folder.url).exists():
                Path(folder.url).rename(old)
            Path(side.url).rename(folder.url)
        if old.exists():
            shutil.rmtree(old)
    except OSError as error:
        raise StoreError(
            f"the new store {side.url} cannot be moved to {folder.url}: {error_message(error)}; "
            "see to that and use --resume"
        ) from error


def _can_switch(folder: ObjectStore) -> bool:
    path = Path(folder.url)
    return not path.is_symlink() and not path.is_mount() and is_only_ours(folder)
