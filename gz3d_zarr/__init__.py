"""Galaxy Zoo: 3D as one cloud-native Zarr store.

``build`` turns subject files into a store, ``plan`` says what that takes, ``open_store`` and
``open_source`` give the same Dataset from a store and straight from the files, ``verify`` checks
every value of a store.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from gz3d_zarr.backends.source import open_source
    from gz3d_zarr.backends.store import open_store
    from gz3d_zarr.datamodel.fits_decoder import decode
    from gz3d_zarr.errors import (
        BuildError,
        GZ3DError,
        IncompleteStoreError,
        LeftOutWarning,
        PlanError,
        SourceError,
        Status,
        StoreError,
        SubjectError,
        UsageError,
    )
    from gz3d_zarr.pipeline.build import build, plan
    from gz3d_zarr.pipeline.copy import copy
    from gz3d_zarr.pipeline.verify import verify

__version__ = "0.1.0"

# Names are imported when they are first used: a dask worker that decodes and writes shards
# then starts without xarray, pandas and astropy, and ``gz3d-zarr --help`` answers at once. No
# module has the name of a function here, or importing the one would hide the other.
_HOMES = {
    "build": "pipeline.build",
    "plan": "pipeline.build",
    "open_store": "backends.store",
    "open_source": "backends.source",
    "verify": "pipeline.verify",
    "copy": "pipeline.copy",
    "decode": "datamodel.fits_decoder",
    "GZ3DError": "errors",
    "UsageError": "errors",
    "SourceError": "errors",
    "SubjectError": "errors",
    "PlanError": "errors",
    "StoreError": "errors",
    "IncompleteStoreError": "errors",
    "BuildError": "errors",
    "LeftOutWarning": "errors",
    "Status": "errors",
}

__all__ = [
    "BuildError",
    "GZ3DError",
    "IncompleteStoreError",
    "LeftOutWarning",
    "PlanError",
    "SourceError",
    "Status",
    "StoreError",
    "SubjectError",
    "UsageError",
    "__version__",
    "build",
    "copy",
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


class _RegisterWithXarray:
    """Import the accessor ``ds.gz3d`` as soon as somebody imports xarray.

    Importing xarray here would cost every dask worker and ``gz3d-zarr --help`` 0.7 s. So this
    waits in ``sys.meta_path``, has xarray found by the others and loaded as ever, and then lets
    the accessor register itself and goes. Being looked for alone, as by programs that ask whether
    xarray is installed, is no reason to go.
    """

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "xarray":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_both(module: ModuleType) -> None:
                load(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                importlib.import_module(f"{__name__}.analysis.accessor")

            setattr(spec.loader, "exec_module", load_both)  # noqa: B010 - of this one alone
        return spec


if "xarray" in sys.modules:
    importlib.import_module(f"{__name__}.analysis.accessor")
else:
    sys.meta_path.insert(0, _RegisterWithXarray())
