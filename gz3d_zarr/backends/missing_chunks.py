"""Missing chunks as errors: zarr reads them as fill values, and a build writes every chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zarr
from zarr.abc.store import Store
from zarr.storage import StorePath, WrapperStore

from gz3d_zarr.backends.chunk_claims import check_claim
from gz3d_zarr.errors import StoreError

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


def refuse_missing_chunks(group: zarr.Group, url: str) -> zarr.Group:
    """The same group, of which reading a missing chunk raises StoreError."""
    path = group.store_path
    store = CompleteStore(path.store, url)
    return zarr.Group(zarr.AsyncGroup(group.metadata, StorePath(store, path.path)))


class CompleteStore(WrapperStore[Store]):
    """A store of which reading a missing chunk raises StoreError."""

    def __init__(self, store: Store, url: str) -> None:
        super().__init__(store)
        self._url = url

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read one object, or a part of it."""
        data = await super().get(key, prototype, byte_range)
        if data is None and "/c/" in key:
            raise StoreError(
                f"{key} of {self._url} is missing: the store is damaged, or another program wrote "
                "it; gz3d-zarr verify lists all such objects"
            )
        return check_claim(key, data)
