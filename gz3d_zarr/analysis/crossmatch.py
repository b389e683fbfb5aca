"""Match subjects with the rows of another catalogue by position."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.indexing import compute_variables, isel_subjects, with_subject_dim
from gz3d_zarr.analysis.selection import arcseconds, separation, sky_degrees
from gz3d_zarr.analysis.validation import validate_dataset
from gz3d_zarr.errors import LeftOutWarning, UsageError, plural

SEPARATION = "separation"
TABLE_ROW = "table_row"
_DEC_MARGIN = 1e-9
"""Degrees added to the radius of a strip in declination, because of rounding."""
_MAX_EXACT_INTEGER = 2**53
"""float64 represents all integers up to this one."""


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


@dataclass(frozen=True)
class _Column:
    """A column of a table, and its mask, if any, of the same shape."""

    values: NDArray[Any]
    mask: NDArray[np.bool_] | None
    attrs: dict[str, Any]

    def filled(self) -> NDArray[Any]:
        """The values, with NaN, NaT or empty text for masked ones."""
        if self.mask is None or not self.mask.any():
            return self.values
        is_integer = self.values.dtype.kind in "iub"
        values = self.values.astype(float) if is_integer else self.values.copy()
        values[self.mask] = np.nan if values.dtype.kind in "fc" else ""
        return values

    def rows(self, chosen: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Values of some rows, by the suffix of the variable's name: filled, or with a mask.

        Integers beyond 2^53, such as SDSS ids, keep their type, as floats would round them.
        """
        mask = None if self.mask is None else self.mask[chosen]
        part = _Column(self.values[chosen], mask, self.attrs)
        if mask is None or not mask.any() or part.values.dtype.kind not in "iu":
            return {"": part.filled()}
        values = np.where(mask, part.values.dtype.type(0), part.values)
        if (values <= _MAX_EXACT_INTEGER).all() and (values >= -_MAX_EXACT_INTEGER).all():
            return {"": part.filled()}
        return {"": values, "_masked": mask}


def _columns(table: Any) -> tuple[dict[str, _Column], dict[str, str]]:
    """Columns of a table by name, and the types of those that cannot be joined, by name.

    Positions that are a SkyCoord, or a SkyCoord column, are in neither.
    """
    if hasattr(table, "icrs"):
        return {}, {}
    if hasattr(table, "colnames"):
        found = {name: _column(table[name]) for name in table.colnames}
        columns = {name: column for name, column in found.items() if column is not None}
        sky_column = _sky_column(table)
        left_out = {
            name: type(table[name]).__name__
            for name in table.colnames
            if found[name] is None and name != sky_column
        }
        return columns, left_out
    if hasattr(table, "iloc") and hasattr(table, "columns"):
        names = [str(name) for name in table.columns]
        repeated = [name for name, number in Counter(names).items() if number > 1]
        if repeated:
            raise UsageError(
                f"the table has more than one column {', '.join(repeated)}; rename or drop all but "
                "one"
            )
        return {name: _series(table.iloc[:, i]) for i, name in enumerate(names)}, {}
    raise UsageError(
        f"crossmatch takes an astropy Table, a pandas DataFrame or a SkyCoord, not "
        f"{type(table).__name__}"
    )


def _sky_column(table: Any) -> str | None:
    """Name of the SkyCoord column of an astropy table, if it has exactly one."""
    names = [name for name in table.colnames if hasattr(table[name], "icrs")]
    return names[0] if len(names) == 1 else None


def _column(column: Any) -> _Column | None:
    """A column of an astropy table; None if it is not an array of numbers or text."""
    if not (hasattr(column, "dtype") and hasattr(column, "unit")) or column.dtype.kind == "V":
        return None
    attrs = {"units": str(column.unit)} if column.unit else {}
    values = np.asarray(getattr(column, "unmasked", column))
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    mask = getattr(column, "mask", None)
    return _Column(values, mask if mask is None else np.broadcast_to(mask, values.shape), attrs)


def _series(series: Any) -> _Column:
    """A column of a pandas DataFrame."""
    if series.dtype.kind in "iufb" and not isinstance(series.dtype, np.dtype):
        values = series.to_numpy(dtype=series.dtype.numpy_dtype, na_value=0)
        return _Column(values, series.isna().to_numpy(dtype=bool), {})
    return _Column(series.to_numpy(), None, {})


def _positions(
    table: Any, columns: dict[str, _Column], ra: str, dec: str
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


def _degrees(columns: dict[str, _Column], wanted: str) -> NDArray[np.float64]:
    """A column in degrees, by its name in any case."""
    names = [name for name in columns if name == wanted] or [
        name for name in columns if name.lower() == wanted.lower()
    ]
    if len(names) != 1:
        raise UsageError(
            f"the table has no column {wanted}; name the columns with the position by ra=... and "
            f"dec=...: {', '.join(columns)}"
        )
    values, attrs = columns[names[0]].filled(), columns[names[0]].attrs
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
