"""Subjects as an astropy table: one row each, with units, descriptions and masks."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.indexing import compute_variables, with_subject_dim
from gz3d_zarr.analysis.store_groups import find_texts
from gz3d_zarr.analysis.table_columns import PIXEL_DIMS, list_names
from gz3d_zarr.analysis.validation import status_label, validate_dataset
from gz3d_zarr.datamodel.sentinels import SENTINELS
from gz3d_zarr.datamodel.variables import CATALOGUE_TEXT, UNKNOWN, VARIABLES
from gz3d_zarr.errors import UsageError, quote

if TYPE_CHECKING:
    from astropy.table import QTable

_SAME = frozenset({"object_id"})
"""Coordinates that repeat ``subject``."""
_FLAGS: Mapping[str, str] = {"observed": "observed by MaNGA: 0 no, 1 yes"}
"""Descriptions without the value that is masked."""
_VOTELESS = ("center", "star")


@dataclass(frozen=True)
class _Cell:
    """Where the values of a column are: a variable, and a position along each of its other axes."""

    variable: str
    position: tuple[int, ...]


def subject_table(dataset: xr.Dataset, columns: str | Sequence[str] | None = None) -> QTable:
    """One row a subject, as `GZ3DAccessor.table` documents."""
    validate_dataset(dataset)
    from astropy.table import QTable

    rows = with_subject_dim(dataset)
    cells = _find_cells(rows)
    names = [*cells, *CATALOGUE_TEXT] if columns is None else _choose(columns, cells)
    wanted = [name for name in CATALOGUE_TEXT if name in names and name not in cells]
    texts = find_texts(rows, wanted) if wanted else {}
    if texts is None:
        if columns is not None:
            raise UsageError(
                f"the column {wanted[0]} is in the group catalogue of a store, and this Dataset "
                "was not opened from a store that has one: use a Dataset of gz3d_zarr.open_store, "
                "or a selection from one"
            )
        texts = {}
    read = list(dict.fromkeys(cells[name].variable for name in names if name in cells))
    arrays = dict(zip(read, compute_variables(rows, *read), strict=True))
    table = QTable()
    for name in names:
        if name in cells:
            cell = cells[name]
            variable = rows.variables[cell.variable]
            axis = variable.dims.index("subject")
            index: tuple[Any, ...] = (slice(None), *cell.position)
            values = np.moveaxis(arrays[cell.variable], axis, 0)[index]
            table[name] = _make_column(cell.variable, values, variable.attrs)
        elif name in texts:
            table[name] = _describe(
                np.array(texts[name].tolist(), np.str_), CATALOGUE_TEXT[name][0]
            )
    return table


def _find_cells(rows: xr.Dataset) -> dict[str, _Cell]:
    """Columns that the variables of a Dataset give, by name, in order."""
    ordered = ["subject", *VARIABLES]
    ordered += [name for name in map(str, rows.variables) if name not in ordered]
    cells: dict[str, _Cell] = {}
    used = {name.lower() for name in (*ordered, *CATALOGUE_TEXT)}
    for name in ordered:
        variable = rows.variables.get(name)
        dims = () if variable is None else variable.dims
        if "subject" not in dims or name in _SAME or PIXEL_DIMS & set(dims):
            continue
        others = [str(dim) for dim in dims if dim != "subject"]
        for position in itertools.product(*(range(rows.sizes[dim]) for dim in others)):
            column = _column_name(rows, name, others, position)
            if column is None:
                continue
            while others and column.lower() in used:  # a variable has this name, or another part
                column += "_"
            used.add(column.lower())
            cells[column] = _Cell(name, position)
    return cells


def _column_name(
    rows: xr.Dataset, name: str, others: Sequence[str], position: Sequence[int]
) -> str | None:
    """``spiral_vote_fraction`` of a class, ``bands_2`` of any other axis; None for no values."""
    scalar = rows.variables.get("class")
    selected = (
        scalar is not None and not scalar.dims and "class" in VARIABLES_BY_CLASS.get(name, ())
    )
    prefixes = [str(scalar.values)] if selected and scalar is not None else []
    suffixes = []
    for dim, i in zip(others, position, strict=True):
        if dim == "class":
            prefixes.append(str(rows.variables["class"].values[i]) if "class" in rows else str(i))
        else:
            suffixes.append(str(i))
    if name == "vote_fraction" and prefixes[:1] and prefixes[0] in _VOTELESS:
        return None
    return "_".join([*prefixes, name, *suffixes])


VARIABLES_BY_CLASS: Mapping[str, tuple[str, ...]] = {
    name: variable.dims for name, variable in VARIABLES.items() if "class" in variable.dims
}


def _choose(columns: str | Sequence[str], cells: Mapping[str, _Cell]) -> list[str]:
    """Names of the columns that were asked for, each once; a variable gives all its columns."""
    chosen: dict[str, None] = {}
    names = [columns] if isinstance(columns, str) else columns
    if not isinstance(names, Iterable):
        raise UsageError(f"columns is {quote(columns)}, expected names of columns, or None for all")
    for name in names:
        if name in cells or name in CATALOGUE_TEXT:
            chosen[name] = None
            continue
        parts = [column for column, cell in cells.items() if cell.variable == name]
        if not parts:
            known = [*cells, *CATALOGUE_TEXT]
            near = difflib.get_close_matches(str(name)[:64], known, 3, 0.4)
            hint = f"near matches: {', '.join(near)}" if near else f"expected {list_names(known)}"
            raise UsageError(f"there is no column {quote(name)}; {hint}")
        chosen |= dict.fromkeys(parts)
    if not chosen:
        raise UsageError("columns is empty, expected names of columns, or None for all")
    return list(chosen)


def _make_column(name: str, values: NDArray[Any], attrs: Mapping[Any, Any]) -> Any:
    """A column of astropy: masked where unknown, with unit and description."""
    if name == "status":
        labels = {value: status_label(int(value)) for value in np.unique(values)}
        return _describe(
            np.array([labels[v] for v in values], np.str_), str(attrs.get("long_name", ""))
        )
    meaning = _meaning(name, attrs)
    values, unknown = _find_unknown(name, values)
    return _describe(values, meaning, unknown, attrs.get("units"))


def _meaning(name: str, attrs: Mapping[Any, Any]) -> str:
    meaning = _FLAGS.get(name, str(attrs.get("long_name", "")))
    if name in SENTINELS:
        meaning = meaning.split(", -1 where")[0].split(", NaN where")[0]
    if "nside" in attrs:
        meaning += f"; nside {attrs['nside']}, {attrs.get('ordering', 'nested')}"
    if "flag_masks" in attrs:
        words = zip(
            np.atleast_1d(attrs["flag_masks"]), str(attrs["flag_meanings"]).split(), strict=False
        )
        meaning += "; " + ", ".join(f"{mask} {word}" for mask, word in words)
    return meaning


def _find_unknown(name: str, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values in a type that every format has, and where they are unknown."""
    kind = values.dtype.kind
    if kind in "UTOS":
        return np.array([_text(value) for value in values.tolist()], np.str_), np.zeros(
            len(values), bool
        )
    if kind in "Mm":
        texts = np.where(
            np.isnat(values),
            "",
            np.datetime_as_string(values) if kind == "M" else values.astype(str),
        )
        return texts.astype(np.str_), np.zeros(len(values), bool)
    unknown = np.isnan(values) if kind in "fc" else np.zeros(len(values), bool)
    if name in SENTINELS:
        stored = np.dtype(VARIABLES[name].dtype)
        unknown |= np.isin(values, np.array(SENTINELS[name], values.dtype))
        fill = np.nan if stored.kind == "f" else UNKNOWN
        values = np.where(unknown, fill, values).astype(stored)
    elif name == "saturated":
        values = values.astype(bool)
    if values.dtype == np.int8:  # FITS has no such type
        values = values.astype(np.int16)
    return values, unknown


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None or value != value else str(value)


def _describe(
    values: NDArray[Any],
    meaning: str,
    unknown: NDArray[np.bool_] | None = None,
    unit_name: Any = None,
) -> Any:
    from astropy import units
    from astropy.table import Column, MaskedColumn
    from astropy.utils.masked import Masked

    is_masked = unknown is not None and unknown.any()
    unit = None
    if unit_name not in (None, "", "1") and values.dtype.kind in "fiu":
        unit = units.Unit(str(unit_name), parse_strict="silent")
        if isinstance(unit, units.UnrecognizedUnit):  # no format but ECSV can write it
            unit, meaning = None, f"{meaning} ({unit_name})".strip()
    column: Any
    if unit is not None:
        column = (Masked(values, mask=unknown) if is_masked else values) * unit
    elif is_masked:
        fill = np.nan if values.dtype.kind in "fc" else UNKNOWN
        column = MaskedColumn(values, mask=unknown, fill_value=fill)
    else:
        column = Column(values)
    if meaning:
        column.info.description = meaning
    return column
