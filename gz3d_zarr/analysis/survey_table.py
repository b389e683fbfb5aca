"""Tables of a survey, such as MaNGA's DRPall: read from files, and matched with subjects by id."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.indexing import with_subject_dim
from gz3d_zarr.analysis.selection import PLATE_IFU_NAMES, find_plate_ifus
from gz3d_zarr.analysis.table_columns import (
    Column,
    as_text,
    find_column,
    list_names,
    quote_some,
    read_columns,
)
from gz3d_zarr.analysis.validation import validate_dataset
from gz3d_zarr.datamodel.ids import MAX_LISTED, is_plate_ifu
from gz3d_zarr.datamodel.limits import MAX_TABLE, gunzip
from gz3d_zarr.errors import UsageError, error_message, missing_extra_error, plural, quote
from gz3d_zarr.locations import absolute, is_url, read_regular

if TYPE_CHECKING:
    from astropy.table import Table

MANGA_ID, PLATE_IFU, ZOONIVERSE_ID = "mangaid", "plateifu", "zooniverse_subject_id"
KEYS: Mapping[str, tuple[str, ...]] = {
    MANGA_ID: ("mangaid", "manga_id", "object_id", "subject"),
    PLATE_IFU: PLATE_IFU_NAMES,
    ZOONIVERSE_ID: ("zooniverse_subject_id", "zooniverse_id", "subject_id"),
}
"""What a table can be joined on, and the names of its column, in any case."""
_HYPHENATED = re.compile(r"[^-\s]+-[^-\s]+")
_WHAT = {MANGA_ID: "MaNGA ids such as 1-603114", PLATE_IFU: "plate-IFUs such as 8623-12701"}


@dataclass(frozen=True, eq=False)
class Matches:
    """Rows of a table and the subjects that have the same id, pair by pair.

    Attributes
    ----------
    table_rows, subject_rows : ndarray of int64, shape (pairs,)
        Positions in the table and along ``subject``, in the order of the table, then of the
        subjects. An id that repeats on either side gives all pairs.
    unmatched : ndarray of int64, shape (n,)
        Rows of the table without a subject.
    examples : tuple of str
        Some ids of these rows.
    """

    table_rows: NDArray[np.int64]
    subject_rows: NDArray[np.int64]
    unmatched: NDArray[np.int64]
    examples: tuple[str, ...] = ()


def read_survey_table(path: str | Path) -> Table:
    """Read a table of a survey from a local file.

    Parameters
    ----------
    path : str or Path
        FITS (``.fits``; the first table in it, such as MANGA of DRPall), CSV (``.csv``), ECSV
        (``.ecsv``), VOTable (``.vot, .votable, .xml``) or Parquet (``.parquet``; extra ``marks``),
        also with ``.gz`` added to the name.

    Returns
    -------
    astropy.table.Table
        Text columns have ``str`` without the padding of FITS.

    Raises
    ------
    UsageError
        It is no regular file, it has no table, or it cannot be read.
    """
    name = str(path).lower().removesuffix(".gz")
    read = next((read for ends, read in _READERS.items() if name.endswith(ends)), None)
    if read is None:
        known = ", ".join(ending for endings in _READERS for ending in endings)
        raise UsageError(f"the table {quote(str(path))} has no known ending, expected {known}")
    if is_url(str(path)):
        absolute(str(path))  # refuses a secret, which is not repeated
        raise UsageError(f"the table {quote(str(path))} is a URL, expected a local file")
    local = absolute(str(path))
    from astropy.utils.exceptions import AstropyWarning  # slow to import

    try:
        data = read_regular(local, MAX_TABLE + 1)
        if len(data) > MAX_TABLE:
            raise ValueError(f"it has more than {MAX_TABLE // 2**20} MiB")
        if local.lower().endswith(".gz"):
            data = gunzip(data, MAX_TABLE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)  # such as units that are no standard
            table = read(data)
        if not table.colnames:
            raise ValueError("it has no columns")
    except UsageError:  # an extra is not installed
        raise
    except Exception as error:  # astropy raises many kinds
        raise UsageError(f"the table {local} cannot be read: {error_message(error)}") from error
    for column in list(table.colnames):
        if table[column].dtype.kind == "S":
            mask = getattr(table[column], "mask", None)
            text = type(table[column])(as_text(np.asarray(table[column])), name=column)
            if mask is not None:
                text.mask = mask
            text.info.description = table[column].info.description
            table.replace_column(column, text)
    return table


def match_subjects(dataset: xr.Dataset, table: Any, on: str = MANGA_ID) -> Matches:
    """Match the rows of a table with the subjects of a Dataset by their ids.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of Galaxy Zoo: 3D.
    table : astropy.table.Table, pandas.DataFrame, numpy records or xarray.Dataset
        With a column of ids, whose name may be in any case. Text may be padded, or be bytes;
        Zooniverse ids may be numbers or text. A masked or empty id matches nothing.
    on : {'mangaid', 'plateifu', 'zooniverse_subject_id'}
        Kind of the ids. A store has no plate-IFUs: the Dataset has them once a table with
        ``mangaid`` and ``plateifu``, such as DRPall, is joined.

    Raises
    ------
    UsageError
        The table has no such column, its ids are of another kind or of several, or no row has the
        id of a subject.
    StoreError
        The Dataset is not of Galaxy Zoo: 3D.
    """
    check_key(on)
    validate_dataset(dataset)
    return match_columns(dataset, *read_columns(table), on)


def replace_plate_ifus(ids: Sequence[str | int], table: Any) -> list[str | int]:
    """The ids with each plate-IFU of a table replaced by its MaNGA id.

    Raises
    ------
    UsageError
        The table has no column of plate-IFUs or of MaNGA ids, or does not have one of the
        plate-IFUs.
    """
    columns, left_out = read_columns(table)
    plate_ifus, manga_ids = (
        read_ids(column, on, f"column {name} of the table")
        for on in (PLATE_IFU, MANGA_ID)
        for name, column in [find_key(columns, on, left_out)]
    )
    known = {
        plate_ifu: manga_id
        for plate_ifu, manga_id in zip(plate_ifus, manga_ids, strict=True)
        if plate_ifu and manga_id
    }
    unknown = [wanted for wanted in ids if is_plate_ifu(wanted) and wanted not in known]
    if unknown:
        raise UsageError(
            f"the table does not have the plate-IFU {quote_some(unknown, MAX_LISTED)}; expected "
            f"one such as {quote_some(list(known), 1) or 'those of DRPall'}"
        )
    return [known.get(str(wanted), wanted) for wanted in ids]


def match_columns(
    dataset: xr.Dataset, columns: Mapping[str, Column], left_out: Mapping[str, str], on: str
) -> Matches:
    """Match a table that `read_columns` has read, as `match_subjects` documents."""
    name, column = find_key(columns, on, left_out)
    if not len(column.values):
        raise UsageError(f"the table has no rows; its columns are {list_names(columns)}")
    wanted = read_ids(column, on, f"column {name} of the table")
    own = _subject_ids(with_subject_dim(dataset), on)
    positions: dict[Any, list[int]] = {}
    for row, label in enumerate(own):
        positions.setdefault(label, []).append(row)
    found = [[] if label is None else positions.get(label, []) for label in wanted]
    sizes = np.array([len(rows) for rows in found], np.int64)
    unmatched = np.flatnonzero(sizes == 0)
    if len(unmatched) == len(found):
        shown = [label for label in wanted if label is not None]
        raise UsageError(
            f"no row of the table has the {on} of a subject: column {name} has "
            f"{plural(len(shown), 'id')}"
            + (f" such as {quote_some(shown, 1)}" if shown else "")
            + (f", the Dataset such as {quote_some(own, 1)}" if any(own) else ", the Dataset none")
        )
    examples = [wanted[row] for row in unmatched.tolist() if wanted[row] is not None]
    return Matches(
        np.repeat(np.arange(len(found)), sizes),
        np.array([row for rows in found for row in rows], np.int64),
        unmatched,
        tuple(str(label) for label in dict.fromkeys(examples)),
    )


def check_key(on: str) -> None:
    """UsageError if a table cannot be joined on this."""
    if on not in KEYS:
        raise UsageError(f"on is {quote(on)}, expected one of {', '.join(KEYS)}")


def find_key(
    columns: Mapping[str, Column], on: str, left_out: Mapping[str, str]
) -> tuple[str, Column]:
    """The column of a table with ids of a kind; UsageError if there is none that can be used."""
    name = find_column([*columns, *left_out], *KEYS[on])
    if name is not None and name in left_out:
        raise UsageError(
            f"column {name} of the table has values of the types {left_out[name]}, expected ids "
            "of one kind: text or whole numbers"
        )
    if name is None:
        raise UsageError(
            f"the table has no column {on} (in any case); rename the one that has these ids, or "
            f"join on another; it has {list_names(columns)}"
        )
    if columns[name].values.ndim != 1:
        raise UsageError(f"column {name} of the table has several values a row, expected one id")
    return name, columns[name]


def read_ids(column: Column, on: str, where: str) -> list[Any]:
    """Ids of a column: text, or int for Zooniverse ids; None where one is masked or empty."""
    values = column.values.tolist()
    if column.mask is not None:
        values = [None if m else v for v, m in zip(values, column.mask.tolist(), strict=True)]
    if on == ZOONIVERSE_ID:
        return _read_numbers(values, where)
    if column.values.dtype.kind not in "UT":
        shown = quote_some([v for v in values if v is not None], 1) or "numbers"
        raise UsageError(f"{where} has {shown}, expected {_WHAT[on]}")
    texts = [str(value).strip(" \t\r\n\0") if value is not None else "" for value in values]
    good = [text for text in texts if _HYPHENATED.fullmatch(text)]
    numbers = [text for text in texts if text.isdecimal()]
    if numbers and good:
        raise _mixed_error(where, good[0], numbers[0])
    if numbers:
        raise UsageError(f"{where} has {quote(numbers[0])}, expected {_WHAT[on]}")
    return [text or None for text in texts]


def _read_numbers(values: list[Any], where: str) -> list[int | None]:
    ids: list[int | None] = []
    for value in values:
        text = value.strip(" \t\r\n\0") if isinstance(value, str) else value
        if text is None or text == "" or text != text:  # masked, empty or NaN
            ids.append(None)
            continue
        try:
            number = int(text)
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is None or isinstance(text, bool) or (isinstance(text, float) and number != text):
            known = [n for n in ids if n is not None]
            if known:
                raise _mixed_error(where, known[0], value)
            raise UsageError(
                f"{where} has {quote(value)}, expected Zooniverse subject ids: whole numbers"
            )
        ids.append(number)
    return ids


def _mixed_error(where: str, one: Any, other: Any) -> UsageError:
    return UsageError(
        f"{where} has ids of different kinds, {quote(one)} and {quote(other)}: expected only one "
        "kind"
    )


def _subject_ids(dataset: xr.Dataset, on: str) -> list[Any]:
    if on == PLATE_IFU:
        name = find_plate_ifus(dataset)
        if name is None:
            raise UsageError(
                "the Dataset has no plate-IFUs: join a table that has mangaid and plateifu, such "
                "as DRPall, on mangaid first"
            )
        values = dataset[name].values
        return [str(value).strip() or None for value in values.tolist()]
    name = "subject" if on == MANGA_ID else ZOONIVERSE_ID
    own: list[Any] = dataset[name].values.tolist()
    return own


def _read_fits(data: bytes) -> Table:
    from astropy.io import fits
    from astropy.table import Table

    with fits.open(io.BytesIO(data)) as hdus:
        hdu = next((h for h in hdus if isinstance(h, fits.BinTableHDU | fits.TableHDU)), None)
        if hdu is None:
            raise ValueError("no HDU is a table")
        # Text and NaN stay values: an empty text is not masked.
        return Table.read(hdu, format="fits", mask_invalid=False)


def _read_csv(data: bytes) -> Table:
    from astropy.table import Table

    form = "ascii.ecsv" if data.startswith(b"# %ECSV") else "ascii.csv"
    return Table.read(io.BytesIO(data.removeprefix(b"\xef\xbb\xbf")), format=form)


def _read_votable(data: bytes) -> Table:
    from astropy.table import Table

    return Table.read(io.BytesIO(data), format="votable", verify="ignore")


def _read_parquet(data: bytes) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing_extra_error("a table in Parquet", error, "marks") from error
    from astropy.table import Table

    arrow = pq.read_table(pa.BufferReader(data))
    table = Table()
    for name, values in zip(arrow.column_names, arrow.columns, strict=True):
        table[name] = _to_astropy(values, pa)
    return table


def _to_astropy(values: Any, pa: Any) -> Any:
    """A column of a Parquet file; one of lists of equal lengths has more than one dimension."""
    from astropy.table import Column as AstropyColumn
    from astropy.table import MaskedColumn

    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type)
        kind = values.type
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        cells = values.to_pylist()
        sizes = {-1 if cell is None else len(cell) for cell in cells}
        return AstropyColumn(np.array(cells, None if len(sizes) == 1 else object))
    mask = values.is_null().to_numpy()
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        values = values.fill_null(False if pa.types.is_boolean(kind) else 0)
    cells = values.to_numpy()
    if cells.dtype.kind == "O" and all(isinstance(cell, str) for cell in cells[~mask]):
        cells = np.where(mask, "", cells).astype(np.str_)
    return MaskedColumn(cells, mask=mask) if mask.any() else AstropyColumn(cells)


_READERS: Mapping[tuple[str, ...], Callable[[bytes], Table]] = {
    (".fits", ".fit"): _read_fits,
    (".csv",): _read_csv,
    (".ecsv",): _read_csv,
    (".vot", ".votable", ".xml"): _read_votable,
    (".parquet", ".pq"): _read_parquet,
}
