"""Galaxy Zoo: 3D as one cloud-native Zarr store.

``build`` turns subject files into a store, ``plan`` says what that takes, ``open_store`` and
``open_source`` give the same Dataset from a store and straight from the files, ``verify`` checks
every value of a store.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gz3d_zarr.building import build, plan
    from gz3d_zarr.errors import (
        BuildError,
        GZ3DError,
        IncompleteStoreError,
        PlanError,
        SourceError,
        Status,
        StoreError,
        SubjectError,
        UsageError,
    )
    from gz3d_zarr.lazy import open_source
    from gz3d_zarr.opening import open_store
    from gz3d_zarr.subject import decode
    from gz3d_zarr.verification import verify

__version__ = "0.1.0"

# Names are imported when they are first used: a dask worker that decodes and writes shards
# then starts without xarray, pandas and astropy, and ``gz3d-zarr --help`` answers at once. No
# module has the name of a function here, or importing the one would hide the other.
_HOMES = {
    "build": "building",
    "plan": "building",
    "open_store": "opening",
    "open_source": "lazy",
    "verify": "verification",
    "decode": "subject",
    "GZ3DError": "errors",
    "UsageError": "errors",
    "SourceError": "errors",
    "SubjectError": "errors",
    "PlanError": "errors",
    "StoreError": "errors",
    "IncompleteStoreError": "errors",
    "BuildError": "errors",
    "Status": "errors",
}

__all__ = [
    "BuildError",
    "GZ3DError",
    "IncompleteStoreError",
    "PlanError",
    "SourceError",
    "Status",
    "StoreError",
    "SubjectError",
    "UsageError",
    "__version__",
    "build",
    "decode",
    "open_source",
    "open_store",
    "plan",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
