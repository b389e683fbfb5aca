"""Exceptions, the status of a subject, and helpers that word messages."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from enum import IntEnum

MAX_QUOTED = 200
"""Characters of foreign text that a message repeats at most."""


class Status(IntEnum):
    """The outcome for one subject; stored as the CF flag variable ``status``."""

    OK = 0
    MISSING = 1
    """The file does not exist."""
    UNREACHABLE = 2
    """The file exists, or may exist, but it cannot be read."""
    CORRUPT = 3
    """The bytes are damaged, with a wrong gzip stream, CRC or sha1, or are not FITS."""
    INVALID = 4
    """Valid FITS with wrong HDUs, shapes, columns or values."""

    @property
    def label(self) -> str:
        """Name of the flag in the store."""
        return self.name.lower()


class GZ3DError(Exception):
    """Base of every error that gz3d_zarr raises on purpose."""


class UsageError(GZ3DError):
    """An option or argument has a value that cannot be used."""


class SourceError(GZ3DError):
    """The source as a whole cannot be used: it is missing, empty or contradictory."""


class PlanError(GZ3DError):
    """The build does not fit in the memory of its workers."""


class StoreError(GZ3DError):
    """A store cannot be created, written, opened or trusted."""


class IncompleteStoreError(StoreError):
    """A build of this store started and has not finished."""


class BuildError(GZ3DError):
    """A build stopped before it finished."""


CLIENT_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What clients of file systems raise, besides OSError, for options of wrong names or types."""


class LeftOutWarning(UserWarning):
    """Rows whose status is not ok, or columns that cannot be joined, are left out."""


class SubjectError(GZ3DError):
    """One subject file cannot be read or decoded.

    Parameters
    ----------
    status : Status
        Status of the subject in the store.
    reason : str
        What was found, where, and what was expected.
    """

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(status, reason)  # both, so that pickling works
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.status.label}: {self.reason}"


def access_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Exceptions of a file system that cannot be reached or used, and `more`.

    OSError, and the base classes of botocore and aiohttp if s3fs or fsspec has imported them.
    """
    found: list[type[Exception]] = [OSError, *more]
    for module, name in (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError")):
        loaded = sys.modules.get(module)
        if loaded is not None:
            found.append(getattr(loaded, name))
    return tuple(found)


def shorten(value: object) -> str:
    """Text that was read, or anything else, for a message: the middle of a long one is cut out."""
    text = value if isinstance(value, str) else str(value)
    if len(text) <= MAX_QUOTED:
        return text
    half = MAX_QUOTED // 2 - 2
    return f"{text[:half]}...{text[-half:]}"


def quote(value: object) -> str:
    """What was read, in quotes as Python writes it, for a message; a long one is cut."""
    if isinstance(value, str | bytes):
        value = value[: MAX_QUOTED + 1]
    return shorten(repr(value))


def error_message(error: Exception) -> str:
    """Message of an exception, in one line; what is not ours is cut where it is long."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if not isinstance(error, GZ3DError):
        words = shorten(words)
    if isinstance(error, ImportError):  # raised by fsspec: a URL needs another package
        package = getattr(error.__cause__, "name", None) or error.name
        words = f"{words}: python3 -m pip install {package.partition('.')[0]}" if package else words
    return " ".join(str(words).split())


def missing_extra_error(what: str, error: ImportError, extra: str) -> UsageError:
    """The error to raise where a package of an extra is not installed."""
    package = (error.name or extra).partition(".")[0]
    return UsageError(f"{what} needs {package}: python3 -m pip install 'gz3d-zarr[{extra}]'")


def plural(number: int, noun: str) -> str:
    """Number and noun: ``1 subject``, ``2 subjects``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def status_counts(ok: int, others: Iterable[str]) -> dict[str, int]:
    """Number of subjects with each status, including zeros."""
    found = Counter(others)
    return {s.label: ok if s is Status.OK else found[s.label] for s in Status}
