"""Match subjects with the rows of another catalogue by position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.indexing import compute_variables, with_subject_dim
from gz3d_zarr.analysis.selection import arcseconds, separation, sky_degrees
from gz3d_zarr.analysis.survey_table import read_survey_table
from gz3d_zarr.analysis.table_columns import Column, find_column, list_names, read_columns
from gz3d_zarr.analysis.table_join import attach_rows, check_options, choose_repeats
from gz3d_zarr.analysis.validation import validate_dataset
from gz3d_zarr.errors import UsageError

SEPARATION = "separation"
POSITIONS = (("ra", "dec"), ("objra", "objdec"), ("ifura", "ifudec"))
"""Columns with positions that are found by themselves; those of MaNGA's DRPall among them."""
_DEC_MARGIN = 1e-9
"""Degrees added to the radius of a strip in declination, because of rounding."""


def crossmatch(
    dataset: xr.Dataset,
    table: Any,
    radius: Any,
    *,
    ra: str | None,
    dec: str | None,
    repeats: str,
    prefix: str,
) -> xr.Dataset:
    """Subjects with the rows of a table that are near, as `GZ3DAccessor.crossmatch` documents."""
    check_options(repeats, prefix)
    validate_dataset(dataset, "ra", "dec")
    dataset = with_subject_dim(dataset)
    limit = arcseconds(radius)
    if isinstance(table, str | Path):
        table = read_survey_table(table)
    columns, left_out = _columns(table)
    table_ra, table_dec = _positions(table, columns, ra, dec)
    subject_ra, subject_dec = compute_variables(dataset, "ra", "dec")
    subjects, rows, distances = _find_pairs(subject_ra, subject_dec, table_ra, table_dec, limit)
    if not len(rows):
        raise UsageError(
            f"none of the {len(table_ra)} rows of the table is within {limit:g} arcsec of a subject"
        )
    if repeats != "all":
        first = np.unique(subjects, return_index=True)[1]
        subjects, rows = choose_repeats(dataset, subjects, rows, repeats)
        distances = distances[first]
    attrs = {"long_name": "angle to the row of the table", "units": "arcsec"}
    more = {SEPARATION: ("subject", distances, attrs)}
    return attach_rows(dataset, subjects, rows, columns, left_out, prefix=prefix, more=more)


def _find_pairs(
    ra: NDArray[Any], dec: NDArray[Any], table_ra: Any, table_dec: Any, limit: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Positions and rows of the table within `limit` arcsec, and their distances.

    They are sorted by position, then by distance. The table is sorted by declination, so that each
    position is compared only with the rows in a strip of declination.
    """
    usable = np.flatnonzero(np.isfinite(table_ra) & np.isfinite(table_dec))
    order = usable[np.argsort(table_dec[usable], kind="stable")]
    sorted_ra, sorted_dec = table_ra[order], table_dec[order]
    margin = limit / 3600 + _DEC_MARGIN
    first = np.searchsorted(sorted_dec, dec - margin, "left")
    last = np.searchsorted(sorted_dec, dec + margin, "right")
    subjects, rows, distances = [], [], []
    for i in np.flatnonzero((last > first) & np.isfinite(ra) & np.isfinite(dec)):
        strip = slice(first[i], last[i])
        distance = separation(ra[i], dec[i], sorted_ra[strip], sorted_dec[strip])
        near = np.flatnonzero(distance <= limit)
        near = near[np.lexsort((order[strip][near], distance[near]))]
        subjects.append(np.full(len(near), i, np.int64))
        rows.append(order[strip][near])
        distances.append(distance[near])
    none = np.empty(0, np.int64)
    return (
        np.concatenate([none, *subjects]),
        np.concatenate([none, *rows]),
        np.concatenate([np.empty(0), *distances]),
    )


def _columns(table: Any) -> tuple[dict[str, Column], dict[str, str]]:
    """Columns of a table, and the types of those that cannot be joined, by name.

    Positions that are a SkyCoord, or a SkyCoord column, are in neither.
    """
    if hasattr(table, "icrs"):
        return {}, {}
    columns, left_out = read_columns(table)
    if hasattr(table, "colnames"):
        left_out.pop(_sky_column(table) or "", None)
    return columns, left_out


def _sky_column(table: Any) -> str | None:
    """Name of the SkyCoord column of an astropy table, if it has exactly one."""
    names = [name for name in table.colnames if hasattr(table[name], "icrs")]
    return names[0] if len(names) == 1 else None


def _positions(
    table: Any, columns: dict[str, Column], ra: str | None, dec: str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions of the rows in degrees, ICRS, from a SkyCoord or two columns."""
    coordinate = table if hasattr(table, "icrs") else None
    if hasattr(table, "colnames"):
        sky_column = _sky_column(table)
        coordinate = None if sky_column is None else table[sky_column]
    if coordinate is not None:
        found = sky_degrees(coordinate)
    else:
        names = _position_names(columns, ra, dec)
        found = _degrees(columns, names[0]), _degrees(columns, names[1])
    table_ra, table_dec = (
        np.atleast_1d(np.ma.filled(np.ma.masked_array(degrees, dtype=float), np.nan))
        for degrees in found
    )
    return table_ra, table_dec


def _position_names(columns: dict[str, Column], ra: str | None, dec: str | None) -> tuple[str, str]:
    """Names of the two columns: as given, or the first of `POSITIONS` that the table has."""
    wanted = POSITIONS if ra is None and dec is None else ((ra or "ra", dec or "dec"),)
    for names in wanted:
        found = [find_column(columns, name) for name in names]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    raise UsageError(
        f"the table has no columns {' nor '.join(' and '.join(names) for names in wanted)}; name "
        f"those with the position by ra=... and dec=...; it has {list_names(columns)}"
    )


def _degrees(columns: dict[str, Column], name: str) -> NDArray[np.float64]:
    """A column in degrees."""
    values, attrs = columns[name].filled(), columns[name].attrs
    if values.dtype.kind not in "iuf" or values.ndim != 1:
        raise UsageError(f"column {name} of the table is {values.dtype}, expected degrees")
    unit = attrs.get("units", "deg").lower()
    if unit in ("deg", "degree", "degrees"):
        return values.astype(float)
    from astropy import units  # slow to import

    try:
        degrees: NDArray[np.float64] = units.Quantity(values, unit).to_value("deg")
    except (ValueError, TypeError) as error:
        raise UsageError(f"column {name} of the table is in {unit}, not an angle") from error
    return degrees
