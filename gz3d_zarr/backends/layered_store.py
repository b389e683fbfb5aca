"""A zarr store that has some objects in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from zarr.buffer import cpu
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from gz3d_zarr.backends.chunk_claims import check_claim
from gz3d_zarr.locations import refuse_irregular

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype


class LayeredStore(WrapperStore["Store"]):
    """A read-only store; what is in memory is not read from below.

    A local pipe or device is refused, and so is a chunk that claims more than its array can hold.
    Pickled without what is in memory: arrays that are made of it are loaded before.

    Parameters
    ----------
    store : zarr store
    objects : mapping
        Bytes by key.
    """

    def __init__(self, store: Store, objects: Mapping[str, bytes] | None = None) -> None:
        super().__init__(store)
        self._keys = frozenset(objects or ())
        self._memory = MemoryStore(
            {key: cpu.Buffer.from_bytes(data) for key, data in (objects or {}).items()},
            read_only=True,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._store,)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read one object, or a part of it."""
        is_below = key not in self._keys
        if is_below and isinstance(self._store, LocalStore):
            refuse_irregular(str(self._store.root / key))
        layer = self._store if is_below else self._memory
        return check_claim(key, await layer.get(key, prototype, byte_range))

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Read parts of objects."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return key in self._keys or await self._store.exists(key)
