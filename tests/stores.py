"""Digests of the objects of a store, and a callback that stops a build."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gz3d_zarr.progress import Progress


def objects(store: Path) -> dict[str, str]:
    """Digest of every object."""
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def keys(names: Iterable[str]) -> set[str]:
    """Keys without the digest by which receipts are named: it depends on the time of the build."""
    return {re.sub(r"^receipts/[0-9a-f]{64}", "receipts/SHA256", name) for name in names}


def shards(store: Path) -> dict[str, str]:
    """Digest of every object of the big arrays."""
    big = ("image/c/", "segmentation/c/")
    return {key: digest for key, digest in objects(store).items() if key.startswith(big)}


class StopHereError(Exception):
    """Raised by a test's progress callback."""


def stop_after(shards: int) -> Any:
    seen = []

    def progress(state: Progress) -> None:
        seen.append(state.new)
        if len(seen) == 1 + shards:  # the first call is at the start
            raise StopHereError

    return progress


def remove_packs(store: Path) -> None:
    """Small arrays are then read from their own objects."""
    for path in (store / "receipts").glob("*.zip"):
        path.unlink()
