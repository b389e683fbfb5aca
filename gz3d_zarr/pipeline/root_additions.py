"""What others add to the root of a store: their attributes, and arrays and groups that it lists."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zarr
from zarr.storage import MemoryStore, StorePath

from gz3d_zarr.backends.root import READ_ERRORS
from gz3d_zarr.datamodel.limits import MAX_DOCUMENT
from gz3d_zarr.datamodel.root_claims import find_excess
from gz3d_zarr.datamodel.schema import PARENT_ATTRS, SCHEMA, SCHEMA_VERSION
from gz3d_zarr.errors import shorten
from gz3d_zarr.storage.build_record import ROOT_KEY
from gz3d_zarr.storage.published_receipts import PublishedReceipts
from gz3d_zarr.storage.shards import ignore_zarr_spec_warnings

MAX_NAMED = 3
"""Arrays that a note names."""


def find_root_additions(
    stored: Mapping[str, bytes], expected: Mapping[str, bytes], published: PublishedReceipts
) -> list[str]:
    """Describe what the root has besides what a build writes: attributes, arrays and groups."""
    root, wanted = (parse_document(objects.get(ROOT_KEY)) for objects in (stored, expected))
    attrs = find_member(root, "attributes").keys() - published.attributes.keys()
    return [
        *(f"{ROOT_KEY}: attribute {shorten(name)}" for name in sorted(attrs)),
        *(f"{ROOT_KEY}: {shorten(name)}" for name in sorted(_added_members(root, wanted))),
    ]


def find_added_members(root: bytes, expected: Mapping[str, bytes]) -> list[str]:
    """Names of the arrays and groups of other programs that a root lists."""
    return sorted(_added_members(parse_document(root), parse_document(expected[ROOT_KEY])))


def carry_additions(
    root: bytes, old: bytes | None, keeps_subjects: Callable[[], bool]
) -> tuple[bytes, str]:
    """Add to a new root what others had added to the one that it replaces.

    Parameters
    ----------
    root : bytes
        As a build writes it.
    old : bytes, optional
        The root of the store that is continued or replaced, if there was one.
    keeps_subjects : callable
        Says whether the subjects of the old store are the first of the new one, in their order:
        others' arrays along ``subject`` have no labels of their own.

    Returns
    -------
    root : bytes
        The same bytes where nothing was added.
    note : str
        What is left out, and why; empty if nothing is.
    """
    if old is None:
        return root, ""
    before, new = parse_document(old), parse_document(root)
    attrs = find_member(before, "attributes")
    is_known = attrs.get("schema") == SCHEMA and attrs.get("schema_version") == SCHEMA_VERSION
    if not isinstance(before, dict) or not isinstance(new, dict) or not is_known:
        return root, _left_out("whatever it listed", "it was damaged or of another version")
    # A store that replaces a subset was not taken from its parent.
    others = attrs.keys() - new["attributes"].keys() - {*PARENT_ATTRS}
    added = {name: attrs[name] for name in others}
    members = _added_members(before, new)
    misfits = _find_misfits(members, _added_members(new, {}), keeps_subjects)
    kept = {name: members[name] for name in sorted(members.keys() - misfits)}
    if not added and not kept:
        return root, _note_misfits(misfits)
    new["attributes"] |= dict(sorted(added.items()))
    new["consolidated_metadata"]["metadata"] |= kept
    carried = json.dumps(new, indent=2).encode()
    if len(carried) > MAX_DOCUMENT:
        why = f"with it the new one would have more than {MAX_DOCUMENT // 2**20} MiB"
        return root, _left_out("whatever it listed", why)
    if find_excess(new) or not _can_be_opened(new):
        return root, _left_out("whatever it listed", "it cannot be opened by zarr")
    return carried, _note_misfits(misfits)


def parse_document(data: bytes | None) -> object:
    """The JSON of a document; None where it is no JSON, or names a field twice."""
    try:
        return json.loads(data or b"", object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None


def find_member(document: object, name: str) -> dict[str, Any]:
    """A mapping inside a document; empty where there is none."""
    found = document.get(name) if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def _added_members(root: object, wanted: object) -> dict[str, Any]:
    """Documents of arrays and groups that only the first root lists, by name."""
    found, ours = (
        find_member(find_member(each, "consolidated_metadata"), "metadata")
        for each in (root, wanted)
    )
    return {name: document for name, document in found.items() if name not in ours}


def _find_misfits(
    added: Mapping[str, Any], ours: Mapping[str, Any], keeps_subjects: Callable[[], bool]
) -> set[str]:
    """Names of added arrays whose dimensions are no longer those of the store."""
    sizes = {
        (name.rpartition("/")[0], dim): size
        for name, document in ours.items()
        for dim, size in _dims(document)
    }
    misfits, along_subject = set(), set()
    for name, document in added.items():
        for dim, size in _dims(document):
            if sizes.get((name.rpartition("/")[0], dim), size) != size:
                misfits.add(name)
            if dim == "subject":
                along_subject.add(name)
    if along_subject - misfits and not keeps_subjects():
        misfits |= along_subject
    return misfits


def _dims(document: object) -> list[tuple[object, object]]:
    """Names and sizes of the dimensions of an array; nothing of a group."""
    fields = document if isinstance(document, dict) else {}
    names, shape = fields.get("dimension_names"), fields.get("shape")
    if not isinstance(names, list) or not isinstance(shape, list):
        return []
    pairs = zip(names, shape, strict=False)
    return [(name, size) for name, size in pairs if isinstance(name, str)]


def _can_be_opened(document: dict[str, Any]) -> bool:
    try:
        with ignore_zarr_spec_warnings():
            zarr.AsyncGroup.from_dict(StorePath(MemoryStore()), document)
    except READ_ERRORS:
        return False
    return True


def _note_misfits(names: set[str]) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > MAX_NAMED else ""
    first = shorten(", ".join(sorted(names)[:MAX_NAMED]))
    return _left_out(f"{first}{more}", "the subjects of the store are others now")


def _left_out(what: str, why: str) -> str:
    return (
        f"of what others had added to the root {ROOT_KEY} of the old store, the new one does not "
        f"list {what}, as {why}; files of theirs stay"
    )


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field is named twice")
    return fields
