"""What a root ``zarr.json`` may claim: as much as a store of Galaxy Zoo: 3D can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gz3d_zarr.datamodel.arrays import BIG_ARRAYS, GROUPS
from gz3d_zarr.datamodel.limits import MAX_ROW_VALUES, MAX_ROWS, MAX_SUBJECTS
from gz3d_zarr.datamodel.variables import LABELS, VARIABLES


def is_known_array(name: str) -> bool:
    """Whether an array is of the schema, or in one of its groups; a person may add others."""
    group, slash, _ = name.partition("/")
    return group in GROUPS if slash else name in {"subject", *BIG_ARRAYS, *VARIABLES, *LABELS}


def find_excess(root: Mapping[str, Any]) -> str:
    """What a root ``zarr.json`` claims that no store can hold, in words; empty if nothing."""
    attrs = root.get("attributes")
    subjects = attrs.get("subjects", 0) if isinstance(attrs, Mapping) else 0
    if isinstance(subjects, int | float) and not 0 <= subjects <= MAX_SUBJECTS:
        return f"{subjects} subjects, expected at most {MAX_SUBJECTS}"
    consolidated = root.get("consolidated_metadata")
    members = consolidated.get("metadata") if isinstance(consolidated, Mapping) else None
    for name, document in (members if isinstance(members, Mapping) else {}).items():
        is_array = isinstance(document, Mapping) and document.get("node_type") == "array"
        if is_array and (is_known_array(name) or document.get("dimension_names") == [name]):
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
