"""The receipts of a build that has not ended."""

from __future__ import annotations

from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.receipts import Receipt
from gz3d_zarr.locations import PARTIAL_SUFFIX
from gz3d_zarr.storage.base_store import ObjectStore
from gz3d_zarr.storage.build_record import RECEIPTS_PREFIX, receipt_key
from gz3d_zarr.storage.shards import find_receipt_fault


def read_receipts(store: ObjectStore, fingerprint: str, layout: Layout) -> dict[int, Receipt]:
    """Read the receipts of the shards that a build has written so far.

    One that is damaged, or of another build, does not count: its shard is built again.
    """
    receipts = {}
    for key in sorted(store.list_sizes(RECEIPTS_PREFIX)):
        data = None if key.endswith(PARTIAL_SUFFIX) else store.get(key)
        receipt = None if data is None else Receipt.from_json(data)
        if (
            receipt is not None
            and receipt.fingerprint == fingerprint
            and receipt_key(receipt.shard) == key
            and not find_receipt_fault(receipt, layout)
        ):
            receipts[receipt.shard] = receipt
    return receipts
