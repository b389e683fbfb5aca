"""A complete store back to the receipts of its making, so that a build can go on from there."""

from __future__ import annotations

from typing import Any

import xarray as xr

from gz3d_zarr.errors import Status, StoreError
from gz3d_zarr.objects import ObjectFolder
from gz3d_zarr.opening import open_store, read_build
from gz3d_zarr.receipts import Outcome, Receipt, StoredObject
from gz3d_zarr.schema import BIG_ARRAYS, Layout
from gz3d_zarr.store import read_layout, shard_key
from gz3d_zarr.subject import SubjectMetadata

_NUMBERS = (
    "ra",
    "dec",
    "scale",
    "ifu_design_size",
    "manga_tile_id",
    "nsa_id",
    "total_classifications",
    "spiral_votes",
    "bar_votes",
    "number_galaxy_centers",
    "number_foreground_stars",
)
_TEXT = {
    "manga_id": "manga_id",
    "iauname": "iauname",
    "explorer_link": "explorer_link",
    "sample": "sample_name",
}


def restore_receipts(folder: ObjectFolder) -> tuple[Layout, list[Receipt]]:
    """Read what the receipts of a complete store said, from its variables and its catalogue.

    Returns
    -------
    layout : Layout
    receipts : list of Receipt
        One for each shard; the size of an object that is not there is -1.

    Raises
    ------
    StoreError
        As `open_store`, or where the store does not tell.
    """
    attrs, catalogue = read_build(folder)
    layout = read_layout(attrs)
    dataset = open_store(folder.url, storage_options=folder.storage_options)
    sizes = folder.sizes()
    receipts = []
    try:
        outcomes = _outcomes(dataset, catalogue)
        for shard in range(layout.shards):
            stored = []
            for name in BIG_ARRAYS:
                key = shard_key(name, shard)
                digest = str(catalogue[f"{name}_sha256"].values[shard])
                stored.append(StoredObject(key, sizes.get(key, -1), digest))
            rows = tuple(outcomes[layout.rows(shard)])
            receipts.append(Receipt(shard, attrs["fingerprint"], rows, tuple(stored)))
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise StoreError(
            f"{folder.url} does not say what it was built from ({type(error).__name__}: {error}): "
            "it is damaged, or was changed by another program"
        ) from error
    return layout, receipts


def _outcomes(dataset: xr.Dataset, catalogue: xr.Dataset) -> list[Outcome]:
    """Each subject's outcome; metadata only where the file told it."""
    numbers = {name: dataset[name].values.tolist() for name in _NUMBERS}
    texts = {field: catalogue[name].values.tolist() for field, name in _TEXT.items()}
    columns = ("file_name", "status", "reason", "source_sha1", "source_size")
    outcomes = []
    for i, (name, status, reason, sha1, size) in enumerate(
        zip(*(catalogue[column].values.tolist() for column in columns), strict=True)
    ):
        fields: dict[str, Any] = {field: values[i] for field, values in numbers.items()}
        fields |= {field: values[i] for field, values in texts.items()}
        metadata = SubjectMetadata(**fields) if status == Status.OK else None
        outcomes.append(Outcome(name, Status(status), reason, sha1, size, metadata))
    return outcomes
