"""Objects in any file system of fsspec: S3 by s3fs, memory, and so on; web links for reading."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fsspec.core import url_to_fs

from gz3d_zarr.errors import CLIENT_ERRORS, UsageError, access_errors, error_message
from gz3d_zarr.locations import S3_SCHEMES, ask, hide_options, public_cause
from gz3d_zarr.storage.base_store import ObjectStore

EXISTS_CODES = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
"""What S3 answers to a conditional PUT of a key that exists, or is just being written."""
UNSUPPORTED_ERRNOS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP})


@dataclass(frozen=True)
class FsspecStore(ObjectStore):
    """Objects below an fsspec URL."""

    def _put(self, key: str, data: bytes, content_type: str = "") -> None:
        fs, root = self._open()
        is_typed = content_type and self.url.startswith(S3_SCHEMES)
        more = {"ContentType": content_type} if is_typed else {}
        fs.pipe_file(f"{root}/{key}", data, **more)

    def _create(self, key: str, data: bytes) -> bool:
        fs, root = self._open()
        try:
            fs.pipe_file(f"{root}/{key}", data, mode="create")
        except FileExistsError:
            return False
        except (TypeError, ValueError) as error:  # a file system without this mode
            raise NotImplementedError from error
        except OSError as error:
            response = getattr(error.__cause__, "response", None) or {}
            if response.get("Error", {}).get("Code") in EXISTS_CODES:
                return False
            if error.errno in UNSUPPORTED_ERRNOS:
                raise NotImplementedError from error
            raise
        return True

    def _get(self, key: str, limit: int | None) -> bytes:
        fs, root = self._open()
        path = f"{root}/{key}"
        if limit is None:
            data: bytes = self._ask(fs, fs.cat_file, path)
            return data
        try:
            data = self._ask(fs, fs.cat_file, path, end=limit)
        except Exception as error:  # S3 and web servers answer 416 to a range of an empty object
            status = getattr(error, "status", None)
            if status != 416 and getattr(error, "errno", None) != errno.EINVAL:
                raise
            data = self._ask(fs, fs.cat_file, path)
        return data

    def _get_range(self, key: str, start: int, stop: int | None) -> bytes:
        fs, root = self._open()
        data: bytes = self._ask(fs, fs.cat_file, f"{root}/{key}", start=start, end=stop)
        if start and stop is not None and len(data) > stop - start:
            raise OSError("the server ignores the range of a request, and gives the whole object")
        return data

    def _get_size(self, key: str) -> int:
        fs, root = self._open()
        size = self._ask(fs, fs.info, f"{root}/{key}")["size"]
        if not isinstance(size, int):
            raise OSError("the server does not say how many bytes it has")
        return size

    def _list_sizes(self, prefix: str) -> dict[str, int]:
        fs, root = self._open()
        start = f"{root}/{prefix}".rstrip("/")
        found = self._ask(fs, fs.find, start, detail=True, refresh=True)
        return {path[len(root) :].lstrip("/"): info["size"] for path, info in found.items()}

    def _delete(self, key: str) -> None:
        fs, root = self._open()
        with contextlib.suppress(FileNotFoundError):
            self._ask(fs, fs.rm_file, f"{root}/{key}")

    def _ask(self, fs: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs) if self.is_patient else ask(fs, call, *args, **kwargs)

    def _open(self) -> tuple[Any, str]:
        """The file system, which fsspec caches, and the path of the store in it."""
        try:
            fs, root = url_to_fs(self.url, **self.storage_options)
        except access_errors(*CLIENT_ERRORS) as error:
            options = self.storage_options
            reason = hide_options(error_message(error), options)
            raise UsageError(f"the store {self.url} cannot be reached: {reason}") from public_cause(
                error, options
            )
        return fs, root.rstrip("/")
