"""Objects as files in a folder on a local disk."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gz3d_zarr.locations import create_atomically, open_regular, read_regular, write_atomically
from gz3d_zarr.storage.base_store import ObjectStore

if TYPE_CHECKING:
    from zarr.abc.store import Store


@dataclass(frozen=True)
class LocalStore(ObjectStore):
    """A folder; its URL is an absolute path."""

    is_local: ClassVar[bool] = True

    def prune(self, prefixes: Iterable[str]) -> None:
        """Remove empty folders below `prefixes`."""
        for prefix in prefixes:
            for folder, _, _ in os.walk(Path(self.url, prefix), topdown=False):
                with contextlib.suppress(OSError):  # not empty
                    Path(folder).rmdir()

    def sync(self, keys: Iterable[str]) -> None:
        """Make sure that objects, and the folders that name them, would survive a power failure.

        Raises
        ------
        StoreError
            If the disk fails to store one.
        """
        names = sorted(keys)
        folders = sorted({str(folder) for name in names for folder in Path(name).parents})
        flags = os.O_RDONLY
        if not hasattr(os, "O_DIRECTORY"):  # Windows syncs what may be written, no folders
            folders, flags = [], os.O_RDWR
        for name in (*names, *folders):
            try:
                descriptor = os.open(Path(self.url, name), flags)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                if name not in folders:  # some file systems sync no folders
                    raise self._failed("synced to disk", name, error) from error

    def free_bytes(self) -> int | None:
        """Free space on the disk, or None if it is unknown."""
        try:
            return shutil.disk_usage(self._nearest()).free
        except OSError:  # creating the folder will say why
            return None

    def is_writable(self) -> bool | None:
        """Whether the folder, or the one in which it would be created, can be written to."""
        try:
            folder = self._nearest()
            return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
        except OSError:  # a name that is too long, a folder that may not be entered
            return False

    def zarr_store(self) -> Store:
        """Open this folder as a read-only store of the zarr package."""
        from zarr.storage import LocalStore as ZarrLocalStore  # slow to import

        return ZarrLocalStore(self.url, read_only=True)

    def _put(self, key: str, data: bytes, content_type: str = "") -> None:  # noqa: ARG002
        write_atomically(Path(self.url, key), data)

    def _create(self, key: str, data: bytes) -> bool:
        return create_atomically(Path(self.url, key), data)

    def _put_if_absent(self, key: str, data: bytes) -> bool:
        # An NFS server that repeats the request reports our own file as existing.
        return self._create(key, data) or self.get(key) == data

    def _get(self, key: str, limit: int | None) -> bytes:
        return read_regular(Path(self.url, key), limit)

    def _get_range(self, key: str, start: int, stop: int | None) -> bytes:
        # Opened anew each time: only that makes NFS ask its server.
        with open_regular(Path(self.url, key)) as file:
            if stop is None:
                start = max(0, os.fstat(file.fileno()).st_size + start)
            file.seek(start)
            return file.read(-1 if stop is None else stop - start)

    def _get_size(self, key: str) -> int:
        return Path(self.url, key).stat().st_size

    def _list_sizes(self, prefix: str) -> dict[str, int]:
        root = Path(self.url)
        sizes = {}
        for path in Path(root, prefix).rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a temporary file that was just renamed
                if path.is_file():
                    sizes[path.relative_to(root).as_posix()] = path.stat().st_size
        return sizes

    def _delete(self, key: str) -> None:
        Path(self.url, key).unlink(missing_ok=True)

    def _run_all(self, call: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
        for each in arguments:
            call(*each)

    def _nearest(self) -> Path:
        """The folder itself, or the nearest existing one above it."""
        folder = Path(self.url)
        while not folder.exists():
            folder = folder.parent
        return folder
