"""Take subjects of a store into a store of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.validation import validate_dataset
from gz3d_zarr.backends.generation import changed_error
from gz3d_zarr.backends.store import find_object_store
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.datamodel.schema import GENERATION_ATTR
from gz3d_zarr.errors import UsageError
from gz3d_zarr.export.subset import RowRules, find_positions
from gz3d_zarr.pipeline.subset import SubsetReport, make_subset
from gz3d_zarr.progress import ProgressOption, check_progress
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store

if TYPE_CHECKING:
    from distributed import Client

    from gz3d_zarr.export.subset import Rows


def subset(
    store: str | Path | xr.Dataset,
    destination: str | Path,
    client: Client | None = None,
    *,
    rows: Rows = None,
    ids: str | int | Iterable[str | int] | None = None,
    cone: tuple[float, float, float] | None = None,
    min_vote_fraction: float | None = None,
    table: str | Path | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    resume: bool = False,
    progress: ProgressOption = None,
    storage_options: Mapping[str, Any] | None = None,
    destination_options: Mapping[str, Any] | None = None,
) -> SubsetReport:
    """Make a store of some subjects of a complete store, with all that it has of them.

    The subjects keep the order of the store, each once, also those whose status is not ok. Nothing
    is decoded where that can be avoided: shards of which all subjects are taken are copied as they
    are, and the encoded pictures of others. The new store is one like that of a build from the
    files of these subjects: it can be verified, exported, copied, and updated from a source. Its
    attributes name the store that it was taken from.

    Parameters
    ----------
    store : str, Path or Dataset
        A path or a URL of a store; or a Dataset that was opened from one, or a selection from it:
        then its subjects are taken, with the values that they have in the store.
    destination : str or Path
        A path or a URL, where nothing is yet.
    client, scheduler, workers, progress
        As for `build`; but local workers are threads, and a script needs no guard.
    rows : sequence of int or bool, slice, or Dataset, optional
        Positions along ``subject``, a bool for every subject, a slice, or a selection from the
        store.
    ids : str, int or iterable of them, optional
        MaNGA ids, Zooniverse subject ids or, with a table that has them, plate-IFUs.
    cone : tuple of float, optional
        Right ascension and declination in degrees, and a radius in arcseconds.
    min_vote_fraction : float, optional
        Spiral or bar votes over total classifications reach this.
    table : str or Path, optional
        Survey table such as DRPall, with a column of MaNGA ids. Subjects must meet all conditions.
    resume : bool
        Continue where an earlier call with the same arguments was stopped.
    storage_options, destination_options : mapping, optional
        For fsspec: of the store, if it is a path or a URL, and of the destination.

    Returns
    -------
    SubsetReport

    Raises
    ------
    UsageError
        No subject is selected, an id is unknown, or no condition is given; or pixels of the
        Dataset have another shape or type than in the store.
    StoreError
        The store cannot be read, is damaged or was replaced; the destination holds something
        already, or is a link.
    """
    check_type("resume", resume, bool)
    check_progress(progress)
    rules = RowRules(ids, cone, min_vote_fraction, table)
    dataset = store if isinstance(store, xr.Dataset) else None
    if dataset is not None and (rows is not None or storage_options is not None):
        raise UsageError("rows and storage_options are for a path or a URL, not for a Dataset")
    if dataset is None and rows is None and rules.is_empty:
        raise UsageError(
            "no condition is given: choose subjects by ids, cone, min_vote_fraction, table (--ids, "
            "--cone, --min-vote-fraction, --table) or rows; copy takes the whole store"
        )

    def find_rows(opened: xr.Dataset) -> NDArray[np.int64]:
        if dataset is not None:
            _check_values(dataset, opened, source)
        wanted = find_positions(opened, rows if dataset is None else dataset)
        found = np.intersect1d(wanted, rules.find(opened))
        if not len(found):
            raise UsageError("no subject is selected")
        return found

    source = _open_source(store, storage_options)
    target = open_object_store(destination, destination_options)
    return make_subset(
        source,
        target,
        find_rows,
        client,
        scheduler=scheduler,
        workers=workers,
        resume=resume,
        progress=progress,
    )


def _open_source(
    store: str | Path | xr.Dataset, storage_options: Mapping[str, Any] | None
) -> ObjectStore:
    if not isinstance(store, xr.Dataset):
        return open_object_store(store, storage_options)
    validate_dataset(store, "zooniverse_subject_id")
    try:
        return find_object_store(store, "subjects are taken from their store")
    except UsageError as error:
        raise UsageError(
            f"{error}; or name the store: gz3d_zarr.subset(store, destination, rows=dataset)"
        ) from None


def _check_values(dataset: xr.Dataset, opened: xr.Dataset, source: ObjectStore) -> None:
    """Refuse a Dataset of which people would expect to save other pixels than the store has.

    Raises
    ------
    UsageError
        Its pixels have another shape or type.
    StoreError
        The store was replaced or changed after the Dataset was opened.
    """
    before = dataset.attrs.get(GENERATION_ATTR)
    if before is not None and before != opened.attrs.get(GENERATION_ATTR):
        raise changed_error(source)
    along = {"subject", *dataset["zooniverse_subject_id"].dims}
    for name in BIG_ARRAYS:
        if name not in dataset.variables:
            continue  # all that the store has of a subject is taken, whatever the Dataset has
        mine, theirs = (
            (str(each.dtype), {str(dim): n for dim, n in each.sizes.items() if dim not in along})
            for each in (dataset[name], opened[name])
        )
        if mine != theirs:
            raise UsageError(
                f"{name} was changed: it is {mine[0]} of {_shape(mine[1])} for each subject, and "
                f"{theirs[0]} of {_shape(theirs[1])} in the store, whose values a subset has. "
                "Select only subjects (isel, sel), or write your values with to_zarr"
            )


def _shape(sizes: Mapping[str, int]) -> str:
    return " x ".join(f"{size} {dim}" for dim, size in sizes.items())
