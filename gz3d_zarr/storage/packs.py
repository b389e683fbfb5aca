"""Packs: all small arrays of a store in two immutable objects, each named by its digest.

A pack is a zip archive, without compression, of the chunks that the store also holds one by one;
members have the keys of these. One holds the arrays of the root group, the other those of the
groups. As the root names both, a reader has values of one root only, whatever is being written at
that time.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

from gz3d_zarr.datamodel.arrays import GROUPS
from gz3d_zarr.datamodel.limits import MAX_PACK_DIRECTORY
from gz3d_zarr.datamodel.schema import GROUP_ARRAYS_ATTR, SMALL_ARRAYS_ATTR
from gz3d_zarr.errors import CLIENT_ERRORS, StoreError, error_message
from gz3d_zarr.storage.build_record import ROOT_KEY, digest
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.published_receipts import PUBLISHED_PREFIX

PACK_ATTRS = (SMALL_ARRAYS_ATTR, GROUP_ARRAYS_ATTR)
"""Attributes of the root that name the packs."""
_SHA256 = re.compile("[0-9a-f]{64}")


def pack_key(sha256: str) -> str:
    """Key of the pack with this digest."""
    return f"{PUBLISHED_PREFIX}{sha256}.zip"


def pack_digests(attrs: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the packs that a root names, by attribute; without those that it does not name."""
    named = {name: str(attrs.get(name, "")) for name in PACK_ATTRS}
    return {name: sha256 for name, sha256 in named.items() if _SHA256.fullmatch(sha256)}


def encode_packs(objects: Mapping[str, bytes]) -> dict[str, tuple[str, bytes]]:
    """Pack the chunks of small arrays.

    Parameters
    ----------
    objects : mapping
        Bytes by key; metadata documents are left out.

    Returns
    -------
    dict
        Digest and bytes of each pack, by attribute; the same objects give the same bytes.
    """
    chunks = {key: objects[key] for key in sorted(objects) if not key.endswith(ROOT_KEY)}
    in_groups = {key for key in chunks if key.startswith(tuple(f"{name}/" for name in GROUPS))}
    packs = {}
    for name, keys in ((SMALL_ARRAYS_ATTR, {*chunks} - in_groups), (GROUP_ARRAYS_ATTR, in_groups)):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for key in sorted(keys):
                archive.writestr(zipfile.ZipInfo(key), chunks[key])  # dated 1980
        data = file.getvalue()
        packs[name] = digest(data), data
    return packs


def read_packs(
    store: ObjectStore, attrs: Mapping[str, Any], names: Iterable[str] = PACK_ATTRS
) -> dict[str, bytes] | None:
    """Read packs that a root names.

    Parameters
    ----------
    store : ObjectStore
    attrs : mapping
        Attributes of the root.
    names : iterable of str
        Which, of `PACK_ATTRS`.

    Returns
    -------
    dict or None
        Chunks by key, none of packs that the root does not name; None where one that it names does
        not exist.

    Raises
    ------
    StoreError
        A pack cannot be read, or is not as it was written.
    """
    digests = pack_digests(attrs)
    chunks: dict[str, bytes] = {}
    for sha256 in (digests[name] for name in names if name in digests):
        data = store.get(pack_key(sha256))
        if data is None:
            return None
        if digest(data) != sha256:
            raise StoreError(
                f"{store.url}/{pack_key(sha256)} is not as it was written (SHA-256): the store is "
                "damaged; build it anew with --overwrite"
            )
        chunks |= _decode(store, data)
    return chunks


def _decode(store: ObjectStore, data: bytes) -> dict[str, bytes]:
    try:
        _check_directory(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            is_stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            if not is_stored or sum(member.file_size for member in members) > len(data):
                raise ValueError("it is larger in memory than in the store")
            return {member.filename: archive.read(member) for member in members}
    except (*CLIENT_ERRORS, zipfile.BadZipFile, EOFError, struct.error, OSError) as error:
        raise StoreError(
            f"the small arrays of {store.url} cannot be read: {error_message(error)}"
        ) from error


def _check_directory(data: bytes) -> None:
    """Refuse a zip archive of far more members than a pack, before zipfile reads them all.

    Raises
    ------
    ValueError
        Its end is not as `encode_packs` writes it, or the list of its members is too long.
    """
    end = data[-_ZIP_END.size :]
    if len(end) != _ZIP_END.size or data[-_ZIP_END.size - 20 :].startswith(b"PK\6\7"):  # zip64
        raise ValueError("it is no zip archive, or a far larger one than any of a store")
    signature, *_, size, _offset, comment = _ZIP_END.unpack(end)
    if signature != b"PK\5\6" or comment:
        raise ValueError("it does not end as a zip archive of a store")
    if size > MAX_PACK_DIRECTORY:
        raise ValueError(f"the list of its members has {size} bytes")


_ZIP_END = struct.Struct("<4s4H2LH")
"""The record at the end of a zip archive: the last but two is the size of the list of members."""
