"""Tell a source that is gone from one file that is missing."""

from __future__ import annotations

import glob
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fsspec.core import url_to_fs

from gz3d_zarr.datamodel.manifest import Manifest
from gz3d_zarr.errors import (
    CLIENT_ERRORS,
    SourceError,
    Status,
    access_errors,
    error_message,
    shorten,
)
from gz3d_zarr.locations import ask, hide_options, is_http, is_url, origin
from gz3d_zarr.sources.http import MISSING, open_connection, probe

FAILED_TO_READ = (Status.MISSING, Status.UNREACHABLE)
"""Statuses of a file that may be due to its source."""
MAX_SERVERS = 8
"""Servers of one list of URLs that are looked at when a build begins."""


@dataclass(frozen=True)
class SeenUrl:
    """Something at a source that answered when a build began.

    Attributes
    ----------
    url : str
        A folder, a catalogue, a list of files, or a subject file.
    was_read : bool
        Whether it existed, and the server did not only answer.
    """

    url: str
    was_read: bool


@dataclass(frozen=True)
class SourceState:
    """What existed of a source when a build began.

    Attributes
    ----------
    folders : mapping of str to int
        Device of each local folder that held files.
    host : str
        Where these devices were looked up; other hosts number theirs otherwise.
    urls : mapping of str to tuple of SeenUrl
        What answered for files at URLs, by their server, or "" for all of them.
    """

    folders: Mapping[str, int] = field(default_factory=dict)
    host: str = ""
    urls: Mapping[str, tuple[SeenUrl, ...]] = field(default_factory=dict)

    def for_files(self, paths: Iterable[str]) -> SourceState:
        """The same for some of the files."""
        needed = {folder for path in paths if not is_url(path) for folder in _find_folders(path)}
        kept = {folder: device for folder, device in self.folders.items() if folder in needed}
        return replace(self, folders=kept)


def observe_source(manifest: Manifest, options: Mapping[str, Any] | None = None) -> SourceState:
    """Look at what a later check compares with; no file is fetched.

    Parameters
    ----------
    manifest : Manifest
    options : mapping, optional
        Storage options of the source.

    Raises
    ------
    SourceError
        A folder whose files were listed a moment ago is gone or empty.
    """
    files = [entry.file for entry in manifest.entries]
    listed = {file.path for file in files if file.size is not None}
    found: dict[str, bool] = {}
    for path in (file.path for file in files if not is_url(file.path)):
        for folder in _find_folders(path):
            found[folder] = found.get(folder, False) or path in listed
    devices = {}
    for folder, had_files in found.items():
        try:
            device, is_empty = _look(folder)
        except OSError as error:
            device, is_empty, finding = 0, True, f"cannot be read: {error_message(error)}"
        else:
            finding = "is empty now"
        if not is_empty:
            devices[folder] = device
        elif had_files:  # others: files that are missing from the start are missing files
            raise SourceError(
                f"the source went away before the build began: the folder {shorten(folder)} "
                f"{finding}. Nothing was written; restore the source and try again"
            )
    return SourceState(devices, socket.gethostname(), _find_urls(manifest, options))


def check_source(
    state: SourceState, path: str, status: Status, options: Mapping[str, Any] | None = None
) -> None:
    """Check that the source of a file that cannot be read still exists.

    Parameters
    ----------
    state : SourceState
        Of the time when the build began.
    path : str
        The file.
    status : Status
        Missing or unreachable.
    options : mapping, optional
        Storage options of the source.

    Raises
    ------
    SourceError
        The folder of the file is gone, empty or on another file system; or its server, or a file
        there that was read before, does not answer any more.
    """
    if not is_url(path):
        finding = next(filter(None, (_check_folder(state, f) for f in _find_folders(path))), "")
    else:
        seen = state.urls.get("") or state.urls.get(_server(path), ())
        check = _check_http if is_http(path) else _check_remote
        finding = check(seen, status, options) if seen else ""
    if finding:
        raise SourceError(
            f"the source went away while the build ran: {finding} (at {shorten(path)}). Finished "
            "shards are kept; restore the source, and use --resume to continue"
        )


def _find_folders(path: str) -> tuple[str, ...]:
    """The folder of a local file, and that of the file that it links to."""
    folder = os.path.dirname(path)
    if os.path.islink(path):
        return folder, os.path.dirname(os.path.realpath(path))
    return (folder,)


def _look(folder: str) -> tuple[int, bool]:
    """Device of a folder, and whether it is empty; OSError if it cannot be read."""
    with os.scandir(folder) as entries:
        return os.stat(folder).st_dev, next(entries, None) is None


def _check_folder(state: SourceState, folder: str) -> str:
    """What became of a folder; empty if it still exists, or did not exist before."""
    if folder not in state.folders:
        return ""
    host = socket.gethostname()
    name = shorten(folder) if host == state.host else f"{shorten(folder)} on {host}"
    try:
        device, is_empty = _look(folder)
    except OSError as error:
        return f"the folder {name} cannot be read: {error_message(error)}"
    if host == state.host and device != state.folders[folder]:
        return f"the folder {name} is on another file system than before"
    return f"the folder {name} is empty now" if is_empty else ""


def _server(path: str) -> str:
    """What the files of a list share: their server, or the archive file that they are in."""
    inner = path.rpartition("::")[2]
    return origin(path) if "://" in inner else inner


def _find_urls(
    manifest: Manifest, options: Mapping[str, Any] | None
) -> dict[str, tuple[SeenUrl, ...]]:
    """What answers at each server of the files; nothing of one that does not answer."""
    location, catalogue = manifest.location, manifest.catalogue or ""
    by_server: dict[str, list[str]] = {}
    for path in (entry.file.path for entry in manifest.entries):
        if is_url(path):
            by_server.setdefault(_server(path), []).append(path)
    is_list = not is_url(location) or any(e.file.path == location for e in manifest.entries)
    if not is_list and by_server:
        by_server = {"": [path for paths in by_server.values() for path in paths]}
    found: dict[str, tuple[SeenUrl, ...]] = {}
    for server, paths in [*by_server.items()][:MAX_SERVERS]:
        if is_url(catalogue) and origin(catalogue) == origin(paths[0]):
            found[server] = (SeenUrl(catalogue, True),)  # it has just been read
        elif not is_list and location.endswith(".txt"):
            found[server] = (SeenUrl(location, True),)
        else:
            is_glob = glob.has_magic(location.partition("::")[0])
            above = () if is_list else (_folder(location) if is_glob else location,)
            found[server] = _see(above, paths, options)
    return found


def _folder(url: str) -> str:
    """Folder of a file, or of a glob the one in which it begins; it may be in another file."""
    first, chain, rest = url.partition("::")
    end = min((first.index(sign) for sign in "*?[" if sign in first), default=len(first))
    return f"{first[:end].rpartition('/')[0]}/{chain}{rest}"


def _see(
    above: Sequence[str], paths: Sequence[str], options: Mapping[str, Any] | None
) -> tuple[SeenUrl, ...]:
    """Ask for a folder, or for some of the files, at one server; empty if it does not answer."""
    if not is_http(paths[0]):
        folder = "".join(above) or _folder(paths[0])
        return () if _find_remote(folder, options, first=True) else (SeenUrl(folder, True),)
    seen: list[SeenUrl] = []
    some = dict.fromkeys((paths[0], paths[len(paths) // 2], paths[-1]))  # one may go by itself
    with open_connection(options) as connection:
        for url in (*above, *some):
            answer = probe(connection, url)
            if answer is None or answer >= 500:
                return tuple(seen)
            seen.append(SeenUrl(url, answer == 200))
            if url in above and answer == 200:
                break
    return tuple(each for each in seen if each.was_read) or tuple(seen[:1])


def _check_http(seen: Sequence[SeenUrl], status: Status, options: Mapping[str, Any] | None) -> str:
    with open_connection(options) as connection:
        for each in seen:
            answer = probe(connection, each.url)
            if answer is None:
                return f"{origin(each.url)} does not answer"
            if answer >= 500:
                return f"{origin(each.url)} answers only {answer}"
            if status is not Status.MISSING or not each.was_read or answer not in MISSING:
                return ""
    return f"{shorten(seen[0].url)} no longer exists"


def _check_remote(seen: Sequence[SeenUrl], _: Status, options: Mapping[str, Any] | None) -> str:
    return next(filter(None, (_find_remote(each.url, options) for each in seen)), "")


def _find_remote(url: str, options: Mapping[str, Any] | None, *, first: bool = False) -> str:
    """Why a folder or a file cannot be found by fsspec; empty if it can.

    A listing of a moment ago may answer the `first` time, and a server has less time to answer.
    """
    try:
        fs, inner = url_to_fs(url, **(options or {}))
        if not first:
            fs.invalidate_cache()
        exists = ask(fs, fs.exists, inner) if first else fs.exists(inner)
    except access_errors(*CLIENT_ERRORS) as error:
        return f"{shorten(url)} cannot be read: {hide_options(error_message(error), options)}"
    return "" if exists else f"{shorten(url)} no longer exists, or cannot be reached"
