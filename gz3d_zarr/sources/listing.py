"""Find subject files, and read small files beside them, on any fsspec file system."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from gz3d_zarr.datamodel.file_names import (
    CATALOGUE_NAME,
    SHA1_SUFFIX,
    SubjectFile,
    base_name,
    parse_name,
)
from gz3d_zarr.datamodel.limits import MAX_LIST, MAX_SUBJECTS
from gz3d_zarr.errors import (
    CLIENT_ERRORS,
    SourceError,
    SubjectError,
    UsageError,
    access_errors,
    error_message,
    plural,
    quote,
    shorten,
)
from gz3d_zarr.locations import (
    S3_SCHEMES,
    absolute,
    ask,
    file_size,
    hide_options,
    is_http,
    is_url,
    origin,
    public_cause,
    read_regular,
    refuse_irregular,
)
from gz3d_zarr.sources.download import read_by_fsspec
from gz3d_zarr.sources.http import fetch, open_connection

LISTING_SECONDS = 60
"""Timeout for a web server that lists a folder; the default of fsspec is five minutes."""
Source = str | Path | Sequence[str | Path]
"""A folder, a glob, a URL, a ``.txt`` file with one path per line, or a sequence of paths."""


@dataclass(frozen=True)
class Listing:
    """The files of a source.

    Attributes
    ----------
    location : str
        Absolute path or URL of the source.
    files : tuple of SubjectFile
        In order of name.
    catalogue, sha1_lists
        Paths of ``gz3d_metadata.fits`` and of the sha1 lists in the folder of the files, if any.
    notes : tuple of str
        Remarks for the user.
    documents : mapping
        Contents of catalogue and sha1 lists that have been fetched already.
    release : str
        Release and version of the catalogue, if the source is a named release.
    """

    location: str
    files: tuple[SubjectFile, ...]
    catalogue: str | None = None
    sha1_lists: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    documents: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    release: str = ""

    def read(self, path: str, options: Mapping[str, Any] | None = None) -> bytes:
        """Contents of the catalogue or of a sha1 list; SourceError if it cannot be read."""
        data = self.documents.get(path)
        return read_small_file(path, options) if data is None else data


def list_source(source: Source, options: Mapping[str, Any] | None = None) -> Listing:
    """Find the subject files of a source, and the catalogue and sha1 lists in their folders.

    Parameters
    ----------
    source : str, Path or sequence of them
        A folder, a glob, a ``.txt`` file with one path per line, one subject file, or a sequence
        of files; local, or URLs of any fsspec file system.
    options : mapping, optional
        Storage options for fsspec.

    Raises
    ------
    SourceError
        The source does not exist, has no subject files, or has two files of one Zooniverse
        subject.
    UsageError
        Options for a local source, or a URL that contains a password.
    """
    paths: Any = [source] if isinstance(source, str | Path) else source
    if not isinstance(paths, Sequence) or not all(isinstance(p, str | Path) for p in paths):
        raise UsageError("the source is no path, URL or list of them")
    if isinstance(source, str | Path):
        location = absolute(str(source))
        found = _list_location(location, options or {})
    else:
        location = f"a list of {plural(len(source), 'file')}"
        found = [(path, _size(path)) for path in (absolute(str(path)) for path in source)]
        if not found:
            raise SourceError("the list of subject files is empty; expected at least one path")
        found = _add_catalogue_files(found, options or {})
    if options and not any(is_url(path) for path, _ in found):
        raise UsageError(f"source options are for URLs, and {location} is local")
    return build_listing(location, found)


def _check_headers(paths: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuse to send headers to several hosts: they may contain a token for one of them."""
    hosts = sorted({origin(path) for path in paths if is_http(path)})
    if "headers" in options and len(hosts) > 1:
        raise UsageError(
            f"headers would be sent to {' and '.join(hosts[:3])}: use files of one host at a time"
        )


def read_small_file(path: str, options: Mapping[str, Any] | None = None) -> bytes:
    """Fetch a catalogue, a sha1 list or a list of files.

    Raises
    ------
    SourceError
        The file cannot be read.
    """
    try:
        if is_http(path):
            with open_connection(options) as pool:
                return fetch(pool, path, MAX_LIST)
        if is_url(path):
            data = read_by_fsspec(path, options, MAX_LIST + 1)
        else:
            data = read_regular(path, MAX_LIST + 1)
    except SubjectError as error:
        raise SourceError(error.reason) from None
    except access_errors(*CLIENT_ERRORS) as error:
        reason = hide_options(error_message(error), options)
        raise SourceError(f"{shorten(path)} cannot be read: {reason}") from public_cause(
            error, options
        )
    if len(data) > MAX_LIST:
        raise SourceError(
            f"{shorten(path)} has more than {MAX_LIST // 2**20} MiB: it is not a file of a Galaxy "
            "Zoo: 3D archive; those of the whole survey have less than 8 MB"
        )
    return data


def as_text(path: str, data: bytes) -> str:
    """Decode a small text file; SourceError if it is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not text: {error}") from None


def _list_location(location: str, options: Mapping[str, Any]) -> list[tuple[str, int | None]]:
    """Paths and sizes of the files in a folder, glob, list file or single file."""
    if location.endswith(".txt"):
        lines = [
            line.strip()
            for line in as_text(location, read_small_file(location, options)).splitlines()
        ]
        here = location.rpartition("/")[0]
        listed = [line for line in lines if line and not line.startswith("#")]
        if is_url(location):
            paths = [_url_in_list(location, here, line) for line in listed]
        else:
            paths = [_path_in_list(location, here, line) for line in listed]
        check_count(location, len(paths))
        return _add_catalogue_files([(path, _size(path)) for path in paths], options)
    try:
        if is_url(location):
            return _list_url(location, options)
        return _list_local(location)
    except FileNotFoundError:
        raise SourceError(
            f"there is no source {location}: expected a folder of subject files, a glob, a list "
            "of files (.txt) or a URL"
        ) from None
    except access_errors(*CLIENT_ERRORS) as error:
        reason = hide_options(error_message(error), options)
        raise SourceError(f"the source {location} cannot be listed: {reason}") from public_cause(
            error, options
        )


def _url_in_list(location: str, here: str, line: str) -> str:
    """URL of a file in a remote list; SourceError if it is on another server or folder."""
    path = absolute(line if is_url(line) else f"{here}/{line}")
    if origin(path) != origin(location) or ".." in path.split("/"):
        raise SourceError(
            f"the list {location} names {quote(line)}, which is outside of its folder and server; "
            "do not trust such a list. If you do, download it and use the copy"
        )
    return path


def _path_in_list(location: str, here: str, line: str) -> str:
    """Path or URL of a file in a local list; SourceError if it is none."""
    try:
        return absolute(line, here)
    except UsageError as error:
        if is_url(line):  # it may hold a secret, which is not repeated
            raise
        raise SourceError(
            f"the list {location} names {quote(line)}, which cannot be a path of a file: {error}"
        ) from None


def _size(path: str) -> int | None:
    """Size in bytes of an existing local file, otherwise None."""
    return None if is_url(path) else file_size(path)


def _add_catalogue_files(
    found: Sequence[tuple[str, int | None]], options: Mapping[str, Any]
) -> list[tuple[str, int | None]]:
    """Add the catalogue and the sha1 lists in the folders of the files."""
    _check_headers([path for path, _ in found], options)
    more: list[tuple[str, int | None]] = []
    for folder in sorted({path.rpartition("/")[0] for path, _ in found if "::" not in path}):
        # If a server cannot list the folder, a note reports that there is no catalogue.
        try:
            if is_url(folder):
                fs, inner = url_to_fs(folder, **options)
                limit = {"timeout": LISTING_SECONDS} if fs.async_impl else {}
                listed = fs.ls(inner, detail=False, **limit)
                names = [fs.unstrip_protocol(name) for name in listed]
            else:
                names = [path.as_posix() for path in Path(folder).iterdir()]
        except TimeoutError:
            raise SourceError(
                f"{folder} cannot be listed in {LISTING_SECONDS} seconds, to look for a catalogue "
                "and a sha1 list: is the server reachable?"
            ) from None
        except access_errors(*CLIENT_ERRORS):
            continue  # also where options are wrong: reading the files reports it
        more += [(name, None) for name in names if _is_catalogue_file(name)]
    known = {path for path, _ in found}
    return [*found, *(entry for entry in more if entry[0] not in known)]


def _list_local(location: str) -> list[tuple[str, int | None]]:
    path = Path(location)
    if path.is_dir():
        paths = list(path.iterdir())
    elif path.exists():
        refuse_irregular(location)
        paths = [path]
    elif glob.has_magic(location):
        paths = [Path(name) for name in glob.iglob(location)]
    else:
        raise FileNotFoundError(location)
    # Keep folders with the name of a subject file, so that they are reported as unreadable.
    kept = [p for p in paths if not p.is_dir() or parse_name(p.name) is not None]
    found = [(p.as_posix(), file_size(p)) for p in kept]
    return found if path.is_dir() else _add_catalogue_files(found, {})


def _list_url(location: str, options: Mapping[str, Any]) -> list[tuple[str, int | None]]:
    if parse_name(location) is not None:
        return _add_catalogue_files([(location, None)], options)
    refuse_irregular(location)
    fs, inner = url_to_fs(location, **options)
    limit = {"timeout": LISTING_SECONDS} if is_http(location) else {}
    if location.startswith(S3_SCHEMES):  # a long listing may take long, a dead server must not
        with contextlib.suppress(FileNotFoundError, PermissionError):
            ask(fs, fs.info, inner.partition("*")[0])
    if glob.has_magic(inner):
        chain = location[location.index("::") :] if "::" in location else ""
        matches = [
            (str(fs.unstrip_protocol(name)) + chain, None) for name in fs.glob(inner, **limit)
        ]
        return [*matches] if chain else _add_catalogue_files(matches, options)
    entries = fs.ls(inner, detail=True, **limit)
    return [
        (fs.unstrip_protocol(entry["name"]), entry.get("size"))
        for entry in entries
        if entry.get("type") != "directory"
    ]


def _is_catalogue_file(name: str) -> bool:
    return base_name(name) == CATALOGUE_NAME or name.endswith(SHA1_SUFFIX)


def check_count(location: str, count: int) -> None:
    """Refuse a source of more files than any archive has; SourceError."""
    if count > MAX_SUBJECTS:
        raise SourceError(
            f"{location} has {count} files, and a store may have {MAX_SUBJECTS} subjects: is it "
            "the right source?"
        )


def build_listing(location: str, found: Sequence[tuple[str, int | None]]) -> Listing:
    """Separate subject files from other files; SourceError if there are none, or twins."""
    check_count(location, len(found))
    files: list[SubjectFile] = []
    others: list[str] = []
    for path, size in found:
        file = parse_name(path, size)
        if file is not None:
            files.append(file)
        elif not _is_catalogue_file(path):
            others.append(path)
    if not files:
        finding = f"none of its {plural(len(others), 'file')} is" if others else "no file is"
        raise SourceError(
            f"{location} has no subject files: {finding} named "
            "gz3d_MANGAID_IFUDESIGNSIZE_SUBJECTID.fits.gz"
        )
    files.sort(key=lambda file: (file.name, file.path))
    seen: dict[int, SubjectFile] = {}
    for file in files:
        twin = seen.setdefault(file.zooniverse_subject_id, file)
        if twin is not file:
            raise SourceError(
                f"{shorten(twin.path)} and {shorten(file.path)} have the same Zooniverse subject "
                f"id {file.zooniverse_subject_id}, which must be unique; leave one of them out"
            )
    paths = sorted(path for path, _ in found)
    notes: tuple[str, ...] = ()
    if others:
        names = shorten(", ".join(sorted(base_name(path) for path in others)[:3]))
        notes = (
            f"left out {plural(len(others), 'file')} without the name of a subject file ({names}"
            f"{', ...' if len(others) > 3 else ''})",
        )
    return Listing(
        location,
        tuple(files),
        next((path for path in paths if base_name(path) == CATALOGUE_NAME), None),
        tuple(path for path in paths if path.endswith(SHA1_SUFFIX)),
        notes,
    )
