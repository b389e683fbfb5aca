"""The one family of errors, and the status that a subject can have."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from enum import IntEnum


class Status(IntEnum):
    """What became of one subject; stored as the CF flag variable ``status``."""

    OK = 0
    MISSING = 1
    """There is no such file."""
    UNREACHABLE = 2
    """The file is there, or may be, but its bytes could not be had."""
    CORRUPT = 3
    """The bytes are not the producer's: gzip, CRC, sha1, or not FITS."""
    INVALID = 4
    """Sound FITS, but HDUs, shapes, columns or values are wrong."""

    @property
    def label(self) -> str:
        """Name of the flag as the store spells it."""
        return self.name.lower()


class GZ3DError(Exception):
    """Base of every error that gz3d_zarr raises on purpose."""


class UsageError(GZ3DError):
    """An option or argument has a value that cannot be used."""


class SourceError(GZ3DError):
    """The source as a whole cannot be used: not there, empty, contradictory."""


class PlanError(GZ3DError):
    """The build cannot fit the workers that it would run on."""


class StoreError(GZ3DError):
    """A store cannot be created, written, opened or trusted."""


class IncompleteStoreError(StoreError):
    """A build of this store has begun and not ended."""


class BuildError(GZ3DError):
    """A build was stopped before its end."""


class LeftOutWarning(UserWarning):
    """Rows whose status is not ok, or columns that cannot be joined, were left out."""


class SubjectError(GZ3DError):
    """One subject file cannot be turned into a record.

    Parameters
    ----------
    status : Status
        The flag that the subject gets in the store.
    reason : str
        What was found, where, and what was expected.
    """

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(status, reason)  # both, so that it survives pickling
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.status.label}: {self.reason}"


def access_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Exceptions by which a file system says that it cannot be reached or used, and `more`.

    OSError, and what botocore and aiohttp raise beside it, where s3fs or fsspec has loaded them.
    """
    found: list[type[Exception]] = [OSError, *more]
    for module, name in (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError")):
        loaded = sys.modules.get(module)
        if loaded is not None:
            found.append(getattr(loaded, name))
    return tuple(found)


def error_message(error: Exception) -> str:
    """What an exception of a file system says, in one line."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, ImportError):  # fsspec's, of a package that a URL needs
        package = getattr(error.__cause__, "name", None) or error.name
        words = f"{words}: python3 -m pip install {package.partition('.')[0]}" if package else words
    return " ".join(str(words).split())


def missing_extra_error(what: str, error: ImportError, extra: str) -> UsageError:
    """The error to raise where a package of an extra is not installed."""
    package = (error.name or extra).partition(".")[0]
    return UsageError(f"{what} needs {package}: python3 -m pip install 'gz3d-zarr[{extra}]'")


def plural(number: int, noun: str) -> str:
    """Number and noun, as English has them."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def status_counts(ok: int, others: Iterable[str]) -> dict[str, int]:
    """Number of subjects for every status, zero included."""
    found = Counter(others)
    return {s.label: ok if s is Status.OK else found[s.label] for s in Status}
