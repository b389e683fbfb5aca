"""The method of the accessor ``ds.gz3d`` that makes a store of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gz3d_zarr.analysis.accessor_sky import SkyMethods

if TYPE_CHECKING:
    from distributed import Client

    import gz3d_zarr
    from gz3d_zarr.progress import ProgressOption


class SaveMethods(SkyMethods):
    """The method of `GZ3DAccessor` that calls `gz3d_zarr.subset`."""

    def save(
        self,
        destination: str | Path,
        client: Client | None = None,
        *,
        workers: int | None = None,
        resume: bool = False,
        progress: ProgressOption = None,
        destination_options: Mapping[str, Any] | None = None,
    ) -> gz3d_zarr.SubsetReport:
        """Make a complete store of the subjects of this Dataset.

        Subjects are taken from the store that the Dataset was opened from, with everything that it
        has of them: catalogue, marks, clusters and thumbnails too. They keep the order and the
        values of the store, each once: another order, repeated rows of a joined Dataset, added
        variables and changed values are not saved. ``ds.to_zarr`` writes those, but no store.

        Parameters
        ----------
        destination : str or Path
            A path or a URL, where nothing is yet.
        client, workers, progress
            As for `build`.
        resume : bool
            Continue where an earlier call was stopped.
        destination_options : mapping, optional
            Options for fsspec of the destination.

        Returns
        -------
        SubsetReport

        Raises
        ------
        UsageError
            The Dataset does not say which store it was opened from, has no subjects, or has
            pixels of another shape or type than the store.
        StoreError
            The store cannot be read, is damaged or was replaced, or the destination holds
            something already.
        """
        import gz3d_zarr  # as everyone would call it: `analysis` imports nothing of `pipeline`

        return gz3d_zarr.subset(
            self._dataset,
            destination,
            client,
            workers=workers,
            resume=resume,
            progress=progress,
            destination_options=destination_options,
        )
