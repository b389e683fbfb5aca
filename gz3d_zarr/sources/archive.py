"""List an archive on a web server: by its catalogue, its index page, or both."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from gz3d_zarr.datamodel.file_names import CATALOGUE_NAME, base_name, parse_name
from gz3d_zarr.datamodel.limits import MAX_LIST
from gz3d_zarr.errors import (
    SourceError,
    Status,
    SubjectError,
    error_message,
    plural,
    quote,
)
from gz3d_zarr.locations import absolute
from gz3d_zarr.sources.catalogue import read_file_names, read_sha1_list
from gz3d_zarr.sources.download import compare_sha1, hash_body, write_cached
from gz3d_zarr.sources.http import Connection, RefusedError, fetch, open_connection
from gz3d_zarr.sources.listing import Listing, Source, build_listing

_SHA1_LIST = re.compile(r"[A-Za-z0-9_.+-]+\.sha1sum")


@dataclass(frozen=True, slots=True)
class Release:
    """One release of the Galaxy Zoo: 3D catalogue.

    Attributes
    ----------
    release : str
        Data release of SDSS.
    version : str
        Version of the value-added catalogue.
    url : str
        URL of the folder of subject files.
    catalogue, sha1_list : str
        Names of these two files in the folder.
    """

    release: str
    version: str
    url: str
    catalogue: str
    sha1_list: str


RELEASES: Mapping[str, Release] = {
    "dr17": Release(
        release="SDSS DR17",
        version="v4_0_0",
        url="https://data.sdss.org/sas/dr17/env/MANGA_MORPHOLOGY/galaxyzoo3d/v4_0_0/",
        catalogue="gz3d_metadata.fits",
        sha1_list="manga_morphology_galaxyzoo3d_v4_0_0.sha1sum",
    ),
}
_UNNAMED = Release("", "", "", CATALOGUE_NAME, RELEASES["dr17"].sha1_list)


def is_archive(source: Source) -> bool:
    """Whether a source is a named release or a folder on a web server."""
    if not isinstance(source, str):
        return False
    served = source.startswith(("http://", "https://"))
    return source in RELEASES or (served and not source.endswith(".txt") and not parse_name(source))


def list_archive(
    source: str, *, cache: str | None = None, options: Mapping[str, Any] | None = None
) -> Listing:
    """List a named release, or the archive at a URL.

    The subjects are those of the catalogue and those of the index page; one of the two is enough.
    A subject that is only in the catalogue is included: the build reports it if it is missing.

    Parameters
    ----------
    source : str
        A key of `RELEASES`, or the URL of a folder.
    cache : str, optional
        Folder that gets the catalogue and the sha1 list, which makes it an archive of its own.
    options : mapping, optional
        Source options, as `open_connection` takes them.

    Raises
    ------
    SourceError
        The server cannot be reached, has no archive, or names files outside of it.
    """
    release = RELEASES.get(source, replace(_UNNAMED, url=absolute(source)))
    root = release.url.rstrip("/") + "/"
    documents: dict[str, bytes] = {}
    notes: list[str] = []
    with open_connection(options) as connection:
        page, finding = _try_index(connection, root)
        is_cut = page is not None and not _is_whole(page)
        listed = _read_links(page, root) if page is not None else []
        names = {base_name(path) for path in listed}
        digests: dict[str, str] = {}
        for name in sorted({release.sha1_list, *filter(_SHA1_LIST.fullmatch, names)}):
            data = _load(connection, root + name, read_sha1_list)
            if data is not None:
                documents[root + name] = data
                digests |= read_sha1_list(root + name, data)

        def check(path: str, data: bytes) -> None:
            mismatch = compare_sha1(hash_body(data).sha1, digests.get(base_name(path)))
            if mismatch is not None:
                raise SourceError(f"the catalogue {path} is damaged: {mismatch}")
            read_file_names(path, data)

        data = _load(connection, root + release.catalogue, check)
        if data is not None:
            documents[root + release.catalogue] = data
            if finding:
                notes.append(f"{finding}: subjects are those of the catalogue")
        elif finding:
            raise SourceError(
                f"{finding}, and {root} has no {release.catalogue}: it has no subject files that "
                "can be listed; try again, or list the URLs of the files in a .txt file and use "
                "that as the source"
            )
        elif is_cut:
            raise SourceError(
                f"the index page {root} seems to be cut short (it has no </html>), and without a "
                f"{release.catalogue} the files it lacks are unknown: try again, or list the URLs "
                "of the files in a .txt file and use that as the source"
            )
    if is_cut:
        notes.append(
            "the index page seems to be cut short (it has no </html>): subjects that are not in "
            "the catalogue may be left out"
        )
    if cache is not None:
        for path, data in documents.items():
            write_cached(Path(cache, base_name(path)), data)
    subjects = {name for name in names if parse_name(name) is not None}
    table = documents.get(root + release.catalogue)
    rows = set(read_file_names(root + release.catalogue, table)) if table is not None else set()
    if page is not None and table is not None:
        notes += _compare(subjects, rows)
    found = [(root + name, None) for name in sorted(subjects | rows)]
    found += [(path, None) for path in documents]
    listing = build_listing(root, found)
    return replace(
        listing,
        notes=(*notes, *listing.notes),
        documents=documents,
        release=f"{release.release} {release.version}".strip(),
    )


def _load(connection: Connection, url: str, check: Callable[[str, bytes], object]) -> bytes | None:
    """Fetch a document that passes `check`, in two tries; None if it does not exist."""
    try:
        data = fetch(connection, url, MAX_LIST)
        try:
            check(url, data)
        except SourceError:
            data = fetch(connection, url, MAX_LIST)
            check(url, data)
    except SubjectError as error:
        if error.status is Status.MISSING:
            return None
        raise SourceError(error.reason) from None
    return data


def _try_index(connection: Connection, root: str) -> tuple[str | None, str]:
    """Text of the index page, in two tries if it is cut short, or None and why there is none."""
    try:
        page = fetch(connection, root, MAX_LIST).decode("utf-8", "replace")
        if not _is_whole(page):
            page = fetch(connection, root, MAX_LIST).decode("utf-8", "replace")
    except SubjectError as error:
        if error.status is Status.MISSING or isinstance(error, RefusedError):
            return None, "the server has no index page"
        return None, f"the index page cannot be read ({error.reason})"
    try:
        _Links().feed(page)
    except AssertionError as error:  # what the parser raises where a page is not HTML
        return None, f"the index page cannot be understood ({error_message(error)})"
    return page, ""


def _is_whole(page: str) -> bool:
    """Whether a page is complete; without a length, HTTP does not notice that it is cut."""
    return "</html>" in page.lower()


class _Links(HTMLParser):
    """Collect the targets of all links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.targets += [value for name, value in attrs if name == "href" and value]


def _read_links(page: str, root: str) -> list[str]:
    """URLs of archive files on an index page; SourceError if one is outside of `root`."""
    links = _Links()
    links.feed(page)
    files = []
    for target in links.targets:
        try:
            name = base_name(unquote(urlsplit(target).path))
        except ValueError:  # no URL
            continue
        ours = parse_name(name) is not None or name == CATALOGUE_NAME or _SHA1_LIST.fullmatch(name)
        if not ours:
            continue  # the parent folder, columns to sort by, other files
        if unquote(urljoin(root, target)) != unquote(urljoin(root, ".")) + name:
            raise SourceError(
                f"the index page {root} links to {quote(target)}, which is outside of the archive; "
                "do not trust such an archive"
            )
        files.append(root + name)
    return files


def _compare(listed: set[str], rows: set[str]) -> list[str]:
    """Note, before any download, files of the catalogue that the index page lacks."""
    notes = []
    unlisted = sorted(rows - listed)
    if unlisted:
        notes.append(
            f"the index does not list {plural(len(unlisted), 'file')} of the catalogue (first "
            f"{unlisted[0]})"
        )
    return notes
