"""Open the root of a complete store, or report why it cannot be opened."""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import StorePath

from gz3d_zarr.backends.generation import Generation, changed_error
from gz3d_zarr.backends.layered_store import LayeredStore
from gz3d_zarr.errors import (
    CLIENT_ERRORS,
    IncompleteStoreError,
    StoreError,
    access_errors,
    error_message,
    plural,
)
from gz3d_zarr.storage.build_record import (
    BUILDING_SUFFIX,
    LEASE_KEY,
    RECEIPTS_PREFIX,
    RECORD_KEY,
    REPLACED_SUFFIX,
    ROOT_KEY,
    BuildRecord,
    check_digest,
    note_file,
    parse_root,
)
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.packs import pack_digests, read_packs
from gz3d_zarr.storage.shards import ignore_zarr_spec_warnings

MAX_NEW_ROOTS = 10
"""How many new roots a reader meets while it opens a store before it gives up."""
READ_ERRORS = (
    *CLIENT_ERRORS,
    BufferError,
    EOFError,
    MemoryError,
    lzma.LZMAError,
    struct.error,
    zlib.error,
)
"""Errors other than OSError that zarr, its codecs and xarray raise for a damaged store."""


@dataclass(frozen=True)
class StoreRoot:
    """The root of a complete store, as it was at one time.

    Attributes
    ----------
    group : zarr.Group
        With the metadata of all members.
    generation : Generation
    packed : frozenset of str
        Arrays whose values are in memory.
    """

    group: zarr.Group
    generation: Generation
    packed: frozenset[str] = frozenset()


def open_root(
    store: ObjectStore,
    packs: Sequence[str] = (),
    generation: str = "",
    digest: str | None = None,
) -> StoreRoot:
    """Open the root group of a complete store by one request, and one for each pack.

    The metadata of all its members come from the root, so that nothing else is read.

    Parameters
    ----------
    store : ObjectStore
    packs : sequence of str
        Which packs of small arrays to read, of `PACK_ATTRS`. Without them, and in a store that has
        none as another program wrote it, arrays are read from their own objects.
    generation : str
        The store is to be of this generation; by default, of any.
    digest : str, optional
        SHA-256 that the root must have.

    Raises
    ------
    IncompleteStoreError
        The build of the store is unfinished.
    StoreError
        There is no store, it cannot be read, or it is of another generation, or its root has
        another digest.
    """
    data = _get_root(store)
    for _ in range(MAX_NEW_ROOTS):
        if digest is not None:
            check_digest(store.url, data, digest)
        document = _parse_root(store, data)
        chunks = read_packs(store, document["attributes"], packs)
        if chunks is not None:
            break
        # A build that publishes a new root then deletes the packs of the old one.
        before, data = data, _get_root(store)
        if data == before:
            if digest is not None and pack_digests(document["attributes"]):
                raise StoreError(
                    f"{store.url} lacks a pack of small arrays, for which the digest vouches: the "
                    "store is damaged; run gz3d-zarr verify for details"
                )
            chunks = {}
            break
    else:
        raise StoreError(f"{store.url} changes while it is opened: try again later")
    found = Generation.from_root(store, data)
    if generation and found.id != generation:
        raise changed_error(store)
    try:
        with ignore_zarr_spec_warnings():
            layered = StorePath(LayeredStore(store.zarr_store(), chunks))
            group = zarr.Group(zarr.AsyncGroup.from_dict(layered, document))
    except access_errors(*READ_ERRORS) as error:
        raise unreadable_error(store, error) from error
    packed = frozenset(key.partition("/c/")[0] for key in chunks)
    return StoreRoot(group, found, packed)


def read_member(generation: Generation, name: str) -> Mapping[str, Any]:
    """Metadata document of an array, as the root has it; one request.

    The document of the array itself may be another one while an update writes it.

    Raises
    ------
    StoreError
        The root cannot be read, has no such array, or is of another generation.
    """
    store = generation.store
    data = store.get(ROOT_KEY)
    if data is None or Generation.from_root(store, data).id != generation.id:
        raise changed_error(store)
    members = _parse_root(store, data)["consolidated_metadata"]
    documents = members.get("metadata") if isinstance(members, dict) else None
    document = documents.get(name) if isinstance(documents, dict) else None
    if not isinstance(document, dict) or document.get("node_type") != "array":
        raise StoreError(f"{store.url} has no array {name}: another program changed it")
    return document


def _get_root(store: ObjectStore) -> bytes:
    data = store.get(ROOT_KEY)
    if data is None:
        raise _missing_root(store)
    return data


def _parse_root(store: ObjectStore, data: bytes) -> dict[str, Any]:
    document = parse_root(store.url, data)
    if document.get("consolidated_metadata"):
        attrs = document.get("attributes")
        return {**document, "attributes": attrs if isinstance(attrs, dict) else {}}
    raise StoreError(
        f"{store.url} has no consolidated metadata: it is not a store of Galaxy Zoo: 3D, or "
        "another program changed it"
    )


def unreadable_error(store: ObjectStore, error: Exception) -> StoreError:
    """The error for a store whose metadata cannot be read or understood."""
    return StoreError(f"{store.url} cannot be opened as a Zarr 3 store: {error_message(error)}")


def _missing_root(store: ObjectStore) -> StoreError:
    """The error for a store without a root: its build is unfinished, or nothing is there."""
    data = store.get(RECORD_KEY)
    if data is None:
        begun = "; a build has just begun there" if store.get(LEASE_KEY) is not None else ""
        return StoreError(
            f"there is no Zarr 3 store at {store.url}{note_file(store)}{begun}"
            f"{_describe_replacement(store)}"
        )
    try:
        record = BuildRecord.from_json(data)
    except StoreError as error:
        return StoreError(f"there is no complete store at {store.url}: {error}")
    layout = record.layout
    if layout is None:
        return IncompleteStoreError(
            f"the store {store.url} is not complete: a copy to it has not ended; resume with "
            "gz3d-zarr copy --resume"
        )
    shards = f"of {plural(layout.shards, 'shard')}"
    command = f"subset {record.parent} STORE" if record.parent else "build SOURCE STORE"
    built = None if store.is_link else len(store.list_sizes(RECEIPTS_PREFIX))
    partial = "" if not built else ", or open what is built with open_store(..., incomplete=True)"
    return IncompleteStoreError(
        f"the store {store.url} is not complete, {'' if built is None else f'{built} '}{shards} "
        f"built; resume with gz3d-zarr {command} --resume{partial}"
    )


def _describe_replacement(store: ObjectStore) -> str:
    """What an overwrite left that was killed between its two renames; empty if there is none."""
    names = [store.url + suffix for suffix in (BUILDING_SUFFIX, REPLACED_SUFFIX)]
    found = [name for name in names if store.is_local and Path(name, ROOT_KEY).exists()]
    if not found:
        return ""
    return (
        f", but at {' and '.join(found)}: an overwrite has not ended; run gz3d-zarr build SOURCE "
        "STORE --resume to end it"
    )
