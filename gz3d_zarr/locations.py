"""Paths and URLs: what they name, whether they hold a secret; files written whole."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
import traceback
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableSet
from io import FileIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fsspec.registry import known_implementations

from gz3d_zarr.errors import UsageError

PARTIAL_SUFFIX = ".partial"
"""Ending of a local file that is still being written; never a name in a store."""
SYNCED_SUFFIX = ".json"
"""Of build records, receipts, leases and metadata: small, and they say what the rest means."""
_PARTIAL_KEY = re.compile(rf"(.*/)?\.([^/]+)\.\w+{re.escape(PARTIAL_SUFFIX)}", re.DOTALL)
S3_SCHEMES = ("s3://", "s3a://")
FIRST_ANSWER_SECONDS = 18
"""How long a server may take for its first answer; s3fs would wait for six minutes.

If a connection is refused, botocore tries for up to 15 seconds and can then say so.
"""
_OWN_LIMITS = frozenset({"connect_timeout", "read_timeout", "retries"})
_SHOWN_OPTIONS = frozenset({"endpoint_url", "region_name"})
"""Options whose values messages repeat: they are checked to hold no secret."""
_MIN_HIDDEN = 4
"""Characters of a value that is hidden inside of other text; a shorter one only as a whole."""
_answered: MutableSet[Any] = weakref.WeakSet()
"""File systems whose server has answered in this process: it may be slow, but it is not dead."""
_HALF_URL = re.compile(r"[a-z][a-z0-9+.-]+:/(?!/)")
_SECRET = re.compile(
    r"://[^/@]*:[^/@]*@|://[^@]*:(?!\d+/)[^@]*@|https?://[^/@]*@|https?://[^?]*\?|(?<!file)://.*?[#;]",
    re.DOTALL,
)
"""User and password, a token in their place, a query, which may be a signature, or a fragment or
a parameter of a path. Passwords may contain slashes."""


def is_url(path: str) -> bool:
    """Whether a path names an fsspec protocol rather than a local file."""
    return "://" in path or "::" in path


def origin(url: str) -> str:
    """Scheme and host of a URL: the server that a header or a limit applies to."""
    parts = urlsplit(url.rpartition("::")[2])
    return f"{parts.scheme}://{parts.netloc}"


def public_name(location: str) -> str:
    """What a store says of a location: a URL as it is, of a local path only the last part."""
    return location if is_url(location) else Path(location).name


def holds_secret(url: str) -> bool:
    """Whether a URL contains a password, a token, a query or a fragment, and must not be shown."""
    return _SECRET.search(url) is not None


def hide_options(text: str, options: Mapping[str, Any] | None) -> str:
    """Message of a client without the names in quotes and the values of options.

    Both may be secrets: a value in its place, or one that was given in the place of a name.
    """
    for name, value in (options or {}).items():
        text = text.replace(repr(name), "'...'")
        if isinstance(value, Mapping):
            text = hide_options(text, value)
        elif name not in _SHOWN_OPTIONS and not isinstance(value, bool):
            shown = value.decode("latin-1") if isinstance(value, bytes) else str(value)
            text = text.replace(repr(value), "'...'")
            text = text.replace(shown, "...") if len(shown) >= _MIN_HIDDEN else text
    return text


def public_cause(error: Exception, options: Mapping[str, Any] | None) -> Exception | None:
    """The error to chain another one to; None where its traceback would repeat an option."""
    shown = "".join(traceback.format_exception(error))
    return error if hide_options(shown, options) == shown else None


def ask(fs: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a method of a file system, with a time limit until its server has answered once.

    The limits of later requests stay as they are: in a build of hours, a server that has answered
    may be slow or away for minutes. Limits that the user gives replace this one.

    Raises
    ------
    TimeoutError
        Nothing has answered in `FIRST_ANSWER_SECONDS`.
    """
    own = _OWN_LIMITS & {*(getattr(fs, "config_kwargs", None) or {})}
    if own or not fs.async_impl or fs in _answered:
        return call(*args, **kwargs)
    try:
        found = call(*args, timeout=FIRST_ANSWER_SECONDS, **kwargs)
    except (FileNotFoundError, PermissionError):
        _answered.add(fs)
        raise
    except TimeoutError as error:
        raise TimeoutError(
            f"nothing answers within {FIRST_ANSWER_SECONDS} seconds; check the endpoint, and "
            "whether it is reachable from here"
        ) from error
    _answered.add(fs)
    return found


def _secret_error(url: str) -> UsageError:
    return UsageError(
        f"a URL of {_scheme(url)} holds a password, a token or a query, or a part after # or ;, "
        "which would appear in the store and in messages: leave it out, and give it by "
        "--source-option or --storage-option, by the environment, or in a profile"
    )


def absolute(path: str, folder: str = "") -> str:
    """Return the absolute path (relative to `folder`, if given), or the URL unchanged.

    Paths have slashes on Windows too: what follows cuts them as it cuts URLs.

    Raises
    ------
    UsageError
        If it looks like a URL that lacks a slash, which would create a folder named ``s3:``; or
        contains a password or a token, which would be stored with it; or is no file name.
    """
    if is_url(path):
        if holds_secret(path):
            raise _secret_error(path)
        if "://" not in path and path.partition("::")[0] not in known_implementations:
            raise UsageError(
                f"{path!r:.200} contains '::', which joins two URLs, such as "
                "zip://FILE::s3://BUCKET/KEY, and names no protocol: rename it, without '::'"
            )
        return path
    if _HALF_URL.match(path):
        whole = path.replace(":/", "://", 1)
        if holds_secret(whole):
            raise _secret_error(whole)
        raise UsageError(f"{path!r:.200} lacks a slash: write {whole!r:.200}")
    try:
        local = Path(folder, Path(path).expanduser()).absolute().as_posix()
        os.fsencode(local)
    except (RuntimeError, ValueError):  # ~ of an unknown user; no text of this system
        local = "\0"
    if "\0" in local:
        raise UsageError(f"{path!r:.200} cannot be a path of a file")
    return local


def _scheme(url: str) -> str:
    """Scheme of a URL, which may be a secret where it is no known one."""
    scheme = url.partition("://")[0].rpartition("::")[2]
    return scheme if scheme in known_implementations else "an unknown protocol"


def is_http(path: str) -> bool:
    """Whether a path is a web address."""
    return path.startswith(("http://", "https://"))


def open_regular(path: str | Path) -> FileIO:
    """Open a local file for reading, without a buffer.

    Raises
    ------
    OSError
        It cannot be opened; or it is a pipe, a socket or a device, which is not opened: that could
        wait for ever, or never end.
    """
    _check_mode(os.stat(path).st_mode)

    def open_at_once(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    file = open(path, "rb", buffering=0, opener=open_at_once)  # noqa: SIM115 - it is returned
    try:
        _check_mode(os.fstat(file.fileno()).st_mode)  # it may have been replaced
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: str | Path, limit: int | None = None) -> bytes:
    """Read a local file, at most `limit` bytes of it; OSError as for `open_regular`."""
    with open_regular(path) as file, io.BufferedReader(file) as reader:
        # Memory for `limit` bytes is not asked for where the file has fewer.
        if limit is None or os.fstat(file.fileno()).st_size < limit:
            return reader.read()
        return reader.read(limit)


def refuse_irregular(location: str) -> None:
    """Raise OSError if the local file of a path or a URL is a pipe, a socket or a device."""
    path = location.rpartition("::")[2]  # the file that has the others inside
    path = path.removeprefix("file://").removeprefix("local://")
    if "://" in path:
        return
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # opening it says why
        return
    _check_mode(mode)


def _check_mode(mode: int) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EPERM, "it is a pipe, a socket or a device, expected a regular file")


def file_size(path: str | Path) -> int | None:
    """Size in bytes of a local regular file; None if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # also a name that is too long, or has a NUL
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def whole_key(key: str) -> str | None:
    """Key of the file that a partial file, which a killed writer left, was to be; else None."""
    found = _PARTIAL_KEY.fullmatch(key)
    return None if found is None else f"{found[1] or ''}{found[2]}"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is never seen in part.

    A document (`SYNCED_SUFFIX`) is not even after a power failure: it is synced before it gets its
    name.
    """
    with _partial_file(path, data, sync=path.suffix == SYNCED_SUFFIX) as partial:
        partial.replace(path)


def create_atomically(path: Path, data: bytes) -> bool:
    """Write a file whole unless it exists; False if it does."""
    with _partial_file(path, data) as partial, contextlib.suppress(FileExistsError):
        if not _link(partial, path):  # a reader may see part of the file
            with path.open("xb") as file:
                file.write(data)
        return True
    return False


def _link(source: Path, target: Path) -> bool:
    """Create a hard link; False on a file system that has none."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _partial_file(path: Path, data: bytes, *, sync: bool = False) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            if sync:  # by the handle that wrote: Windows syncs no file that is open for reading
                file.flush()
                os.fsync(file.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)
