"""Objects under one URL: put whole, get, list, delete. Zarr and receipts are written with these.

Plain files locally, fsspec elsewhere. A put is whole or not at all: locally a temporary name,
then a rename; on an object store one PUT.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from gz3d_zarr.errors import StoreError, UsageError, access_errors, error_message
from gz3d_zarr.locations import S3_SCHEMES, absolute, ask, holds_secret, is_http, is_url, origin
from gz3d_zarr.storage.obstore_store import ObstoreBackend, obstore_backend

PARTIAL_SUFFIX = ".partial"
"""Ending of a local file that is still being written; never a name in a store."""
S3_DEFAULTS: Mapping[str, Any] = {"max_concurrency": 1, "use_listings_cache": False}
"""With more, s3fs asks for an object's size before every GET; a cached listing goes stale."""
OBSTORE = "obstore"
MAX_PARALLEL_PUTS = 16
"""Small objects that are written or deleted at a time where each waits for a network."""


@dataclass(frozen=True)
class ObjectStore:
    """A place that holds objects by key; cheap to make and to send to a worker.

    Parameters
    ----------
    url : str
        An absolute local path, or an fsspec URL.
    storage_options : mapping
        For fsspec; never shown.
    backend : {'fsspec', 'obstore'}
        Which client writes to S3.
    is_patient : bool
        Wait for a server's first answer as long as for any other: where it is sent to a worker,
        whoever sent it has had one.
    """

    url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    backend: str = "fsspec"
    is_patient: bool = field(default=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStore, (self.url, self.storage_options, self.backend, True)

    def put(self, key: str, data: bytes) -> None:
        """Write one object, whole or not at all.

        Raises
        ------
        StoreError
            Where it cannot be written.
        """
        self.refuse_link("written to")
        try:
            if self.is_local:
                self._put_file(Path(self.url, key), data)
            elif self.backend == OBSTORE:
                self._obstore().put(key, data)
            else:
                fs, root = self._remote()
                fs.pipe_file(f"{root}/{key}", data)
        except access_errors(TypeError) as error:
            raise self._failed("written", key, error) from error

    def put_all(self, objects: Mapping[str, bytes]) -> None:
        """Write objects, each whole or not at all; over a network many at a time.

        Raises
        ------
        StoreError
            Where one cannot be written; others may have been.
        """
        if self.is_local:
            for key, data in objects.items():
                self.put(key, data)
            return
        with ThreadPoolExecutor(min(MAX_PARALLEL_PUTS, len(objects) or 1), "gz3d-put") as executor:
            for future in [executor.submit(self.put, *item) for item in objects.items()]:
                future.result()

    def get(self, key: str) -> bytes | None:
        """Read one object; None where there is none.

        Raises
        ------
        StoreError
            Where it cannot be read.
        """
        try:
            if self.is_local:
                return Path(self.url, key).read_bytes()
            if self.backend == OBSTORE:
                return self._obstore().get(key)
            fs, root = self._remote()
            data: bytes = self._ask(fs, fs.cat_file, f"{root}/{key}")
        except (FileNotFoundError, NotADirectoryError) as error:
            if _lacks_bucket(error):
                raise self._failed("read", key, error) from error
            return None
        except access_errors(TypeError) as error:
            raise self._failed("read", key, error) from error
        return data

    def list_sizes(self, prefix: str = "") -> dict[str, int]:
        """Keys below a prefix (a folder's name with its slash, or nothing), with bytes.

        Raises
        ------
        StoreError
            Where they cannot be listed.
        """
        self.refuse_link("listed")
        try:
            if self.is_local:
                root = Path(self.url)
                found = (path for path in Path(root, prefix).rglob("*") if path.is_file())
                return {p.relative_to(root).as_posix(): p.stat().st_size for p in found}
            if self.backend == OBSTORE:
                return self._obstore().list_sizes(prefix)
            fs, root_path = self._remote()
            start = f"{root_path}/{prefix}".rstrip("/")
            found_there = self._ask(fs, fs.find, start, detail=True, refresh=True)
        except FileNotFoundError as error:
            if _lacks_bucket(error):
                raise self._failed("listed", prefix, error) from error
            return {}
        except access_errors(TypeError) as error:
            raise self._failed("listed", prefix, error) from error
        return {
            path[len(root_path) :].lstrip("/"): info["size"] for path, info in found_there.items()
        }

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there do not matter.

        Raises
        ------
        StoreError
            Where one cannot be deleted.
        """
        if self.is_local:
            for key in keys:
                self._delete(key)
            return
        with ThreadPoolExecutor(MAX_PARALLEL_PUTS, "gz3d-delete") as executor:
            for future in [executor.submit(self._delete, key) for key in keys]:
                future.result()

    def _delete(self, key: str) -> None:
        try:
            if self.is_local:
                Path(self.url, key).unlink(missing_ok=True)
            elif self.backend == OBSTORE:
                self._obstore().delete(key)
            else:
                fs, root = self._remote()
                with contextlib.suppress(FileNotFoundError):
                    self._ask(fs, fs.rm_file, f"{root}/{key}")
        except access_errors(TypeError) as error:
            raise self._failed("deleted", key, error) from error

    def prune(self, prefixes: Iterable[str]) -> None:
        """Remove folders below `prefixes` that are empty (object stores have none)."""
        if not self.is_local:
            return
        for prefix in prefixes:
            for folder, _, _ in os.walk(Path(self.url, prefix), topdown=False):
                with contextlib.suppress(OSError):  # not empty
                    Path(folder).rmdir()

    def sync(self, keys: Iterable[str]) -> None:
        """See that objects would outlive a power failure; an object store's PUT does so itself.

        Raises
        ------
        StoreError
            Where the disk fails to keep one.
        """
        if not self.is_local or not hasattr(os, "O_DIRECTORY"):  # Windows syncs no folders
            return
        names = sorted(keys)
        folders = sorted({str(folder) for name in names for folder in Path(name).parents})
        for name in (*names, *folders):
            try:
                descriptor = os.open(Path(self.url, name), os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                if name not in folders:  # some file systems sync no folders
                    raise self._failed("kept", name, error) from error

    def free_bytes(self) -> int | None:
        """Free space on the disk, or None where there is no such bound."""
        if not self.is_local:
            return None
        try:
            return shutil.disk_usage(self._nearest()).free
        except OSError:  # creating it will say why
            return None

    def is_writable(self) -> bool | None:
        """Whether the place, or the folder that it would be made in, may be written to."""
        if not self.is_local:
            return None
        try:
            place = self._nearest()
            return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
        except OSError:  # a name that is too long, a folder that may not be entered
            return False

    def _nearest(self) -> Path:
        """The place itself, or the nearest folder above it that is there."""
        place = Path(self.url)
        while not place.exists():
            place = place.parent
        return place

    def with_url(self, url: str) -> ObjectStore:
        """Another store with the same client and options."""
        return replace(self, url=url)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder on a disk here."""
        return not is_url(self.url)

    @property
    def is_link(self) -> bool:
        """Whether it is a link of the web: objects can be read by name, and nothing else."""
        return is_http(self.url)

    def refuse_link(self, what: str) -> None:
        """Raise StoreError where it is a link, which cannot be `what`: listed, for example."""
        if self.is_link:
            raise StoreError(
                f"{self.url} is a link, from which a store can be opened and read, and which "
                f"cannot be {what}; give the place itself, such as s3://bucket/gz3d.zarr"
            )

    def _ask(self, fs: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs) if self.is_patient else ask(fs, call, *args, **kwargs)

    def _obstore(self) -> ObstoreBackend:
        return obstore_backend(self.url, self.storage_options, is_patient=self.is_patient)

    def _remote(self) -> tuple[Any, str]:
        try:
            fs, root = url_to_fs(self.url, **self.storage_options)
        except access_errors(ImportError, TypeError, ValueError) as error:
            raise UsageError(
                f"the store {self.url} cannot be reached: {error_message(error)}"
            ) from error
        return fs, root.rstrip("/")

    @staticmethod
    def _put_file(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _failed(self, what: str, key: str, error: Exception) -> StoreError:
        where = self.url if key.startswith(".") or not key else f"{self.url}/{key}"
        said = error_message(error)
        endpoint = getattr(error, "kwargs", {}).get("endpoint_url")
        if not self.is_local and isinstance(error, PermissionError):
            said = (
                f"access is denied ({said}). Check key, secret or profile, and what they may do "
                "with the bucket; without the right to list, what is not there is denied too"
            )
        elif endpoint:  # botocore's error has the whole key in it
            said = f"could not connect to the endpoint {origin(str(endpoint))}"
        elif _lacks_bucket(error):
            said = f"there is no such bucket ({said}). Make it, or check its name and the endpoint"
        return StoreError(f"{where} cannot be {what}: {said}")


def _lacks_bucket(error: Exception) -> bool:
    """Whether it is the bucket that is not there: s3fs keeps only S3's words for that."""
    return isinstance(error, FileNotFoundError) and "bucket does not exist" in str(error)


def open_object_store(url: str | Path, storage_options: Mapping[str, Any] | None) -> ObjectStore:
    """Make the user's path absolute, so that it means the same on every worker.

    The storage option ``backend`` (``obstore`` or ``s3fs``) says which client writes to S3.

    Raises
    ------
    UsageError
        Where storage options are given for a local path, which would take none of them; or an
        endpoint that is no URL, or has a password in it.
    """
    text = absolute(str(url).removeprefix("file://"))
    if storage_options and not is_url(text):
        raise UsageError(
            f"{text} is a local path, and storage options ({', '.join(storage_options)}) are for "
            "URLs such as s3://bucket/gz3d.zarr"
        )
    options = dict(storage_options or {})
    endpoint = options.get("endpoint_url") or options.get("client_kwargs", {}).get("endpoint_url")
    if endpoint is not None and ("@" in str(endpoint) or holds_secret(str(endpoint))):
        raise UsageError(
            "the endpoint's URL holds a password, a token or a query, which would stand in "
            "messages: leave it out, and give key and secret by --storage-option, by the "
            "environment, or in a profile"
        )
    if endpoint is not None and not is_http(str(endpoint)):
        raise UsageError(
            f"the endpoint is {endpoint!r}, expected a URL such as https://host or "
            "http://127.0.0.1:9000"
        )
    backend = options.pop("backend", "fsspec")
    if backend not in ("fsspec", "s3fs", OBSTORE):
        raise UsageError(f"the store backend is {backend!r}, expected s3fs or obstore")
    defaults = S3_DEFAULTS if text.startswith(S3_SCHEMES) else {}
    return ObjectStore(text.rstrip("/") or "/", {**defaults, **options}, backend)
