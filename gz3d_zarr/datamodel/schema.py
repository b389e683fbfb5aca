"""The schema of a store: its version, its root attributes and its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gz3d_zarr.datamodel.layout import Layout, read_layout
from gz3d_zarr.datamodel.manifest import Entry
from gz3d_zarr.datamodel.variables import LABELS, VARIABLES
from gz3d_zarr.errors import StoreError, shorten

SCHEMA = "gz3d"
SCHEMA_VERSION = 2
RECEIPTS_ATTR = "receipts_sha256"
"""Attribute of the root: digest of the receipts, by which their object is named."""
GENERATION_ATTR = "generation"
"""Attribute of the root: stays the same as long as the subjects that it had stay as they are."""
SMALL_ARRAYS_ATTR, GROUP_ARRAYS_ATTR = "small_arrays_sha256", "group_arrays_sha256"
"""Attributes of the root: digests of the packs of small arrays, which name their objects."""
PARENT_ATTRS = ("parent", "parent_digest", "parent_fingerprint", "parent_subjects")
"""Attributes of the root of a subset: the store that it was taken from."""
_BUILD_ATTRS: Mapping[str, type] = {
    "order": str,
    "appended": int,
    "fingerprint": str,
    RECEIPTS_ATTR: str,
    "notes": list,
}
"""Attributes that a build continues with, besides the layout, and their types."""
OBJECT_ID_ATTRS = {"long_name": "MaNGA id, by the published data model's name for it"}


def check_schema_version(url: str, attrs: Mapping[str, Any]) -> None:
    """Refuse a store with another version of the schema.

    Raises
    ------
    StoreError
        Names both versions.
    """
    version = attrs.get("schema_version")
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{url} has version {shorten(version)} of the schema, and this gz3d-zarr needs version "
            f"{SCHEMA_VERSION}: build the store anew with --overwrite"
        )


def check_root_attrs(url: str, attrs: Mapping[str, Any]) -> None:
    """Refuse attributes of a root that no build of this version has written.

    Raises
    ------
    StoreError
        The store has another version, or an attribute that a build continues with is wrong.
    """
    check_schema_version(url, attrs)
    read_layout(attrs)
    wrong = [name for name, kind in _BUILD_ATTRS.items() if type(attrs.get(name)) is not kind]
    if wrong:
        raise StoreError(
            f"the attribute {wrong[0]} of {url} is missing or wrong: it was modified; build it "
            "anew with --overwrite"
        )


@dataclass(frozen=True)
class Parent:
    """The store that a subset was taken from.

    Attributes
    ----------
    store : str
        Its path or URL, without secrets.
    digest : str
        SHA-256 of its root ``zarr.json``.
    fingerprint : str
        Of the plan that it was built with.
    subjects : int
        How many it had.
    """

    store: str
    digest: str
    fingerprint: str
    subjects: int


@dataclass(frozen=True)
class Provenance:
    """How a store was built, for the attributes of its root group."""

    source: str
    catalogue: str
    release: str
    package_version: str
    manifest_digest: str
    fingerprint: str
    created: str
    order: str
    ok: int
    failed: int
    notes: tuple[str, ...] = ()
    receipts_sha256: str = ""
    appended: int = 0
    generation: str = ""
    parent: Parent | None = None


def dataset_attrs(source: str, catalogue: str | None, release: str) -> dict[str, Any]:
    """Attributes that every Dataset has, from a store or from the files."""
    return {
        "title": "Galaxy Zoo: 3D",
        "summary": "Images of MaNGA target galaxies, with counts of the volunteers who marked "
        "centers, foreground stars, spiral arms and bars",
        "Conventions": "CF-1.11",
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "source": source,
        "source_catalogue": catalogue or "",
        "release": release,
        "license": "SDSS public data, in the public domain; cite the references",
        "references": "Masters et al. 2021, MNRAS 507, 3923, doi:10.1093/mnras/stab2282",
    }


def root_attrs(layout: Layout, provenance: Provenance) -> dict[str, Any]:
    """Attributes of the root group of a complete store."""
    coordinates = [name for name, variable in VARIABLES.items() if variable.is_coordinate]
    return {
        GENERATION_ATTR: provenance.generation,  # first, so that a reader finds it in a few bytes
        **dataset_attrs(provenance.source, provenance.catalogue, provenance.release),
        "package": "gz3d_zarr",
        "package_version": provenance.package_version,
        "created": provenance.created,
        "shard_size": layout.shard_size,
        "codec": layout.codec,
        "order": provenance.order,
        "appended": provenance.appended,
        "nside": layout.nside,
        "samples": list(layout.samples),
        "manifest_digest": provenance.manifest_digest,
        "fingerprint": provenance.fingerprint,
        RECEIPTS_ATTR: provenance.receipts_sha256,
        **dict.fromkeys((SMALL_ARRAYS_ATTR, GROUP_ARRAYS_ATTR), ""),  # known once they are encoded
        **_parent_attrs(provenance.parent),
        "subjects": layout.subjects,
        "subjects_ok": provenance.ok,
        "subjects_failed": provenance.failed,
        "notes": list(provenance.notes),
        "complete": 1,  # netCDF has no booleans
        "coordinates": " ".join(coordinates),  # for xarray, which removes this when it opens
    }


def _parent_attrs(parent: Parent | None) -> dict[str, Any]:
    if parent is None:
        return {}
    values = (parent.store, parent.digest, parent.fingerprint, parent.subjects)
    return dict(zip(PARENT_ATTRS, values, strict=True))


def read_parent(attrs: Mapping[str, Any]) -> Parent | None:
    """The store that a subset was taken from, from the attributes of its root; None if none is."""
    values = [attrs.get(name) for name in PARENT_ATTRS]
    kinds = (str, str, str, int)
    if any(type(value) is not kind for value, kind in zip(values, kinds, strict=True)):
        return None
    return Parent(*values)  # type: ignore[arg-type]


def index_labels(entries: Sequence[Entry]) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Labels and attributes of each index coordinate, by dimension."""
    manga_ids = [entry.file.manga_id for entry in entries]
    return {
        "subject": (manga_ids, {"long_name": "MaNGA id, not unique"}),
        **{name: (list(labels), {}) for name, labels in LABELS.items()},
    }
