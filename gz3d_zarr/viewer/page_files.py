"""The files of the page, with the address of a store written into them."""

from __future__ import annotations

import html
from collections.abc import Mapping
from importlib import resources

from gz3d_zarr.errors import StoreError

INDEX = "index.html"
CONTENT_TYPES: Mapping[str, str] = {
    INDEX: "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "LICENSES.txt": "text/plain; charset=utf-8",
}
"""Files of the page."""
STORE_TAG = '<meta name="gz3d-store" content="">'
"""In ``index.html``: where the address of the store goes, relative to the page or absolute."""
SOURCE_TAG = '<meta name="gz3d-source" content="">'
"""The same for what Python opens."""
ANY_STORE = "connect-src 'self' https: http://127.0.0.1:* http://localhost:*"
"""In the content security policy of ``index.html``: what the page may read."""


def subject_fragment(subject_id: int) -> str:
    """Part of a link after ``#`` that shows the subject with this Zooniverse id."""
    return f"id={subject_id}"


def read_page(store: str, connect: str = "'self'", source: str = "") -> dict[str, bytes]:
    """Read the files of the page.

    Parameters
    ----------
    store : str
        Address of the store that the page opens; empty for a page that asks for one.
    connect : str
        Sources, as in a content security policy, that a page with a store may read.
    source : str
        What the page's line of Python opens, where it is not that address.

    Returns
    -------
    dict
        Bytes of each file by its name.

    Raises
    ------
    StoreError
        The page is not installed.
    """
    folder = resources.files("gz3d_zarr.viewer") / "static"
    try:
        files = {name: (folder / name).read_bytes() for name in CONTENT_TYPES}
    except OSError as error:
        raise StoreError(f"the page is not installed ({error}): install gz3d-zarr anew") from error
    if store:
        text = files[INDEX].decode()
        for before, after in (
            (STORE_TAG, STORE_TAG.replace('""', f'"{html.escape(store)}"')),
            (SOURCE_TAG, SOURCE_TAG.replace('""', f'"{html.escape(source)}"')),
            (ANY_STORE, f"connect-src {connect}"),
        ):
            if text.count(before) != 1:
                raise StoreError(f"{INDEX} of the page lacks {before}: install gz3d-zarr anew")
            text = text.replace(before, after)
        files[INDEX] = text.encode()
    return files
