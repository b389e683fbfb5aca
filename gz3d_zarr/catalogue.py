"""Catalogue and listing to a Manifest: which subjects, in which order, with what sha1."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gz3d_zarr.errors import SourceError, UsageError, count, describe
from gz3d_zarr.source import (
    CATALOGUE_NAME,
    Listing,
    SubjectFile,
    as_text,
    base_name,
    parse_name,
)
from gz3d_zarr.subject import SubjectMetadata

ORDERS = ("healpix", "name")
ORDER_NSIDE = 2**29
"""Resolution at which subjects are sorted along the sky: HEALPix order 29, 0.4 mas."""
TINY = 5

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

_SENSELESS = (AttributeError, OverflowError, TypeError, ValueError)
"""What a cell of another type raises: a text where a number is expected, or several numbers."""
_TEXT = ("manga_id", "iauname", "explorer_link", "sample")


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """One row of ``gz3d_metadata.fits``."""

    metadata: SubjectMetadata
    observed: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One subject of a manifest: its file, its digest and its row where they are known."""

    file: SubjectFile
    sha1: str | None = None
    row: CatalogueRow | None = None


@dataclass(frozen=True)
class Manifest:
    """Which subjects a store holds, in which order.

    Attributes
    ----------
    location : str
        The source that they come from.
    entries : tuple of Entry
        In the order of the store.
    order : {'healpix', 'name'}
        How they were ordered.
    catalogue : str or None
        Path of the catalogue that was used.
    samples : tuple of str
        Names of target samples in the catalogue, sorted.
    notes : tuple of str
        What a person should be told.
    release : str
        Release of the catalogue, where the source is a named one.
    """

    location: str
    entries: tuple[Entry, ...]
    order: str
    catalogue: str | None = None
    samples: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    release: str = ""

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 over file names, sha1 digests and sizes, in order."""
        lines = [[e.file.name, e.sha1, e.file.size] for e in self.entries]
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()

    @property
    def source_bytes(self) -> int | None:
        """Bytes of all files, or None where a listing does not tell."""
        sizes = [entry.file.size for entry in self.entries]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def make_manifest(
    listing: Listing,
    *,
    catalogue: str | None = None,
    use_catalogue: bool = True,
    order: str | None = None,
    limit: int | None = None,
    ids: Iterable[str | int] | None = None,
    min_vote_fraction: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> Manifest:
    """Select and order the subjects of a listing.

    Parameters
    ----------
    listing : Listing
        The files.
    catalogue : str, optional
        Path of the catalogue; by default the one that stands beside the files.
    use_catalogue : bool
        False to do without.
    order : {'healpix', 'name'}, optional
        By default healpix where the catalogue gives positions, name otherwise. Files whose
        position is not known come last, by name.
    limit : int, optional
        Keep the first so many, in the order of the store.
    ids : iterable of str or int, optional
        Keep these MaNGA ids or Zooniverse subject ids.
    min_vote_fraction : float, optional
        Keep subjects whose spiral or bar votes over total classifications reach this.
    options : mapping, optional
        Storage options for fsspec.

    Raises
    ------
    UsageError
        An impossible selection or order, an unknown id, or nothing left.
    SourceError
        A catalogue or sha1 list that cannot be read.
    """
    if order is not None and order not in ORDERS:
        raise UsageError(f"order is {order!r}, expected one of {', '.join(ORDERS)}")
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}, expected at least 1")
    path = (catalogue or listing.catalogue) if use_catalogue else None
    rows = read_catalogue(path, listing.read(path, options)) if path is not None else {}
    digests: dict[str, str] = {}
    for name in listing.sha1_lists:
        digests |= read_sha1_list(name, listing.read(name, options))
    entries = [
        Entry(file, digests.get(file.name), rows.get(_key(file.name))) for file in listing.files
    ]
    notes = [*listing.notes, *_compare(entries, rows, path, bool(digests))]
    if ids is not None:
        entries = _select_ids(entries, [str(i) for i in ids])
    if min_vote_fraction is not None:
        entries, note = _select_votes(entries, min_vote_fraction, path)
        notes += note
    if not entries:
        raise UsageError("the selection leaves no subject; loosen it")
    known = sum(entry.row is not None for entry in entries)
    if order == "healpix" and not known:
        raise UsageError(
            f"order healpix needs positions, and there is no {CATALOGUE_NAME} with rows for these "
            "files; name one with --catalogue or use the order name"
        )
    order = order or ("healpix" if known else "name")
    ordered = _along_the_sky(entries) if order == "healpix" else entries
    return Manifest(
        listing.location,
        tuple(ordered[:limit]),
        order,
        path if known else None,
        tuple(sorted({row.metadata.sample for row in rows.values()} - {""})) if known else (),
        tuple(notes),
        listing.release,
    )


def read_catalogue(path: str, data: bytes) -> dict[tuple[str, int, int], CatalogueRow]:
    """Read ``gz3d_metadata.fits`` by column name.

    Parameters
    ----------
    path : str
        Where it is, for messages.
    data : bytes
        The whole file.

    Returns
    -------
    dict
        (MaNGA id, bundle size, Zooniverse id), as in the file name, to row.

    Raises
    ------
    SourceError
        The file cannot be read, lacks a column, or holds a name or value that makes no sense.
    """
    table = _read_table(path, data, ["file_name", "observed", *_COLUMNS.values()])
    columns = {name: table[column] for name, column in _COLUMNS.items()}
    rows: dict[tuple[str, int, int], CatalogueRow] = {}
    for i, name in enumerate(table["file_name"]):
        try:
            metadata = _row({key: values[i] for key, values in columns.items()})
            rows[_key(name)] = CatalogueRow(metadata, bool(table["observed"][i]))
        except _SENSELESS as error:
            raise SourceError(f"row {i} ({name!r}) of the catalogue {path}: {error}") from None
    return rows


def read_file_names(path: str, data: bytes) -> list[str]:
    """Names of the subject files of a catalogue, as the archive spells them.

    Raises
    ------
    SourceError
        As `read_catalogue`.
    """
    names = []
    for i, name in enumerate(_read_table(path, data, ["file_name"])["file_name"]):
        try:
            manga_id, bundle, subject = _key(name)
        except _SENSELESS as error:
            raise SourceError(f"row {i} ({name!r}) of the catalogue {path}: {error}") from None
        names.append(f"gz3d_{manga_id}_{bundle}_{subject}.fits.gz")
    return names


def _read_table(path: str, data: bytes, names: Sequence[str]) -> dict[str, list[Any]]:
    """Columns of HDU 1 as lists."""
    from astropy.io import fits  # slow to import, and workers never read a catalogue

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
    except Exception as error:  # of damaged bytes astropy raises KeyError, VerifyError and others
        raise SourceError(
            f"the catalogue {path} cannot be read: {describe(error)}; expected the table "
            f"{CATALOGUE_NAME} in HDU 1"
        ) from error


def read_sha1_list(path: str, data: bytes) -> dict[str, str]:
    """Base name to hexadecimal sha1, from lines of ``sha1  name``; SourceError on another."""
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


def _key(name: str) -> tuple[str, int, int]:
    """What both spellings of a file name share: with and without ``gz3d_`` and ``.gz``."""
    stem = name.strip().removesuffix(".gz").removesuffix(".fits")
    file = parse_name(f"{stem}.fits.gz") if "/" not in stem else None
    if file is None:  # a path, too: no name may lead out of its folder
        raise ValueError("its file_name is not MANGAID_IFUDESIGNSIZE_SUBJECTID.fits")
    return file.manga_id, file.ifu_design_size, file.zooniverse_subject_id


def _compare(
    entries: Sequence[Entry],
    rows: Mapping[tuple[str, int, int], CatalogueRow],
    path: str | None,
    digests: bool,
) -> list[str]:
    """Tell what the listing and the catalogue do not have in common."""
    notes = []
    if path is None:
        notes.append(
            f"there is no {CATALOGUE_NAME}: 'observed' is not known, and the order is by name"
        )
    else:
        without = [entry.file.name for entry in entries if entry.row is None]
        if without:
            notes.append(
                f"no row in the catalogue for {count(len(without), 'file')} (first {without[0]})"
            )
        absent = len(rows) - (len(entries) - len(without))
        if absent:
            notes.append(
                f"no file here for {count(absent, 'row')} of the catalogue's {len(rows)}: left out"
            )
    if digests:
        unsigned = [entry.file.name for entry in entries if entry.sha1 is None]
        if unsigned:
            number = count(len(unsigned), "file")
            notes.append(f"no digest in the sha1 list for {number} (first {unsigned[0]})")
    else:
        notes.append("there is no sha1 list: only the CRC inside each file is checked")
    return notes


def _select_ids(entries: Sequence[Entry], ids: Sequence[str]) -> list[Entry]:
    if not ids:
        raise UsageError("the list of ids is empty; expected MaNGA or Zooniverse ids")
    wanted = set(ids)
    kept = [e for e in entries if not wanted.isdisjoint(_ids(e))]
    unknown = sorted(wanted.difference(*(_ids(e) for e in kept)))
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise UsageError(
            f"not in the source: {', '.join(unknown[:5])}{more}; expected MaNGA ids such as "
            f"{entries[0].file.manga_id} or Zooniverse ids such as "
            f"{entries[0].file.zooniverse_subject_id}"
        )
    return kept


def _ids(entry: Entry) -> tuple[str, str]:
    return entry.file.manga_id, str(entry.file.zooniverse_subject_id)


def _select_votes(
    entries: Sequence[Entry], least: float, path: str | None
) -> tuple[list[Entry], list[str]]:
    if not 0 <= least <= 1:
        raise UsageError(f"min_vote_fraction is {least}, expected a number from 0 to 1")
    if path is None:
        raise UsageError(f"min_vote_fraction needs the votes in {CATALOGUE_NAME}; there is none")
    kept, unknown = [], 0
    for entry in entries:
        if entry.row is None:
            unknown += 1
            continue
        votes = entry.row.metadata
        most = max(votes.spiral_votes, votes.bar_votes)
        if votes.total_classifications > 0 and most / votes.total_classifications >= least:
            kept.append(entry)
    note = f"left out {count(unknown, 'file')} without a row in the catalogue: votes unknown"
    return kept, [note] if unknown else []


def _along_the_sky(entries: Sequence[Entry]) -> list[Entry]:
    """By HEALPix nested index at order 29, then file name; unknown positions last."""
    from astropy_healpix import healpy  # slow to import, and workers never order

    placed = [entry for entry in entries if entry.row is not None]
    rows = [entry.row.metadata for entry in placed if entry.row is not None]
    ra = np.array([row.ra for row in rows])
    dec = np.array([row.dec for row in rows])
    pixels = healpy.ang2pix(ORDER_NSIDE, ra, dec, nest=True, lonlat=True).tolist()
    pairs = sorted(zip(pixels, placed, strict=True), key=lambda pair: (pair[0], pair[1].file.name))
    return [entry for _, entry in pairs] + [entry for entry in entries if entry.row is None]
