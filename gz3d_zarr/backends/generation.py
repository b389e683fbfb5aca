"""Whether a store still holds what it held when it was opened.

The root of a store has the attribute ``generation``. It stays the same while subjects are added; a
store that replaces another one has a new one, and so has a store in which subjects were read again.
An overwrite removes the old root before it changes anything else, and puts the new root last. So
what was read before a root of the same generation belongs to that generation.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from gz3d_zarr.datamodel.schema import GENERATION_ATTR
from gz3d_zarr.errors import StoreError
from gz3d_zarr.storage.build_record import ROOT_KEY
from gz3d_zarr.storage.object_store import ObjectStore

MAX_START = 256
"""Where a generation is looked for in the root: it is the first attribute."""


@dataclass(frozen=True)
class Generation:
    """A store, and what it held when it was opened; small to pickle.

    Attributes
    ----------
    store : ObjectStore
    id : str
        Attribute of the root; empty for a store that does not have it, which is not checked.
    start : bytes
        Of the root, up to the end of `id`; empty where another program wrote the root in another
        way, which is then read whole.
    """

    store: ObjectStore
    id: str
    start: bytes = field(default=b"", repr=False)

    @classmethod
    def from_root(cls, store: ObjectStore, root: bytes) -> Generation:
        """The generation that a root ``zarr.json`` is of."""
        identity = _read_id(root)
        text = f"{json.dumps(GENERATION_ATTR)}: {json.dumps(identity)}".encode()
        before, found, _ = root[:MAX_START].partition(text)
        return cls(store, identity, before + found if identity and found else b"")

    def check(self) -> None:
        """Compare with the root that is there now; one small request.

        What is to be vouched for must have been read before.

        Raises
        ------
        StoreError
            The store is of another generation, or gone; or the root cannot be read.
        """
        if not self.id:
            return
        if self.start and self.store.get_range(ROOT_KEY, 0, len(self.start)) == self.start:
            return
        root = self.store.get(ROOT_KEY)
        if root is None:
            raise StoreError(
                f"{changed_error(self.store)} (there is none now; dask workers must reach the same "
                "store under this name)"
            )
        if _read_id(root) != self.id:
            raise changed_error(self.store)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Read within this context; at its end, check that the store was still the same.

        An error of the reading itself is raised if the store is the same.

        Raises
        ------
        StoreError
            As for `check`.
        """
        try:
            yield
        except Exception:
            self.check()
            raise
        self.check()


def changed_error(store: ObjectStore) -> StoreError:
    """The error for a store that is of another generation than the one that was opened."""
    return StoreError(
        f"the store {store.url} was replaced or changed after it was opened: open it again"
    )


def _read_id(root: bytes) -> str:
    try:
        identity = json.loads(root)["attributes"][GENERATION_ATTR]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return identity if isinstance(identity, str) else ""
