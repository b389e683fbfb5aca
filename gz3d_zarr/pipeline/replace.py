"""Where a build writes: at the store, or beside an older one that it then replaces."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from gz3d_zarr.datamodel.schema import (
    SCHEMA,
)
from gz3d_zarr.errors import StoreError, error_message
from gz3d_zarr.pipeline.build_state import (
    OUR_PREFIXES,
    BuildRequest,
    Mode,
    TargetState,
    inspect_target,
    is_only_ours,
    is_ours,
    is_store_without_root,
)
from gz3d_zarr.storage.build_record import (
    BUILDING_SUFFIX,
    LEASE_KEY,
    RECORD_KEY,
    REPLACED_SUFFIX,
    ROOT_KEY,
    WORK_PREFIX,
    read_attrs,
)
from gz3d_zarr.storage.lease import Lease, check_free, hold_lease
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.published_receipts import (
    PUBLISHED_PREFIX,
)

RENAME_ATTEMPTS = 20
"""How often, 0.1 seconds apart, a store is renamed where another builder is about to be refused."""


def find_target(store: ObjectStore, request: BuildRequest) -> ObjectStore:
    """Find where a build writes: the store itself, or a folder beside it that will replace it.

    An object store cannot rename. There, and where the store's folder is a link or a mount point,
    an overwrite deletes first and builds in place. Nothing is written here.

    Raises
    ------
    StoreError
        A build beside the store has not ended, and only a resume may continue it.
    """
    if not store.is_local:
        return store
    beside = store.with_url(store.url + BUILDING_SUFFIX)
    if request.mode is Mode.OVERWRITE:
        return beside if _can_be_replaced(store) else store
    if inspect_target(beside).state is TargetState.EMPTY:
        return store
    if request.mode is Mode.RESUME and not request.may_grow:
        return beside
    raise StoreError(
        f"{beside.url} holds a build that was to replace {store.url} and has not ended; use "
        "--resume to continue it, or --overwrite to build it anew"
    )


def _can_be_replaced(store: ObjectStore) -> bool:
    path = Path(store.url)
    target = inspect_target(store)
    return (
        (target.has_root or target.state is TargetState.COMPLETE)
        and not path.is_symlink()
        and not os.path.ismount(path)  # that of Path knows no Windows before Python 3.12
    )


@contextlib.contextmanager
def hold_target(store: ObjectStore) -> Iterator[Lease]:
    """Be the only builder of a store, as `hold_lease`; first end what a killed overwrite began.

    Raises
    ------
    StoreError
        Another builder is running, also one that just renames its new store; or the store cannot
        be written.
    """
    with hold_lease(store) as lease:
        if has_replaced(store):
            _end_replacement(store, lease)
        yield lease


def has_replaced(store: ObjectStore) -> bool:
    """Whether an overwrite was killed, or is running, after it renamed the old store.

    That store has the lease of the builder with it; a person's folder of this name has none.
    """
    return store.is_local and Path(store.url + REPLACED_SUFFIX, LEASE_KEY).is_file()


def _end_replacement(store: ObjectStore, lease: Lease) -> None:
    """Rename the new store, if that is still to be done, and delete the old one.

    The lease of a builder that is between its two renames lies in the old store. A lease that was
    taken in that time is not in the new one.
    """
    old = store.with_url(store.url + REPLACED_SUFFIX)
    new = store.with_url(store.url + BUILDING_SUFFIX)
    check_free(old)
    if not lease.is_ours():
        raise StoreError(f"another build has just ended at {store.url}; try again")
    try:
        if inspect_target(store).state is TargetState.EMPTY:
            whole = next((each for each in (new, old) if inspect_target(each).attrs), None)
            if whole is not None:
                with lease.paused():
                    _rename_into_place(whole, store)
        if has_replaced(store) and inspect_target(store).attrs:
            _delete_replaced(store)
    except OSError as error:
        raise StoreError(
            f"{old.url}, which an overwrite of {store.url} left, cannot be renamed or deleted: "
            f"{error_message(error)}; solve that and try again"
        ) from error


@contextlib.contextmanager
def writing_target(
    store: ObjectStore, request: BuildRequest, lease: Lease
) -> Iterator[ObjectStore]:
    """Give the store to write to; it replaces the other one when the context ends without error.

    Raises
    ------
    StoreError
        As `find_target`, and `replace_store`.
    """
    target = find_target(store, request)  # another builder may have ended just now
    yield target
    if target is not store:
        replace_store(target, store, lease)


def remove_leftovers(store: ObjectStore, target: ObjectStore, mode: Mode) -> None:
    """Remove what killed builds left beside a store, as its only builder.

    That is, where an overwrite builds in place, a new store beside that never replaced it.
    """
    if store.is_local and mode is Mode.OVERWRITE and target is store:
        leftover = store.with_url(store.url + BUILDING_SUFFIX)
        if Path(leftover.url).is_dir() and is_only_ours(leftover):
            shutil.rmtree(leftover.url, ignore_errors=True)


def replace_store(new: ObjectStore, store: ObjectStore, lease: Lease) -> None:
    """Rename the store that was built beside another one to its name, and delete the old one.

    The old store takes the lease along, and a copy of it comes with the new one, so that no other
    builder can begin between the two renames. What a person keeps in the old store goes to the
    new one.

    Raises
    ------
    StoreError
        It cannot be renamed; ``--resume`` tries again.
    """
    try:
        with lease.paused():
            if not lease.is_ours():
                raise StoreError(
                    f"{store.url} was taken over by another build while this one ran; the new "
                    f"store stays at {new.url}"
                )
            new.put(LEASE_KEY, store.get(LEASE_KEY) or b"")
            Path(store.url).rename(store.url + REPLACED_SUFFIX)
            try:
                _rename_into_place(new, store)
            except BaseException:  # also Ctrl-C: the process may live on, and build again
                _rename_into_place(store.with_url(store.url + REPLACED_SUFFIX), store)
                raise
        _delete_replaced(store)
    except OSError as error:
        raise StoreError(
            f"the new store {new.url} cannot be renamed to {store.url}: {error_message(error)}; "
            "solve that and use --resume"
        ) from error


def _rename_into_place(new: ObjectStore, store: ObjectStore) -> None:
    """Rename a store where there is none, or only the lease of a builder that will be refused."""
    for attempt in range(RENAME_ATTEMPTS):
        keys = store.list_sizes()
        if RECORD_KEY not in keys and all(key.startswith(WORK_PREFIX) for key in keys):
            shutil.rmtree(store.url, ignore_errors=True)
        try:
            Path(new.url).rename(store.url)
        except OSError:
            if attempt == RENAME_ATTEMPTS - 1:
                raise
            time.sleep(0.1)
        else:
            return


def _delete_replaced(store: ObjectStore) -> None:
    """Delete the old store beside the new one, after moving what a person keeps there."""
    old = store.with_url(store.url + REPLACED_SUFFIX)
    is_known = read_attrs(old.get(ROOT_KEY)).get("schema") == SCHEMA
    if not is_known and not is_only_ours(old) and not is_store_without_root(old):
        return  # not a store of ours, in spite of its name
    for key in _list_additions(Path(old.url)):
        moved = Path(store.url, key)
        moved.parent.mkdir(parents=True, exist_ok=True)
        Path(old.url, key).rename(moved)
    old.delete([ROOT_KEY])  # the rest is never taken for a store
    for path in Path(old.url).iterdir():
        if path.name != Path(LEASE_KEY).parts[0]:  # the last to go: it says whose folder this is
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(old.url)


def _list_additions(folder: Path) -> list[str]:
    """Whatever lies in a store's folder and is not of the store, also links and empty folders."""
    keys = []
    for path, folders, names in os.walk(folder):
        here = Path(path).relative_to(folder)
        links = [name for name in folders if Path(path, name).is_symlink()]
        keys += [key for name in (*names, *links) if not is_ours(key := (here / name).as_posix())]
        is_ours_too = f"{here.as_posix()}/".startswith((*OUR_PREFIXES, PUBLISHED_PREFIX))
        if here.name and not folders and not names and not is_ours_too:
            keys.append(here.as_posix())
    return [key for key in keys if key != ROOT_KEY]
