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

from gz3d_zarr.datamodel.annotations import marks_to_json
from gz3d_zarr.datamodel.healpix import healpix_pixels
from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.manifest import Entry
from gz3d_zarr.datamodel.receipts import SubjectOutcome
from gz3d_zarr.datamodel.subject import (
    CHANNELS,
    CLASSES,
    SIDE,
    UNKNOWN_BY_CLASS,
    Subject,
    SubjectMetadata,
)
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
UNKNOWN = -1
"""Integer where neither the file nor the catalogue has a value."""
MASK_CHUNK = 8
"""Masks are 1 to 3 KB per subject: several in a chunk make fewer requests and fewer dask tasks."""
THUMBNAIL_SIDE = 75


@dataclass(frozen=True, slots=True)
class BigArray:
    """An array whose shards are written by the tasks of the build.

    Attributes
    ----------
    dims : tuple of str
    shape : tuple of int
        Of one subject.
    attrs : mapping
    max_chunk : int
        Most subjects in an inner chunk; a text array has none, its chunks are whole shards.
    is_text : bool
        Whether it holds a text per subject rather than uint8.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    attrs: Mapping[str, Any]
    max_chunk: int = 1
    is_text: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """In memory: uint8, or NumPy's variable-width string type."""
        return np.dtypes.StringDType() if self.is_text else np.dtype("uint8")

    def chunk_size(self, shard_size: int) -> int:
        """Subjects per inner chunk: the largest divisor of the shard size that is allowed."""
        if self.is_text:
            return shard_size
        return next(n for n in range(min(self.max_chunk, shard_size), 0, -1) if not shard_size % n)


@dataclass(frozen=True, slots=True)
class Variable:
    """An array with one value per subject, or one per subject and class."""

    dtype: str
    attrs: Mapping[str, Any]
    values: Callable[[Sequence[SubjectRecord], Layout], Any]
    is_coordinate: bool = False
    dims: tuple[str, ...] = ("subject",)
    needs_file: bool = True
    sentinels: tuple[float, ...] = ()
    """Values that are flags, not data: NaN in masked Datasets."""


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
        max_chunk=MASK_CHUNK,
    ),
}
"""Arrays of the root group with pixels."""
CATALOGUE_GROUP, CLUSTERS_GROUP = "catalogue", "clusters"
THUMBNAIL, MARKS = "thumbnail/image", "marks/annotations"
GROUPS = (CATALOGUE_GROUP, CLUSTERS_GROUP, "marks", "thumbnail")
SHARD_ARRAYS: Mapping[str, BigArray] = {
    **BIG_ARRAYS,
    THUMBNAIL: BigArray(
        ("subject", "y_thumbnail", "x_thumbnail", "channel"),
        (THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3),
        {
            "long_name": "image reduced to 75 x 75 pixels",
            "comment": "each pixel is the mean of a block of 7 x 7 pixels, rounded; row 0 is at "
            "the top",
        },
    ),
    MARKS: BigArray(
        ("subject",),
        (),
        {
            "long_name": "raw marks of every volunteer, HDUs 8 to 10 of the subject file",
            "comment": "JSON: for center_star, spiral and bar the columns of the HDU, one value "
            "per volunteer who was asked; columns of marks hold the JSON text of the file. "
            "Points are x, y in pixels of the image. Empty where the status is not ok",
        },
        is_text=True,
    ),
}
"""All arrays that the task of a shard writes, one object per shard each."""


def subject_arrays(subject: Subject) -> dict[str, Any]:
    """Value of each of `SHARD_ARRAYS` for one subject."""
    return {
        "image": subject.image,
        "segmentation": subject.segmentation,
        THUMBNAIL: make_thumbnail(subject.image),
        MARKS: marks_to_json(subject.annotations.tables),
    }


def make_thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of blocks of 7 x 7 pixels, rounded half up.

    Parameters
    ----------
    image : ndarray of uint8, shape (525, 525, 3)

    Returns
    -------
    ndarray of uint8, shape (75, 75, 3)
    """
    block = SIDE // THUMBNAIL_SIDE
    rows = image.reshape(THUMBNAIL_SIDE, block, SIDE * 3).sum(axis=1, dtype=np.uint16)
    sums = rows.reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE, block, 3).sum(axis=2, dtype=np.uint16)
    means: NDArray[np.uint8] = ((sums.astype(np.uint32) * 2 + block**2) // (2 * block**2)).astype(
        np.uint8
    )
    return means


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


def _observed(rows: Sequence[SubjectRecord], _: Layout) -> list[int]:
    return [UNKNOWN if row.entry.row is None else int(row.entry.row.observed) for row in rows]


def _saturated(rows: Sequence[SubjectRecord], _: Layout) -> list[bool]:
    return [row.metadata is not None and row.metadata.saturated_pixels > 0 for row in rows]


def _by_class(name: str) -> Callable[[Sequence[SubjectRecord], Layout], Any]:
    """Values by class of one metadata field, which only files have."""
    return lambda rows, _: [
        UNKNOWN_BY_CLASS if row.outcome.metadata is None else getattr(row.outcome.metadata, name)
        for row in rows
    ]


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
        sentinels=(UNKNOWN,),
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
            "flag_values": [NO_VOTE, NO_CLASSIFICATION],
            "flag_meanings": "class_without_votes no_classifications",
            "comment": "-1.0: class without votes; -0.5: no classifications; NaN: unknown",
        },
        _vote_fraction,
        dims=("subject", "class"),
        sentinels=(NO_VOTE, NO_CLASSIFICATION),
    ),
    "total_classifications": Variable(
        "int32",
        {"long_name": "Galaxy Zoo classifications, -1 where unknown"},
        _field("total_classifications", UNKNOWN),
        sentinels=(UNKNOWN,),
    ),
    "spiral_votes": Variable(
        "int32",
        {"long_name": "votes for spiral arms, -1 where unknown"},
        _field("spiral_votes", UNKNOWN),
        sentinels=(UNKNOWN,),
    ),
    "bar_votes": Variable(
        "int32",
        {"long_name": "votes for a bar, -1 where unknown"},
        _field("bar_votes", UNKNOWN),
        sentinels=(UNKNOWN,),
    ),
    "ifu_design_size": Variable(
        "int16",
        {"long_name": "fibers in the MaNGA bundle"},
        _ifu_design_size,
        is_coordinate=True,
    ),
    "classifications": Variable(
        "int16",
        {
            "long_name": "volunteers who were asked about a class, -1 where unknown",
            "comment": "rows of HDU 8 for center and star, 9 for spiral, 10 for bar; 0: nobody "
            "was asked, so that an empty mask says nothing",
        },
        _by_class("classifications"),
        dims=("subject", "class"),
        sentinels=(UNKNOWN,),
    ),
    "classifications_drawn": Variable(
        "int16",
        {"long_name": "volunteers who marked anything of a class, -1 where unknown"},
        _by_class("classifications_drawn"),
        dims=("subject", "class"),
        sentinels=(UNKNOWN,),
    ),
    "max_count": Variable(
        "int16",
        {"long_name": "largest count in the mask of a class, -1 where unknown"},
        _by_class("max_count"),
        dims=("subject", "class"),
        sentinels=(UNKNOWN,),
    ),
    "marked_pixels": Variable(
        "int32",
        {"long_name": "pixels of a class with counts above 0, -1 where unknown"},
        _by_class("marked_pixels"),
        dims=("subject", "class"),
        sentinels=(UNKNOWN,),
    ),
    "marked_pixels_above_3": Variable(
        "int32",
        {"long_name": "pixels of a class with counts above 3, -1 where unknown"},
        _by_class("marked_pixels_above_3"),
        dims=("subject", "class"),
        sentinels=(UNKNOWN,),
    ),
    "manga_tile_id": Variable(
        "int32",
        {"long_name": "MaNGA tile, -1 where unknown"},
        _field("manga_tile_id", UNKNOWN),
        sentinels=(UNKNOWN,),
    ),
    "nsa_id": Variable(
        "int64",
        {"long_name": "NASA-Sloan Atlas id, -1 where unknown"},
        _field("nsa_id", UNKNOWN),
        sentinels=(UNKNOWN,),
    ),
    "sample": Variable("int16", {"long_name": "target sample"}, _sample),
    "number_galaxy_centers": Variable(
        "int32",
        {"long_name": "clusters of center marks, -1 where unknown"},
        _field("number_galaxy_centers", UNKNOWN),
        sentinels=(UNKNOWN,),
    ),
    "number_foreground_stars": Variable(
        "int32",
        {"long_name": "clusters of star marks, -1 where unknown"},
        _field("number_foreground_stars", UNKNOWN),
        sentinels=(UNKNOWN,),
    ),
    "observed": Variable(
        "int8",
        {
            "long_name": "observed by MaNGA, from the catalogue",
            "flag_values": [0, 1, UNKNOWN],
            "flag_meanings": "no yes unknown",
        },
        _observed,
        needs_file=False,
        sentinels=(UNKNOWN,),
    ),
    "saturated": Variable(
        "uint8",
        {
            "long_name": "whether a count of the file exceeds 255, and is 255 in segmentation",
            "flag_values": [0, 1],
            "flag_meanings": "no yes",
        },
        _saturated,
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
        is_coordinate=True,
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
