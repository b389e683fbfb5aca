"""What tests of the page share: where it is, waiting for it, and pixels of its canvases."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import gz3d_zarr

if TYPE_CHECKING:
    from playwright.sync_api import Page

STATIC = Path(gz3d_zarr.__file__).parent / "viewer" / "static"
SOURCES = Path(__file__).parents[2] / "viewer" / "src"
FLAGS = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
)
READ = """selector => {
    const canvas = document.querySelector(selector);
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let text = "";
    for (let i = 0; i < data.length; i += 32768)
        text += String.fromCharCode.apply(null, data.subarray(i, i + 32768));
    return [canvas.height, canvas.width, btoa(text)];
}"""


def wait_for(page: Page, attribute: str) -> None:
    """Wait until the root of a page has an attribute such as ``ready`` or ``galaxy="3"``."""
    page.wait_for_selector(f"html[data-{attribute}]", state="attached")


def read_canvas(page: Page, selector: str) -> NDArray[np.uint8]:
    """Red, green, blue and opacity, shape (height, width, 4)."""
    height, width, text = page.evaluate(READ, selector)
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)


def expected_opacity(counts: NDArray[np.uint8], threshold: int) -> NDArray[np.uint8]:
    """Opacity of a mask: rises with the count to 0.35 and 0.8 of 255, 0 up to the threshold."""
    part = np.minimum(counts / max(15, int(counts.max())), 1)
    opacity = np.floor(255 * np.where(part < 0.5, 0.7 * part, 0.35 + 0.9 * (part - 0.5)) + 0.5)
    return np.where(counts > threshold, opacity, 0).astype(np.uint8)
