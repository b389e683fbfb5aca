"""A store as a DataModule of Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gz3d_zarr.errors import UsageError, missing_extra_error
from gz3d_zarr.export.torch import GZ3DIterableDataset, split

try:
    from lightning import LightningDataModule
except ImportError as error:
    raise missing_extra_error("gz3d_zarr.export.lightning", error, "lightning") from error
from torch.utils.data import DataLoader

SETS = ("fit", "validate", "test")


class GZ3DDataModule(LightningDataModule):
    """Batches for training, validation and testing, from three parts of one store.

    Parameters
    ----------
    store : str or Path
        A complete store.
    batch_size : int
    num_workers : int
        Processes that read, for each DataLoader.
    fractions : sequence of three floats
        Shares of the subjects for training, validation and testing; see `split`.
    seed : int
        Sets the division, and the order of training.
    rows, storage_options
        As for `GZ3DDataset`; only these subjects are divided.
    **choices
        Other options of `GZ3DIterableDataset`, such as `classes`, `crop`, `as_tuple`, `transform`.

    Raises
    ------
    UsageError, StoreError
        As for `split`, and, when a DataLoader is made, for `GZ3DIterableDataset`.
    """

    def __init__(
        self,
        store: str | Path,
        *,
        batch_size: int = 32,
        num_workers: int = 2,
        fractions: Sequence[float] = (0.8, 0.1, 0.1),
        seed: int = 0,
        rows: Any = None,
        storage_options: Mapping[str, Any] | None = None,
        **choices: Any,
    ) -> None:
        super().__init__()
        self._sets = split(
            store, fractions=fractions, seed=seed, rows=rows, storage_options=storage_options
        )
        if len(self._sets) != len(SETS):
            raise UsageError(f"fractions are {fractions}, expected three: {', '.join(SETS)}")
        self._num_workers = num_workers
        self._choices = {
            **choices, "store": store, "batch_size": batch_size, "seed": seed,
            "storage_options": storage_options,
        }  # fmt: skip

    def train_dataloader(self) -> DataLoader[Any]:
        """Complete batches in a new order every epoch; the same number on all ranks."""
        return self._load("fit", shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches in the order of the store."""
        return self._load("validate", shuffle=False)

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches in the order of the store."""
        return self._load("test", shuffle=False)

    def _load(self, name: str, **options: bool) -> DataLoader[Any]:
        rows = self._sets[SETS.index(name)]
        return DataLoader(
            GZ3DIterableDataset(rows=rows, **{**self._choices, **options}),
            batch_size=None,  # the workers make batches
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
        )
