"""What exists where a build writes, and which modes may continue from it.

=========== ========= ============ ============ ============
mode        EMPTY     UNFINISHED   COMPLETE     UPDATING
=========== ========= ============ ============ ============
NEW         write     refuse       refuse       refuse
RESUME      write     continue     continue     continue
OVERWRITE   write     replace      replace      replace
=========== ========= ============ ============ ============
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gz3d_zarr.datamodel.arrays import (
    BIG_ARRAYS,
    CATALOGUE_GROUP,
    CLUSTERS_GROUP,
    GROUPS,
    SHARD_ARRAYS,
)
from gz3d_zarr.datamodel.cluster_arrays import cluster_arrays
from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.datamodel.schema import SCHEMA, check_root_attrs
from gz3d_zarr.datamodel.variables import CATALOGUE_TEXT, LABELS, VARIABLES
from gz3d_zarr.errors import StoreError, UsageError
from gz3d_zarr.locations import whole_key
from gz3d_zarr.storage.build_record import (
    RECORD_KEY,
    ROOT_KEY,
    WORK_PREFIX,
    BuildRecord,
    note_file,
    read_attrs,
    refuse_dataset,
    root_excess,
)
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.published_receipts import (
    find_published_receipts,
    is_published_key,
    read_published_receipts,
)


class Mode(StrEnum):
    """What to do with what exists."""

    NEW = "new"
    RESUME = "resume"
    OVERWRITE = "overwrite"


class TargetState(StrEnum):
    """What exists where a build writes."""

    EMPTY = "empty"
    """Nothing, or what a build left that was killed at once."""
    UNFINISHED = "unfinished"
    """A build that has not ended, and no store to be kept."""
    COMPLETE = "complete"
    UPDATING = "updating"
    """A complete store, and a build that adds to it or retries and has not ended."""


class Action(StrEnum):
    """What a build does."""

    WRITE = "write"
    CONTINUE = "continue"
    REPLACE = "replace"
    REFUSE = "refuse"


ACTIONS: Mapping[tuple[Mode, TargetState], Action] = {
    (Mode.NEW, TargetState.EMPTY): Action.WRITE,
    (Mode.NEW, TargetState.UNFINISHED): Action.REFUSE,
    (Mode.NEW, TargetState.COMPLETE): Action.REFUSE,
    (Mode.NEW, TargetState.UPDATING): Action.REFUSE,
    (Mode.RESUME, TargetState.EMPTY): Action.WRITE,
    (Mode.RESUME, TargetState.UNFINISHED): Action.CONTINUE,
    (Mode.RESUME, TargetState.COMPLETE): Action.CONTINUE,
    (Mode.RESUME, TargetState.UPDATING): Action.CONTINUE,
    (Mode.OVERWRITE, TargetState.EMPTY): Action.WRITE,
    (Mode.OVERWRITE, TargetState.UNFINISHED): Action.REPLACE,
    (Mode.OVERWRITE, TargetState.COMPLETE): Action.REPLACE,
    (Mode.OVERWRITE, TargetState.UPDATING): Action.REPLACE,
}


@dataclass(frozen=True)
class BuildRequest:
    """How the user wants what exists to be treated.

    Attributes
    ----------
    mode : Mode
    may_grow : bool
        Subjects that a complete store lacks are added (``update``).
    retry_failed : bool
        Subjects that failed are read again.
    allow_loss : bool
        A store may be replaced by one that lacks good subjects of it.
    """

    mode: Mode
    may_grow: bool = False
    retry_failed: bool = False
    allow_loss: bool = False


@dataclass(frozen=True)
class Target:
    """What exists where a build writes.

    Attributes
    ----------
    state : TargetState
    attrs : dict
        Attributes of the root of the complete store; empty where there is none.
    record : BuildRecord or None
        The build that has not ended.
    has_root : bool
        A root exists, also one that an unfinished overwrite was about to delete.
    damage : str
        Why only overwriting is possible; empty where nothing is wrong.
    """

    state: TargetState
    attrs: Mapping[str, Any] = field(default_factory=dict)
    record: BuildRecord | None = None
    has_root: bool = False
    damage: str = ""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Shard size, codec, nside and order that a build continues with."""
        if self.record is None or self.record.layout is None:
            return self.attrs
        layout = self.record.layout
        return {
            "shard_size": layout.shard_size,
            "codec": layout.codec,
            "nside": layout.nside,
            "order": self.record.order,
        }


def choose_request(
    *, resume: bool, overwrite: bool, update: bool, retry_failed: bool, allow_loss: bool = False
) -> BuildRequest:
    """Turn the options of `build` into one request; resume is part of update and retry_failed."""
    given = {"overwrite": overwrite, "update": update, "retry-failed": retry_failed}
    given["resume"] = resume and not (update or retry_failed)
    for name, wanted in (*given.items(), ("resume", resume)):
        check_type(name, wanted, bool)
    chosen = [name for name, wanted in given.items() if wanted]
    if len(chosen) > 1:
        raise UsageError(
            f"{' and '.join(chosen)}: choose one (overwrite deletes what exists, the others "
            "continue from it)"
        )
    mode = Mode.OVERWRITE if overwrite else Mode.RESUME if chosen else Mode.NEW
    if allow_loss and (update or mode is Mode.NEW):
        raise UsageError(
            "allow_loss (--allow-loss) is for overwrite, and for resume or retry-failed of an "
            "overwrite that has not ended: nothing else replaces a store"
        )
    return BuildRequest(mode, update, retry_failed, allow_loss)


def inspect_target(store: ObjectStore, *, to_write: bool = True) -> Target:
    """Find out what exists at a store; nothing is written, now or, without `to_write`, later.

    Raises
    ------
    StoreError
        Something that is not a Galaxy Zoo: 3D store exists there, also a Dataset of one that
        xarray wrote.
    """
    # In this order: a build that ends puts the root, then deletes the record.
    data, root = store.get(RECORD_KEY), store.get(ROOT_KEY)
    if root is None and data is None:
        if all(key.startswith(WORK_PREFIX) for key in store.list_sizes()):
            return Target(TargetState.EMPTY)
        data, root = store.get(RECORD_KEY), store.get(ROOT_KEY)  # a build may have begun just now
    record, damage = None, ""
    if data is not None:
        try:
            record = BuildRecord.from_json(data)
        except StoreError as error:
            damage = str(error)
    refuse_dataset(store.url, root)
    attrs = read_attrs(root)
    if attrs.get("schema") == SCHEMA:
        damage = damage or root_excess(root or b"")
        if record is not None and record.ends_with(root or b""):
            record, damage = None, ""  # the build only lacked the time to clean up
        state = TargetState.COMPLETE
        if damage or (record is not None and record.shards_to_write is None):
            state = TargetState.UNFINISHED  # an overwrite that had not yet deleted the root
        elif record is not None:
            state = TargetState.UPDATING
        damage = damage or ("" if state is TargetState.UNFINISHED else _find_damage(store, attrs))
        kept = {} if damage or state is TargetState.UNFINISHED else attrs
        return Target(state, kept, record, True, damage)
    if root is None and data is not None:
        return Target(TargetState.UNFINISHED, record=record, damage=damage)
    if not is_store_without_root(store):
        raise _foreign(store, to_write)
    damage = f"{ROOT_KEY} is {'missing' if root is None else 'damaged'}"
    return Target(TargetState.COMPLETE, record=record, has_root=root is not None, damage=damage)


def _find_damage(store: ObjectStore, attrs: Mapping[str, Any]) -> str:
    """Why a build cannot continue from a complete store with these attributes; "" if it can."""
    try:
        check_root_attrs(store.url, attrs)
    except StoreError as error:
        return str(error)
    return ""


def choose_action(store: ObjectStore, target: Target, mode: Mode) -> Action:
    """Look up what a mode does with what exists.

    Raises
    ------
    StoreError
        It refuses: what exists, and which options would continue from it or replace it.
    """
    action = ACTIONS[mode, target.state]
    is_copy = target.record is not None and target.record.layout is None
    if is_copy and action is not Action.REPLACE:
        raise StoreError(
            f"{store.url} holds a copy that has not ended; continue it with gz3d-zarr copy "
            "--resume, or use --overwrite to replace it"
        )
    if target.damage and action is not Action.REPLACE:
        advice = "" if "--overwrite" in target.damage else ": build it anew with --overwrite"
        raise StoreError(
            f"{store.url} holds a store or a build that cannot be continued ({target.damage})"
            f"{advice}"
        )
    if action is Action.REFUSE:
        holds, advice = "a build that has not ended", "--resume to continue it"
        if target.state is not TargetState.UNFINISHED:
            read_published_receipts(store, target.attrs)  # without them, --update cannot work
            holds, advice = "a complete store", "--update to add subjects to it"
        raise StoreError(f"{store.url} holds {holds}; use --overwrite to replace it, or {advice}")
    return action


OUR_PREFIXES = (
    WORK_PREFIX,
    "subject/",
    *(f"{name}/" for name in (*GROUPS, *BIG_ARRAYS, *VARIABLES, *LABELS)),
)


_ARRAYS = (
    "subject",
    *LABELS,
    *VARIABLES,
    *SHARD_ARRAYS,
    *(f"{CATALOGUE_GROUP}/{name}" for name in (*CATALOGUE_TEXT, "source_size")),
    *(f"{CLUSTERS_GROUP}/{name}" for name in cluster_arrays(())),
)
_OUR_KEY = re.compile(
    rf"(?:{'|'.join((*GROUPS, *_ARRAYS))})/zarr\.json|(?:{'|'.join(_ARRAYS)})/c(?:/\d+)*"
)


def is_ours(key: str) -> bool:
    """Whether a key is named like one of a store besides its root, or like a partial file.

    Other files in the folders of a store are a person's, and stay.
    """
    partial = whole_key(key)
    whole = partial or key
    return (
        key.startswith(WORK_PREFIX)
        or is_published_key(whole)
        or _OUR_KEY.fullmatch(whole) is not None
        or partial == ROOT_KEY
    )


def is_only_ours(store: ObjectStore) -> bool:
    """Whether nothing exists but a store, or what builds left."""
    return all(key == ROOT_KEY or is_ours(key) for key in store.list_sizes())


def is_store_without_root(store: ObjectStore) -> bool:
    """Whether a store is there, though its root is not or is damaged.

    Where also a page or a person's files lie, its receipts must tell: the names of arrays are not
    only ours.
    """
    if is_only_ours(store):
        return any(is_written_by_build(key) for key in store.list_sizes())
    return bool(find_published_receipts(store))


def is_written_by_build(key: str) -> bool:
    """Whether only a build of ours writes a key: a shard, or its own documents."""
    return is_shard(key) or key.startswith(WORK_PREFIX)


def is_shard(key: str) -> bool:
    """Whether a key is one of a big array's shards."""
    return key.startswith(tuple(f"{name}/c/" for name in SHARD_ARRAYS)) and is_ours(key)


def _foreign(store: ObjectStore, to_write: bool) -> StoreError:
    found = f"{store.url} holds something that is not a Galaxy Zoo: 3D store"
    if not to_write:
        return StoreError(f"{found}{note_file(store)}")
    return StoreError(f"{found}; nothing was changed. Choose another path, or empty it yourself")
