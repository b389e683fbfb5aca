"""Columns of other people's tables as arrays: astropy, pandas, NumPy records, xarray Datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.errors import UsageError, quote, shorten

MAX_EXACT_INTEGER = 2**53
"""float64 represents all integers up to this one."""
MAX_NAMED = 30
"""Names of columns that a message lists."""
PIXEL_DIMS = frozenset({"y", "x"})
_KINDS = "biufcUTMm"
"""Kinds of NumPy types that can be joined: numbers, text and times."""


@dataclass(frozen=True, eq=False)
class Column:
    """A column of a table.

    Attributes
    ----------
    values : ndarray, shape (rows, ...)
        Numbers in native byte order, text as ``str``, without the padding of FITS.
    mask : ndarray of bool, of the same shape, or None
        Where a value is not known; None if all are.
    attrs : dict
        ``units`` and ``long_name``, where the table has them.
    """

    values: NDArray[Any]
    mask: NDArray[np.bool_] | None
    attrs: dict[str, Any]

    def filled(self) -> NDArray[Any]:
        """The values, with NaN, NaT or empty text for masked ones."""
        if self.mask is None or not self.mask.any():
            return self.values
        is_integer = self.values.dtype.kind in "iub"
        values = self.values.astype(float) if is_integer else self.values.copy()
        fills: Mapping[str, Any] = {"f": np.nan, "c": np.nan, "M": "NaT", "m": "NaT"}
        values[self.mask] = fills.get(values.dtype.kind, "")
        return values

    def rows(self, chosen: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Values of some rows, by the suffix of the variable's name: filled, or with a mask.

        Integers beyond 2^53, such as SDSS ids, keep their type, as floats would round them. A row
        of -1 is a masked one.
        """
        absent = chosen < 0
        values = np.zeros((1, *self.values.shape[1:]), self.values.dtype)
        if len(self.values):
            values = self.values
        values = values[np.where(absent, 0, chosen)]
        mask = None if self.mask is None else self.mask[np.where(absent, 0, chosen)]
        if absent.any():
            along = absent.reshape(-1, *[1] * (values.ndim - 1))
            mask = np.broadcast_to(along, values.shape) if mask is None else mask | along
        part = Column(values, mask, self.attrs)
        if mask is None or not mask.any() or values.dtype.kind not in "iu":
            return {"": part.filled()}
        held = np.where(mask, values.dtype.type(0), values)
        if (held <= MAX_EXACT_INTEGER).all() and (held >= -MAX_EXACT_INTEGER).all():
            return {"": part.filled()}
        return {"": held, "_masked": mask}


def read_columns(table: Any) -> tuple[dict[str, Column], dict[str, str]]:
    """Read all columns of a table.

    Parameters
    ----------
    table : astropy.table.Table, pandas.DataFrame, numpy records or xarray.Dataset
        Of a frame, also the levels of its index that have names. Of a Dataset, the variables along
        ``subject``, or else along its first dimension, but for those with pixels.

    Returns
    -------
    columns : dict of str to Column
    left_out : dict of str to str
        The types of those that cannot be joined, by name.

    Raises
    ------
    UsageError
        It is no table, or two columns have the same name.
    """
    if hasattr(table, "colnames"):
        pairs: Iterable[tuple[str, Any]] = ((name, table[name]) for name in table.colnames)
        return _sort_out((name, column, _read_column(column)) for name, column in pairs)
    if hasattr(table, "iloc") and hasattr(table, "columns"):
        named = [name for name in table.index.names if name is not None]
        if named and not {*named} & {*table.columns}:
            table = table.reset_index(named)
        names = [str(name) for name in table.columns]
        repeated = [name for name, number in Counter(names).items() if number > 1]
        if repeated:
            raise UsageError(
                f"the table has more than one column {list_names(repeated)}; rename or drop all "
                "but one"
            )
        series = ((name, table.iloc[:, i]) for i, name in enumerate(names))
        return _sort_out((name, column, _read_series(column)) for name, column in series)
    if isinstance(table, xr.Dataset):
        return _sort_out(
            (name, array, _read_variable(array)) for name, array in _table_variables(table).items()
        )
    if isinstance(table, np.ndarray) and table.dtype.names:  # astropy.io.fits gives such records
        from astropy.table import Table  # slow to import

        return read_columns(Table(table))
    raise UsageError(
        "expected a table: an astropy Table, a pandas DataFrame, an xarray Dataset or FITS "
        f"records, not {type(table).__name__}"
    )


def find_column(columns: Iterable[str], *wanted: str) -> str | None:
    """The first of some names that a table has: as it stands, or else in any case."""
    names = list(columns)
    for name in wanted:
        same = [n for n in names if n == name] or [n for n in names if n.lower() == name.lower()]
        if len(same) > 1:
            raise UsageError(f"the table has {' and '.join(same)}: rename or drop all but one")
        if same:
            return same[0]
    return None


def list_names(names: Iterable[str]) -> str:
    """Names of columns for a message; of many, the first."""
    every = [shorten(name) for name in names]
    more = f" and {len(every) - MAX_NAMED} more" if len(every) > MAX_NAMED else ""
    return ", ".join(every[:MAX_NAMED]) + more if every else "none"


def as_text(values: NDArray[Any]) -> NDArray[Any]:
    """Bytes of a FITS table as text, without its padding; other arrays as they are."""
    if values.dtype.kind != "S":
        return values
    # Decoded in one call: cells of a FITS table are padded with spaces or NULs.
    return np.strings.rstrip(np.strings.decode(values, "utf-8", "replace"))


def _sort_out(
    found: Iterable[tuple[str, Any, Column | None]],
) -> tuple[dict[str, Column], dict[str, str]]:
    columns: dict[str, Column] = {}
    left_out: dict[str, str] = {}
    for name, given, column in found:
        if column is None:
            left_out[name] = _kind(given)
        else:
            columns[name] = column
    return columns, left_out


def _read_column(column: Any) -> Column | None:
    """A column of an astropy table; None if it is not an array of numbers or text."""
    if not (hasattr(column, "dtype") and hasattr(column, "unit")):
        return None
    attrs = {"units": str(column.unit)} if str(column.unit or "") else {}
    if getattr(column.info, "description", None):
        attrs["long_name"] = str(column.info.description)
    values = np.asarray(getattr(column, "unmasked", column))
    return _make_column(values, getattr(column, "mask", None), attrs)


def _read_series(series: Any) -> Column | None:
    """A column of a pandas DataFrame."""
    if isinstance(series.dtype, np.dtype) and series.dtype.kind != "O":
        return _make_column(series.to_numpy(), None, {})
    mask = series.isna().to_numpy(dtype=bool)
    if series.dtype.kind in "iufb" and hasattr(series.dtype, "numpy_dtype"):
        values = series.to_numpy(dtype=series.dtype.numpy_dtype, na_value=0)
        return _make_column(values, mask, {})
    return _make_column(series.astype(object).to_numpy(), mask, {})


def _read_variable(variable: xr.Variable) -> Column | None:
    """A variable of a Dataset; None if it has pixels, which are not read."""
    if PIXEL_DIMS & set(variable.dims):
        return None
    return _make_column(variable.values, None, _known_attrs(variable.attrs))


def _make_column(values: NDArray[Any], mask: Any, attrs: dict[str, Any]) -> Column | None:
    if values.dtype.kind == "O":
        hidden = np.zeros(values.shape, bool)
        if mask is not None:
            hidden |= mask
        absent = [cell is None or _is_nan(cell) for cell in values.ravel()]
        hidden |= np.reshape(absent, values.shape)
        cells = _typed(values[~hidden].tolist())
        if cells is None:
            return None
        values, mask = np.zeros(values.shape, cells.dtype), hidden
        values[~hidden] = cells
    values = as_text(values)
    if values.dtype.kind not in _KINDS:
        return None
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    known = mask is None or not np.any(mask)
    return Column(values, None if known else np.broadcast_to(mask, values.shape), attrs)


def _is_nan(cell: Any) -> bool:
    return isinstance(cell, float | np.floating) and bool(np.isnan(cell))


def _typed(cells: Sequence[Any]) -> NDArray[Any] | None:
    """Objects as an array of text, numbers or bools; None if they are of other kinds or several."""
    if all(isinstance(cell, str | bytes) for cell in cells):
        texts = [c.decode("utf-8", "replace") if isinstance(c, bytes) else c for c in cells]
        return np.array([text.rstrip(" \0") for text in texts], np.str_)
    if all(isinstance(cell, Integral) and not isinstance(cell, bool) for cell in cells):
        numbers = np.array(cells)
        return numbers if numbers.dtype.kind in "iu" else None
    if all(isinstance(cell, bool | np.bool_) for cell in cells):
        return np.array(cells, bool)
    if all(isinstance(cell, float | np.floating) or _is_exact(cell) for cell in cells):
        return np.array(cells, float)
    return None


def _is_exact(cell: Any) -> bool:
    """Whether it is a whole number that float64 represents."""
    is_whole = isinstance(cell, Integral) and not isinstance(cell, bool)
    return is_whole and abs(int(cell)) <= MAX_EXACT_INTEGER


def _kind(given: Any) -> str:
    """What a column that cannot be joined is; of objects, their types."""
    if isinstance(given, xr.Variable) and PIXEL_DIMS & set(given.dims):
        return "pixels"
    if getattr(getattr(given, "dtype", None), "kind", "") != "O":
        return type(given).__name__
    kinds = dict.fromkeys(type(cell).__name__ for cell in np.ravel(np.asarray(given)))
    return " and ".join([*kinds][:3])


def _table_variables(table: xr.Dataset) -> dict[str, xr.Variable]:
    """Variables of a Dataset that is used as a table, by name: those along its first dimension."""
    if not table.sizes:
        raise UsageError("the Dataset that is joined has no dimension, expected the table's rows")
    rows = next(iter(table.sizes))
    if "subject" in table.sizes:
        rows = "subject"
    return {
        str(name): array.transpose(rows, ...)
        for name, array in table.variables.items()
        if rows in array.dims
    }


def _known_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: attrs[name] for name in ("units", "long_name") if name in attrs}


def quote_some(values: Iterable[Any], number: int = 3) -> str:
    """Some values for a message, in quotes."""
    return ", ".join(quote(value) for value in list(values)[:number])
