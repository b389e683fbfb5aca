"""List an archive that is served over HTTP: by its catalogue, its index page, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from gz3d_zarr.catalogue import read_file_names
from gz3d_zarr.errors import SourceError, Status, SubjectError, count
from gz3d_zarr.fetch import fetch, open_connection
from gz3d_zarr.reading import write_cached
from gz3d_zarr.releases import RELEASES, Release
from gz3d_zarr.source import (
    CATALOGUE_NAME,
    MAX_SMALL_FILE,
    SHA1_SUFFIX,
    Listing,
    Source,
    absolute,
    base_name,
    parse_name,
    sort_out,
)

_UNNAMED = Release("", "", "", CATALOGUE_NAME, RELEASES["dr17"].sha1_list)


def is_archive(source: Source) -> bool:
    """Whether a source is a named release, or a folder that is served over HTTP."""
    if not isinstance(source, str):
        return False
    served = source.startswith(("http://", "https://"))
    return source in RELEASES or (served and not source.endswith(".txt") and not parse_name(source))


def list_archive(
    source: str, *, cache: str | None = None, options: Mapping[str, Any] | None = None
) -> Listing:
    """List a named release, or the archive at a URL.

    Subjects are those of the catalogue and those of the index page; where one of the two is not
    to be had, those of the other. A subject of the catalogue that the index does not list stays:
    it is for the build to find that it is missing.

    Parameters
    ----------
    source : str
        A key of `RELEASES`, or the URL of a folder.
    cache : str, optional
        Folder that gets the catalogue and the sha1 list, so that it is an archive by itself.
    options : mapping, optional
        Source options, as `open_connection` takes them.

    Raises
    ------
    SourceError
        The server cannot be reached, holds no archive, or names files outside of it.
    """
    release = RELEASES.get(source, replace(_UNNAMED, url=absolute(source)))
    base = release.url.rstrip("/") + "/"
    documents: dict[str, bytes] = {}
    notes: list[str] = []
    with open_connection(options) as pool:

        def load(name: str) -> bytes | None:
            try:
                data = fetch(pool, base + name, MAX_SMALL_FILE)
            except SubjectError as error:
                if error.status is Status.MISSING:
                    return None
                raise SourceError(error.reason) from None
            return data

        page = _try_index(load, notes)
        listed = _read_links(page, base) if page is not None else []
        names = {base_name(path) for path in listed}
        for name in (release.catalogue, *_sha1_lists(names, release)):
            data = load(name) if page is None or name in names else None
            if data is not None:
                documents[base + name] = data
                if cache is not None:
                    write_cached(Path(cache, name), data)
    subjects = {name for name in names if parse_name(name) is not None}
    table = documents.get(base + release.catalogue)
    rows = set(read_file_names(base + release.catalogue, table)) if table is not None else set()
    if page is not None and table is not None:
        notes += _compare(subjects, rows)
    found = [(base + name, None) for name in sorted(subjects | rows)]
    found += [(path, None) for path in documents]
    listing = sort_out(base, found)
    return replace(
        listing,
        notes=(*notes, *listing.notes),
        documents=documents,
        release=f"{release.release} {release.version}".strip(),
    )


def _try_index(load: Callable[[str], bytes | None], notes: list[str]) -> str | None:
    """Text of the index page; None where the server shows none."""
    try:
        page = load("")
    except SourceError as error:
        # Some servers list no folders (403); one that is not there says so for the catalogue too.
        if "the server answers" not in str(error):
            raise
        page = None
    if page is None:
        notes.append("the server shows no index page: subjects are those of the catalogue")
        return None
    return page.decode("utf-8", "replace")


class _Links(HTMLParser):
    """Targets of all links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.targets += [value for name, value in attrs if name == "href" and value]


def _read_links(page: str, base: str) -> list[str]:
    """URLs of the archive's files on an index page; none outside of `base` is let in."""
    links = _Links()
    links.feed(page)
    files = []
    for target in links.targets:
        name = base_name(unquote(urlsplit(target).path))
        ours = parse_name(name) is not None or name == CATALOGUE_NAME or name.endswith(SHA1_SUFFIX)
        if not ours:
            continue  # the parent folder, columns to sort by, other files
        if unquote(urljoin(base, target)) != base + name:
            raise SourceError(
                f"the index page {base} links to {target!r}, which leads outside of it; such an "
                "archive is not to be trusted"
            )
        files.append(base + name)
    return files


def _sha1_lists(names: set[str], release: Release) -> list[str]:
    listed = sorted(name for name in names if name.endswith(SHA1_SUFFIX))
    return listed or [release.sha1_list]


def _compare(listed: set[str], rows: set[str]) -> list[str]:
    """Tell, before any download, what index and catalogue do not have in common."""
    notes = []
    unlisted = sorted(rows - listed)
    if unlisted:
        notes.append(
            f"the index does not list {count(len(unlisted), 'file')} of the catalogue (first "
            f"{unlisted[0]})"
        )
    return notes
