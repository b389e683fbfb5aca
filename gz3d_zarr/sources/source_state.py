"""Tell a source that is gone from one file that is missing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fsspec.core import url_to_fs

from gz3d_zarr.datamodel.manifest import Manifest
from gz3d_zarr.errors import SourceError, Status, access_errors, error_message
from gz3d_zarr.locations import is_http, is_url, origin
from gz3d_zarr.sources.http import MISSING, open_connection, probe

FAILED_TO_READ = (Status.MISSING, Status.UNREACHABLE)
"""Statuses of a file that may be due to its source."""


@dataclass(frozen=True)
class SourceState:
    """What existed of a source when a build began.

    Attributes
    ----------
    folders : mapping of str to int
        Device of each local folder that held files.
    host : str
        Where these devices were looked up; other hosts number theirs otherwise.
    url : str
        Something at the source that answered, for files at URLs; empty if there is none.
    url_was_read : bool
        Whether it was a file that was read, and not only a folder.
    """

    folders: Mapping[str, int] = field(default_factory=dict)
    host: str = ""
    url: str = ""
    url_was_read: bool = False

    def for_files(self, paths: Iterable[str]) -> SourceState:
        """The same for some of the files."""
        needed = {folder for path in paths if not is_url(path) for folder in _find_folders(path)}
        kept = {folder: device for folder, device in self.folders.items() if folder in needed}
        return replace(self, folders=kept)


def observe_source(manifest: Manifest) -> SourceState:
    """Look at what a later check compares with; nothing is fetched."""
    paths = [entry.file.path for entry in manifest.entries]
    found = {folder for path in paths if not is_url(path) for folder in _find_folders(path)}
    devices = {}
    for folder in found:
        try:
            device, is_empty = _look(folder)
        except OSError:  # files that are missing from the start are missing files
            continue
        if not is_empty:
            devices[folder] = device
    url, was_read = _find_url(manifest)
    return SourceState(devices, socket.gethostname(), url, was_read)


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
    elif not state.url:
        finding = ""
    elif is_http(path):
        finding = _check_http(state, status, options)
    else:
        finding = _check_remote(state.url, options)
    if finding:
        raise SourceError(
            f"the source went away while the build ran: {finding} (at {path}). Finished shards "
            "are kept; restore the source, and use --resume to continue"
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
    name = folder if host == state.host else f"{folder} on {host}"
    try:
        device, is_empty = _look(folder)
    except OSError as error:
        return f"the folder {name} cannot be read: {error_message(error)}"
    if host == state.host and device != state.folders[folder]:
        return f"the folder {name} is on another file system than before"
    return f"the folder {name} is empty now" if is_empty else ""


def _find_url(manifest: Manifest) -> tuple[str, bool]:
    """Something at the source that has answered, and whether it is a file."""
    location, catalogue = manifest.location, manifest.catalogue or ""
    first = manifest.entries[0].file.path
    if is_url(catalogue) and origin(catalogue) == origin(first):
        return catalogue, True
    is_file = location.endswith(".txt")
    is_subject = any(entry.file.path == location for entry in manifest.entries)
    if not is_url(location) or "*" in location or is_subject:
        return "", False
    return location, is_file


def _check_http(state: SourceState, status: Status, options: Mapping[str, Any] | None) -> str:
    with open_connection(options) as connection:
        answer = probe(connection, state.url)
    if answer is None:
        return f"{origin(state.url)} does not answer"
    if answer >= 500:
        return f"{origin(state.url)} answers only {answer}"
    if status is Status.MISSING and state.url_was_read and answer in MISSING:
        return f"{state.url} no longer exists"
    return ""


def _check_remote(url: str, options: Mapping[str, Any] | None) -> str:
    try:
        fs, inner = url_to_fs(url, **(options or {}))
        fs.invalidate_cache()
        exists = fs.exists(inner)
    except access_errors(ImportError, TypeError, ValueError) as error:
        return f"{url} cannot be read: {error_message(error)}"
    return "" if exists else f"{url} no longer exists, or cannot be reached"
