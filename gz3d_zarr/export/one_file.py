"""Exports that write one file: where it goes, under a temporary name until it is whole."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gz3d_zarr.errors import StoreError, UsageError, error_message
from gz3d_zarr.locations import PARTIAL_SUFFIX, absolute, whole_key
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store


def open_file(
    dest: str | Path,
    options: Mapping[str, Any],
    store: str | None,
    example: str,
    *,
    overwrite: bool,
) -> tuple[ObjectStore, str]:
    """The folder of a file and its name, after checks that the file can be written.

    Parameters
    ----------
    dest : str or Path
        Path or fsspec URL of the file.
    options : mapping
        For fsspec.
    store : str, optional
        URL of the store that is exported, in which the file must not be.
    example : str
        A name of such a file, for the message.
    overwrite : bool

    Raises
    ------
    UsageError, StoreError
        The file exists, or it cannot be written there.
    """
    url, _, name = absolute(str(dest).removeprefix("file://")).rpartition("/")
    if not name:
        raise UsageError(f"{dest} is a folder, expected the name of a file, such as {example}")
    folder = open_object_store(url or "/", options)
    target = f"{folder.url.rstrip('/')}/{name}"
    if store is not None and f"{target}/".startswith(f"{store}/"):
        raise StoreError(f"{target} is inside the store {store}; choose another name")
    if folder.is_local and Path(target).is_dir():
        raise StoreError(f"{target} is a folder, expected the name of a file")
    if folder.is_writable() is False:
        raise StoreError(f"{folder.url} cannot be written to")
    exists = Path(target).exists() if folder.is_local else name in folder.list_sizes()
    if exists and not overwrite:
        raise StoreError(
            f"{target} already exists; choose another name, or replace it with --overwrite "
            "(overwrite=True)"
        )
    return folder, name


@contextlib.contextmanager
def partial_file(folder: ObjectStore, name: str) -> Iterator[Path]:
    """Yield a temporary file; at the end, rename it, or upload it whole.

    What killed exports to the same name left is deleted then.
    """
    if not folder.is_local:
        with tempfile.TemporaryDirectory(prefix="gz3d-") as temporary:
            partial = Path(temporary, "export")
            yield partial
            folder.put(name, partial.read_bytes())
        return
    partial = Path(folder.url, f".{name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    left = _find_partial(partial.parent, name)
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(partial.with_name(name))
        for path in left & _find_partial(partial.parent, name):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"{folder.url}/{name} cannot be written: {error_message(error)}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _find_partial(folder: Path, name: str) -> set[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return {path for path in found if whole_key(path.name) == name}
