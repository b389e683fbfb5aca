"""A look at a build that has not ended: the subjects whose shards stand there, lazily."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import delayed
from numpy.typing import NDArray

from gz3d_zarr.backends.assemble import assemble
from gz3d_zarr.datamodel.file_names import parse_name
from gz3d_zarr.datamodel.manifest import Entry
from gz3d_zarr.datamodel.receipts import Receipt
from gz3d_zarr.datamodel.schema import (
    BIG_ARRAYS,
    SCHEMA,
    VARIABLES,
    SubjectRecord,
    variable_attrs,
    variable_values,
)
from gz3d_zarr.errors import StoreError
from gz3d_zarr.storage.build_record import FILES_KEY, RECEIPTS_PREFIX, RECORD_KEY, BuildRecord
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.shards import array_documents, decode_shard, shard_key


def open_unfinished(folder: ObjectStore) -> xr.Dataset:
    """Open what is built of a store so far; subjects of other shards are left out.

    Returns
    -------
    xarray.Dataset
        As `open_store` gives it, with ``complete`` false among its attributes. `observed` is
        false, as it comes from the catalogue; positions of subjects that are not ok are NaN.

    Raises
    ------
    StoreError
        No build has begun there, or no shard is built yet.
    """
    begun = folder.get(RECORD_KEY)
    if begun is None:
        raise StoreError(f"no build has begun at {folder.url}")
    layout = BuildRecord.from_json(begun).layout
    if layout is None:
        raise StoreError(f"{folder.url} is being copied to; wait until the copy has ended")
    files = [parse_name(name) for name in (folder.get(FILES_KEY) or b"").decode().split("\n")]
    keys = [key for key in sorted(folder.list_sizes(RECEIPTS_PREFIX)) if key.endswith(".json")]
    receipts = [Receipt.from_json(folder.get(key) or b"", key) for key in keys]
    rows = [
        SubjectRecord(Entry(file), outcome)
        for receipt in receipts
        for file, outcome in zip(files[layout.rows(receipt.shard)], receipt.outcomes, strict=True)
        if file is not None
    ]
    if not rows:
        raise StoreError(f"no shard of {folder.url} is built yet")
    documents = array_documents(layout)
    variables: dict[str, Any] = {}
    for name, array in BIG_ARRAYS.items():
        blocks = []
        for receipt in receipts:
            count = len(receipt.outcomes)
            block = delayed(_read_shard, pure=True)(folder, documents, name, receipt.shard, count)
            blocks.append(da.from_delayed(block, (count, *array.shape), array.dtype))
        variables[name] = (array.dims, da.concatenate(blocks), dict(array.attrs))
    for name, variable in VARIABLES.items():
        values = variable_values(name, rows, layout)
        variables[name] = (variable.dims, values, variable_attrs(name, layout))
    attrs = {"schema": SCHEMA, "complete": 0}
    attrs |= {"shard_size": layout.shard_size, "subjects": layout.subjects}
    return assemble([row.entry for row in rows], variables, attrs)


def _read_shard(
    folder: ObjectStore, documents: Mapping[str, bytes], name: str, shard: int, count: int
) -> NDArray[np.uint8]:
    data = folder.get(shard_key(name, shard))
    if data is None:
        raise StoreError(f"{folder.url}/{shard_key(name, shard)} is not there any more")
    return decode_shard(documents, name, shard, data, count)
