"""Show a store in a browser on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.errors import UsageError
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store

if TYPE_CHECKING:
    from gz3d_zarr.viewer.server import ViewServer

MAX_PORT = 65535


def view(
    store: str | Path,
    *,
    port: int = 0,
    storage_options: Mapping[str, Any] | None = None,
) -> ViewServer:
    """Serve a complete store, with a page that shows its galaxies, to a browser on this machine.

    Parameters
    ----------
    store : str or Path
        A path, or a URL of any fsspec file system.
    port : int
        Port on loopback; by default, a free one.
    storage_options : mapping, optional
        Options for fsspec. The browser does not see them: this process reads the store.

    Returns
    -------
    ViewServer
        Its ``link`` is the address of the page. It ends with the process or by ``close()``, and
        shows the page in a notebook.

    Raises
    ------
    UsageError
        The port cannot be used.
    StoreError
        There is no complete store of Galaxy Zoo: 3D.
    """
    return serve_store(open_object_store(store, storage_options), port)


def serve_store(
    store: ObjectStore, port: int = 0, fragment: str = "", *, allows_frames: bool = True
) -> ViewServer:
    """Serve a store as `view` does, from an ObjectStore with its client and options.

    Parameters
    ----------
    store : ObjectStore
    port : int
    fragment : str
        Part of the link after ``#``: what the page shows first.
    allows_frames : bool
        Whether a notebook on this machine may show the page in a frame.
    """
    from gz3d_zarr.backends.store import open_dataset  # slow to import
    from gz3d_zarr.viewer.server import ViewServer

    check_type("port", port, int)
    if not 0 <= port <= MAX_PORT:
        raise UsageError(f"port is {port}, expected 1 to {MAX_PORT}, or 0 for a free one")
    open_dataset(store, chunks=None)  # reports what is wrong with it
    return ViewServer(store, port, fragment, allows_frames=allows_frames)
