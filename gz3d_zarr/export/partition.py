"""Divide subjects among the processes of one training run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

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
    return _cut(shards, part * total // parts, (part + 1) * total // parts)


@dataclass(frozen=True)
class BatchPartition:
    """How one rank's subjects are divided into batches, and batches among its workers.

    Attributes
    ----------
    rank, world_size : int
        Ranks have parts as `partition` makes them.
    batch_size : int
    drop_last : bool
        Whether incomplete batches are dropped; all ranks then have the same number of batches.
    """

    rank: int
    world_size: int
    batch_size: int = 1
    drop_last: bool = False

    def count(self, total: int) -> int:
        """Number of batches of the rank, whatever the number of workers is."""
        if self.drop_last:
            return total // self.world_size // self.batch_size
        first, last = self._bounds(total)
        return -(-(last - first) // self.batch_size)

    def take(
        self, shards: Sequence[NDArray[np.int64]], worker: int, workers: int
    ) -> tuple[list[NDArray[np.int64]], int]:
        """Positions of one worker in each of its shards, and its number of batches.

        Only the last worker has more positions than its batches take, if `drop_last` is set: which
        ones are dropped is open until they are shuffled.
        """
        total = sum(map(len, shards))
        start, end = self._bounds(total)
        batches = self.count(total)
        first, last = worker * batches // workers, (worker + 1) * batches // workers
        stop = end if worker == workers - 1 else start + last * self.batch_size
        return _cut(shards, start + first * self.batch_size, stop), last - first

    def _bounds(self, total: int) -> tuple[int, int]:
        first, last = self.rank * total, (self.rank + 1) * total
        return first // self.world_size, last // self.world_size


def _cut(shards: Sequence[NDArray[np.int64]], first: int, last: int) -> list[NDArray[np.int64]]:
    """Positions from the first to before the last of all shards, as far as shards have any."""
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


def find_environment() -> tuple[int, int] | None:
    """Rank and world size as torchrun sets them; None if they are not set."""
    rank, world_size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    if not rank or not world_size:
        return None
    if not (rank.isdecimal() and world_size.isdecimal()):
        raise UsageError(
            f"RANK is {rank!r} and WORLD_SIZE {world_size!r} in the environment, expected numbers"
        )
    return check_partition(int(rank), int(world_size))
