"""Match subjects with the rows of another catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.dataset import as_rows, read, require, take
from gz3d_zarr.errors import UsageError
from gz3d_zarr.selection import arcseconds, separation, sky_degrees

SEPARATION = "separation"
TABLE_ROW = "table_row"

_MARGIN = 1e-9
"""Degrees by which a strip in declination is wider than the radius, for rounding."""


def crossmatch(
    dataset: xr.Dataset, table: Any, radius: Any, *, ra: str, dec: str, prefix: str
) -> xr.Dataset:
    """Subjects with their nearest row of a table, as `GZ3DAccessor.crossmatch` documents."""
    require(dataset, "ra", "dec")
    dataset = as_rows(dataset)
    reach = arcseconds(radius)
    columns = _columns(table)
    table_ra, table_dec = _positions(table, columns, ra, dec)
    here_ra, here_dec = read(dataset, "ra", "dec")
    nearest, away = _nearest(here_ra, here_dec, table_ra, table_dec, reach)
    rows = np.flatnonzero(nearest >= 0)
    if not len(rows):
        raise UsageError(
            f"no subject has one of the {len(table_ra)} rows of the table within {reach:g} arcsec"
        )
    matched = take(dataset, rows)
    chosen = nearest[rows]
    taken = {*matched.variables, *matched.dims, SEPARATION, TABLE_ROW}
    joined: dict[str, Any] = {
        SEPARATION: (
            "subject",
            away[rows],
            {"long_name": "angle to the row of the table", "units": "arcsec"},
        ),
        TABLE_ROW: ("subject", chosen, {"long_name": "position of the row in the table"}),
    }
    for column, (values, attrs) in columns.items():
        name = column
        while name in taken or name in joined:
            name = prefix + name
        dims = ("subject", *(f"{name}_{axis}" for axis in range(1, values.ndim)))
        joined[name] = (dims, values[chosen], attrs)
    return matched.assign(joined)


def _nearest(
    ra: NDArray[Any], dec: NDArray[Any], table_ra: Any, table_dec: Any, reach: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Nearest row of the table within reach of each position (-1: none), and its distance.

    Only rows in a strip of declination can be that near, so the table is walked once, sorted.
    """
    usable = np.flatnonzero(np.isfinite(table_ra) & np.isfinite(table_dec))
    order = usable[np.argsort(table_dec[usable], kind="stable")]
    sorted_ra, sorted_dec = table_ra[order], table_dec[order]
    margin = reach / 3600 + _MARGIN
    first = np.searchsorted(sorted_dec, dec - margin, "left")
    last = np.searchsorted(sorted_dec, dec + margin, "right")
    nearest = np.full(len(ra), -1, np.int64)
    away = np.full(len(ra), np.nan)
    for i in np.flatnonzero((last > first) & np.isfinite(ra) & np.isfinite(dec)):
        strip = slice(first[i], last[i])
        distance = separation(ra[i], dec[i], sorted_ra[strip], sorted_dec[strip])
        best = int(distance.argmin())
        if distance[best] <= reach:
            nearest[i], away[i] = order[strip][best], distance[best]
    return nearest, away


Columns = Mapping[str, tuple[NDArray[Any], dict[str, Any]]]


def _columns(table: Any) -> Columns:
    """Columns of a table as arrays with attributes; a SkyCoord has none."""
    if hasattr(table, "icrs"):
        return {}
    if hasattr(table, "colnames"):
        return {
            name: _column(table[name], name)
            for name in table.colnames
            if not hasattr(table[name], "icrs")
        }
    if hasattr(table, "iloc") and hasattr(table, "columns"):
        return {str(name): (_series(table[name]), {}) for name in table.columns}
    raise UsageError(
        f"crossmatch takes an astropy Table, a pandas DataFrame or a SkyCoord, not "
        f"{type(table).__name__}"
    )


def _column(column: Any, name: str) -> tuple[NDArray[Any], dict[str, Any]]:
    """Values and unit of a column of an astropy table; what is masked becomes NaN or empty."""
    if not (hasattr(column, "dtype") and hasattr(column, "unit")):
        raise UsageError(
            f"column {name} of the table is {type(column).__name__}, expected numbers or text"
        )
    attrs = {"units": str(column.unit)} if column.unit else {}
    mask = np.asarray(getattr(column, "mask", False))
    values = np.asarray(getattr(column, "unmasked", column))
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if mask.any():
        values = values.astype(float) if values.dtype.kind in "iufb" else values.copy()
        values[np.broadcast_to(mask, values.shape)] = np.nan if values.dtype.kind == "f" else ""
    return values, attrs


def _series(series: Any) -> NDArray[Any]:
    """Values of a pandas column; missing ones of numbers become NaN."""
    values: NDArray[Any]
    if series.dtype.kind in "iufb" and not isinstance(series.dtype, np.dtype):
        values = (
            series.to_numpy(dtype=float, na_value=np.nan)
            if series.hasnans
            else (series.to_numpy(dtype=series.dtype.numpy_dtype))
        )
        return values
    values = series.to_numpy()
    return values


def _positions(
    table: Any, columns: Columns, ra: str, dec: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions of the rows in degrees, ICRS, from a SkyCoord or from two columns."""
    coordinate = table if hasattr(table, "icrs") else None
    if hasattr(table, "colnames"):
        mixins = [table[name] for name in table.colnames if hasattr(table[name], "icrs")]
        coordinate = mixins[0] if len(mixins) == 1 else None
    if coordinate is not None:
        found = sky_degrees(coordinate)
    else:
        found = _degrees(columns, ra), _degrees(columns, dec)
    table_ra, table_dec = (
        np.atleast_1d(np.ma.filled(np.ma.masked_array(degrees, dtype=float), np.nan))
        for degrees in found
    )
    return table_ra, table_dec


def _degrees(columns: Columns, wanted: str) -> NDArray[np.float64]:
    """A column by its name, whatever its case, in degrees."""
    names = [name for name in columns if name == wanted] or [
        name for name in columns if name.lower() == wanted.lower()
    ]
    if len(names) != 1:
        raise UsageError(
            f"the table has no column {wanted}; say which hold the position, as ra=... and "
            f"dec=...: {', '.join(columns)}"
        )
    values, attrs = columns[names[0]]
    if values.dtype.kind not in "iuf" or values.ndim != 1:
        raise UsageError(f"column {names[0]} of the table is {values.dtype}, expected degrees")
    unit = attrs.get("units", "deg").lower()
    if unit in ("deg", "degree", "degrees"):
        return values.astype(float)
    from astropy import units  # slow to import

    try:
        degrees: NDArray[np.float64] = units.Quantity(values, unit).to_value("deg")
    except (ValueError, TypeError) as error:
        raise UsageError(f"column {names[0]} of the table is in {unit}, not an angle") from error
    return degrees
