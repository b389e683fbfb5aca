"""Variables with one value per subject, or one per subject and class.

The names ``total_classifications, healpix, ra, dec, scale, class, vote_fraction`` and the
flags -1.0 and -0.5 in ``vote_fraction`` are those of the published data model of the dataset.
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
from gz3d_zarr.datamodel.manifest import CatalogueRow, Entry
from gz3d_zarr.datamodel.receipts import SubjectOutcome
from gz3d_zarr.datamodel.sample_flags import sample_attrs, sample_mask
from gz3d_zarr.datamodel.subject import (
    CHANNELS,
    CLASSES,
    UNKNOWN_BY_CLASS,
    SubjectMetadata,
)
from gz3d_zarr.errors import Status

NO_VOTE = -1.0
"""Vote fraction of a class without votes."""
NO_CLASSIFICATION = -0.5
"""Vote fraction of a subject without classifications."""
UNKNOWN = -1
"""Integer where neither the file nor the catalogue has a value."""


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
    return [sample_mask(m.sample, layout.samples) if (m := row.metadata) else 0 for row in rows]


def _observed(rows: Sequence[SubjectRecord], _: Layout) -> list[int]:
    return [observed_flag(row.entry.row) for row in rows]


def observed_flag(row: CatalogueRow | None) -> int:
    """Flag of ``observed``: 0, 1, or -1 where the catalogue does not say it."""
    return UNKNOWN if row is None or row.observed is None else int(row.observed)


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
    "sample": Variable("int32", {"long_name": "target samples, 0 where none is known"}, _sample),
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
LABELS: Mapping[str, tuple[str, ...]] = {"class": CLASSES, "channel": CHANNELS}
CATALOGUE_TEXT: Mapping[str, tuple[str, Callable[[SubjectRecord], str]]] = {
    "file_name": ("name of the subject file", lambda row: row.entry.file.name),
    "source_sha1": ("sha1 of the file as read", lambda row: row.outcome.sha1),
    "manga_id": ("MANGAID as HDU 5 has it", lambda row: _text(row, "manga_id")),
    "iauname": ("IAUNAME", lambda row: _text(row, "iauname")),
    "explorer_link": ("link to the SDSS explorer", lambda row: _text(row, "explorer_link")),
    "sample_name": (
        "target samples, joined by commas",
        lambda row: _text(row, "sample"),
    ),
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
        attrs |= sample_attrs(layout.samples)
    return attrs
