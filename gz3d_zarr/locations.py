"""Paths and URLs: what they name, and whether they hold a secret."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, MutableSet
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gz3d_zarr.errors import (
    UsageError,
)

S3_SCHEMES = ("s3://", "s3a://")
FIRST_ANSWER_SECONDS = 18
"""How long a server may take for its first answer; s3fs would wait for six minutes.

Where a connection is refused, botocore tries for up to 15, and can then say so.
"""
_OWN_LIMITS = frozenset({"connect_timeout", "read_timeout", "retries"})
_answered: MutableSet[Any] = weakref.WeakSet()
"""File systems whose server has answered in this process: it is slow at times, not dead."""
_HALF_URL = re.compile(r"[a-z][a-z0-9+.-]+:/(?!/)")
_SECRET = re.compile(r"://[^/@]*:[^/@]*@|https?://[^/@]*@|https?://[^?]*\?")
"""User and password, a token in their place, or a query, which may be a signature."""


def is_url(path: str) -> bool:
    """Whether a path names an fsspec protocol rather than a local file."""
    return "://" in path or "::" in path


def origin(url: str) -> str:
    """Scheme and host of a URL: whom a header or a limit is for."""
    parts = urlsplit(url.rpartition("::")[2])
    return f"{parts.scheme}://{parts.netloc}"


def holds_secret(url: str) -> bool:
    """Whether a URL has a password, a token or a query in it, and is not to be shown."""
    return _SECRET.search(url) is not None


def ask(fs: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a method of a file system; up to the server's first answer, only for so long.

    The limits of each request stay as they are: a server that has answered once may be slow, or
    away for minutes, in a build of hours. A user who gives limits of his own is left to them.

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


def absolute(path: str, folder: str = "") -> str:
    """The path made absolute (relative to `folder`, if given), or the URL as it is.

    Raises
    ------
    UsageError
        Where it looks like a URL that lacks a slash, and would make a folder named ``s3:``; or
        holds a password or a token, which would be written down with it.
    """
    if is_url(path):
        if holds_secret(path):
            raise UsageError(
                f"a URL of {path.partition('://')[0]} holds a password, a token or a query, which "
                "would stand in the store and in messages: leave it out, and give it by "
                "--source-option or --storage-option, by the environment, or in a profile"
            )
        return path
    if _HALF_URL.match(path):
        raise UsageError(f"{path!r} lacks a slash: write {path.replace(':/', '://', 1)!r}")
    return str(Path(folder, Path(path).expanduser()).absolute())


def is_http(path: str) -> bool:
    """Whether a path is fetched here."""
    return path.startswith(("http://", "https://"))
