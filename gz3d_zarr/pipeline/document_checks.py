"""Metadata documents of a complete store against those that the schema gives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gz3d_zarr.errors import shorten
from gz3d_zarr.pipeline.root_additions import find_member, find_root_additions, parse_document
from gz3d_zarr.pipeline.store_checks import Check, Problem, check_that
from gz3d_zarr.storage.build_record import ROOT_KEY
from gz3d_zarr.storage.published_receipts import PublishedReceipts

_DEFAULTS: Mapping[str, Any] = {
    "attributes": {},
    "configuration": {},
    "consolidated_metadata": None,
    "index_location": "end",
    "separator": "/",
    "storage_transformers": [],
}
"""Fields that versions of zarr write or leave out, and what they mean where they are left out."""
_MAX_SHOWN = 60


def check_documents(
    stored: Mapping[str, bytes], expected: Mapping[str, bytes], published: PublishedReceipts
) -> Iterator[Check]:
    """Compare every metadata document with the one that the schema gives.

    Parameters
    ----------
    stored : mapping of str to bytes
        Objects of the store, by key.
    expected : mapping of str to bytes
        From `encode_small_objects`.
    published : PublishedReceipts
        Of the store.

    Yields
    ------
    Check
        ``metadata`` for the document of each group and array, ``attributes`` for each attribute of
        the root, and ``consolidated`` for what the root repeats of the other documents.
    """
    for key in sorted(expected):
        if key.endswith(f"/{ROOT_KEY}"):
            same = stored.get(key) == expected[key]
            here, ours = (parse_document(objects.get(key)) for objects in (stored, expected))
            finding = "" if same else _compare(here, ours)
            yield check_that("metadata", key.removesuffix(f"/{ROOT_KEY}"), finding)
    root, wanted = parse_document(stored.get(ROOT_KEY)), parse_document(expected[ROOT_KEY])
    attrs = find_member(root, "attributes")
    for name, value in published.attributes.items():
        yield check_that("attributes", shorten(name), _compare(attrs.get(name), value))
    parts = [dict(document) if isinstance(document, dict) else {} for document in (root, wanted)]
    found, members = (part.pop("consolidated_metadata", None) for part in parts)
    rest = [{**part, "attributes": {}} for part in parts]
    finding = _compare(rest[0], rest[1])
    yield check_that("metadata", ROOT_KEY, finding)
    if not isinstance(found, dict):
        yield Check("consolidated", ROOT_KEY, False, "it has no consolidated metadata")
        return
    documents = find_member(found, "metadata")
    for name, document in members["metadata"].items():
        yield check_that("consolidated", name, _compare(documents.get(name), document))
    finding = _compare({**found, "metadata": {}}, {**members, "metadata": {}})
    if not finding and not published.is_root(stored[ROOT_KEY]):
        added = find_root_additions(stored, expected, published)
        if not added:
            finding = "its bytes are not those that the build wrote, though they mean the same"
    yield check_that("consolidated", ROOT_KEY, finding)


def find_nodes(expected: Mapping[str, bytes]) -> set[str]:
    """Names of all arrays and groups that a build writes, from their documents."""
    suffix = f"/{ROOT_KEY}"
    return {key.removesuffix(suffix) for key in expected if key.endswith(suffix)}


def _compare(found: object, wanted: object, path: str = "") -> Problem:
    """The first difference between two parsed documents, in words; empty where there is none."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in sorted({*found, *wanted}):
            values = [document.get(name, _DEFAULTS.get(name)) for document in (found, wanted)]
            if name == "consolidated_metadata":  # of a group, for which the root has them all
                values = [
                    find_member({name: value}, name).get("metadata") or None for value in values
                ]
            finding = _compare(values[0], values[1], f"{path}.{name}" if path else name)
            if finding:
                return finding
        return ""
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        items = enumerate(zip(found, wanted, strict=True))
        return next(filter(None, (_compare(a, b, f"{path}[{i}]") for i, (a, b) in items)), "")
    if type(found) is type(wanted) and found == wanted:
        return ""
    return f"{shorten(path) or 'it'} is {_shown(found)}, expected {_shown(wanted)}"


def _shown(value: object) -> str:
    if value is None:
        return "missing or unreadable"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
