"""How the loaders share out subjects to the processes of one training run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.errors import UsageError


def share(shards: Sequence[NDArray[np.int64]], part: int, parts: int) -> list[NDArray[np.int64]]:
    """Share out the positions of some shards: neighbours together, each position to one part.

    Parameters
    ----------
    shards : sequence of ndarray
        Positions of each shard.
    part, parts : int
        Which part, of how many of equal length but for one position.

    Returns
    -------
    list of ndarray
        What the part has of each shard that it has anything of: all, but for the first and last.
    """
    total = sum(map(len, shards))
    first, last = part * total // parts, (part + 1) * total // parts
    mine, begin = [], 0
    for positions in shards:
        taken = positions[max(first - begin, 0) : max(last - begin, 0)]
        begin += len(positions)
        if len(taken):
            mine.append(taken)
    return mine


def check_partition(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    """Rank and world size as given, or None where neither is.

    Raises
    ------
    UsageError
        Only one is given, or there is no such rank.
    """
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None:
        raise UsageError("rank and world_size go together: give both or none")
    if not 0 <= rank < world_size:
        raise UsageError(f"rank is {rank} of {world_size}, expected one from 0 to {world_size - 1}")
    return rank, world_size
