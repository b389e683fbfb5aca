"""Objects in memory, under the URL of the store that they were read from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gz3d_zarr.storage.base_store import ObjectStore

if TYPE_CHECKING:
    from zarr.abc.store import Store


@dataclass(frozen=True)
class MemoryStore(ObjectStore):
    """Objects of a store, such as those that were read of another one."""

    objects: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self.storage_options, True, self.objects)

    def zarr_store(self) -> Store:
        """Open the objects as a store of the zarr package."""
        from zarr.buffer import cpu  # slow to import
        from zarr.storage import MemoryStore as ZarrMemoryStore

        memory: dict[str, Any] = {
            key: cpu.Buffer.from_bytes(data) for key, data in self.objects.items()
        }
        return ZarrMemoryStore(memory, read_only=True)

    def _get(self, key: str, limit: int | None) -> bytes:  # noqa: ARG002 - it is in memory already
        if key not in self.objects:
            raise FileNotFoundError(key)
        return self.objects[key]

    def _get_range(self, key: str, start: int, stop: int | None) -> bytes:
        return self._get(key, None)[start:stop]

    def _get_size(self, key: str) -> int:
        return len(self._get(key, None))

    def _list_sizes(self, prefix: str) -> dict[str, int]:
        return {key: len(data) for key, data in self.objects.items() if key.startswith(prefix)}

    def _put(self, key: str, data: bytes, content_type: str = "") -> None:  # noqa: ARG002
        self.objects[key] = data

    def _create(self, key: str, data: bytes) -> bool:
        return self.objects.setdefault(key, data) is data

    def _delete(self, key: str) -> None:
        self.objects.pop(key, None)
