"""The subjects that an unfinished build has written so far, as a lazy Dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import delayed
from numpy.typing import NDArray

from gz3d_zarr.backends.assemble import assemble, define_variables
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS, SHARD_ARRAYS
from gz3d_zarr.datamodel.file_names import parse_name
from gz3d_zarr.datamodel.manifest import Entry
from gz3d_zarr.datamodel.receipts import StoredObject
from gz3d_zarr.datamodel.schema import dataset_attrs
from gz3d_zarr.datamodel.variables import SubjectRecord, variable_values
from gz3d_zarr.errors import StoreError
from gz3d_zarr.storage.build_receipts import read_receipts
from gz3d_zarr.storage.build_record import RECORD_KEY, BuildRecord, digest
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.shards import array_documents, decode_shard


def open_partial_store(store: ObjectStore) -> xr.Dataset:
    """Open the subjects whose shards an unfinished build has written.

    Returns
    -------
    xarray.Dataset
        Like that of `open_store`, with the attribute ``complete`` = 0. `observed` is false, as it
        comes from the catalogue; positions of subjects whose status is not ok are NaN.

    Raises
    ------
    StoreError
        No build was started there, or no shard is written yet.
    """
    record = read_unfinished_record(store)
    layout = record.layout
    if layout is None:
        raise StoreError(f"a copy to {store.url} has not ended; no shards can be opened until then")
    receipts = [*read_receipts(store, record.fingerprint, layout).values()]
    records = [
        SubjectRecord(Entry(file), outcome)
        for receipt in receipts
        for outcome in receipt.outcomes
        if (file := parse_name(outcome.file_name)) is not None
    ]
    if not records:
        raise StoreError(f"no shard of {store.url} is written yet")
    documents = array_documents(layout)

    def read(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        if name not in BIG_ARRAYS:
            return variable_values(name, records, layout)
        blocks = []
        for receipt in receipts:
            count = len(receipt.outcomes)
            stored = receipt.objects[list(SHARD_ARRAYS).index(name)]
            block = delayed(_read_shard, pure=True)(
                store, documents, name, receipt.shard, stored, count
            )
            blocks.append(da.from_delayed(block, (count, *shape), dtype))
        return da.concatenate(blocks)

    entries = [record.entry for record in records]
    attrs = {
        **dataset_attrs("", None, ""),
        "shard_size": layout.shard_size,
        "subjects": layout.subjects,
        "complete": 0,
    }
    return assemble(define_variables(entries, layout, read), attrs)


def read_unfinished_record(store: ObjectStore) -> BuildRecord:
    """Read the record of a build or copy that has not ended.

    Raises
    ------
    StoreError
        There is none, or it is damaged.
    """
    data = store.get(RECORD_KEY)
    if data is None:
        raise StoreError(f"no build was started at {store.url}")
    return BuildRecord.from_json(data)


def _read_shard(
    store: ObjectStore,
    documents: Mapping[str, bytes],
    name: str,
    shard: int,
    stored: StoredObject,
    count: int,
) -> NDArray[np.uint8]:
    data = store.get(stored.key, stored.size)
    if data is None:
        raise StoreError(f"{store.url}/{stored.key} no longer exists: open the store again")
    if digest(data) != stored.sha256:
        raise StoreError(
            f"{store.url}/{stored.key} is not as its receipt says (SHA-256): it is damaged, or "
            "another build wrote it after the store was opened; open it again"
        )
    return decode_shard(documents, name, shard, data, count)
