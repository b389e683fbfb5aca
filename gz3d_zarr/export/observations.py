"""Which bundles of fibers observed the subjects of a store: a survey table such as DRPall."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from gz3d_zarr.analysis.sky_targets import Grid
from gz3d_zarr.analysis.spaxels import grid_side, spaxel_wcs
from gz3d_zarr.analysis.survey_table import match_subjects
from gz3d_zarr.analysis.table_columns import find_column, list_names, read_columns
from gz3d_zarr.errors import UsageError, quote, shorten
from gz3d_zarr.export.subset import Selection

_PLATE_IFU = re.compile(r"\d+-(\d+)\d\d")
"""Plate, then number of fibers and number of the bundle: 8623-12701."""


@dataclass(frozen=True)
class Bundle:
    """An observation of a galaxy.

    Attributes
    ----------
    plate_ifu : str
    ra, dec : float
        Position of the bundle in degrees, ICRS.
    side : int
        Spaxels along each side of its maps.
    """

    plate_ifu: str
    ra: float
    dec: float
    side: int

    @property
    def file_name(self) -> str:
        """Name of the file with its spaxels."""
        return f"manga-{self.plate_ifu}-gz3d.fits.gz"


@dataclass(frozen=True)
class Observations:
    """The bundles of a survey table, by the galaxy that they observed.

    Attributes
    ----------
    bundles : mapping of int to list of Bundle
        By the position of the subject in a selection.
    unmatched, repeated, ambiguous : int
        As in `SpaxelReport`.
    """

    bundles: Mapping[int, Sequence[Bundle]]
    unmatched: int
    repeated: int
    ambiguous: int


def find_observations(selection: Selection, table: Any) -> Observations:
    """Find the bundles of the subjects of a selection in a survey table.

    Parameters
    ----------
    selection : Selection
    table : astropy.table.Table, pandas.DataFrame, numpy records or xarray.Dataset
        With columns ``mangaid``, ``plateifu``, ``ifura`` and ``ifudec``, in any case.

    Raises
    ------
    UsageError
        As for `export_spaxels`.
    """
    columns, _ = read_columns(table)
    found = {name: find_column(columns, name) for name in ("plateifu", "ifura", "ifudec")}
    missing = [name for name, column in found.items() if column is None]
    if missing:
        word = "column" if len(missing) == 1 else "columns"
        raise UsageError(
            f"the table has no {word} {', '.join(missing)} (in any case), which the grids of "
            f"MaNGA's maps need; it has {list_names(columns)}"
        )
    names, ra, dec = (columns[str(column)].filled() for column in found.values())
    values = selection.table
    subjects = xr.Dataset(
        coords={name: ("subject", values[name]) for name in ("subject", "zooniverse_subject_id")}
    )
    matches = match_subjects(subjects, table)
    candidates: dict[int, list[int]] = {}
    for row, position in zip(
        matches.table_rows.tolist(), matches.subject_rows.tolist(), strict=True
    ):
        candidates.setdefault(row, []).append(position)
    bundles: dict[int, list[Bundle]] = {}
    seen: set[str] = set()
    repeated = ambiguous = 0
    for row, positions in candidates.items():
        plate_ifu, fibers = _parse(names[row], row)
        if plate_ifu in seen:
            repeated += 1
            continue
        seen.add(plate_ifu)
        ambiguous += len(positions) > 1
        bundle = Bundle(plate_ifu, *_position(ra[row], dec[row], plate_ifu), grid_side(fibers))
        position = _choose(selection, positions, bundle, fibers)
        bundles.setdefault(position, []).append(bundle)
    return Observations(bundles, len(matches.unmatched), repeated, ambiguous)


def _choose(selection: Selection, positions: Sequence[int], bundle: Bundle, fibers: int) -> int:
    """Which of the subjects with the same MaNGA id a bundle observed."""
    values = selection.table
    grid = Grid(
        spaxel_wcs(bundle.ra, bundle.dec, bundle.side),
        f"the row {bundle.plate_ifu} of the table",
        is_manga=True,
    )
    sky = {p: (float(values["ra"][p]), float(values["dec"][p])) for p in positions}
    near = [p for p in positions if grid.has_position(*sky[p])]
    if not near:
        first = positions[0]
        name = f"{values['subject'][first]} ({values['zooniverse_subject_id'][first]})"
        grid.require_position(*sky[first], name)
    same = [p for p in near if values["ifu_design_size"][p] == fibers]
    return (same or near)[0]


def _parse(value: Any, row: int) -> tuple[str, int]:
    """A plate-IFU and the number of fibers in its bundle."""
    text = str(value).strip()
    match = _PLATE_IFU.fullmatch(text)
    if match is None:
        raise UsageError(
            f"plateifu in row {row} of the table is {quote(text)}, expected plate and IFU such as "
            "8623-12701"
        )
    return text, int(match[1])


def _position(ra: Any, dec: Any, plate_ifu: str) -> tuple[float, float]:
    try:
        position = float(ra), float(dec)
    except (TypeError, ValueError):
        position = np.nan, np.nan
    if not (0 <= position[0] <= 360 and -90 <= position[1] <= 90):
        raise UsageError(
            f"ifura, ifudec in the row {plate_ifu} of the table are {shorten(ra)}, {shorten(dec)}, "
            "expected a position in degrees"
        )
    return position
