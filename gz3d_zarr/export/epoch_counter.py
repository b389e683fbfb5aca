"""Number of the pass over a dataset, the same in all workers of a DataLoader."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch.utils.data import get_worker_info

from gz3d_zarr.errors import UsageError

_LAST, _SETS, _FIRST = range(3)
_EPOCH_BITS = 24
MAX_EPOCH = 2**_EPOCH_BITS - 2


class EpochCounter:
    """Counts passes; workers agree on the number of a pass without locks.

    Each worker counts its passes from the first one on. What is the first one is decided by the
    worker that asks first: it writes the epoch together with a tag of the DataLoader's iterator,
    as one word, in memory that all workers share; others that find the tag use the same epoch.
    Workers that ask at the same time write the same word.
    """

    def __init__(self) -> None:
        self._shared = torch.tensor([-1, 0, 0])
        self._shared.share_memory_()  # type: ignore[no-untyped-call, unused-ignore]
        self._known: dict[int, tuple[tuple[int, int], int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_shared": self._shared, "_known": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared.share_memory_()  # type: ignore[no-untyped-call, unused-ignore]

    def set(self, epoch: int) -> None:
        """Set the epoch of the next pass; UsageError if it is out of range."""
        if not 0 <= epoch <= MAX_EPOCH:
            raise UsageError(f"epoch is {epoch}, expected 0 or more, at most {MAX_EPOCH}")
        self._shared[_LAST] = epoch - 1
        self._shared[_SETS] += 1

    def start_pass(self) -> int:
        """Epoch of the pass that this process starts."""
        worker = get_worker_info()
        last = int(self._shared[_LAST])  # read before the first epoch, and written after it
        if worker is None:
            self._shared[_LAST] = last + 1
            return last + 1
        loader = int(worker.seed - worker.id), int(self._shared[_SETS])
        known = self._known.get(worker.id)
        if known is not None and known[0] == loader:
            epoch = known[1] + 1
        else:
            epoch = self._find_first(loader, last)
        self._known[worker.id] = loader, epoch
        if int(self._shared[_SETS]) == loader[1]:
            self._shared[_LAST] = max(int(self._shared[_LAST]), epoch)
        return epoch

    def _find_first(self, loader: tuple[int, int], last: int) -> int:
        """Epoch of the first pass of a DataLoader's workers."""
        digest = hashlib.sha256(repr(loader).encode()).digest()
        tag = int.from_bytes(digest[:8], "big") >> (_EPOCH_BITS + 1)
        found = int(self._shared[_FIRST])
        if found >> _EPOCH_BITS == tag:
            return found - (tag << _EPOCH_BITS)
        self._shared[_FIRST] = (tag << _EPOCH_BITS) + last + 1
        return last + 1
