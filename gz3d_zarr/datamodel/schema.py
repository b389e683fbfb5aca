"""Variables, dimensions and attributes of a store.

The names ``total_classifications, healpix, ra, dec, image, scale, segmentation, class,
vote_fraction`` and the flags -1.0 and -0.5 in ``vote_fraction`` are those of the published data
model of the dataset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.healpix import healpix_pixels
from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.manifest import Entry
from gz3d_zarr.datamodel.receipts import SubjectOutcome
from gz3d_zarr.datamodel.subject import CHANNELS, CLASSES, SIDE, SubjectMetadata
from gz3d_zarr.datamodel.wcs import WCS_ATTRS
from gz3d_zarr.errors import Status, StoreError

SCHEMA = "gz3d"
SCHEMA_VERSION = 2
RECEIPTS_ATTR = "receipts_sha256"
"""Attribute of the root: digest of the receipts, by which their object is named."""
NO_VOTE = -1.0
"""Vote fraction of a class without votes."""
NO_CLASSIFICATION = -0.5
"""Vote fraction of a subject without classifications."""


@dataclass(frozen=True, slots=True)
class BigArray:
    """A sharded array with one inner chunk per subject."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    attrs: Mapping[str, Any]

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """uint8 for all."""
        return np.dtype("uint8")


@dataclass(frozen=True, slots=True)
class Variable:
    """An array with one value per subject, or one per subject and class."""

    dtype: str
    attrs: Mapping[str, Any]
    values: Callable[[Sequence[SubjectRecord], Layout], Any]
    is_coordinate: bool = False
    dims: tuple[str, ...] = ("subject",)
    needs_file: bool = True


@dataclass(frozen=True, slots=True)
class SubjectRecord:
    """One subject to be stored: its entry in the manifest and the outcome of reading it."""

    entry: Entry
    outcome: SubjectOutcome

    @property
    def metadata(self) -> SubjectMetadata | None:
        """Metadata in the file; if it cannot be read, in the catalogue; otherwise None."""
        if self.outcome.metadata is not None:
            return self.outcome.metadata
        return self.entry.row.metadata if self.entry.row is not None else None


BIG_ARRAYS: Mapping[str, BigArray] = {
    "image": BigArray(
        ("subject", "y", "x", "channel"),
        (SIDE, SIDE, 3),
        {
            "long_name": "gri image that the volunteers saw, with the outline of the bundle",
            "comment": "row 0 is at the top: north is up, east is left",
            **WCS_ATTRS,
        },
    ),
    "segmentation": BigArray(
        ("subject", "class", "y", "x"),
        (len(CLASSES), SIDE, SIDE),
        {
            "long_name": "how many volunteers marked each pixel",
            "comment": "center and star: marks in the cluster, as 2-sigma ellipses; spiral and "
            "bar: polygons that enclose the pixel. Counts above 15 occur",
            "units": "1",
            **WCS_ATTRS,
        },
    ),
}


def _zooniverse_subject_id(rows: Sequence[SubjectRecord], _: Layout) -> list[int]:
    return [row.entry.file.zooniverse_subject_id for row in rows]


def _field(name: str, fill: float) -> Callable[[Sequence[SubjectRecord], Layout], Any]:
    """Values of one metadata field, `fill` where neither the file nor the catalogue has it."""
    return lambda rows, _: [
        fill if row.metadata is None else getattr(row.metadata, name) for row in rows
    ]


def _healpix(rows: Sequence[SubjectRecord], layout: Layout) -> NDArray[np.int64]:
    return healpix_pixels(
        _field("ra", math.nan)(rows, layout),
        _field("dec", math.nan)(rows, layout),
        layout.nside,
    )


def _vote_fraction(rows: Sequence[SubjectRecord], _: Layout) -> list[tuple[float, ...]]:
    fractions: list[tuple[float, ...]] = []
    for row in rows:
        m = row.metadata
        if m is None:
            spiral = bar = math.nan
        elif m.total_classifications == 0:
            spiral = bar = NO_CLASSIFICATION
        else:
            spiral, bar = _share(m, m.spiral_votes), _share(m, m.bar_votes)
        fractions.append((NO_VOTE, NO_VOTE, spiral, bar))
    return fractions


def _share(metadata: SubjectMetadata, votes: int) -> float:
    """Votes over classifications; NaN if the catalogue lacks one of them (-1)."""
    known = metadata.total_classifications > 0 and votes >= 0
    return votes / metadata.total_classifications if known else math.nan


def _ifu_design_size(rows: Sequence[SubjectRecord], _: Layout) -> list[int]:
    return [
        m.ifu_design_size
        if (m := row.metadata) and m.ifu_design_size >= 0
        else row.entry.file.ifu_design_size
        for row in rows
    ]


def _sample(rows: Sequence[SubjectRecord], layout: Layout) -> list[int]:
    flags = {name: i for i, name in enumerate(layout.samples, 2)}
    return [flags.get(m.sample, 1) if (m := row.metadata) and m.sample else 0 for row in rows]


def _observed(rows: Sequence[SubjectRecord], _: Layout) -> list[bool]:
    return [row.entry.row is not None and row.entry.row.observed for row in rows]


VARIABLES: Mapping[str, Variable] = {
    "zooniverse_subject_id": Variable(
        "int64",
        {"long_name": "Zooniverse subject id, unique"},
        _zooniverse_subject_id,
        is_coordinate=True,
        needs_file=False,
    ),
    "ra": Variable(
        "float64",
        {"long_name": "right ascension, ICRS", "units": "deg"},
        _field("ra", math.nan),
        is_coordinate=True,
    ),
    "dec": Variable(
        "float64",
        {"long_name": "declination, ICRS", "units": "deg"},
        _field("dec", math.nan),
        is_coordinate=True,
    ),
    "healpix": Variable(
        "int64",
        {"long_name": "HEALPix pixel of the position, -1 where unknown", "ordering": "nested"},
        _healpix,
        is_coordinate=True,
    ),
    "scale": Variable(
        "float64",
        {"long_name": "scale of image and masks", "units": "deg", "comment": "degrees per pixel"},
        _field("scale", math.nan),
        is_coordinate=True,
    ),
    "vote_fraction": Variable(
        "float32",
        {
            "long_name": "fraction of classifications that saw this structure",
            "comment": "-1.0: class without votes; -0.5: no classifications; NaN: unknown",
        },
        _vote_fraction,
        dims=("subject", "class"),
    ),
    "total_classifications": Variable(
        "int32",
        {"long_name": "Galaxy Zoo classifications, -1 where unknown"},
        _field("total_classifications", -1),
    ),
    "spiral_votes": Variable(
        "int32",
        {"long_name": "votes for spiral arms, -1 where unknown"},
        _field("spiral_votes", -1),
    ),
    "bar_votes": Variable(
        "int32", {"long_name": "votes for a bar, -1 where unknown"}, _field("bar_votes", -1)
    ),
    "ifu_design_size": Variable(
        "int16", {"long_name": "fibers in the MaNGA bundle"}, _ifu_design_size
    ),
    "manga_tile_id": Variable(
        "int32", {"long_name": "MaNGA tile, -1 where unknown"}, _field("manga_tile_id", -1)
    ),
    "nsa_id": Variable(
        "int64", {"long_name": "NASA-Sloan Atlas id, -1 where unknown"}, _field("nsa_id", -1)
    ),
    "sample": Variable("int16", {"long_name": "target sample"}, _sample),
    "number_galaxy_centers": Variable(
        "int32",
        {"long_name": "clusters of center marks, -1 where unknown"},
        _field("number_galaxy_centers", -1),
    ),
    "number_foreground_stars": Variable(
        "int32",
        {"long_name": "clusters of star marks, -1 where unknown"},
        _field("number_foreground_stars", -1),
    ),
    "observed": Variable(
        "bool",
        {
            "long_name": "observed by MaNGA",
            "comment": "from the catalogue; also false if it has no row for the subject",
        },
        _observed,
        needs_file=False,
    ),
    "status": Variable(
        "uint8",
        {
            "long_name": "outcome of reading the subject file",
            "flag_values": [int(status) for status in Status],
            "flag_meanings": " ".join(status.label for status in Status),
            "comment": "if not ok, image and segmentation are 0 and other values come from the "
            "file name and the catalogue; the group catalogue has the reasons",
        },
        lambda rows, _: [int(row.outcome.status) for row in rows],
    ),
}
OBJECT_ID_ATTRS = {"long_name": "MaNGA id, by the published data model's name for it"}
LABELS: Mapping[str, tuple[str, ...]] = {"class": CLASSES, "channel": CHANNELS}
CATALOGUE_TEXT: Mapping[str, tuple[str, Callable[[SubjectRecord], str]]] = {
    "file_name": ("name of the subject file", lambda row: row.entry.file.name),
    "source_sha1": ("sha1 of the file as read", lambda row: row.outcome.sha1),
    "manga_id": ("MANGAID as HDU 5 has it", lambda row: _text(row, "manga_id")),
    "iauname": ("IAUNAME", lambda row: _text(row, "iauname")),
    "explorer_link": ("link to the SDSS explorer", lambda row: _text(row, "explorer_link")),
    "sample_name": ("name of the target sample", lambda row: _text(row, "sample")),
    "reason": ("why the status is not ok", lambda row: row.outcome.reason),
}
"""Text columns of the group ``catalogue``; empty where neither file nor catalogue has a value."""


def _text(row: SubjectRecord, name: str) -> str:
    return "" if row.metadata is None else str(getattr(row.metadata, name))


def variable_values(name: str, rows: Sequence[SubjectRecord], layout: Layout) -> NDArray[Any]:
    """Values of one of `VARIABLES` for some subjects, in the store's dtype.

    Raises
    ------
    OverflowError
        A value does not fit the dtype.
    """
    variable = VARIABLES[name]
    return np.array(variable.values(rows, layout), variable.dtype)


def variable_attrs(name: str, layout: Layout) -> dict[str, Any]:
    """Attributes of one of `VARIABLES`; some depend on the layout."""
    attrs = dict(VARIABLES[name].attrs)
    if name == "healpix":
        attrs["nside"] = layout.nside
    if name == "sample":
        names = ("unknown", "other", *layout.samples)
        attrs["flag_values"] = list(range(len(names)))
        attrs["flag_meanings"] = " ".join("_".join(label.split()) for label in names)
    return attrs


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
            f"{url} has version {version} of the schema, and this gz3d-zarr needs version "
            f"{SCHEMA_VERSION}: build the store anew with --overwrite"
        )


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
        **dataset_attrs(provenance.source, provenance.catalogue, provenance.release),
        "package": "gz3d_zarr",
        "package_version": provenance.package_version,
        "created": provenance.created,
        "shard_size": layout.shard_size,
        "codec": layout.codec,
        "order": provenance.order,
        "nside": layout.nside,
        "samples": list(layout.samples),
        "manifest_digest": provenance.manifest_digest,
        "fingerprint": provenance.fingerprint,
        RECEIPTS_ATTR: provenance.receipts_sha256,
        "subjects": layout.subjects,
        "subjects_ok": provenance.ok,
        "subjects_failed": provenance.failed,
        "notes": list(provenance.notes),
        "complete": True,
        "coordinates": " ".join(coordinates),  # for xarray, which removes this when it opens
    }


def index_labels(entries: Sequence[Entry]) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Labels and attributes of each index coordinate, by dimension."""
    manga_ids = [entry.file.manga_id for entry in entries]
    return {
        "subject": (manga_ids, {"long_name": "MaNGA id, not unique"}),
        **{name: (list(labels), {}) for name, labels in LABELS.items()},
    }
