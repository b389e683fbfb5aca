"""Datasets for PyTorch: map-style, and iterable for whole epochs over many workers and ranks.

Neither keeps the store open: each process that reads opens it. Workers may be forked or spawned.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.errors import UsageError, missing_extra_error
from gz3d_zarr.export.partition import check_partition, partition
from gz3d_zarr.export.subset import select_rows

if TYPE_CHECKING:
    import xarray as xr

    Rows = Sequence[int] | NDArray[np.integer[Any]] | xr.Dataset | None


try:
    import torch
    from torch.utils.data import Dataset, IterableDataset, get_worker_info
except ImportError as error:
    raise missing_extra_error("gz3d_zarr.export.torch", error, "torch") from error
Sample = dict[str, Any]
Transform = Callable[[Sample], Any]
WINDOW = 4
"""Shards whose subjects are shuffled together; compressed, about 23 MB each."""
_SCALARS = (
    "ra",
    "dec",
    "scale",
    "total_classifications",
    "spiral_votes",
    "bar_votes",
    "zooniverse_subject_id",
)


class _Samples:
    """Reads samples of the selected subjects, for both datasets; warns about those left out."""

    def __init__(
        self,
        store: str | Path,
        rows: Rows,
        channels_first: bool,
        transform: Transform | None,
        storage_options: Mapping[str, Any] | None,
    ) -> None:
        self.selection = select_rows(store, rows, storage_options=storage_options)
        self.selection.warn(stacklevel=4)  # at the code that creates the dataset
        self._reader = ChunkReader(self.selection.generation)
        self._channels_first = channels_first
        self._transform = transform

    def read(self, position: int, shards: Mapping[str, bytes] | None = None) -> Any:
        table, row = self.selection.table, int(self.selection.rows[position])
        image, masks = self._reader.read_subject(row, shards)
        if self._channels_first:
            image = image.transpose(2, 0, 1)
        sample: Sample = {
            "image": torch.from_numpy(np.ascontiguousarray(image)),
            "segmentation": torch.from_numpy(masks),
            "vote_fraction": torch.from_numpy(table["vote_fraction"][position].copy()),
            "object_id": str(table["subject"][position]),
        }
        sample.update({name: table[name][position].item() for name in _SCALARS})
        return sample if self._transform is None else self._transform(sample)

    def fetch(self, shard: int) -> Mapping[str, bytes]:
        return self._reader.fetch(shard)


class GZ3DDataset(Dataset[Any]):
    """Subjects by position; each is read and decoded when it is needed.

    A sample is a dict: ``image`` (uint8, (3, 525, 525)), ``segmentation`` (uint8 counts,
    (4, 525, 525), classes center, star, spiral, bar), ``vote_fraction`` (float32, (4,)),
    ``object_id`` (str), ``zooniverse_subject_id``, ``ra`` and ``dec`` (degrees), ``scale`` (degrees
    per pixel), ``total_classifications``, ``spiral_votes``, ``bar_votes``.

    Parameters
    ----------
    store : str or Path
        A complete store; a path, or a URL of any fsspec file system.
    rows : sequence of int, or Dataset, optional
        Positions along ``subject``, or a Dataset that was selected from the store; by default
        all. Samples are in the order of the store; subjects whose status is not ok are left out.
    channels_first : bool
        If false, images have the shape (525, 525, 3).
    transform : callable, optional
        Called with a sample; its result is the item.
    storage_options : mapping, optional
        Options for fsspec.

    Attributes
    ----------
    left_out : int
        Number of selected subjects whose status is not ok.

    Raises
    ------
    UsageError
        PyTorch is not installed, or no selected subject has the status ok.
    StoreError
        The store cannot be opened or, later, read.

    Warns
    -----
    LeftOutWarning
        Counts subjects whose status is not ok. They are left out.
    """

    def __init__(
        self,
        store: str | Path,
        *,
        rows: Rows = None,
        channels_first: bool = True,
        transform: Transform | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._samples = _Samples(store, rows, channels_first, transform, storage_options)
        self.left_out = self._samples.selection.left_out

    def __len__(self) -> int:
        return len(self._samples.selection)

    def __getitem__(self, index: int) -> Any:
        """Sample at a position; IndexError if it is out of range."""
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"index {index} is out of range for {length} subjects")
        return self._samples.read(index % length)


class GZ3DIterableDataset(IterableDataset[Any]):
    """An epoch over the subjects, divided among ranks and workers; samples as in `GZ3DDataset`.

    The order of shards is random, and so is the order of subjects within a window of several
    shards. Every subject occurs once per epoch. Each worker of each rank has a part of that order;
    the lengths of the parts differ by at most one subject. A worker reads whole shards, and decodes
    each of its subjects once.

    Parameters
    ----------
    store, rows, channels_first, transform, storage_options
        As for `GZ3DDataset`.
    shuffle : bool
        If false, use the order of the store.
    seed : int
        Sets the order together with the epoch; must be the same on all ranks.
    window : int
        Number of shards whose subjects are shuffled together; they are compressed in memory.
    rank, world_size : int, optional
        By default, at the start of each pass, those of ``torch.distributed`` if it is initialized,
        else ``RANK`` and ``WORLD_SIZE`` of the environment, as torchrun sets them, else 0 of 1.
        Workers use the values at the time when they were started.

    Attributes
    ----------
    left_out : int
        Number of selected subjects whose status is not ok.

    Raises
    ------
    UsageError
        A number is out of range; or as for `GZ3DDataset`.
    StoreError
        As for `GZ3DDataset`.

    Warns
    -----
    LeftOutWarning
        As for `GZ3DDataset`.
    """

    def __init__(
        self,
        store: str | Path,
        *,
        rows: Rows = None,
        channels_first: bool = True,
        transform: Transform | None = None,
        shuffle: bool = True,
        seed: int = 0,
        window: int = WINDOW,
        rank: int | None = None,
        world_size: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        if window < 1:
            raise UsageError(f"window is {window}, expected at least 1")
        if seed < 0:
            raise UsageError(f"seed is {seed}, expected 0 or more")
        self._given = check_partition(rank, world_size)
        self._inherited: tuple[int, int] | None = None
        self._samples = _Samples(store, rows, channels_first, transform, storage_options)
        self.left_out = self._samples.selection.left_out
        self._shuffle, self._seed, self._window = shuffle, seed, window
        # In shared memory, so that persistent workers see the epoch of the next pass.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call, unused-ignore]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, and so the order of the next pass; call it on every rank."""
        if epoch < 0:
            raise UsageError(f"epoch is {epoch}, expected 0 or more")
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        rank, world_size = self._find_partition() or (0, 1)
        part = rank * workers + number
        key = [self._seed, int(self._epoch)]
        shards = self._samples.selection.shards()
        if self._shuffle:
            order = np.random.default_rng(key).permutation(len(shards))  # the same for all parts
            shards = [shards[i] for i in order]
        shards = partition(shards, part, world_size * workers)
        rng = np.random.default_rng([*key, part])
        for i in range(0, len(shards), self._window):
            yield from self._read(shards[i : i + self._window], rng)

    def __getstate__(self) -> dict[str, Any]:
        # Unlike a forked worker, a spawned one has no process group, so it inherits the partition.
        return {**self.__dict__, "_inherited": self._find_partition()}

    def _find_partition(self) -> tuple[int, int] | None:
        """Current rank and world size; None if nothing defines them."""
        if self._given is not None:
            return self._given
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return self._inherited or _environment()

    def _read(self, window: Sequence[NDArray[np.int64]], rng: np.random.Generator) -> Iterator[Any]:
        """The samples of some shards."""
        selection = self._samples.selection
        of_shard, fetched = selection.rows // selection.shard_size, {}
        for positions in window:
            if 2 * len(positions) >= selection.shard_size:  # else single subjects are read
                shard = int(of_shard[positions[0]])
                fetched[shard] = self._samples.fetch(shard)
        positions = np.concatenate(window)
        if self._shuffle:
            rng.shuffle(positions)
        for position in positions.tolist():
            yield self._samples.read(position, fetched.get(int(of_shard[position])))


def _environment() -> tuple[int, int] | None:
    """Rank and world size as torchrun sets them; None if they are not set."""
    rank, world_size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    if not rank or not world_size:
        return None
    if not (rank.isdecimal() and world_size.isdecimal()):
        raise UsageError(
            f"RANK is {rank!r} and WORLD_SIZE {world_size!r} in the environment, expected numbers"
        )
    return check_partition(int(rank), int(world_size))
