"""Read the catalogue ``gz3d_metadata.fits`` and sha1 lists."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.file_names import CATALOGUE_NAME, base_name, parse_catalogue_name
from gz3d_zarr.datamodel.limits import MAX_SUBJECTS
from gz3d_zarr.datamodel.manifest import CatalogueRow
from gz3d_zarr.datamodel.subject import SubjectMetadata
from gz3d_zarr.errors import SourceError, error_message, plural, quote
from gz3d_zarr.sources.listing import as_text

_SHA1_LINE = re.compile(r"([0-9a-fA-F]{40})[ \t]+\*?(\S+)")
_NAME, _POSITION, _OBSERVED = "file_name", ("ra", "dec"), "observed"
_TEXTS = {
    "manga_id": "MANGAID",
    "iauname": "IAUNAME",
    "explorer_link": "explorer_link",
    "sample": "sample",
}
_NUMBERS = {
    "ifu_design_size": "IFUDESIGNSIZE",
    "manga_tile_id": "MANGA_TILEID",
    "nsa_id": "nsa_id",
    "total_classifications": "GZ_total_classifications",
    "spiral_votes": "GZ_spiral_votes",
    "bar_votes": "GZ_bar_votes",
    "number_galaxy_centers": "number_galaxy_centers",
    "number_foreground_stars": "number_foreground_stars",
}
_BITS = {"ifu_design_size": 16, "nsa_id": 64}
"""Bits of the variables of the store; the others have 32."""
_OBSERVED_VALUES: Mapping[object, bool] = {True: True, False: False, "true": True, "false": False}
"""Also of 1 and 0, which equal True and False."""
_PARSE_ERRORS = (AttributeError, OverflowError, TypeError, ValueError)
"""Raised by cells of a wrong type, such as text or several numbers instead of one number."""

_Cell = tuple[str, Any, str]
"""Column, value, and file name of its row."""


@dataclass(frozen=True)
class Catalogue:
    """The usable rows of a catalogue.

    Attributes
    ----------
    rows : mapping
        Row by (MaNGA id, bundle size, Zooniverse id) of the file name.
    notes : tuple of str
        What could not be used, for the user.
    """

    rows: Mapping[tuple[str, int, int], CatalogueRow]
    notes: tuple[str, ...] = ()


def read_catalogue(path: str, data: bytes) -> Catalogue:
    """Read ``gz3d_metadata.fits`` by column name.

    A cell without a usable value is unknown: -1, ``""``, or None for `observed`. A row is left out
    if its file name or its position cannot be used. Notes count both.

    Parameters
    ----------
    path : str
        Path or URL, for messages.
    data : bytes
        Contents of the file.

    Returns
    -------
    Catalogue

    Raises
    ------
    SourceError
        The file cannot be read, or has no column ``file_name``, ``ra`` or ``dec``.
    """
    optional = (_OBSERVED, *_TEXTS.values(), *_NUMBERS.values())
    table = _read_table(path, data, (_NAME, *_POSITION), optional)
    rows: dict[tuple[str, int, int], CatalogueRow] = {}
    unusable: list[_Cell] = []
    left_out = []
    for i, values in enumerate(zip(*table.values(), strict=True)):
        cells = dict(zip(table, values, strict=True))
        try:
            ids = parse_catalogue_name(cells[_NAME])
            ra, dec = (float(cells[name]) for name in _POSITION)
        except _PARSE_ERRORS:
            ra = dec = math.nan
        if 0 <= ra <= 360 and -90 <= dec <= 90:
            rows[ids] = _read_row(cells, ra, dec, unusable)
        else:
            left_out.append(f"row {i}, {cells[_NAME]!r:.60}")
    notes = []
    lacking = [name for name in optional if name not in table]
    if lacking:
        notes.append(f"the catalogue has no column {', '.join(lacking)}: the values are unknown")
    if unusable:
        column, value, name = unusable[0]
        notes.append(
            f"no usable value in {plural(len(unusable), 'cell')} of the catalogue: unknown (first "
            f"{column} of {name}: {value!r:.60})"
        )
    if left_out:
        notes.append(
            f"left out {plural(len(left_out), 'row')} of the catalogue without a usable "
            f"{_NAME}, ra and dec (first {left_out[0]})"
        )
    return Catalogue(rows, tuple(notes))


def read_file_names(path: str, data: bytes) -> list[str]:
    """Names of the subject files in a catalogue, with ``gz3d_`` and ``.gz``.

    Rows whose name cannot be used are left out; `read_catalogue` has a note about them.

    Raises
    ------
    SourceError
        The file cannot be read, or has no column ``file_name``.
    """
    names = []
    for name in _read_table(path, data, (_NAME,))[_NAME]:
        try:
            manga_id, bundle, subject = parse_catalogue_name(name)
        except _PARSE_ERRORS:
            continue
        names.append(f"gz3d_{manga_id}_{bundle}_{subject}.fits.gz")
    return names


def _read_table(
    path: str, data: bytes, needed: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, list[Any]]:
    """Columns of HDU 1, found by name in any case; SourceError where a needed one is missing."""
    from astropy.io import fits  # slow to import, and workers do not need it

    try:
        with fits.open(io.BytesIO(data)) as hdus:
            rows = int(hdus[1].header["NAXIS2"])
            if rows > MAX_SUBJECTS:
                raise ValueError(f"it has {rows} rows, more than {MAX_SUBJECTS}")
            table = hdus[1].data
            columns = {column.name.lower(): column for column in table.columns}
            found = {
                name: _read_cells(table, columns[name.lower()])
                for name in (*needed, *optional)
                if name.lower() in columns
            }
    except Exception as error:  # astropy raises KeyError, VerifyError and others
        raise SourceError(
            f"the catalogue {path} cannot be read: {error_message(error)}; expected the table "
            f"{CATALOGUE_NAME} in HDU 1"
        ) from error
    lacking = [name for name in needed if name not in found]
    if lacking:
        raise SourceError(f"the catalogue {path} has no column {', '.join(lacking)}")
    return found


def _read_cells(table: Any, column: Any) -> list[Any]:
    """Values of one column; None where FITS says that there is none (TNULL, undefined logical)."""
    raw: NDArray[Any] = np.asarray(table).view(np.ndarray)[column.name]
    if raw.dtype.kind == "S":  # decoded cell by cell: one that is not ASCII costs only itself
        return [_decode_text(value) for value in raw.tolist()]
    if column.format.endswith("L"):
        flags = {ord("T"): True, ord("F"): False}
        return [flags.get(value) if isinstance(value, int) else None for value in raw.tolist()]
    values: list[Any] = table[column.name].tolist()
    if column.null is None:
        return values
    nulls = (raw == column.null).tolist()  # TNULL is a value before TSCAL and TZERO
    return [None if null is True else value for value, null in zip(values, nulls, strict=True)]


def _decode_text(value: bytes) -> str | None:
    try:
        return value.partition(b"\0")[0].decode("ascii").strip()
    except (AttributeError, UnicodeDecodeError):  # a list: several texts in one cell
        return None


def _read_row(
    cells: Mapping[str, Any], ra: float, dec: float, unusable: list[_Cell]
) -> CatalogueRow:
    """One row whose name and position are usable; cells that are not go to `unusable`."""

    def read(column: str, parse: Callable[[Any], Any], unknown: Any) -> Any:
        if column not in cells:
            return unknown
        try:
            return parse(cells[column])
        except _PARSE_ERRORS:
            unusable.append((column, cells[column], cells[_NAME]))
            return unknown

    fields = {field: read(column, _parse_text, "") for field, column in _TEXTS.items()}
    for field, column in _NUMBERS.items():
        fields[field] = read(column, partial(_parse_whole, _BITS.get(field, 32)), -1)
    metadata = SubjectMetadata(ra=ra, dec=dec, scale=math.nan, **fields)
    return CatalogueRow(metadata, read(_OBSERVED, _parse_observed, None))


def _parse_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _parse_whole(bits: int, value: Any) -> int:
    """Whole number, given as a number or as text; ValueError for any other and for sentinels."""
    number = float(value) if isinstance(value, str) else value
    if not 0 <= number < 2 ** (bits - 1) or number != int(number):
        raise ValueError(value)
    return int(number)


def _parse_observed(value: object) -> bool:
    """Logical, 0 or 1, or the text True or False; ValueError for any other value."""
    observed = _OBSERVED_VALUES.get(value.lower() if isinstance(value, str) else value)
    if observed is None:
        raise ValueError(value)
    return observed


def read_sha1_list(path: str, data: bytes) -> dict[str, str]:
    """Base name to hexadecimal sha1, from lines ``sha1  name``; SourceError on other lines."""
    digests: dict[str, str] = {}
    for number, line in enumerate(as_text(path, data).splitlines(), 1):
        match = _SHA1_LINE.fullmatch(line.strip())
        if match is not None:
            digests[base_name(match[2])] = match[1].lower()
        elif line.strip():
            raise SourceError(f"line {number} of {path} is {quote(line)}, expected 'sha1  name'")
    return digests
