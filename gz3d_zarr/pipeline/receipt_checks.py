"""Values of a complete store against the receipts that it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.datamodel.arrays import CATALOGUE_GROUP, CLUSTERS_GROUP
from gz3d_zarr.datamodel.cluster_arrays import cluster_arrays
from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.schema import index_labels
from gz3d_zarr.datamodel.variables import CATALOGUE_TEXT, VARIABLES, variable_values
from gz3d_zarr.errors import plural
from gz3d_zarr.pipeline.store_checks import Check, check_that
from gz3d_zarr.storage.published_receipts import PublishedReceipts


def check_values(
    dataset: xr.Dataset, catalogue: xr.Dataset, published: PublishedReceipts, layout: Layout
) -> Iterator[Check]:
    """Compare every small array with what the receipts give.

    Parameters
    ----------
    dataset, catalogue : xarray.Dataset
        The store, and its group ``catalogue``.
    published : PublishedReceipts
    layout : Layout
        Of the store.

    Yields
    ------
    Check
        One for each array.
    """
    records = published.records
    expected: dict[str, Any] = {name: variable_values(name, records, layout) for name in VARIABLES}
    expected["subject"] = index_labels([record.entry for record in records])["subject"][0]
    for name, values in expected.items():
        yield check_that("values", name, _compare(dataset, name, np.asarray(values)))
    expected = {name: [text(r) for r in records] for name, (_, text) in CATALOGUE_TEXT.items()}
    expected["source_size"] = [record.outcome.size for record in records]
    for name, values in expected.items():
        finding = _compare(catalogue, name, np.asarray(values))
        yield check_that("values", f"{CATALOGUE_GROUP}/{name}", finding)


def check_clusters(clusters: xr.Dataset, published: PublishedReceipts) -> Iterator[Check]:
    """Compare the group ``clusters`` with the receipts."""
    for name, array in cluster_arrays(published.records).items():
        yield check_that(
            "values", f"{CLUSTERS_GROUP}/{name}", _compare(clusters, name, array.values)
        )


def _compare(dataset: xr.Dataset, name: str, expected: NDArray[Any]) -> str:
    """What differs, in words; empty where nothing does."""
    if name not in dataset.variables:
        return "it does not exist"
    stored = dataset[name].values
    if stored.shape != expected.shape:
        return f"its shape is {stored.shape}, the receipts give {expected.shape}"
    if expected.dtype.kind in "fc":
        same = np.isclose(stored, expected, rtol=0, atol=0, equal_nan=True)
    else:
        same = stored == expected
    rows = np.flatnonzero(~np.asarray(same, bool).reshape(len(expected), -1).all(axis=1))
    if not rows.size:
        return ""
    first = int(rows[0])
    return (
        f"{plural(rows.size, 'row')} not as the receipts say (first {first}: "
        f"{stored[first]!s:.60}, expected {expected[first]!s:.60})"
    )
