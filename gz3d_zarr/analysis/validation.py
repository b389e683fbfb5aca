"""Whether a Dataset is of Galaxy Zoo: 3D, and which of its rows are ok."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.indexing import compute_variables, isel_subjects
from gz3d_zarr.datamodel.schema import SCHEMA
from gz3d_zarr.errors import LeftOutWarning, Status, StoreError, UsageError, plural

IDENTITY = ("subject", "zooniverse_subject_id")
"""Coordinates that every Dataset of Galaxy Zoo: 3D has, also after selections."""


def validate_dataset(dataset: xr.Dataset, *names: str) -> None:
    """Make sure that this is a Dataset of Galaxy Zoo: 3D, and that it has these variables.

    Attributes get lost in arithmetic, so what counts is the variables; an attribute ``schema``
    that names something else is refused.

    Raises
    ------
    StoreError
        It is not, or lacks one.
    """
    missing = [name for name in (*IDENTITY, *names) if name not in dataset.variables]
    schema = dataset.attrs.get("schema", SCHEMA if not missing else None)
    if schema != SCHEMA:
        lacks = f": it lacks {', '.join(missing)}" if missing else f": its schema is {schema!r}"
        raise StoreError(
            f"this is not a Dataset of Galaxy Zoo: 3D{lacks}; open one with gz3d_zarr.open_store, "
            "gz3d_zarr.open_source or xr.open_zarr"
        )
    along = dataset[IDENTITY[1]].dims if missing == ["subject"] else ()
    if along and "subject" not in along:
        raise StoreError(
            f"this Dataset of Galaxy Zoo: 3D has its rows along {along[0]}, not subject: use it "
            f"from before that was renamed, or name it back, as ds.rename({along[0]}='subject')"
        )
    if missing:
        raise StoreError(
            f"this Dataset of Galaxy Zoo: 3D lacks {', '.join(missing)}; keep them where variables "
            "or coordinates are dropped"
        )


def status_label(value: int) -> str:
    """Name of a value of ``status``."""
    return Status(value).label if value in set(Status) else f"status {value}"


def find_ok(dataset: xr.Dataset, purpose: str, *, stacklevel: int = 2) -> NDArray[np.bool_]:
    """Find the rows whose status is ok, and say in a warning how many are not.

    Parameters
    ----------
    dataset : xarray.Dataset
        With the dimension ``subject``.
    purpose : str
        Of what the others are left out, for the message.
    stacklevel : int
        Of the warning, as for `warnings.warn`: 2 is the caller.

    Returns
    -------
    ndarray of bool, shape (subject,)

    Raises
    ------
    UsageError
        There are rows, and none is ok.

    Warns
    -----
    LeftOutWarning
        With the count.
    """
    (status,) = compute_variables(dataset, "status")
    bad: NDArray[np.bool_] = status != Status.OK
    if not bad.any():
        return ~bad
    kinds, numbers = np.unique(status[bad], return_counts=True)
    told = ", ".join(
        f"{number} {status_label(int(kind))}" for kind, number in zip(kinds, numbers, strict=True)
    )
    if bad.all():
        raise UsageError(f"no subject is left for {purpose}: {plural(len(bad), 'row')}, {told}")
    warnings.warn(
        f"{plural(int(bad.sum()), 'subject')} left out of {purpose}: {told}",
        LeftOutWarning,
        stacklevel=stacklevel,
    )
    return ~bad


def keep_ok(dataset: xr.Dataset, purpose: str) -> xr.Dataset:
    """Leave out the rows whose status is not ok, and say how many, as `find_ok` does."""
    ok = find_ok(dataset, purpose, stacklevel=5)
    return dataset if ok.all() else isel_subjects(dataset, np.flatnonzero(ok))
