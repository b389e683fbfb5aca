"""What a root ``zarr.json`` may claim: as much as a store of Galaxy Zoo: 3D can hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gz3d_zarr.datamodel.arrays import BIG_ARRAYS, GROUPS, SHARD_ARRAYS
from gz3d_zarr.datamodel.limits import (
    MAX_ARRAY,
    MAX_ROW_VALUES,
    MAX_ROWS,
    MAX_SMALL_ARRAYS,
    MAX_SUBJECTS,
)
from gz3d_zarr.datamodel.variables import LABELS, VARIABLES
from gz3d_zarr.errors import shorten

TEXT_BYTES = 16
"""Of a value of a data type without a fixed size, in memory."""
_TIMES = ("numpy.datetime64", "numpy.timedelta64")


def is_known_array(name: str) -> bool:
    """Whether an array is of the schema, or in one of its groups; a person may add others."""
    group, slash, _ = name.partition("/")
    return group in GROUPS if slash else name in {"subject", *BIG_ARRAYS, *VARIABLES, *LABELS}


def find_excess(root: Mapping[str, Any]) -> str:
    """What a root ``zarr.json`` claims that no store can hold, in words; empty if nothing."""
    attrs = root.get("attributes")
    subjects = attrs.get("subjects", 0) if isinstance(attrs, Mapping) else 0
    if isinstance(subjects, int | float) and not 0 <= subjects <= MAX_SUBJECTS:
        return f"{shorten(subjects)} subjects, expected at most {MAX_SUBJECTS}"
    consolidated = root.get("consolidated_metadata")
    members = consolidated.get("metadata") if isinstance(consolidated, Mapping) else None
    total = 0
    for name, document in (members if isinstance(members, Mapping) else {}).items():
        is_array = isinstance(document, Mapping) and document.get("node_type") == "array"
        if is_array and (is_known_array(name) or document.get("dimension_names") == [name]):
            finding, size = _measure(name, document)
            total += size
            if finding:
                return f"the array {name:.60} {finding}"
    if total > MAX_SMALL_ARRAYS:
        return f"its small arrays have {total} bytes, expected at most {MAX_SMALL_ARRAYS}"
    return ""


def _measure(name: str, document: Mapping[str, Any]) -> tuple[str, int]:
    """What is wrong with an array, in words; and the bytes of its values if it is a small one."""
    dims = document.get("dimension_names")
    is_by_subject = isinstance(dims, list) and dims[:1] == ["subject"]
    rows = MAX_SUBJECTS if is_by_subject else MAX_ROWS
    grid = document.get("chunk_grid")
    settings = grid.get("configuration") if isinstance(grid, Mapping) else None
    chunk = settings.get("chunk_shape") if isinstance(settings, Mapping) else None
    item = _item_bytes(document.get("data_type"))
    sizes = []
    for what, shape, most in (("shape", document.get("shape"), rows), ("chunks", chunk, MAX_ROWS)):
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            return f"is an array without {what}", 0
        values = 1
        for n in shape[1:]:
            values = min(values * n, MAX_ROW_VALUES + 1)
        length = (shape[:1] or [0])[0]
        sizes.append(length * values * item)
        is_small = name not in SHARD_ARRAYS
        if length > most or values > MAX_ROW_VALUES or (is_small and sizes[-1] > MAX_ARRAY):
            return f"has {what} {shape!s:.80} of {item} bytes a value", 0
    return "", 0 if name in SHARD_ARRAYS else sizes[0]


def _item_bytes(data_type: object) -> int:
    """Bytes of one value of a Zarr 3 data type, or more than any array may have."""
    if isinstance(data_type, str):
        bits = re.fullmatch(r"[a-z]+(\d{1,9})", data_type)
        return -(-int(bits[1]) // 8) if bits else TEXT_BYTES
    settings = data_type.get("configuration") if isinstance(data_type, Mapping) else None
    length = settings.get("length_bytes") if isinstance(settings, Mapping) else None
    if isinstance(data_type, Mapping) and data_type.get("name") in _TIMES:
        return 8
    return length if type(length) is int and length >= 0 else MAX_ARRAY + 1
