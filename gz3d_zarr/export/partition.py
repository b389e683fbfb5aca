"""Divide subjects among the processes of one training run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.errors import UsageError


def partition(
    shards: Sequence[NDArray[np.int64]], part: int, parts: int
) -> list[NDArray[np.int64]]:
    """Select the positions of one part; each position is in one part, adjacent ones together.

    Parameters
    ----------
    shards : sequence of ndarray
        Positions of each shard.
    part, parts : int
        Number of the part, and of parts; their lengths differ by at most one position.

    Returns
    -------
    list of ndarray
        Positions of the part in each of its shards. It has all positions of a shard, except of its
        first and last one.
    """
    total = sum(map(len, shards))
    first, last = part * total // parts, (part + 1) * total // parts
    selected, start = [], 0
    for positions in shards:
        taken = positions[max(first - start, 0) : max(last - start, 0)]
        start += len(positions)
        if len(taken):
            selected.append(taken)
    return selected


def check_partition(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    """Rank and world size, or None if neither is given.

    Raises
    ------
    UsageError
        Only one is given, or the rank does not exist.
    """
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None:
        raise UsageError("give both rank and world_size, or neither")
    if not 0 <= rank < world_size:
        raise UsageError(f"rank is {rank} of {world_size}, expected 0 to {world_size - 1}")
    return rank, world_size
