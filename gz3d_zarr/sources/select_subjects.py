"""Select and order the subjects of a source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gz3d_zarr.datamodel.file_names import CATALOGUE_NAME, parse_catalogue_name
from gz3d_zarr.datamodel.healpix import UNKNOWN_PIXEL, healpix_pixels
from gz3d_zarr.datamodel.ids import MAX_LISTED, find_rows, is_plate_ifu, parse_id
from gz3d_zarr.datamodel.layout import MAX_NSIDE
from gz3d_zarr.datamodel.manifest import CatalogueRow, Entry, Manifest
from gz3d_zarr.datamodel.sample_flags import sample_words
from gz3d_zarr.errors import UsageError, plural, shorten
from gz3d_zarr.locations import absolute, is_url, origin
from gz3d_zarr.sources.archive import is_archive, list_archive
from gz3d_zarr.sources.catalogue import Catalogue, read_catalogue, read_sha1_list
from gz3d_zarr.sources.ids_table import read_plate_ifus, replace_plate_ifus
from gz3d_zarr.sources.listing import Listing, Source, list_source
from gz3d_zarr.sources.options import ORDERS, TINY_LIMIT, FetchOptions, SelectionOptions

ORDER_NSIDE = MAX_NSIDE
"""Resolution at which subjects are sorted along the sky: HEALPix order 29, 0.4 mas."""


def make_manifest(
    listing: Listing,
    *,
    catalogue: str | None = None,
    use_catalogue: bool = True,
    order: str | None = None,
    limit: int | None = None,
    ids: Iterable[str | int] | None = None,
    missing_ids: str = "error",
    ids_table: str | Path | None = None,
    min_vote_fraction: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> Manifest:
    """Select and order the subjects of a listing.

    Parameters
    ----------
    listing : Listing
        The files.
    catalogue : str, optional
        Path of the catalogue; by default the one in the folder of the files.
    use_catalogue : bool
        False to ignore the catalogue.
    order : {'healpix', 'name'}, optional
        By default healpix if the catalogue has positions, otherwise name. Files whose position is
        unknown come last, by name.
    limit : int, optional
        Maximum number of subjects, in the order of the store.
    ids : iterable of str or int, optional
        Keep these MaNGA ids or Zooniverse subject ids; with a table, also plate-IFUs.
    missing_ids : {'error', 'warn'}
        Whether ids that no subject has are an error, or a note.
    ids_table : str or Path, optional
        Table with the columns ``mangaid`` and ``plateifu``.
    min_vote_fraction : float, optional
        Keep subjects whose spiral or bar votes over total classifications reach this.
    options : mapping, optional
        Storage options for fsspec.

    Raises
    ------
    UsageError
        An invalid selection or order, an unknown id, or no subject is left.
    SourceError
        The catalogue or a sha1 list cannot be read.
    """
    if order is not None and order not in ORDERS:
        raise UsageError(f"order is {order!r}, expected one of {', '.join(ORDERS)}")
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}, expected at least 1")
    path = (catalogue or listing.catalogue) if use_catalogue else None
    table = Catalogue({})
    if path is not None:
        table = read_catalogue(path, listing.read(path, options))
    rows = table.rows
    digests: dict[str, str] = {}
    for name in listing.sha1_lists:
        digests |= read_sha1_list(name, listing.read(name, options))
    entries = [
        Entry(file, digests.get(file.name), rows.get(parse_catalogue_name(file.name)))
        for file in listing.files
    ]
    notes = [*listing.notes, *table.notes, *_compare(entries, rows, path, bool(digests))]
    if ids is not None:
        wanted = [parse_id(i) for i in ids]
        if ids_table is not None:
            wanted = replace_plate_ifus(wanted, read_plate_ifus(ids_table))
        entries, note = _select_ids(entries, wanted, warns=missing_ids == "warn")
        notes += note
    if min_vote_fraction is not None:
        entries, note = _select_votes(entries, min_vote_fraction, path)
        notes += note
    if not entries:
        raise UsageError("no subject is selected; loosen the selection")
    known = sum(entry.row is not None for entry in entries)
    if order == "healpix" and not known:
        raise UsageError(
            f"the order healpix needs positions, and there is no {CATALOGUE_NAME} with rows for "
            "these files; give one (catalogue, --catalogue) or use the order name"
        )
    order = order or ("healpix" if known else "name")
    samples = {word for row in rows.values() for word in sample_words(row.metadata.sample)}
    ordered = _along_the_sky(entries) if order == "healpix" else entries
    return Manifest(
        listing.location,
        tuple(ordered[:limit]),
        order,
        path if known else None,
        tuple(sorted(samples)) if known else (),
        tuple(notes),
        listing.release,
    )


def _compare(
    entries: Sequence[Entry],
    rows: Mapping[tuple[str, int, int], CatalogueRow],
    path: str | None,
    digests: bool,
) -> list[str]:
    """Note what the listing and the catalogue do not have in common."""
    notes = []
    if path is None:
        notes.append(
            f"there is no {CATALOGUE_NAME}: 'observed' is unknown, and the order is by name"
        )
    else:
        without = [entry.file.name for entry in entries if entry.row is None]
        if without:
            notes.append(
                f"the catalogue has no row for {plural(len(without), 'file')} (first {without[0]})"
            )
        absent = len(rows) - (len(entries) - len(without))
        if absent:
            notes.append(
                f"the source has no file for {absent} of {plural(len(rows), 'row')} of the "
                "catalogue: left out"
            )
    if digests:
        unsigned = [entry.file.name for entry in entries if entry.sha1 is None]
        if unsigned:
            number = plural(len(unsigned), "file")
            notes.append(f"the sha1 list has no digest for {number} (first {unsigned[0]})")
    else:
        notes.append("there is no sha1 list: only the CRC inside each file is checked")
    return notes


def _select_ids(
    entries: Sequence[Entry], ids: Sequence[str | int], *, warns: bool
) -> tuple[list[Entry], list[str]]:
    manga_ids = [entry.file.manga_id for entry in entries]
    subject_ids = [entry.file.zooniverse_subject_id for entry in entries]
    known = {*manga_ids, *subject_ids}
    missing = list(dict.fromkeys(wanted for wanted in ids if wanted not in known))
    notes = []
    if warns and missing and len(missing) < len(set(ids)):
        first = ", ".join(str(wanted) for wanted in missing[:MAX_LISTED])
        notes.append(
            f"no subject has {plural(len(missing), 'id')} of the list (first {shorten(first)})"
        )
        ids = [wanted for wanted in ids if wanted in known]
    try:
        rows = find_rows(ids, manga_ids, subject_ids)
    except UsageError as error:
        if any(is_plate_ifu(wanted) for wanted in missing):
            hint = "plate-IFUs need a table that has them: ids_table (--table)"
        elif not warns and len(missing) < len(set(ids)):
            hint = 'missing_ids="warn" (--missing-ids warn) leaves such ids out'
        else:
            raise
        raise UsageError(f"{error}; {hint}") from None
    return [entries[row] for row in sorted(rows)], notes


def _select_votes(
    entries: Sequence[Entry], least: float, path: str | None
) -> tuple[list[Entry], list[str]]:
    option = "min_vote_fraction (--min-vote-fraction)"
    if not 0 <= least <= 1:
        raise UsageError(f"{option} is {least}, expected a number from 0 to 1")
    if path is None:
        raise UsageError(f"{option} needs the votes in {CATALOGUE_NAME}, and there is none")
    kept, unknown = [], 0
    for entry in entries:
        if entry.row is None:
            unknown += 1
            continue
        votes = entry.row.metadata
        most = max(votes.spiral_votes, votes.bar_votes)
        if votes.total_classifications > 0 and most / votes.total_classifications >= least:
            kept.append(entry)
    files = plural(unknown, "file")
    note = f"left out {files} without a row in the catalogue: the votes are unknown"
    return kept, [note] if unknown else []


def _along_the_sky(entries: Sequence[Entry]) -> list[Entry]:
    """Sort by HEALPix nested index at order 29, then file name; unknown positions last."""
    unknown = (math.nan, math.nan)
    rows = [entry.row.metadata if entry.row is not None else None for entry in entries]
    ra, dec = np.array([unknown if row is None else (row.ra, row.dec) for row in rows]).T
    pixels = healpix_pixels(ra, dec, ORDER_NSIDE)
    keys = [(p == UNKNOWN_PIXEL, p, e.file.name) for p, e in zip(pixels, entries, strict=True)]
    return [entries[i] for i in sorted(range(len(entries)), key=keys.__getitem__)]


def read_manifest(source: Source, selection: SelectionOptions, fetch: FetchOptions) -> Manifest:
    """List a source and select its subjects.

    Raises
    ------
    SourceError, UsageError
        As `list_source` and `make_manifest`.
    """
    use_catalogue = str(selection.catalogue) != "none"
    catalogue = None
    if use_catalogue and selection.catalogue is not None:
        catalogue = absolute(str(selection.catalogue))
    listing = (
        list_archive(str(source), cache=fetch.cache, options=fetch.source_options)
        if is_archive(source)
        else list_source(source, fetch.source_options)
    )
    options = fetch.source_options
    if (
        catalogue is not None
        and is_url(catalogue)
        and origin(catalogue) != origin(listing.location)
    ):
        options = None  # a token is for one host
    return make_manifest(
        listing,
        catalogue=catalogue,
        use_catalogue=use_catalogue,
        order=selection.order,
        limit=TINY_LIMIT if selection.tiny else selection.limit,
        ids=selection.ids,
        missing_ids=selection.missing_ids,
        ids_table=selection.ids_table,
        min_vote_fraction=selection.min_vote_fraction,
        options=options,
    )
