"""Join the rows of a table to subjects: by id here, by position in `crossmatch`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.indexing import isel_subjects, with_subject_dim
from gz3d_zarr.analysis.survey_table import Matches, check_key, match_columns, read_survey_table
from gz3d_zarr.analysis.table_columns import Column, quote_some, read_columns
from gz3d_zarr.analysis.validation import validate_dataset
from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.errors import LeftOutWarning, UsageError, plural, quote

TABLE_ROW = "table_row"
HOW = ("left", "inner")
REPEATS = ("all", "first", "raise")
_ROW_ATTRS = {"long_name": "position of the row in the table, -1 where there is none"}
Rows = NDArray[np.int64]


def join(
    dataset: xr.Dataset, table: Any, *, on: str, how: str, repeats: str, prefix: str
) -> xr.Dataset:
    """Subjects with the rows of a table that have their ids, as `GZ3DAccessor.join` documents."""
    if how not in HOW:
        raise UsageError(f"how is {quote(how)}, expected one of {', '.join(HOW)}")
    check_key(on)
    check_options(repeats, prefix)
    validate_dataset(dataset)
    dataset = with_subject_dim(dataset)
    if isinstance(table, str | Path):
        table = read_survey_table(table)
    columns, left_out = read_columns(table)
    matches = match_columns(dataset, columns, left_out, on)
    # In the order of the store, in which pixels are read fastest; then of the table.
    order = np.argsort(matches.subject_rows, kind="stable")
    subjects, rows = matches.subject_rows[order], matches.table_rows[order]
    subjects, rows = choose_repeats(dataset, subjects, rows, repeats)
    unmatched = np.setdiff1d(np.arange(dataset.sizes["subject"]), subjects)
    if how == "left":
        subjects = np.concatenate([subjects, unmatched])
        rows = np.concatenate([rows, np.full(len(unmatched), -1)])
        order = np.argsort(subjects, kind="stable")
        subjects, rows = subjects[order], rows[order]
    _warn_of_unmatched(matches, len(unmatched) if how == "left" else 0, on)
    return attach_rows(dataset, subjects, rows, columns, left_out, prefix=prefix)


def check_options(repeats: str, prefix: str) -> None:
    """UsageError if an option that `join` and `crossmatch` share has another value."""
    if repeats not in REPEATS:
        raise UsageError(f"repeats is {quote(repeats)}, expected one of {', '.join(REPEATS)}")
    if not check_type("prefix", prefix, str):
        raise UsageError(f"prefix is {prefix!r}, expected text to add to names that are in use")


def choose_repeats(
    dataset: xr.Dataset, subjects: Rows, rows: Rows, repeats: str
) -> tuple[Rows, Rows]:
    """Pairs of which a subject has several rows of the table: all, the first, or an error.

    Parameters
    ----------
    dataset : xarray.Dataset
        For the message.
    subjects, rows : ndarray of int64, shape (pairs,)
        Sorted by subject.
    repeats : {'all', 'first', 'raise'}
    """
    again = np.zeros(len(subjects), bool)
    again[1:] = subjects[1:] == subjects[:-1]
    if repeats == "all" or not again.any():
        return subjects, rows
    if repeats == "first":
        return subjects[~again], rows[~again]
    which = subjects[np.argmax(again)]
    name, number = (dataset[n].values[which] for n in ("subject", "zooniverse_subject_id"))
    these = ", ".join(str(row) for row in rows[subjects == which][:5])
    raise UsageError(
        f"{plural(len(np.unique(subjects[again])), 'subject')} with more than one row of the "
        f"table, such as {name} ({number}) with the rows {these} (counted from 0): repeats='all' "
        "keeps a row for each, repeats='first' the first"
    )


def attach_rows(
    dataset: xr.Dataset,
    subjects: Rows,
    rows: Rows,
    columns: Mapping[str, Column],
    left_out: Mapping[str, str],
    *,
    prefix: str,
    more: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Subjects by position, each with a row of a table; nothing of the pixels is read.

    Parameters
    ----------
    dataset : xarray.Dataset
    subjects, rows : ndarray of int64, shape (n,)
        Positions along ``subject`` and in the table, pair by pair; a row of -1 is no row.
    columns, left_out
        As from `read_columns`.
    prefix : str
        Added to names that are in use, whatever their case: FITS does not tell it.
    more : mapping, optional
        Other variables, beside ``table_row``.
    """
    matched = isel_subjects(dataset, subjects)
    joined: dict[str, Any] = {**(more or {}), TABLE_ROW: ("subject", rows, _ROW_ATTRS)}
    used = {str(n).lower() for n in (*matched.variables, *matched.dims, *joined)}
    found: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {}
    for name, column in columns.items():
        for suffix, values in column.rows(rows).items():
            attrs = {} if suffix else column.attrs
            found[_free_name(name + suffix, used, prefix)] = values, attrs
    for name, (values, attrs) in found.items():
        axes = [_free_name(f"{name}_{i}", used, prefix) for i in range(1, values.ndim)]
        if values.dtype.kind == "U":  # as other text of the Dataset, which Zarr can store
            values = values.astype(np.dtypes.StringDType())
        joined[name] = (("subject", *axes), values, attrs)
    if left_out:
        names = ", ".join(f"{name} ({kind})" for name, kind in left_out.items())
        warnings.warn(
            f"{plural(len(left_out), 'column')} of the table left out, neither numbers nor text: "
            f"{names}",
            LeftOutWarning,
            stacklevel=4,
        )
    return matched.assign(joined)


def _free_name(name: str, used: set[str], prefix: str) -> str:
    while name.lower() in used:
        name = prefix + name
    used.add(name.lower())
    return name


def _warn_of_unmatched(matches: Matches, subjects: int, on: str) -> None:
    """Count rows of the table without a subject, and subjects that have no row."""
    parts = []
    number = len(matches.unmatched)
    if number:
        total = number + len(np.unique(matches.table_rows))
        shown = f", such as {quote_some(matches.examples)}" if matches.examples else ""
        verb = "has" if number == 1 else "have"
        parts.append(f"{number} of {plural(total, 'row')} of the table {verb} no subject{shown}")
    if subjects:
        verb = "has" if subjects == 1 else "have"
        parts.append(
            f"{plural(subjects, 'subject')} of the Dataset {verb} no row of the table "
            "(how='inner' leaves them out)"
        )
    if parts:
        warnings.warn(
            f"joined on {on}: {'; '.join(parts)}",
            LeftOutWarning,
            stacklevel=4,
        )
