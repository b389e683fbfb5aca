"""Which subjects of a store an export or a loader takes, and what the store says of each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.analysis.selection import select_cone
from gz3d_zarr.backends.store import open_store, read_build
from gz3d_zarr.datamodel.ids import find_rows, parse_id
from gz3d_zarr.datamodel.schema import BIG_ARRAYS, VARIABLES
from gz3d_zarr.errors import LeftOutWarning, Status, StoreError, UsageError, plural
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store

if TYPE_CHECKING:
    import xarray as xr


TEXTS = ("file_name", "manga_id", "iauname", "explorer_link", "sample_name")
"""Columns of the group ``catalogue`` that a subject file needs."""


@dataclass(frozen=True)
class Selection:
    """Subjects of a store that are ok, in its order; small, and survives pickling.

    Attributes
    ----------
    folder : ObjectStore
        The store.
    rows : ndarray of int64, shape (n,)
        Positions along ``subject``, ascending.
    left_out : int
        Subjects that were selected and whose status is not ok.
    shard_size : int
        Subjects in a shard.
    table : mapping of str to ndarray
        ``subject`` and every small variable, of the n rows.
    """

    folder: ObjectStore
    rows: NDArray[np.int64]
    left_out: int
    shard_size: int
    table: Mapping[str, NDArray[Any]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def shards(self) -> list[NDArray[np.int64]]:
        """Positions in `rows` of the subjects of each shard, in the order of the store."""
        if not len(self):
            return []
        shard = self.rows // self.shard_size
        return np.split(np.arange(len(self)), np.flatnonzero(np.diff(shard)) + 1)

    def take(self, positions: NDArray[np.integer[Any]]) -> Selection:
        """Only these positions in `rows`."""
        table = {name: values[positions] for name, values in self.table.items()}
        return replace(self, rows=self.rows[positions], table=table)

    @property
    def note(self) -> str:
        """How many were left out, in words; empty where none was."""
        if not self.left_out:
            return ""
        verb = "is" if self.left_out == 1 else "are"
        return f"{plural(self.left_out, 'subject')} whose status is not ok {verb} left out"

    def warn(self, stacklevel: int) -> None:
        """Say in a `LeftOutWarning` how many were left out, where any was."""
        if self.left_out:
            warnings.warn(self.note, LeftOutWarning, stacklevel=stacklevel)


def select_rows(
    store: str | Path,
    rows: Sequence[int] | NDArray[np.integer[Any]] | xr.Dataset | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Selection:
    """Open a store, and take the subjects that are ok among `rows`.

    Parameters
    ----------
    store : str or Path
        A path, or a URL of any fsspec file system.
    rows : sequence of int, or Dataset, optional
        Positions along ``subject``, each counted once, or a Dataset that was selected from the
        store. By default all.
    storage_options : mapping, optional
        For fsspec.

    Raises
    ------
    UsageError
        A row is not in the store, or no subject that is ok is selected.
    StoreError
        As `open_store`.
    """
    folder = open_object_store(store, storage_options)
    dataset = open_store(folder.url, storage_options=storage_options)
    missing = [name for name in VARIABLES if name not in dataset.variables]
    if missing:
        raise StoreError(f"{folder.url} lacks {', '.join(missing)}: it was changed since")
    wanted = _positions(dataset, rows)
    if not len(wanted):
        raise UsageError("no subject is selected")
    small = ["subject", *(name for name in VARIABLES if name not in BIG_ARRAYS)]
    table = {name: dataset[name].values[wanted] for name in small}
    table["subject"] = table["subject"].astype(object)
    ok = table["status"] == Status.OK
    if not ok.any():
        one = "the status of the subject is not ok"
        told = one if len(wanted) == 1 else f"none of the {len(wanted)} subjects has the status ok"
        raise UsageError(f"nothing is left of what is selected in {folder.url}: {told}")
    size = int(dataset["image"].data.chunksize[0])
    table = {name: values[ok] for name, values in table.items()}
    return Selection(folder, wanted[ok], int((~ok).sum()), size, table)


def read_texts(selection: Selection) -> dict[str, NDArray[np.object_]]:
    """`TEXTS` of the group ``catalogue``, for the selected rows.

    Raises
    ------
    StoreError
        The store has no such group.
    """
    try:
        _, catalogue = read_build(selection.folder)
        return {name: catalogue[name].values.astype(object)[selection.rows] for name in TEXTS}
    except (KeyError, OSError, ValueError) as error:
        raise StoreError(
            f"{selection.folder.url} has no group catalogue with {', '.join(TEXTS)}, which the "
            "subject files need: it was changed since"
        ) from error


def find_ids(dataset: xr.Dataset, ids: Sequence[str | int]) -> NDArray[np.int64]:
    """Rows with these MaNGA or Zooniverse subject ids, ascending; `find_rows` says more."""
    labels, numbers = dataset["subject"].values, dataset["zooniverse_subject_id"].values
    return np.unique(np.array(find_rows([parse_id(i) for i in ids], labels, numbers), np.int64))


def resolve_rows(
    store: str | Path,
    *,
    ids: Sequence[str | int] | None = None,
    cone: tuple[float, float, float] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> NDArray[np.int64] | None:
    """Rows with one of the ids and within the cone (ra, dec, radius in arcseconds).

    Returns
    -------
    ndarray of int64, or None
        None where neither is given: all rows.

    Raises
    ------
    UsageError
        An id is not there, or no subject is selected.
    StoreError
        As `open_store`.
    """
    if ids is None and cone is None:
        return None
    dataset = open_store(store, storage_options=storage_options)
    rows = np.arange(dataset.sizes["subject"])
    if ids is not None:
        rows = find_ids(dataset, ids)
    if cone is not None:
        rows = np.intersect1d(rows, _positions(dataset, select_cone(dataset, *cone)))
        if not len(rows):
            raise UsageError("no subject is selected: none in the cone has one of the ids")
    return rows


def _positions(
    dataset: xr.Dataset, rows: Sequence[int] | NDArray[np.integer[Any]] | xr.Dataset | None
) -> NDArray[np.int64]:
    """Ascending positions along ``subject``, each once."""
    import xarray as xr

    length = dataset.sizes["subject"]
    if rows is None:
        return np.arange(length)
    if isinstance(rows, xr.Dataset):
        return find_ids(dataset, np.atleast_1d(rows["zooniverse_subject_id"].values).tolist())
    wanted = np.unique(np.asarray(rows))
    if not len(wanted):
        return np.zeros(0, np.int64)
    if wanted.dtype.kind not in "iu" or wanted.ndim != 1:
        raise UsageError("rows are positions along subject: whole numbers")
    if wanted[0] < 0 or wanted[-1] >= length:
        raise UsageError(
            f"rows go from {wanted[0]} to {wanted[-1]}, and the store has those from 0 to "
            f"{length - 1}"
        )
    return wanted.astype(np.int64)
