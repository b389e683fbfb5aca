"""Read parts of many objects over a network: near ones by one request, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gz3d_zarr.storage.base_store import MAX_PARALLEL_REQUESTS
from gz3d_zarr.storage.object_store import ObjectStore

MAX_GAP = 32 * 2**10
"""Bytes between two ranges that are read, and not needed, rather than asking twice."""
MAX_RANGE = 8 * 2**20
"""Bytes of one request for several ranges: above, several requests at a time are faster."""
Range = tuple[str, int, int]
"""Key of an object, first byte, and the byte behind the last."""


def join_ranges(ranges: Iterable[Range]) -> list[list[Range]]:
    """Group ranges that one request reads: of one object, and at most `MAX_GAP` apart."""
    groups: list[list[Range]] = []
    end = 0
    for key, start, stop in sorted(set(ranges)):
        first_key, first, _ = groups[-1][0] if groups else ("", 0, 0)
        if key != first_key or start > end + MAX_GAP or stop - first > MAX_RANGE:
            groups.append([])
            end = 0
        groups[-1].append((key, start, stop))
        end = max(end, stop)
    return groups


def read_ends(store: ObjectStore, keys: Iterable[str], length: int) -> dict[str, bytes | None]:
    """Read the last bytes of objects; None for each that does not exist.

    Raises
    ------
    StoreError
        One cannot be read.
    """
    return dict(_run_all(lambda key: (key, store.get_range(key, -length)), keys))


def read_ranges(store: ObjectStore, ranges: Iterable[Range]) -> dict[Range, memoryview | None]:
    """Read ranges of objects.

    Returns
    -------
    dict
        Bytes of each range: fewer where the object is shorter, None where there is none.

    Raises
    ------
    StoreError
        One cannot be read.
    """

    def read(parts: list[Range]) -> dict[Range, memoryview | None]:
        key, first, _ = parts[0]
        data = store.get_range(key, first, max(stop for _, _, stop in parts))
        if data is None:
            return dict.fromkeys(parts)
        whole = memoryview(data)
        return {part: whole[part[1] - first : part[2] - first] for part in parts}

    found: dict[Range, memoryview | None] = {}
    for some in _run_all(read, join_ranges(ranges)):
        found |= some
    return found


def _run_all(call: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
    """Results of a function of each argument, many at a time."""
    each = list(arguments)
    if len(each) < 2:
        return [call(one) for one in each]
    with ThreadPoolExecutor(MAX_PARALLEL_REQUESTS, "gz3d-ranges") as executor:
        return list(executor.map(call, each))
