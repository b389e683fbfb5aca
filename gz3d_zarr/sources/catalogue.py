"""Read the catalogue ``gz3d_metadata.fits`` and sha1 lists."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gz3d_zarr.datamodel.file_names import CATALOGUE_NAME, base_name, parse_catalogue_name
from gz3d_zarr.datamodel.manifest import CatalogueRow
from gz3d_zarr.datamodel.subject import SubjectMetadata
from gz3d_zarr.errors import SourceError, error_message
from gz3d_zarr.sources.listing import as_text

_SHA1_LINE = re.compile(r"([0-9a-fA-F]{40})[ \t]+\*?(\S+)")
_COLUMNS = {
    "manga_id": "MANGAID",
    "iauname": "IAUNAME",
    "ra": "ra",
    "dec": "dec",
    "ifu_design_size": "IFUDESIGNSIZE",
    "manga_tile_id": "MANGA_TILEID",
    "nsa_id": "nsa_id",
    "explorer_link": "explorer_link",
    "total_classifications": "GZ_total_classifications",
    "spiral_votes": "GZ_spiral_votes",
    "bar_votes": "GZ_bar_votes",
    "sample": "sample",
    "number_galaxy_centers": "number_galaxy_centers",
    "number_foreground_stars": "number_foreground_stars",
}
_PARSE_ERRORS = (AttributeError, OverflowError, TypeError, ValueError)
"""Raised by cells of a wrong type, such as text or several numbers instead of one number."""
_TEXT = ("manga_id", "iauname", "explorer_link", "sample")


def read_catalogue(path: str, data: bytes) -> dict[tuple[str, int, int], CatalogueRow]:
    """Read ``gz3d_metadata.fits`` by column name.

    Parameters
    ----------
    path : str
        Path or URL, for messages.
    data : bytes
        Contents of the file.

    Returns
    -------
    dict
        Row by (MaNGA id, bundle size, Zooniverse id) of the file name.

    Raises
    ------
    SourceError
        The file cannot be read, lacks a column, or has an invalid name or value.
    """
    table = _read_table(path, data, ["file_name", "observed", *_COLUMNS.values()])
    columns = {name: table[column] for name, column in _COLUMNS.items()}
    rows: dict[tuple[str, int, int], CatalogueRow] = {}
    for i, name in enumerate(table["file_name"]):
        try:
            metadata = _row({key: values[i] for key, values in columns.items()})
            rows[parse_catalogue_name(name)] = CatalogueRow(metadata, bool(table["observed"][i]))
        except _PARSE_ERRORS as error:
            raise SourceError(f"row {i} ({name!r}) of the catalogue {path}: {error}") from None
    return rows


def read_file_names(path: str, data: bytes) -> list[str]:
    """Names of the subject files in a catalogue, with ``gz3d_`` and ``.gz``.

    Raises
    ------
    SourceError
        As `read_catalogue`.
    """
    names = []
    for i, name in enumerate(_read_table(path, data, ["file_name"])["file_name"]):
        try:
            manga_id, bundle, subject = parse_catalogue_name(name)
        except _PARSE_ERRORS as error:
            raise SourceError(f"row {i} ({name!r}) of the catalogue {path}: {error}") from None
        names.append(f"gz3d_{manga_id}_{bundle}_{subject}.fits.gz")
    return names


def _read_table(path: str, data: bytes, names: Sequence[str]) -> dict[str, list[Any]]:
    """Columns of HDU 1 as lists."""
    from astropy.io import fits  # slow to import, and workers do not need it

    try:
        with fits.open(io.BytesIO(data)) as hdus:
            table = hdus[1].data
            lacking = set(names) - set(table.columns.names)
            if lacking:
                raise SourceError(
                    f"the catalogue {path} has no column {', '.join(sorted(lacking))}"
                )
            return {name: table[name].tolist() for name in names}
    except SourceError:
        raise
    except Exception as error:  # astropy raises KeyError, VerifyError and others
        raise SourceError(
            f"the catalogue {path} cannot be read: {error_message(error)}; expected the table "
            f"{CATALOGUE_NAME} in HDU 1"
        ) from error


def read_sha1_list(path: str, data: bytes) -> dict[str, str]:
    """Base name to hexadecimal sha1, from lines ``sha1  name``; SourceError on other lines."""
    digests: dict[str, str] = {}
    for number, line in enumerate(as_text(path, data).splitlines(), 1):
        match = _SHA1_LINE.fullmatch(line.strip())
        if match is not None:
            digests[base_name(match[2])] = match[1].lower()
        elif line.strip():
            raise SourceError(f"line {number} of {path} is {line!r}, expected 'sha1  name'")
    return digests


def _row(values: Mapping[str, Any]) -> SubjectMetadata:
    def whole(name: str) -> int:
        value = values[name]
        if isinstance(value, float) and math.isnan(value):
            return -1
        bits = {"ifu_design_size": 16, "nsa_id": 64}.get(name, 32)
        if not -1 <= value < 2 ** (bits - 1) or value != int(value):
            raise ValueError(f"{name} is {value!r}, expected a whole number of {bits} bits")
        return int(value)

    ra, dec = float(values["ra"]), float(values["dec"])
    if not (0 <= ra <= 360 and -90 <= dec <= 90):
        raise ValueError(f"ra, dec = {ra!r}, {dec!r} is not on the sky")
    fields: dict[str, Any] = {k: whole(k) for k in _COLUMNS if k not in (*_TEXT, "ra", "dec")}
    fields |= {k: str(values[k]).strip() for k in _TEXT}
    return SubjectMetadata(ra=ra, dec=dec, scale=math.nan, **fields)
