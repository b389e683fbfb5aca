"""Bounds of what is read: a few times what the whole survey of 29,813 subjects needs."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

MAX_SUBJECTS = 2**18
"""Subjects of a source or a store."""
MAX_ROWS = 2**20
"""Rows of any other array, such as the clusters (the survey: about 300,000)."""
MAX_ROW_VALUES = 4 * 525 * 525
"""Values of one row: all masks of a subject."""
MAX_LIST = 32 * 2**20
"""Bytes of a catalogue (the survey: 7.6 MB), a sha1 list, an index page, a list of files or ids."""
MAX_TABLE = 256 * 2**20
"""Bytes of a table of ids, such as DRPall, unpacked."""
MAX_DOCUMENT = 8 * 2**20
"""Bytes of a ``zarr.json`` or of a document of a build (the root: about 0.1 MB)."""
MAX_RECEIPTS = 128 * 2**20
"""Bytes of receipts as stored, and of the list of files of a build."""
MAX_SUBJECT_RECEIPT = 64 * 2**10
"""Bytes of the receipt of one subject, unpacked (on average about 2 KB)."""
MAX_ALL_RECEIPTS = 2**29
"""Bytes of all receipts, unpacked."""


def object_limit(key: str) -> int | None:
    """Bytes of the object with this key in a store that are read at most; None for chunks."""
    if "/c/" in key:
        return None
    is_list = "receipts/" in key or key.endswith("files.txt")
    return MAX_RECEIPTS if is_list else MAX_DOCUMENT


def gunzip(data: bytes, limit: int) -> bytes:
    """Unpack one gzip member; ValueError if it is damaged or has more than `limit` bytes."""
    member = zlib.decompressobj(wbits=31)
    try:
        unpacked = member.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(f"gzip is damaged ({error})") from None
    if len(unpacked) > limit:
        raise ValueError(f"it unpacks to more than {limit} bytes")
    if not member.eof:
        raise ValueError("gzip is cut short")
    return unpacked


def find_excess(root: Mapping[str, Any]) -> str:
    """What a root ``zarr.json`` claims that no store can hold, in words; empty if nothing."""
    attrs = root.get("attributes")
    subjects = attrs.get("subjects", 0) if isinstance(attrs, Mapping) else 0
    if isinstance(subjects, int | float) and not 0 <= subjects <= MAX_SUBJECTS:
        return f"{subjects} subjects, expected at most {MAX_SUBJECTS}"
    consolidated = root.get("consolidated_metadata")
    members = consolidated.get("metadata") if isinstance(consolidated, Mapping) else None
    for name, document in (members if isinstance(members, Mapping) else {}).items():
        if isinstance(document, Mapping) and document.get("node_type") == "array":
            finding = _find_array_excess(document)
            if finding:
                return f"the array {name:.60} {finding}"
    return ""


def _find_array_excess(document: Mapping[str, Any]) -> str:
    dims = document.get("dimension_names")
    is_by_subject = isinstance(dims, list) and dims[:1] == ["subject"]
    rows = MAX_SUBJECTS if is_by_subject else MAX_ROWS
    grid = document.get("chunk_grid")
    settings = grid.get("configuration") if isinstance(grid, Mapping) else None
    chunk = settings.get("chunk_shape") if isinstance(settings, Mapping) else None
    for what, shape, most in (("shape", document.get("shape"), rows), ("chunks", chunk, MAX_ROWS)):
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            return f"is an array without {what}"
        values = 1
        for n in shape[1:]:
            values = min(values * n, MAX_ROW_VALUES + 1)
        if (shape[:1] or [0])[0] > most or values > MAX_ROW_VALUES:
            return f"has {what} {shape!s:.80}"
    return ""
