"""The subjects of a store that an export or a loader reads, with their small variables."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.analysis.selection import as_list, select_cone
from gz3d_zarr.backends.generation import Generation
from gz3d_zarr.backends.store import find_root, open_dataset, read_store
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.datamodel.ids import find_rows, is_plate_ifu, parse_id
from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.datamodel.variables import VARIABLES
from gz3d_zarr.errors import LeftOutWarning, Status, StoreError, UsageError, plural, quote
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store

if TYPE_CHECKING:
    import xarray as xr

    Rows: TypeAlias = (
        "Sequence[int] | Sequence[bool] | NDArray[Any] | slice | xr.Dataset | RowRules | None"
    )
    """Subjects of a store, as `select_rows` takes them."""


TEXTS = ("file_name", "manga_id", "iauname", "explorer_link", "sample_name")
"""Columns of the group ``catalogue`` that are written into a subject file."""


@dataclass(frozen=True)
class RowRules:
    """Which subjects to select, whatever their rows are; those that meet all that is given.

    Rows are found in the Dataset that is then read, so that both are of one generation.

    Attributes
    ----------
    ids : str, int or iterable of them, optional
        MaNGA ids, Zooniverse subject ids or, with a table that has them, plate-IFUs.
    cone : tuple of float, optional
        Right ascension and declination in degrees, and a radius in arcseconds.
    min_vote_fraction : float, optional
        Spiral or bar votes over total classifications reach this, as in `build`.
    table : str or Path, optional
        Survey table such as DRPall, with a column of MaNGA ids. Its rows without a subject are
        counted in the log.
    """

    ids: str | int | Iterable[str | int] | None = None
    cone: tuple[float, float, float] | None = None
    min_vote_fraction: float | None = None
    table: str | Path | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is given: then all subjects meet it."""
        return all(getattr(self, each.name) is None for each in fields(self))

    def find(self, dataset: xr.Dataset) -> NDArray[np.int64]:
        """Rows of the subjects, ascending.

        Raises
        ------
        UsageError
            An id is unknown, a rule is wrong, or no subject is selected.
        """
        found: list[tuple[str, NDArray[np.int64]]] = []
        table = None
        if self.table is not None:
            from gz3d_zarr.analysis.survey_table import read_survey_table  # needs astropy

            table = read_survey_table(self.table)
        if self.ids is not None:
            found.append(("has one of the ids", _find_ids(dataset, self.ids, table)))
        if self.cone is not None:
            found.append(("is in the cone", _find_in_cone(dataset, self.cone)))
        if self.min_vote_fraction is not None:
            words = f"has a vote fraction of at least {self.min_vote_fraction}"
            found.append((words, _find_votes(dataset, self.min_vote_fraction)))
        if self.table is not None:
            found.append((f"is in {self.table}", _find_in_table(dataset, table, self.table)))
        rows = np.arange(dataset.sizes["subject"])
        for _, these in found:
            rows = np.intersect1d(rows, these)
        if not len(rows):
            raise UsageError(
                f"no subject is selected: none {' and '.join(words for words, _ in found)}"
            )
        return rows


@dataclass(frozen=True)
class Selection:
    """Subjects of a store whose status is ok, in the order of the store; small to pickle.

    Attributes
    ----------
    generation : Generation
        Of the store that the rows are in, when it was opened.
    rows : ndarray of int64, shape (n,)
        Positions along ``subject``, ascending.
    left_out : int
        Number of selected subjects whose status is not ok.
    shard_size : int
        Subjects per shard.
    table : mapping of str to ndarray
        ``subject`` and every small variable, for the n rows.
    """

    generation: Generation
    rows: NDArray[np.int64]
    left_out: int
    shard_size: int
    table: Mapping[str, NDArray[Any]] = field(repr=False)

    @property
    def store(self) -> ObjectStore:
        """The store that the rows are in."""
        return self.generation.store

    def __len__(self) -> int:
        return len(self.rows)

    def shards(self) -> list[NDArray[np.int64]]:
        """Positions in `rows` of each shard's subjects, in the order of the store."""
        if not len(self):
            return []
        shard = self.rows // self.shard_size
        return np.split(np.arange(len(self)), np.flatnonzero(np.diff(shard)) + 1)

    def take(self, positions: NDArray[np.integer[Any]]) -> Selection:
        """The part of the selection at these positions in `rows`."""
        table = {name: values[positions] for name, values in self.table.items()}
        return replace(self, rows=self.rows[positions], table=table)

    @property
    def note(self) -> str:
        """How many subjects were left out, in words; empty if none."""
        if not self.left_out:
            return ""
        verb = "is" if self.left_out == 1 else "are"
        return f"{plural(self.left_out, 'subject')} whose status is not ok {verb} left out"

    def warn(self, stacklevel: int) -> None:
        """Report the subjects that were left out in a `LeftOutWarning`, if there are any."""
        if self.left_out:
            warnings.warn(self.note, LeftOutWarning, stacklevel=stacklevel)


def select_rows(
    store: str | Path,
    rows: Rows = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Selection:
    """Open a store, and select the subjects among `rows` whose status is ok.

    Parameters
    ----------
    store : str or Path
        A path, or a URL of any fsspec file system.
    rows : sequence of int or bool, slice, Dataset, or RowRules, optional
        Positions along ``subject``, a bool for every subject of the store, a slice, a Dataset that
        was selected from the store, or rules; repeated positions count once. By default all.
    storage_options : mapping, optional
        Options for fsspec.

    Raises
    ------
    UsageError
        A row is not in the store, or no selected subject has the status ok.
    StoreError
        As for `open_store`.
    """
    opened = open_object_store(store, storage_options)
    dataset = open_dataset(opened)
    missing = [name for name in VARIABLES if name not in dataset.variables]
    if missing:
        raise StoreError(f"{opened.url} lacks {', '.join(missing)}: another program changed it")
    wanted = find_positions(dataset, rows)
    if not len(wanted):
        raise UsageError("no subject is selected")
    small = ["subject", *(name for name in VARIABLES if name not in BIG_ARRAYS)]
    table = {name: dataset[name].values[wanted] for name in small}
    table["subject"] = table["subject"].astype(object)
    ok = table["status"] == Status.OK
    if not ok.any():
        one = "the status of the subject is not ok"
        many = f"none of the {len(wanted)} subjects has the status ok"
        raise UsageError(
            f"no selected subject of {opened.url} can be used: {one if len(wanted) == 1 else many}"
        )
    size = int(dataset["image"].data.chunksize[0])
    table = {name: values[ok] for name, values in table.items()}
    return Selection(
        find_root(dataset, opened).generation, wanted[ok], int((~ok).sum()), size, table
    )


def read_texts(selection: Selection) -> dict[str, NDArray[np.object_]]:
    """Read the columns `TEXTS` of the group ``catalogue``, for the selected rows.

    Raises
    ------
    StoreError
        The store has no such group.
    """
    try:
        _, catalogue = read_store(selection.store, generation=selection.generation.id)
        return {name: catalogue[name].values.astype(object)[selection.rows] for name in TEXTS}
    except (KeyError, OSError, ValueError) as error:
        raise StoreError(
            f"{selection.store.url} has no group catalogue with {', '.join(TEXTS)}, which the "
            "subject files need: another program changed it"
        ) from error


def find_ids(dataset: xr.Dataset, ids: str | int | Iterable[str | int]) -> NDArray[np.int64]:
    """Rows with these MaNGA or Zooniverse subject ids, ascending; `find_rows` says more."""
    labels, numbers = dataset["subject"].values, dataset["zooniverse_subject_id"].values
    wanted = [parse_id(i) for i in as_list(ids)]
    return np.unique(np.array(find_rows(wanted, labels, numbers), np.int64))


def _find_in_cone(dataset: xr.Dataset, cone: tuple[float, float, float]) -> NDArray[np.int64]:
    """Rows within a radius of a position."""
    try:
        ra, dec, radius = cone
    except (TypeError, ValueError):
        raise UsageError(
            f"cone is {quote(cone)}, expected right ascension and declination in degrees and a "
            "radius in arcseconds"
        ) from None
    return find_positions(dataset, select_cone(dataset, ra, dec, radius))


def _find_ids(
    dataset: xr.Dataset, given: str | int | Iterable[str | int], table: Any
) -> NDArray[np.int64]:
    """Rows with these ids, of which a survey table tells the plate-IFUs."""
    ids = as_list(given)
    if not any(is_plate_ifu(wanted) for wanted in ids):
        return find_ids(dataset, ids)
    if table is not None:
        from gz3d_zarr.analysis.survey_table import replace_plate_ifus  # needs astropy

        return find_ids(dataset, replace_plate_ifus(ids, table))
    try:
        return find_ids(dataset, ids)  # were they MaNGA ids
    except UsageError as error:
        raise UsageError(
            f"{error}; plate-IFUs need a table that has them, such as DRPall: table (--table)"
        ) from None


def _find_votes(dataset: xr.Dataset, least: float) -> NDArray[np.int64]:
    """Rows whose spiral or bar votes over total classifications reach a fraction."""
    if not 0 <= check_type("min_vote_fraction", least, float) <= 1:
        raise UsageError(
            f"min_vote_fraction (--min-vote-fraction) is {least}, expected a number from 0 to 1"
        )
    names = ("spiral_votes", "bar_votes", "total_classifications")
    spiral, bar, total = (dataset[name].values.astype(np.float64) for name in names)
    # Not vote_fraction, whose float32 is not the number that `build` compares.
    most = np.divide(np.maximum(spiral, bar), total, where=total > 0, out=np.full(len(total), -1.0))
    return np.flatnonzero(most >= least)


def _find_in_table(dataset: xr.Dataset, table: Any, path: str | Path) -> NDArray[np.int64]:
    """Rows whose subjects a survey table has."""
    from gz3d_zarr.analysis.survey_table import match_subjects  # needs astropy

    matches = match_subjects(dataset, table)
    if len(matches.unmatched):
        rows = plural(len(matches.unmatched), "row")
        logging.getLogger(__name__).info("Note: the store has no subject for %s of %s.", rows, path)
    return np.unique(matches.subject_rows)


def find_positions(dataset: xr.Dataset, rows: Rows) -> NDArray[np.int64]:
    """Ascending positions along ``subject``, without repeats."""
    import xarray as xr

    length = dataset.sizes["subject"]
    if rows is None:
        return np.arange(length)
    if isinstance(rows, RowRules):
        return rows.find(dataset)
    if isinstance(rows, xr.Dataset):
        if "zooniverse_subject_id" not in rows.variables:
            raise UsageError(
                "rows is a Dataset without zooniverse_subject_id, expected a selection from the "
                "store"
            )
        ids = np.atleast_1d(rows["zooniverse_subject_id"].values).tolist()
        return find_ids(dataset, ids) if ids else np.zeros(0, np.int64)
    try:
        if isinstance(rows, slice):
            rows = np.arange(length)[rows]
        given = np.asarray(rows)
        if given.dtype == bool:
            if given.shape != (length,):
                raise UsageError(
                    f"rows has {plural(given.size, 'bool')}, expected one for each of the "
                    f"{plural(length, 'subject')} of the store"
                )
            return np.flatnonzero(given)
        wanted = np.unique(given)
    except (TypeError, ValueError):
        raise UsageError("rows must be positions along subject: whole numbers") from None
    if not len(wanted):
        return np.zeros(0, np.int64)
    if wanted.dtype.kind not in "iu" or wanted.ndim != 1:
        raise UsageError("rows must be positions along subject: whole numbers")
    if wanted[0] < 0 or wanted[-1] >= length:
        raise UsageError(
            f"rows range from {wanted[0]} to {wanted[-1]}, but the store has rows 0 to {length - 1}"
        )
    return wanted.astype(np.int64)
