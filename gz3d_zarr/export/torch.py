"""Datasets for PyTorch: map-style, and iterable for whole epochs over many workers and ranks.

Neither keeps the store open: each process that reads opens it. Workers may be forked or spawned.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.backends.chunk_reader import Fetched
from gz3d_zarr.datamodel.option_fields import check_options, check_type, take_options
from gz3d_zarr.errors import UsageError, missing_extra_error, plural, quote
from gz3d_zarr.export.partition import BatchPartition, check_partition, find_environment
from gz3d_zarr.export.samples import SampleOptions, SampleReader
from gz3d_zarr.export.split import sample_weights, split
from gz3d_zarr.export.subset import select_rows

if TYPE_CHECKING:
    from gz3d_zarr.export.subset import Rows


try:
    import torch
    from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info

    from gz3d_zarr.export.epoch_counter import EpochCounter
except ImportError as error:
    raise missing_extra_error("gz3d_zarr.export.torch", error, "torch") from error
__all__ = ["GZ3DDataset", "GZ3DIterableDataset", "sample_weights", "split"]
Transform = Callable[[Any], Any]
WINDOW = 4
"""Shards whose subjects are shuffled together; compressed, about 23 MB each."""


@dataclass(frozen=True)
class _DatasetOptions:
    """What both datasets take besides `SampleOptions`, as `GZ3DDataset` documents it."""

    rows: Rows = None
    as_tuple: bool = False
    channels_first: bool = True
    transform: Transform | None = None
    storage_options: Mapping[str, Any] | None = None


class _Samples:
    """Makes samples of the selected subjects, for both datasets; warns about those left out."""

    def __init__(self, store: str | Path, dataset: type, given: Mapping[str, Any]) -> None:
        check_options(dataset, given, SampleOptions, _DatasetOptions)
        options = take_options(SampleOptions, given)
        own = take_options(_DatasetOptions, given)
        if own.as_tuple and not {"image", "segmentation"} <= set(options.names):
            raise UsageError("as_tuple needs image and segmentation among the variables")
        self.selection = select_rows(store, own.rows, storage_options=own.storage_options)
        self.selection.warn(stacklevel=4)  # at the code that creates the dataset
        self._options, self._channels_first = options, own.channels_first
        self._reader = SampleReader(self.selection, options, channels_first=own.channels_first)
        self._as_tuple, self._transform = own.as_tuple, own.transform

    def take(self, positions: NDArray[np.int64]) -> _Samples:
        """The same of some of the subjects, in this order."""
        part = copy(self)
        part.selection = replace(self.selection.take(positions), left_out=0)
        part._reader = SampleReader(
            part.selection, self._options, channels_first=self._channels_first
        )
        return part

    def read(self, position: int, fetched: Fetched | None = None) -> Any:
        """One sample."""
        pixels = {
            name: torch.from_numpy(np.zeros(shape, dtype))
            for name, (shape, dtype) in self._reader.pixels.items()
        }
        outputs = {name: tensor.numpy() for name, tensor in pixels.items()}
        self._reader.read_pixels(position, outputs, fetched)
        sample: Any
        if self._as_tuple:
            sample = pixels["image"], pixels["segmentation"]
        else:
            sample = dict.fromkeys(self._reader.options.names)
            sample.update(pixels)
            for name, value in self._reader.small(position).items():
                if isinstance(value, np.ndarray):
                    sample[name] = torch.from_numpy(value.copy())
                else:
                    sample[name] = value.item() if isinstance(value, np.generic) else str(value)
        return sample if self._transform is None else self._transform(sample)

    def read_batch(self, members: Sequence[tuple[int, Fetched]]) -> Any:
        """Several samples as one, with the types that `default_collate` gives."""
        if self._transform is not None:
            return default_collate([self.read(position, fetched) for position, fetched in members])
        pixels = {
            name: _zeros((len(members), *shape), dtype)
            for name, (shape, dtype) in self._reader.pixels.items()
        }
        outputs = {name: tensor.numpy() for name, tensor in pixels.items()}
        for i, (position, fetched) in enumerate(members):
            self._reader.read_pixels(position, {n: o[i] for n, o in outputs.items()}, fetched)
        if self._as_tuple:
            return pixels["image"], pixels["segmentation"]
        batch: dict[str, Any] = dict.fromkeys(self._reader.options.names)
        batch.update(pixels)
        positions = np.array([position for position, _ in members], np.int64)
        for name, values in self._reader.small_batch(positions).items():
            if values.dtype == object:
                batch[name] = [str(value) for value in values]
            elif values.ndim > 1:
                batch[name] = torch.from_numpy(values)
            else:
                kind = np.float64 if values.dtype.kind == "f" else np.int64
                batch[name] = torch.from_numpy(values.astype(kind))
        return batch

    def fetch(self, positions: NDArray[np.int64]) -> Fetched:
        return self._reader.fetch(positions)

    def describe(self) -> str:
        text = self._reader.describe()
        return f"{text}; as (image, segmentation)" if self._as_tuple else text


def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> torch.Tensor:
    """A tensor to be filled; in a worker, in the memory that the main process will see."""
    if get_worker_info() is None:
        return torch.from_numpy(np.zeros(shape, dtype))
    count = math.prod(shape)
    of_type = torch.from_numpy(np.empty(0, dtype))
    # As default_collate does it: otherwise the batch would be copied when it is sent. The system
    # gives zeros, and pages that are not written, such as most of the masks, cost nothing.
    storage = of_type._typed_storage()._new_shared(  # type: ignore[no-untyped-call, unused-ignore]
        count, device=of_type.device
    )
    return of_type.new(storage).resize_(shape)


class GZ3DDataset(Dataset[Any]):
    """Subjects by position; each is read and decoded when it is needed.

    A sample is a dict, by default of ``image`` (uint8, (3, 525, 525)), ``segmentation`` (uint8
    counts, (4, 525, 525), classes center, star, spiral, bar), ``asked`` (bool, (4,): whether
    volunteers were asked to mark the class; if not, an empty mask says nothing), ``vote_fraction``
    (float32, (4,)), ``object_id`` (str), ``zooniverse_subject_id``, ``ra`` and ``dec`` (degrees),
    ``scale`` (degrees per pixel), ``total_classifications``, ``spiral_votes``, ``bar_votes``.

    Only what is chosen is decoded and copied. A slice, ``dataset[:100]``, is such a dataset too.

    Parameters
    ----------
    store : str or Path
        A complete store; a path, or a URL of any fsspec file system.
    **options
        The following, by name.
    rows : sequence of int or bool, slice, or Dataset, optional
        Positions along ``subject``, a bool for every subject of the store, a slice, or a Dataset
        that was selected from the store, such as ``ds.gz3d.asked("spiral")``; by default all.
        Samples are in the order of the store; subjects whose status is not ok are left out.
    variables : sequence of str, optional
        Keys of a sample: ``image``, ``segmentation`` (``asked`` always comes with it),
        ``object_id``, and any variable of the store's root.
    classes : sequence of str, optional
        Classes of ``segmentation`` and of other variables by class, in this order.
    crop : int, str or Quantity, optional
        Width of a square about the center: pixels, or an angle such as ``"20 arcsec"``, which is
        rounded to whole pixels of each subject.
    size : int, optional
        Reduce the crop to size x size pixels by means over areas. Images are rounded; counts become
        float32.
    target : {'counts', 'fraction', 'mask'}
        Values of ``segmentation``: counts; counts divided by the number of volunteers who were
        asked (float32; 0 where nobody was asked, see ``asked``); or whether the count is above
        `threshold` (bool). With `size`, they are made of the mean counts.
    threshold : float
        For masks.
    as_tuple : bool
        If true, a sample is the tuple (image, segmentation), without ``asked``.
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
        PyTorch is not installed, no selected subject has the status ok, or a choice is not
        possible.
    StoreError
        The store cannot be opened or, later, read.

    Warns
    -----
    LeftOutWarning
        Counts subjects whose status is not ok. They are left out.
    """

    def __init__(self, store: str | Path, **options: Any) -> None:
        self._samples = _Samples(store, GZ3DDataset, options)
        self.left_out = self._samples.selection.left_out

    def __len__(self) -> int:
        return len(self._samples.selection)

    def __repr__(self) -> str:
        return f"<GZ3DDataset: {self._samples.describe()}>"

    def __getitem__(self, index: int | slice) -> Any:
        """Sample at a position, IndexError if it is out of range; or a dataset of a slice."""
        length = len(self)
        if isinstance(index, slice):
            return self._part(np.arange(length)[index])
        try:
            index = operator.index(index)
        except TypeError:
            raise UsageError(f"index is {quote(index)}, expected a position or a slice") from None
        if not -length <= index < length:
            raise IndexError(f"index {index} is out of range for {length} subjects")
        return self._samples.read(index % length)

    def _part(self, positions: NDArray[np.int64]) -> GZ3DDataset:
        if not len(positions):
            raise UsageError(f"the slice has none of the {plural(len(self), 'subject')}")
        part = copy(self)
        part._samples, part.left_out = self._samples.take(positions), 0
        return part


class GZ3DIterableDataset(IterableDataset[Any]):
    """An epoch over the subjects, divided among ranks and workers; samples as in `GZ3DDataset`.

    The order of shards is random, and so is the order of subjects within a window of several
    shards. Every subject occurs once per epoch. Each worker of each rank has a part of that order;
    the lengths of the parts differ by at most one subject, or one batch. A worker reads whole
    shards, and decodes each of its subjects once.

    Each pass is a new epoch, with another order. That workers of a DataLoader agree on its number
    relies on the seed that the DataLoader draws for them: if you seed torch anew before every
    epoch, call `set_epoch` too.

    Parameters
    ----------
    store : str or Path
        A complete store.
    batch_size : int, optional
        If given, items are batches, which the workers make; use ``DataLoader(dataset,
        batch_size=None)``. A `transform` is still called with each sample.
    drop_last : bool
        Drop incomplete batches; all ranks then have the same number of batches.
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
    **options
        All that `GZ3DDataset` takes.

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
        batch_size: int | None = None,
        drop_last: bool = False,
        shuffle: bool = True,
        seed: int = 0,
        window: int = WINDOW,
        rank: int | None = None,
        world_size: int | None = None,
        **options: Any,
    ) -> None:
        for name, number in {"window": window, "seed": seed}.items():
            if check_type(name, number, int) is None:
                raise UsageError(f"{name} is None, expected a whole number")
        check_type("batch_size", batch_size, int)
        if window < 1:
            raise UsageError(f"window is {window}, expected at least 1")
        if seed < 0:
            raise UsageError(f"seed is {seed}, expected 0 or more")
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}, expected at least 1")
        if drop_last and batch_size is None:
            raise UsageError("drop_last needs batch_size")
        self._given = check_partition(rank, world_size)
        self._inherited: tuple[int, int] | None = None
        self._samples = _Samples(store, GZ3DIterableDataset, options)
        self.left_out = self._samples.selection.left_out
        self._shuffle, self._seed, self._window = shuffle, seed, window
        self._batch_size, self._drop_last = batch_size, drop_last
        self._epochs = EpochCounter()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; later passes count from there. Call it on every rank."""
        self._epochs.set(epoch)

    def __len__(self) -> int:
        """Number of items of this rank, in all its workers: subjects, or batches."""
        return self._partition().count(len(self._samples.selection))

    def __repr__(self) -> str:
        text = self._samples.describe()
        if self._batch_size is not None:
            text += f"; in batches of {self._batch_size}"
        return f"<GZ3DIterableDataset: {text}>"

    def __iter__(self) -> Iterator[Any]:
        # Not a generator: workers count the passes that they start.
        return self._iterate(self._epochs.start_pass())

    def _iterate(self, epoch: int) -> Iterator[Any]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        ranks = self._partition()
        key = [self._seed, epoch]
        shards = self._samples.selection.shards()
        if self._shuffle:
            order = np.random.default_rng(key).permutation(len(shards))  # the same for all parts
            shards = [shards[i] for i in order]
        shards, items = ranks.take(shards, number, workers)
        rng = np.random.default_rng([*key, ranks.rank * workers + number])
        windows = (shards[i : i + self._window] for i in range(0, len(shards), self._window))
        members = (member for window in windows for member in self._read(window, rng))
        for _ in range(items):
            if self._batch_size is None:
                yield self._samples.read(*next(members))
            else:
                yield self._samples.read_batch(list(itertools.islice(members, self._batch_size)))

    def __getstate__(self) -> dict[str, Any]:
        # Unlike a forked worker, a spawned one has no process group, so it inherits the partition.
        return {**self.__dict__, "_inherited": self._find_ranks()}

    def _partition(self) -> BatchPartition:
        rank, world_size = self._find_ranks() or (0, 1)
        return BatchPartition(rank, world_size, self._batch_size or 1, self._drop_last)

    def _find_ranks(self) -> tuple[int, int] | None:
        """Current rank and world size; None if nothing defines them."""
        if self._given is not None:
            return self._given
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return self._inherited or find_environment()

    def _read(
        self, window: Sequence[NDArray[np.int64]], rng: np.random.Generator
    ) -> Iterator[tuple[int, Fetched]]:
        """Positions in some shards, in the order of the pass, with what was fetched of a shard."""
        selection = self._samples.selection
        of_shard = selection.rows // selection.shard_size
        fetched = {
            int(of_shard[each[0]]): self._samples.fetch(each) for each in window if len(each)
        }
        positions = np.concatenate(window)
        if self._shuffle:
            rng.shuffle(positions)
        for position in positions.tolist():
            yield position, fetched[int(of_shard[position])]
