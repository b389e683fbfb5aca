"""Values of the small arrays of a complete store against the receipts that it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from gz3d_zarr.backends.root import READ_ERRORS
from gz3d_zarr.errors import access_errors, error_message, plural
from gz3d_zarr.pipeline.store_checks import Check, Problem, check_that
from gz3d_zarr.storage.build_record import ROOT_KEY
from gz3d_zarr.storage.memory_store import MemoryStore
from gz3d_zarr.storage.shards import ignore_zarr_spec_warnings


def check_values(stored: Mapping[str, bytes], expected: Mapping[str, bytes]) -> Iterator[Check]:
    """Compare every small array with what the receipts give.

    Parameters
    ----------
    stored : mapping of str to bytes
        Objects of the store, by key.
    expected : mapping of str to bytes
        From `encode_small_objects`. Chunks that are the same need not be decoded.

    Yields
    ------
    Check
        One for each array.
    """
    chunks: dict[str, list[str]] = {}
    for key in expected:
        name, separator, _ = key.partition("/c/")
        if separator:
            chunks.setdefault(name, []).append(key)
    for name, keys in chunks.items():
        same = all(stored.get(key) == expected[key] for key in keys)
        yield check_that("values", name, "" if same else _compare(stored, expected, name, keys))


def _compare(
    stored: Mapping[str, bytes], expected: Mapping[str, bytes], name: str, keys: Sequence[str]
) -> Problem:
    """What differs, in words; empty where nothing does."""
    if not all(key in stored for key in keys):
        return "some of its objects are missing or have another size"
    document = {f"{name}/{ROOT_KEY}": expected[f"{name}/{ROOT_KEY}"]}
    wanted = _decode({**expected, **document}, name)
    try:
        found = _decode({**stored, **document}, name)
    except access_errors(*READ_ERRORS) as error:
        return f"it cannot be read: {error_message(error)}"
    if wanted.dtype.kind in "fc":
        same = np.isclose(found, wanted, rtol=0, atol=0, equal_nan=True)
    else:
        same = found == wanted
    rows = np.flatnonzero(~np.asarray(same, bool).reshape(len(wanted), -1).all(axis=1))
    if not rows.size:  # another version of a codec
        return ""
    first = int(rows[0])
    return (
        f"{plural(rows.size, 'row')} not as the receipts say (first {first}: "
        f"{found[first]!s:.60}, expected {wanted[first]!s:.60})"
    )


def _decode(objects: dict[str, bytes], name: str) -> NDArray[Any]:
    with ignore_zarr_spec_warnings():
        array = zarr.open_array(MemoryStore("", objects=objects).zarr_store(), path=name)
        return np.asarray(array[...])
