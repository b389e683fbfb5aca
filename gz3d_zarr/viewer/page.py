"""Write the page beside a store, so that a browser needs nothing but a web address."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote as quote_url

from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.datamodel.schema import SCHEMA
from gz3d_zarr.datamodel.text_report import TextReport
from gz3d_zarr.errors import StoreError, UsageError, quote
from gz3d_zarr.locations import absolute, is_http, is_url, origin
from gz3d_zarr.storage.build_record import ROOT_KEY, read_attrs
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store
from gz3d_zarr.viewer.page_files import CONTENT_TYPES, INDEX, STORE_TAG, read_page

_OURS = STORE_TAG.partition(" content")[0].encode()
"""What every ``index.html`` of ours has."""
_WEB_ADDRESS = re.compile(r"https?://[A-Za-z0-9.-]*[A-Za-z0-9](:[0-9]{1,5})?(/[^\s\\]*)?")
"""Its host becomes part of a content security policy, which has no quotes, spaces or brackets."""


@dataclass(frozen=True)
class PageReport(TextReport):
    """Result of `page`.

    Attributes
    ----------
    destination : str
        Folder or bucket of the page.
    store : str
        Address of its store as the page has it: relative to the page, or absolute. Empty where
        the page asks for one.
    files : tuple of str
    """

    destination: str
    store: str
    files: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """What ``gz3d-zarr page --json`` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """What ``gz3d-zarr page`` prints."""
        opened = f"opens the store {self.store}" if self.store else "asks for a store's address"
        return f"{self.destination}/{INDEX} {opened}"


def page(
    destination: str | Path,
    store: str | Path | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> PageReport:
    """Write the page that shows a store into a folder or a bucket.

    Parameters
    ----------
    destination : str or Path
        A path, or a URL of any fsspec file system. It may be a store: `verify`, `copy` and an
        overwrite take the page for an addition.
    store : str or Path, optional
        The store that the page opens: its web address, or a store on the same disk or in the same
        bucket, which the page finds relative to itself. By default `destination`, where that is
        a store; otherwise the page asks for an address.
    storage_options : mapping, optional
        Options for fsspec.

    Returns
    -------
    PageReport

    Raises
    ------
    UsageError
        A browser cannot read the store from there.
    StoreError
        `destination` cannot be written to, has other files of the same names, or there is no
        complete store.
    """
    check_type("store", store, str)
    target = open_object_store(destination, storage_options)
    target.refuse_link("written to")
    if store is None:
        address = "./" if target.get(ROOT_KEY) is not None else ""
        found = target
    elif is_http(str(store)):
        found = None
        absolute(str(store))  # refuses passwords and queries
        address = str(store).rstrip("/") + "/"
        if _WEB_ADDRESS.fullmatch(str(store)) is None:
            raise UsageError(
                f"{quote(str(store))} is no web address for a browser, expected one such as "
                "https://host/gz3d.zarr, with a host of the letters a-z, digits, - and ."
            )
    else:
        found = open_object_store(store, storage_options if is_url(str(store)) else None)
        address = _relative_address(found, target)
    if address and found is not None:
        _check_store(found)
    _check_destination(target)
    connect = f"'self' {origin(address)}" if is_http(address) else "'self'"
    files = read_page(address, connect)
    for name in sorted(CONTENT_TYPES, key=INDEX.__eq__):  # the index comes last
        target.put_file(name, files[name], CONTENT_TYPES[name])
    return PageReport(target.url, address, tuple(files))


def _relative_address(store: ObjectStore, target: ObjectStore) -> str:
    """Address of a store relative to the page, percent-encoded."""
    if store.is_local and target.is_local:
        relative = Path(os.path.relpath(store.url, target.url)).as_posix()
    elif not store.is_local and not target.is_local and origin(store.url) == origin(target.url):
        relative = posixpath.relpath(_key(store.url), _key(target.url))
    else:
        raise UsageError(
            f"a page in {target.url} cannot read {store.url}: give the store's web address, such "
            "as https://bucket.s3.amazonaws.com/gz3d.zarr, or put the page beside it"
        )
    return "./" if relative == "." else f"{quote_url(relative)}/"


def _key(url: str) -> str:
    """Path in a bucket."""
    return "/" + url.partition("://")[2].partition("/")[2]


def _check_store(store: ObjectStore) -> None:
    root = store.get(ROOT_KEY)
    if root is None or read_attrs(root).get("schema") != SCHEMA:
        raise StoreError(f"there is no complete store of Galaxy Zoo: 3D at {store.url}")


def _check_destination(target: ObjectStore) -> None:
    """Refuse a place where files of these names are not of a page of ours."""
    index = target.get(INDEX)
    if index is not None and _OURS in index:
        return
    for name in CONTENT_TYPES:
        if target.get_size(name) is not None:
            raise StoreError(
                f"{target.url} has another file {name}, which the page would replace: choose "
                "another folder, or delete it"
            )
