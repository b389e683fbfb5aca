"""Open the object store at a path or URL with the client that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.errors import UsageError
from gz3d_zarr.locations import S3_SCHEMES, absolute, holds_secret, is_http, is_url
from gz3d_zarr.storage.base_store import ObjectStore
from gz3d_zarr.storage.fsspec_store import FsspecStore
from gz3d_zarr.storage.local_store import LocalStore
from gz3d_zarr.storage.obstore_store import ObstoreStore

__all__ = ["ObjectStore", "open_object_store"]

S3_DEFAULTS: Mapping[str, Any] = {"max_concurrency": 1, "use_listings_cache": False}
"""With more, s3fs asks for an object's size before every GET; a cached listing goes stale."""
CLIENTS: Mapping[str, type[ObjectStore]] = {
    "fsspec": FsspecStore,
    "s3fs": FsspecStore,
    "obstore": ObstoreStore,
}
"""Values of the storage option ``backend``."""


def open_object_store(
    url: str | Path, storage_options: Mapping[str, Any] | None = None
) -> ObjectStore:
    """Open the object store at a path, which is made absolute for workers, or at a URL.

    Parameters
    ----------
    url : str or Path
        A local path, or a URL of any fsspec file system.
    storage_options : mapping, optional
        For fsspec. ``backend`` (``s3fs`` or ``obstore``) chooses the client for S3.

    Raises
    ------
    UsageError
        If storage options are given for a local path, the backend is unknown, or the endpoint is
        no URL or holds a password.
    """
    if not isinstance(url, str | Path) or not str(url):
        raise UsageError(f"the store is {url!r:.60}, expected a path or a URL")
    text = absolute(str(url).removeprefix("file://"))
    # No name of an option is repeated: it may be a secret in the place of a name.
    options = dict(check_type("storage_options", storage_options, dict, is_shown=False) or {})
    if not is_url(text):
        if options:
            raise UsageError(
                f"{text} is a local path, and storage options are for URLs such as "
                "s3://bucket/gz3d.zarr"
            )
        return LocalStore(text.rstrip("/") or "/")
    _check_endpoint(options)
    backend = options.pop("backend", "fsspec")
    if not isinstance(backend, str) or backend not in CLIENTS:
        raise UsageError("the store backend is unknown, expected s3fs or obstore")
    defaults = S3_DEFAULTS if text.startswith(S3_SCHEMES) else {}
    return CLIENTS[backend](text.rstrip("/"), {**defaults, **options})


def _check_endpoint(options: Mapping[str, Any]) -> None:
    more = options.get("client_kwargs") or {}
    check_type("the storage option client_kwargs", more, dict, is_shown=False)
    endpoint = options.get("endpoint_url") or more.get("endpoint_url")
    if endpoint is None:
        return
    if "@" in str(endpoint) or holds_secret(str(endpoint)):
        raise UsageError(
            "the endpoint's URL holds a password, a token or a query, which would appear in "
            "messages: leave it out, and give key and secret by --storage-option, by the "
            "environment, or in a profile"
        )
    if not is_http(str(endpoint)):
        raise UsageError(
            "the endpoint is no URL, expected one such as https://host or http://127.0.0.1:9000"
        )
