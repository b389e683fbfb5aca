"""Open a store that is complete, or say what it is instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xarray as xr
import zarr

from gz3d_zarr.errors import IncompleteStoreError, StoreError, access_errors, count, describe
from gz3d_zarr.objects import ObjectFolder, object_folder
from gz3d_zarr.receipts import PLAN_KEY, RECEIPTS_PREFIX
from gz3d_zarr.schema import BIG_ARRAYS, OBJECT_ID_ATTRS, SCHEMA, VARIABLES
from gz3d_zarr.store import CATALOGUE_GROUP, ROOT_KEY, quiet
from gz3d_zarr.unfinished import open_unfinished

DAMAGE = (
    ImportError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    RuntimeError,
    NotImplementedError,
)
"""What zarr, its codecs and xarray raise, beside OSError, where a store is damaged."""


def open_store(
    store: str | Path,
    *,
    storage_options: Mapping[str, Any] | None = None,
    incomplete: bool = False,
) -> xr.Dataset:
    """Open a complete store as a lazy Dataset.

    Parameters
    ----------
    store : str or Path
        A path, or a URL of any fsspec file system.
    storage_options : mapping, optional
        For fsspec.
    incomplete : bool
        Where a build has not ended, open what it has built so far; other subjects are left out.

    Returns
    -------
    xarray.Dataset
        As ``xr.open_zarr`` gives it, with `image` and `segmentation` in dask chunks of whole
        shards, and the coordinate ``object_id`` (the published data model's name for the MaNGA
        id) beside ``subject``.

    Raises
    ------
    IncompleteStoreError
        A build of it has begun and not ended.
    StoreError
        There is no store, it cannot be read, or it is not of Galaxy Zoo: 3D.
    """
    folder = object_folder(store, storage_options)
    try:
        with quiet():
            dataset = xr.open_zarr(
                folder.url,
                zarr_format=3,
                consolidated=True,
                chunks=None,
                storage_options=dict(folder.storage_options) or None,
            )
    except access_errors(*DAMAGE) as error:
        found = _not_open(folder, error)
        if incomplete and isinstance(found, IncompleteStoreError):
            return open_unfinished(folder)
        raise found from error
    if dataset.attrs.get("schema") != SCHEMA:
        raise StoreError(f"{folder.url} is a Zarr store, but not of Galaxy Zoo: 3D")
    if not set(BIG_ARRAYS) <= set(dataset.data_vars):
        raise StoreError(f"{folder.url} lacks {' or '.join(BIG_ARRAYS)}: it was changed since")
    # A copy that xarray has written may have no shards.
    size = (dataset["image"].encoding.get("shards") or (dataset.attrs["shard_size"],))[0]
    for name in BIG_ARRAYS:
        with quiet():
            dataset[name] = dataset[name].chunk(subject=size)
    known = [name for name in (*BIG_ARRAYS, *VARIABLES) if name in dataset.data_vars]
    dataset = dataset[[*known, *(name for name in dataset.data_vars if name not in known)]]
    object_id = ("subject", dataset["subject"].data, OBJECT_ID_ATTRS)
    named: xr.Dataset = dataset.assign_coords(object_id=object_id)
    return named


def _not_open(folder: ObjectFolder, error: Exception) -> StoreError:
    """Say why a store does not open: nothing there, incomplete, something else, or damaged."""
    root = folder.get(ROOT_KEY)
    if root is not None and b'"inline"' not in root:  # the kind of consolidated metadata
        return StoreError(
            f"{folder.url} has no consolidated metadata: it is not of Galaxy Zoo: 3D, or was "
            "changed by another program"
        )
    if root is not None:
        return StoreError(f"{folder.url} cannot be opened as a Zarr 3 store: {describe(error)}")
    if folder.get(PLAN_KEY) is not None:
        done = len(folder.sizes(RECEIPTS_PREFIX))
        return IncompleteStoreError(
            f"the store {folder.url} is not complete: {count(done, 'shard')} built; go on with "
            "gz3d-zarr build SOURCE STORE --resume, or look at them by incomplete=True"
        )
    if isinstance(error, FileNotFoundError):
        return StoreError(f"there is no Zarr 3 store at {folder.url}")
    return StoreError(f"{folder.url} cannot be opened: {describe(error)}")


def _group(root: zarr.Group, name: str) -> zarr.Group:
    found = root[name]
    if not isinstance(found, zarr.Group):
        raise TypeError(f"{name} is no group")
    return found


def read_small_arrays(folder: ObjectFolder) -> Iterator[tuple[str, str]]:
    """Read all arrays but the big ones; name, and what is wrong with it or nothing."""
    options = dict(folder.storage_options) or None
    try:
        with quiet():
            root = zarr.open_group(
                folder.url, mode="r", zarr_format=3, use_consolidated=True, storage_options=options
            )
            members = [item for item in root.members(max_depth=None) if item[0] not in BIG_ARRAYS]
    except access_errors(*DAMAGE) as error:
        yield ROOT_KEY, f"it cannot be read: {describe(error)}"
        return
    for name, array in members:
        if isinstance(array, zarr.Array):
            finding = ""
            try:
                with quiet():
                    array[...]
            except access_errors(*DAMAGE) as error:
                finding = f"it cannot be read: {describe(error)}"
            yield name, finding


def read_build(folder: ObjectFolder) -> tuple[dict[str, Any], xr.Dataset]:
    """Attributes of a complete store, and its group ``catalogue`` with `status` beside it.

    Raises
    ------
    StoreError
        As `open_store`.
    """
    dataset = open_store(folder.url, storage_options=folder.storage_options)
    options = dict(folder.storage_options) or None
    try:
        with quiet():
            # By the root's consolidated metadata: an update may just be writing the arrays' own.
            root = zarr.open_group(
                folder.url,
                mode="r",
                zarr_format=3,
                use_consolidated=True,
                storage_options=options,
            )
            catalogue = xr.Dataset(
                {
                    name: (array.metadata.to_dict()["dimension_names"], array[...], {**array.attrs})
                    for name, array in _group(root, CATALOGUE_GROUP).arrays()
                }
            )
        return dict(dataset.attrs), catalogue.assign(status=dataset["status"].variable).load()
    except access_errors(*DAMAGE) as error:
        raise StoreError(
            f"the group {CATALOGUE_GROUP} of {folder.url} cannot be read: {describe(error)}"
        ) from error
