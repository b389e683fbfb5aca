"""Match subjects with the rows of another catalogue by position."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.indexing import compute_variables, isel_subjects, with_subject_dim
from gz3d_zarr.analysis.selection import arcseconds, separation, sky_degrees
from gz3d_zarr.analysis.table_columns import Column, find_column, list_names, read_columns
from gz3d_zarr.analysis.validation import validate_dataset
from gz3d_zarr.errors import LeftOutWarning, UsageError, plural

SEPARATION = "separation"
TABLE_ROW = "table_row"
_DEC_MARGIN = 1e-9
"""Degrees added to the radius of a strip in declination, because of rounding."""


def crossmatch(
    dataset: xr.Dataset, table: Any, radius: Any, *, ra: str, dec: str, prefix: str
) -> xr.Dataset:
    """Subjects with the nearest row of a table, as `GZ3DAccessor.crossmatch` documents."""
    if not prefix:
        raise UsageError(f"prefix is {prefix!r}, expected text to add to names that are in use")
    validate_dataset(dataset, "ra", "dec")
    dataset = with_subject_dim(dataset)
    limit = arcseconds(radius)
    columns, left_out = _columns(table)
    table_ra, table_dec = _positions(table, columns, ra, dec)
    subject_ra, subject_dec = compute_variables(dataset, "ra", "dec")
    nearest, distances = _nearest(subject_ra, subject_dec, table_ra, table_dec, limit)
    rows = np.flatnonzero(nearest >= 0)
    if not len(rows):
        raise UsageError(
            f"none of the {len(table_ra)} rows of the table is within {limit:g} arcsec of a subject"
        )
    matched = isel_subjects(dataset, rows)
    chosen = nearest[rows]
    used = {*matched.variables, *matched.dims, SEPARATION, TABLE_ROW}
    joined: dict[str, Any] = {
        SEPARATION: (
            "subject",
            distances[rows],
            {"long_name": "angle to the row of the table", "units": "arcsec"},
        ),
        TABLE_ROW: ("subject", chosen, {"long_name": "position of the row in the table"}),
    }
    for name, column in columns.items():
        for suffix, values in column.rows(chosen).items():
            unique = name + suffix
            while unique in used or unique in joined:
                unique = prefix + unique
            dims = ("subject", *(f"{unique}_{axis}" for axis in range(1, values.ndim)))
            joined[unique] = (dims, values, {} if suffix else column.attrs)
    if left_out:
        names = ", ".join(f"{name} ({kind})" for name, kind in left_out.items())
        warnings.warn(
            f"{plural(len(left_out), 'column')} of the table left out, neither numbers nor text: "
            f"{names}",
            LeftOutWarning,
            stacklevel=3,
        )
    return matched.assign(joined)


def _nearest(
    ra: NDArray[Any], dec: NDArray[Any], table_ra: Any, table_dec: Any, limit: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Nearest row of the table within `limit` arcsec of each position (-1: none), and distance.

    The table is sorted by declination, so that each position is compared only with the rows in a
    strip of declination.
    """
    usable = np.flatnonzero(np.isfinite(table_ra) & np.isfinite(table_dec))
    order = usable[np.argsort(table_dec[usable], kind="stable")]
    sorted_ra, sorted_dec = table_ra[order], table_dec[order]
    margin = limit / 3600 + _DEC_MARGIN
    first = np.searchsorted(sorted_dec, dec - margin, "left")
    last = np.searchsorted(sorted_dec, dec + margin, "right")
    nearest = np.full(len(ra), -1, np.int64)
    distances = np.full(len(ra), np.nan)
    for i in np.flatnonzero((last > first) & np.isfinite(ra) & np.isfinite(dec)):
        strip = slice(first[i], last[i])
        distance = separation(ra[i], dec[i], sorted_ra[strip], sorted_dec[strip])
        best = int(distance.argmin())
        if distance[best] <= limit:
            nearest[i], distances[i] = order[strip][best], distance[best]
    return nearest, distances


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
    table: Any, columns: dict[str, Column], ra: str, dec: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions of the rows in degrees, ICRS, from a SkyCoord or two columns."""
    coordinate = table if hasattr(table, "icrs") else None
    if hasattr(table, "colnames"):
        sky_column = _sky_column(table)
        coordinate = None if sky_column is None else table[sky_column]
    if coordinate is not None:
        found = sky_degrees(coordinate)
    else:
        found = _degrees(columns, ra), _degrees(columns, dec)
    table_ra, table_dec = (
        np.atleast_1d(np.ma.filled(np.ma.masked_array(degrees, dtype=float), np.nan))
        for degrees in found
    )
    return table_ra, table_dec


def _degrees(columns: dict[str, Column], wanted: str) -> NDArray[np.float64]:
    """A column in degrees, by its name in any case."""
    name = find_column(columns, wanted)
    if name is None:
        raise UsageError(
            f"the table has no column {wanted}; name the columns with the position by ra=... and "
            f"dec=...: {list_names(columns)}"
        )
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
