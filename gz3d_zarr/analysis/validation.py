"""Check that a Dataset is of Galaxy Zoo: 3D, and find its rows with the status ok."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.indexing import compute_variables, isel_subjects
from gz3d_zarr.datamodel.schema import SCHEMA
from gz3d_zarr.errors import LeftOutWarning, Status, StoreError, UsageError, plural

IDENTITY = ("subject", "zooniverse_subject_id")
"""Coordinates of every Dataset of Galaxy Zoo: 3D; selections keep them."""


def validate_dataset(dataset: xr.Dataset, *names: str) -> None:
    """Check that this is a Dataset of Galaxy Zoo: 3D, and that it has these variables.

    The variables decide, as arithmetic removes attributes; an attribute ``schema`` with another
    name is an error.

    Raises
    ------
    StoreError
        It is another Dataset, or a variable is missing.
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
            f"this Dataset of Galaxy Zoo: 3D has its rows along {along[0]}, not subject: use the "
            f"Dataset before it was renamed, or rename it with ds.rename({along[0]}='subject')"
        )
    if missing:
        raise StoreError(
            f"this Dataset of Galaxy Zoo: 3D lacks {', '.join(missing)}; keep them when you drop "
            "variables or coordinates"
        )


def status_label(value: int) -> str:
    """Label of a value of ``status``, also of an unknown one."""
    return Status(value).label if value in set(Status) else f"status {value}"


def find_ok(dataset: xr.Dataset, purpose: str, *, stacklevel: int = 2) -> NDArray[np.bool_]:
    """Find the rows whose status is ok, and warn about the others.

    Parameters
    ----------
    dataset : xarray.Dataset
        With the dimension ``subject``.
    purpose : str
        The analysis that leaves the others out, for the message.
    stacklevel : int
        Of the warning, as for `warnings.warn`: 2 is the caller.

    Returns
    -------
    ndarray of bool, shape (subject,)

    Raises
    ------
    UsageError
        There are rows, but none has the status ok.

    Warns
    -----
    LeftOutWarning
        Counts the rows that are left out, by status.
    """
    (status,) = compute_variables(dataset, "status")
    bad: NDArray[np.bool_] = status != Status.OK
    if not bad.any():
        return ~bad
    flags, numbers = np.unique(status[bad], return_counts=True)
    counts = ", ".join(
        f"{number} {status_label(int(flag))}" for flag, number in zip(flags, numbers, strict=True)
    )
    if bad.all():
        raise UsageError(f"no subject is left for {purpose}: {plural(len(bad), 'row')}, {counts}")
    warnings.warn(
        f"{plural(int(bad.sum()), 'subject')} left out of {purpose}: {counts}",
        LeftOutWarning,
        stacklevel=stacklevel,
    )
    return ~bad


def keep_ok(dataset: xr.Dataset, purpose: str) -> xr.Dataset:
    """Leave out the rows whose status is not ok, with the warning of `find_ok`."""
    ok = find_ok(dataset, purpose, stacklevel=5)
    return dataset if ok.all() else isel_subjects(dataset, np.flatnonzero(ok))
