"""What every client of an object store offers: put, get, list and delete objects by key.

Every object is written whole or not at all. A client implements the methods that begin with an
underscore; the public ones are the same for all clients and turn the client's errors into ours.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from gz3d_zarr.datamodel.limits import object_limit
from gz3d_zarr.errors import CLIENT_ERRORS, StoreError, access_errors, error_message
from gz3d_zarr.locations import hide_options, is_http, origin, public_cause

if TYPE_CHECKING:
    from zarr.abc.store import Store

T = TypeVar("T")
MAX_PARALLEL_REQUESTS = 16
"""Small objects that are written or deleted at the same time where each waits for a network."""
READ_BACK_SECONDS = 5.0
"""Limit of a write, and the wait before it is read back, where a server cannot create."""


@dataclass(frozen=True)
class ObjectStore(ABC):
    """Objects by key under one URL; cheap to create and to send to a worker.

    Parameters
    ----------
    url : str
        An absolute local path, or an fsspec URL.
    storage_options : mapping
        As for fsspec; never shown.
    is_patient : bool
        Wait for a server's first answer as long as for any other. Set on workers: the process
        that sent the store has already reached the server.
    """

    url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    is_patient: bool = field(default=False, compare=False)
    is_local: ClassVar[bool] = False
    """Whether it is a folder on a local disk."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self.storage_options, True)

    def with_url(self, url: str) -> Self:
        """Return a store at another URL with the same client and options."""
        return replace(self, url=url)

    def put(self, key: str, data: bytes) -> None:
        """Write one object, whole or not at all.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        self.refuse_link("written to")
        with self._convert_errors("written", key):
            self._put(key, data)

    def put_file(self, key: str, data: bytes, content_type: str) -> None:
        """Do as `put`; S3 keeps the type, and gives it to browsers."""
        self.refuse_link("written to")
        with self._convert_errors("written", key):
            self._put(key, data, content_type)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write one object unless the key exists.

        Of several writers at the same time, at most one succeeds. `data` must differ between
        writers.

        Returns
        -------
        bool
            Whether the object is now the one given.

        Raises
        ------
        StoreError
            If it cannot be written; or if the server cannot create objects exclusively, and took
            so long to write that another writer may have succeeded.
        """
        self.refuse_link("written to")
        with self._convert_errors("written", key):
            return self._put_if_absent(key, data)

    def put_all(self, objects: Mapping[str, bytes]) -> None:
        """Write objects, each whole or not at all; over a network many at a time.

        Raises
        ------
        StoreError
            If one cannot be written; others may have been.
        """
        self._run_all(self.put, objects.items())

    def get(self, key: str, limit: int | None = None) -> bytes | None:
        """Read one object; None if there is none.

        Parameters
        ----------
        key : str
        limit : int, optional
            Bytes that it has at most; by default those of a document, and no limit for a chunk.

        Raises
        ------
        StoreError
            If it cannot be read, or has more bytes.
        """
        limit = object_limit(key) if limit is None else limit
        data = self._read(key, lambda: self._get(key, None if limit is None else limit + 1))
        if data is not None and limit is not None and len(data) > limit:
            raise StoreError(
                f"{self.url}/{key} has more than {limit / 2**20:.3g} MiB: it was not written by "
                "gz3d-zarr, or is damaged, and the store cannot be trusted"
            )
        return data

    def get_up_to(self, key: str, size: int) -> bytes | None:
        """Read one object that should have `size` bytes, and of a larger one no more than one more.

        Raises
        ------
        StoreError
            If it cannot be read.
        """
        return self._read(key, lambda: self._get(key, size + 1)[: size + 1])

    def get_range(self, key: str, start: int, stop: int | None = None) -> bytes | None:
        """Read bytes `start` to `stop` of one object, fewer where it is shorter; None if absent.

        Without `stop`, `start` is negative: the number of bytes at the end.

        Raises
        ------
        StoreError
            If it cannot be read.
        """
        cut = slice(start, None) if stop is None else slice(stop - start)
        return self._read(key, lambda: self._get_range(key, start, stop)[cut])

    def get_size(self, key: str) -> int | None:
        """Size of one object in bytes; None if there is none.

        Raises
        ------
        StoreError
            If it cannot be read.
        """
        return self._read(key, lambda: self._get_size(key))

    def get_all(self, keys: Iterable[str]) -> dict[str, bytes | None]:
        """Read objects, None for each that does not exist; over a network many at a time.

        Raises
        ------
        StoreError
            If one cannot be read.
        """
        found: dict[str, bytes | None] = {}

        def read(key: str) -> None:
            found[key] = self.get(key)

        self._run_all(read, ((key,) for key in keys))
        return found

    def list_sizes(self, prefix: str = "") -> dict[str, int]:
        """List the keys below a prefix (a folder's name with its slash, or nothing).

        Returns
        -------
        dict
            Size in bytes by key.

        Raises
        ------
        StoreError
            If they cannot be listed.
        """
        self.refuse_link("listed")
        with self._convert_errors("listed", prefix):
            try:
                return self._list_sizes(prefix)
            except FileNotFoundError as error:
                if _lacks_bucket(error):
                    raise
                return {}

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are ignored.

        Raises
        ------
        StoreError
            If one cannot be deleted.
        """
        self._run_all(self._delete_one, ((key,) for key in keys))

    def prune(self, prefixes: Iterable[str]) -> None:  # noqa: B027 - object stores have no folders
        """Remove empty folders below `prefixes`."""

    def sync(self, keys: Iterable[str]) -> None:  # noqa: B027 - an object store's PUT does so
        """Make sure that objects would survive a power failure.

        Raises
        ------
        StoreError
            If the disk fails to store one.
        """

    def free_bytes(self) -> int | None:
        """Free space on the disk, or None if there is no such limit."""
        return None

    def is_writable(self) -> bool | None:
        """Whether the folder can be created or written to; None if only a write can tell."""
        return None

    @property
    def is_link(self) -> bool:
        """Whether it is a web link: objects can be read by key, and nothing else."""
        return is_http(self.url)

    def refuse_link(self, action: str) -> None:
        """Raise StoreError if it is a web link, which cannot be `action` (such as "listed")."""
        if self.is_link:
            raise StoreError(
                f"{self.url} is a web link: a store can be opened and read there, but it cannot be "
                f"{action}; use the store's own address, such as s3://bucket/gz3d.zarr"
            )

    def zarr_store(self) -> Store:
        """Open this store, with its options, as a read-only store of the zarr package.

        For ``xr.open_zarr``, ``zarr.open_group`` and so on.

        Raises
        ------
        StoreError
            If the URL cannot be opened.
        """
        from zarr.storage import FsspecStore  # slow to import

        with self._convert_errors("opened", ""):
            options = dict(self.storage_options)
            return FsspecStore.from_url(self.url, storage_options=options, read_only=True)

    @abstractmethod
    def _put(self, key: str, data: bytes, content_type: str = "") -> None:
        """Write one object."""

    @abstractmethod
    def _create(self, key: str, data: bytes) -> bool:
        """Write one object unless the key exists; False if it does.

        A server may ignore the condition; NotImplementedError if one, or the client, refuses it.
        """

    @abstractmethod
    def _get(self, key: str, limit: int | None) -> bytes:
        """Read one object, not far beyond `limit` bytes; FileNotFoundError if there is none."""

    @abstractmethod
    def _get_range(self, key: str, start: int, stop: int | None) -> bytes:
        """Read as `get_range`, perhaps more after or before; FileNotFoundError if absent."""

    @abstractmethod
    def _get_size(self, key: str) -> int:
        """Size of one object; FileNotFoundError if there is none."""

    @abstractmethod
    def _list_sizes(self, prefix: str) -> dict[str, int]:
        """List keys with their sizes; FileNotFoundError if there are none."""

    @abstractmethod
    def _delete(self, key: str) -> None:
        """Delete one object, if it exists."""

    def _read(self, key: str, request: Callable[[], T]) -> T | None:
        """Make a request for one object; None if the object does not exist."""
        with self._convert_errors("read", key):
            try:
                return request()
            except (FileNotFoundError, NotADirectoryError) as error:
                if _lacks_bucket(error):
                    raise
                return None

    def _put_if_absent(self, key: str, data: bytes) -> bool:
        """Create an object; a server that ignores the condition does so twice."""
        began = time.monotonic()
        if self.get(key) is not None:
            return False
        try:
            is_ignored = self._create(key, data) and self._create(key, data)
        except NotImplementedError:
            began = time.monotonic()
            if self.get(key) not in (None, data):
                return False
            self._put(key, data)
            is_ignored = True
        if is_ignored:
            self._wait_for_others(key, data, time.monotonic() - began)
        # Also ours where the answer to the first request was lost and the client has repeated it.
        return self.get(key) == data

    def _wait_for_others(self, key: str, data: bytes, seconds: float) -> None:
        """Wait for other writers, on a server that cannot create; ours took so many seconds.

        Each writer gives up unless it has written within `READ_BACK_SECONDS` of finding the key
        absent, and otherwise waits that long. So if two find it absent, the later one has written
        before the earlier one stops waiting, which then reads an object that is not its own.
        """
        if seconds > READ_BACK_SECONDS:
            if self.get(key) == data:
                self._delete(key)
            raise OSError(
                f"the server took {seconds:.1f} seconds, in which another build may have started, "
                "and it does not support conditional writes (If-None-Match); try again"
            )
        time.sleep(READ_BACK_SECONDS)

    def _delete_one(self, key: str) -> None:
        with self._convert_errors("deleted", key):
            self._delete(key)

    def _run_all(self, call: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
        """Call once for each tuple of arguments, many at a time."""
        with ThreadPoolExecutor(MAX_PARALLEL_REQUESTS, "gz3d-store") as executor:
            for future in [executor.submit(call, *each) for each in arguments]:
                future.result()

    @contextlib.contextmanager
    def _convert_errors(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except access_errors(*CLIENT_ERRORS, MemoryError) as error:
            cause = public_cause(error, self.storage_options)
            raise self._failed(action, key, error) from cause

    def _failed(self, action: str, key: str, error: Exception) -> StoreError:
        where = self.url if key.startswith(".") or not key else f"{self.url}/{key}"
        reason = hide_options(error_message(error), self.storage_options)
        endpoint = getattr(error, "kwargs", {}).get("endpoint_url")
        if not self.is_local and isinstance(error, PermissionError):
            reason = (
                f"access is denied ({reason}). Check key, secret or profile, and their permissions "
                "on the bucket; without permission to list, missing objects are reported as denied"
            )
        elif endpoint:  # botocore's error contains the whole key
            reason = f"could not connect to the endpoint {origin(str(endpoint))}"
        elif _lacks_bucket(error):
            reason = (
                f"there is no such bucket ({reason}). Create it, or check its name and the endpoint"
            )
        return StoreError(f"{where} cannot be {action}: {reason}")


def _lacks_bucket(error: Exception) -> bool:
    """Whether the bucket is missing: s3fs keeps only S3's words for that."""
    return isinstance(error, FileNotFoundError) and "bucket does not exist" in str(error)
