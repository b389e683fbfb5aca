"""Galaxy Zoo: 3D as one cloud-native Zarr store.

``build`` writes subject files into a store, and ``plan`` reports what that takes. ``open_store``
and ``open_source`` give the same Dataset from a store and directly from the files. ``verify``
checks every value of a store, ``copy`` copies one, ``subset`` makes one of some of its subjects;
``view`` and ``page`` show one in a browser, ``neuroglancer_link`` in neuroglancer. ``import
gz3d_zarr`` adds the accessor ``ds.gz3d`` to every xarray Dataset.

Public modules:

- ``gz3d_zarr``: all names below; errors are `GZ3DError`
- ``gz3d_zarr.recipes``: reductions of a sample
- ``gz3d_zarr.analysis.accessor``: the accessor ``ds.gz3d``
- ``gz3d_zarr.export``: FITS, tables, spaxels, subsets, PyTorch, Lightning, Hugging Face
- ``gz3d_zarr.simulation``: simulated archives, for demos and tests

Everything else below PACKAGE CONTENTS is internal, and may change in any version.
"""

import importlib
from types import ModuleType

import lazy_loader
import wrapt

__version__ = "0.2.0"

# The names are listed once, in __init__.pyi, and each is imported when it is first used: a dask
# worker that decodes and writes shards then starts without xarray, pandas and astropy, and
# ``gz3d-zarr --help`` answers at once.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__.append("__version__")


def _register_accessor(_: ModuleType) -> None:
    importlib.import_module(f"{__name__}.analysis.accessor")


# ``ds.gz3d`` exists as soon as xarray is imported. Importing xarray here would take 0.7 s.
wrapt.register_post_import_hook(_register_accessor, "xarray")
