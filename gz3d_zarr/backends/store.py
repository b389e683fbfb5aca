"""Open a store that is complete, or say what it is instead."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.backends.lazy_arrays import lazy_variable
from gz3d_zarr.backends.partial_store import open_unfinished
from gz3d_zarr.datamodel.layout import SHARD_SIZE
from gz3d_zarr.datamodel.schema import BIG_ARRAYS, LABELS, OBJECT_ID_ATTRS, SCHEMA, VARIABLES
from gz3d_zarr.errors import (
    IncompleteStoreError,
    StoreError,
    UsageError,
    access_errors,
    error_message,
    plural,
)
from gz3d_zarr.storage.build_record import RECEIPTS_PREFIX, RECORD_KEY, ROOT_KEY, BuildRecord
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store
from gz3d_zarr.storage.shards import ignore_zarr_spec_warnings
from gz3d_zarr.storage.small_arrays import CATALOGUE_GROUP

READ_ERRORS = (
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
    anon: bool = False,
    chunks: str | None = "shards",
    incomplete: bool = False,
) -> xr.Dataset:
    """Open a complete store as a lazy Dataset; over a network that takes three requests.

    Parameters
    ----------
    store : str or Path
        A path, or a URL of any fsspec file system.
    storage_options : mapping, optional
        For fsspec.
    anon : bool
        Without credentials: for public buckets.
    chunks : {'shards', None}
        None: no dask, each subject is read when its values are needed; the quickest way to look
        at one subject after another.
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
    UsageError
        `chunks` is something else.
    IncompleteStoreError
        A build of it has begun and not ended.
    StoreError
        There is no store, it cannot be read, or it is not of Galaxy Zoo: 3D.
    """
    if chunks not in ("shards", None):
        raise UsageError(f"chunks is {chunks!r}, expected 'shards' or None")
    folder = open_object_store(store, storage_options)
    if anon and folder.url.startswith("s3"):
        folder = replace(folder, storage_options={**folder.storage_options, "anon": True})
    root = folder.get(ROOT_KEY)
    if root is None:
        found = _not_open(folder, FileNotFoundError(), None)
        if incomplete and isinstance(found, IncompleteStoreError):
            return open_unfinished(folder)
        raise found
    known = _known_labels(root)
    try:
        with ignore_zarr_spec_warnings():
            dataset = xr.open_zarr(
                folder.url,
                zarr_format=3,
                consolidated=True,
                chunks=None,
                drop_variables=list(known),
                storage_options=dict(folder.storage_options) or None,
            )
    except access_errors(*READ_ERRORS) as error:
        raise _not_open(folder, error, root) from error
    if dataset.attrs.get("schema") != SCHEMA:
        raise StoreError(f"{folder.url} is a Zarr store, but not of Galaxy Zoo: 3D")
    if not set(BIG_ARRAYS) <= set(dataset.data_vars):
        raise StoreError(f"{folder.url} lacks {' or '.join(BIG_ARRAYS)}: it was changed since")
    dataset = dataset.assign_coords(
        {name: (name, np.array(labels, np.dtypes.StringDType())) for name, labels in known.items()}
    )
    # A copy that xarray has written may have no shards.
    whole_shard = (dataset.attrs.get("shard_size", SHARD_SIZE),)
    size = (dataset["image"].encoding.get("shards") or whole_shard)[0]
    reader = ChunkReader(folder) if chunks is None else None
    for name in BIG_ARRAYS:
        with ignore_zarr_spec_warnings():
            dataset[name] = (
                dataset[name].chunk(subject=size)
                if reader is None
                else lazy_variable(reader, name, dataset[name])
            )
    named = [name for name in (*BIG_ARRAYS, *VARIABLES) if name in dataset.data_vars]
    dataset = dataset[[*named, *(name for name in dataset.data_vars if name not in named)]]
    object_id = ("subject", dataset["subject"].data, OBJECT_ID_ATTRS)
    whole: xr.Dataset = dataset.assign_coords(object_id=object_id)
    if "complete" in whole.attrs:
        whole.attrs["complete"] = int(whole.attrs["complete"])  # netCDF has no booleans
    return whole


def _known_labels(root: bytes) -> Mapping[str, tuple[str, ...]]:
    """Labels that need not be read: those of a store that a build, and no other program, wrote.

    What xarray writes of a selection may have them in another order, and has no group catalogue.
    """
    try:
        members = json.loads(root)["consolidated_metadata"]["metadata"]
        whole = CATALOGUE_GROUP in members and all(
            members[name]["shape"] == [len(labels)] for name, labels in LABELS.items()
        )
    except (ValueError, KeyError, TypeError):
        return {}
    return LABELS if whole else {}


def _not_open(folder: ObjectStore, error: Exception, root: bytes | None) -> StoreError:
    """Say why a store does not open: nothing there, incomplete, something else, or damaged."""
    if root is not None and b'"inline"' not in root:  # the kind of consolidated metadata
        return StoreError(
            f"{folder.url} has no consolidated metadata: it is not of Galaxy Zoo: 3D, or was "
            "changed by another program"
        )
    if root is not None:
        return StoreError(
            f"{folder.url} cannot be opened as a Zarr 3 store: {error_message(error)}"
        )
    begun = folder.get(RECORD_KEY)
    if begun is not None:
        layout = BuildRecord.from_json(begun).layout
        if layout is None:
            return IncompleteStoreError(
                f"the store {folder.url} is not complete: a copy to it has not ended; use "
                "gz3d-zarr copy --resume to continue it"
            )
        built = f"of {plural(layout.shards, 'shard')}"
        if not folder.is_link:
            built = f"{len(folder.list_sizes(RECEIPTS_PREFIX))} {built}"
        return IncompleteStoreError(
            f"the store {folder.url} is not complete, {built} built; go on with gz3d-zarr build "
            "SOURCE STORE --resume, or look at them by open_store(..., incomplete=True)"
        )
    if isinstance(error, FileNotFoundError):
        return StoreError(f"there is no Zarr 3 store at {folder.url}")
    return StoreError(f"{folder.url} cannot be opened: {error_message(error)}")


def _group(root: zarr.Group, name: str) -> zarr.Group:
    found = root[name]
    if not isinstance(found, zarr.Group):
        raise TypeError(f"{name} is no group")
    return found


def read_small_arrays(folder: ObjectStore) -> Iterator[tuple[str, str]]:
    """Read all arrays but the big ones; name, and what is wrong with it or nothing."""
    options = dict(folder.storage_options) or None
    try:
        with ignore_zarr_spec_warnings():
            root = zarr.open_group(
                folder.url, mode="r", zarr_format=3, use_consolidated=True, storage_options=options
            )
            members = [item for item in root.members(max_depth=None) if item[0] not in BIG_ARRAYS]
    except access_errors(*READ_ERRORS) as error:
        yield ROOT_KEY, f"it cannot be read: {error_message(error)}"
        return
    for name, array in members:
        if isinstance(array, zarr.Array):
            finding = ""
            try:
                with ignore_zarr_spec_warnings():
                    array[...]
            except access_errors(*READ_ERRORS) as error:
                finding = f"it cannot be read: {error_message(error)}"
            yield name, finding


def read_build(folder: ObjectStore) -> tuple[dict[str, Any], xr.Dataset]:
    """Attributes of a complete store, and its group ``catalogue`` with `status` beside it.

    Raises
    ------
    StoreError
        As `open_store`.
    """
    dataset = open_store(folder.url, storage_options=folder.storage_options)
    options = dict(folder.storage_options) or None
    try:
        with ignore_zarr_spec_warnings():
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
        table = catalogue.assign(status=dataset["status"].variable).load()
    except access_errors(*READ_ERRORS) as error:
        raise StoreError(
            f"the group {CATALOGUE_GROUP} of {folder.url} cannot be read: {error_message(error)}"
        ) from error
    if not all(table["file_name"].values.tolist()):  # zarr fills in what is not there
        raise StoreError(
            f"the group {CATALOGUE_GROUP} of {folder.url} has lost objects; gz3d-zarr verify tells "
            "which"
        )
    return dict(dataset.attrs), table
