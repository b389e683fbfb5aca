"""Read one subject file: fetched, verified once, cached, and decoded."""

from __future__ import annotations

import contextlib
import errno
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fsspec.core import url_to_fs

from gz3d_zarr.datamodel.file_names import base_name, parse_name
from gz3d_zarr.datamodel.fits_decoder import decode_fits, unpack
from gz3d_zarr.datamodel.receipts import SubjectOutcome
from gz3d_zarr.datamodel.subject import Subject, SubjectMetadata
from gz3d_zarr.errors import (
    CLIENT_ERRORS,
    SourceError,
    Status,
    SubjectError,
    access_errors,
    error_message,
    shorten,
)
from gz3d_zarr.locations import (
    hide_options,
    is_http,
    is_url,
    read_regular,
    refuse_irregular,
    write_atomically,
)
from gz3d_zarr.sources.http import Connection, fetch_redirected, open_connection

MAX_FILE = 32 * 2**20
"""Largest file that is read, in bytes; real ones have 0.2 to 0.6 MB."""
MAX_DOWNLOADS = 2
"""How often a file is read from its source before it counts as damaged there."""


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class FileBody:
    """One subject file as read, hashed once and unpacked at most once.

    Attributes
    ----------
    data : bytes
        The gzipped file.
    sha1 : str
        Its digest, hexadecimal.
    unpacked : bytes, bytearray, SubjectError or None
        The FITS file of 10 MB, or why `data` cannot be unpacked; None before `unpack_body`.
    redirected_to : str
        Name of the file that a redirect led to, where it is another than the one asked for.
    """

    data: bytes
    sha1: str
    unpacked: bytes | bytearray | SubjectError | None = None
    redirected_to: str = ""


def hash_body(data: bytes) -> FileBody:
    """Hash what was read."""
    return FileBody(data, hashlib.sha1(data, usedforsecurity=False).hexdigest())


def unpack_body(body: FileBody) -> FileBody:
    """Unpack a body, and keep the result or the error."""
    try:
        return replace(body, unpacked=unpack(body.data))
    except SubjectError as error:
        return replace(body, unpacked=without_traceback(error))


def compare_sha1(found: str, expected: str | None) -> str | None:
    """Describe the mismatch; None where the digests are equal or none is expected."""
    if expected is None or found == expected:
        return None
    return f"its sha1 is {found}, the sha1 list says {expected}"


class FileRequest:
    """One file to read: from the cache, else from its source, and again if it is damaged."""

    def __init__(
        self, path: str, sha1: str | None, options: Mapping[str, Any] | None, cache: str | None
    ) -> None:
        self.path, self.sha1 = path, sha1
        self._options = options
        self._cached = Path(cache, base_name(path)) if cache is not None and is_url(path) else None
        self._tries_cache = self._cached is not None
        self._downloads = 0

    def read(self, connection: Connection | None) -> FileBody:
        """Read once, from the cache the first time."""
        if self._cached is not None and self._tries_cache:
            self._tries_cache = False
            with contextlib.suppress(OSError):
                return hash_body(read_regular(self._cached, MAX_FILE))
        self._downloads += 1
        if connection is not None and is_http(self.path):
            data, final = fetch_redirected(connection, self.path, MAX_FILE)
            name = unquote(base_name(urlsplit(final).path))
            is_other = name != unquote(base_name(urlsplit(self.path).path))
            return replace(hash_body(data), redirected_to=name if is_other else "")
        read = _read_remote if is_url(self.path) else read_local
        return hash_body(read(self.path, self._options))

    def verify(self, body: FileBody) -> FileBody | None:
        """Check by sha1 if it is known, by gzip's CRC if not; None to read the file again.

        A sound file goes to the cache. A file that is damaged at its source is returned as it is:
        `decode_body` reports why.
        """
        if self.sha1 is None:
            body = unpack_body(body)
        is_damaged = (
            isinstance(body.unpacked, SubjectError)
            or compare_sha1(body.sha1, self.sha1) is not None
        )
        # The cache does not say where a file came from.
        is_vouched = self.sha1 is not None or not body.redirected_to
        if not is_damaged and is_vouched and self._cached is not None and self._downloads:
            write_cached(self._cached, body.data)
        may_repeat = is_url(self.path) and self._downloads < MAX_DOWNLOADS
        return None if is_damaged and may_repeat else body

    def read_verified(self, connection: Connection | None) -> FileBody:
        """Read until the file is sound, or was read often enough."""
        while (body := self.verify(self.read(connection))) is None:
            pass
        return body

    def fetch(self, connection: Connection | None) -> FileBody | Exception:
        """Read ahead of the reader; verified here only by sha1, as unpacked files are large."""
        try:
            return self.read(connection) if self.sha1 is None else self.read_verified(connection)
        except SubjectError as error:
            return without_traceback(error)
        except Exception as error:  # raised again for the reader
            return error


def without_traceback(error: SubjectError) -> SubjectError:
    """A new error: the frames of a traceback keep alive what they had read."""
    return SubjectError(error.status, error.reason)


def read_file(
    path: str,
    sha1: str | None,
    options: Mapping[str, Any] | None = None,
    cache: str | None = None,
) -> FileBody:
    """Read one subject file, from the cache if it has a sound copy.

    A remote file that does not match its sha1 (or, without one, gzip's CRC) is fetched once more,
    as it may have been damaged on its way.

    Parameters
    ----------
    path : str
        Local path or URL.
    sha1 : str or None
        The expected digest, if known.
    options : mapping, optional
        Storage options for fsspec.
    cache : str, optional
        Folder that keeps files fetched from URLs.

    Returns
    -------
    FileBody
        Possibly damaged: `decode_body` reports why.

    Raises
    ------
    SubjectError
        Missing, if there is no such file; unreachable, if it cannot be read; corrupt, if it is
        far too large.
    SourceError
        The cache cannot be written.
    """
    http = open_connection(options) if is_http(path) else contextlib.nullcontext()
    with http as connection:
        return FileRequest(path, sha1, options, cache).read_verified(connection)


def read_local(path: str, _: Mapping[str, Any] | None = None) -> bytes:
    """Read one file on a local disk; SubjectError as `read_file`."""
    try:
        data = read_regular(path, MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise _read_error(error) from None
    return _check_size(data)


def write_cached(path: Path, data: bytes) -> None:
    """Store a file in the cache.

    Raises
    ------
    SourceError
        The cache cannot be written.
    """
    try:
        write_atomically(path, data)
    except OSError as error:
        raise SourceError(
            f"the cache {path.parent} cannot be written: {error_message(error)}"
        ) from error


def _read_remote(path: str, options: Mapping[str, Any] | None) -> bytes:
    try:
        data = read_by_fsspec(path, options, MAX_FILE + 1)
    except access_errors(*CLIENT_ERRORS) as error:
        raise _read_error(error, options) from None
    return _check_size(data)


def read_by_fsspec(path: str, options: Mapping[str, Any] | None, limit: int) -> bytes:
    """At most `limit` bytes of a file at a URL; errors are those of its file system."""
    refuse_irregular(path)
    fs, inner = url_to_fs(path, **(options or {}))
    try:
        data: bytes = fs.cat_file(inner, end=limit)
    except OSError as error:
        # S3 answers 416 to a range of an empty object.
        if error.errno != errno.EINVAL or fs.size(inner) != 0:
            raise
        data = b""
    return data


def _read_error(error: Exception, options: Mapping[str, Any] | None = None) -> SubjectError:
    if isinstance(error, FileNotFoundError):
        return SubjectError(Status.MISSING, "there is no such file")
    reason = hide_options(error_message(error), options)
    return SubjectError(Status.UNREACHABLE, f"it cannot be read: {reason}")


def _check_size(data: bytes) -> bytes:
    if len(data) > MAX_FILE:
        raise SubjectError(
            Status.CORRUPT,
            f"it has more than {MAX_FILE // 2**20} MiB; real files have about 0.4",
        )
    return data


def decode_body(
    path: str,
    sha1: str | None,
    body: FileBody | SubjectError,
    *,
    trust_names: bool = False,
    before: SubjectOutcome | None = None,
) -> tuple[Subject | None, SubjectOutcome]:
    """Decode what was read of one subject; an error becomes part of the outcome.

    Parameters
    ----------
    path : str
        The file's name is the subject's identity.
    sha1 : str or None
        The expected digest, which vouches for that identity. Without one, the file itself must
        have it.
    body : FileBody or SubjectError
    trust_names : bool
        The name is right even where the file has another identity.
    before : SubjectOutcome, optional
        Of an earlier read; if it is ok, the same bytes are accepted again.
    """
    name, digest, size = base_name(path), "", -1
    try:
        if isinstance(body, SubjectError):
            raise body
        digest, size = body.sha1, len(body.data)
        mismatch = compare_sha1(digest, sha1)
        if mismatch is not None:
            raise SubjectError(Status.CORRUPT, mismatch)
        raw = unpack(body.data) if body.unpacked is None else body.unpacked
        if isinstance(raw, SubjectError):
            raise raw
        subject = decode_fits(raw)
        is_known = before is not None and (before.status, before.sha1) == (Status.OK, digest)
        if sha1 is None and not trust_names and not is_known:
            _check_identity(name, body, subject.metadata)
    except SubjectError as error:
        return None, SubjectOutcome(name, error.status, error.reason, digest, size, None)
    return subject, SubjectOutcome(name, Status.OK, "", digest, size, subject.metadata)


def _check_identity(name: str, body: FileBody, metadata: SubjectMetadata) -> None:
    """SubjectError (invalid) where a file is not the one that its name says."""
    file = parse_name(name)
    finding = ""
    if body.redirected_to:
        finding = f"a redirect led to another file ({body.redirected_to:.60})"
    elif file is not None and metadata.manga_id != file.manga_id:
        finding = f"its MANGAID is {shorten(metadata.manga_id)}, its name says {file.manga_id}"
    elif file is not None and metadata.ifu_design_size != file.ifu_design_size:
        finding = (
            f"its IFUDESIGNSIZE is {metadata.ifu_design_size}, its name says {file.ifu_design_size}"
        )
    if finding:
        raise SubjectError(
            Status.INVALID,
            f"{finding}, and no sha1 vouches for it; if names were changed on purpose, use "
            "trust_names (--trust-names)",
        )
