"""The codec pipeline by which zarr reads an array: the fastest that is installed and takes it.

zarr takes the pipeline from its configuration when an array is opened, so that is set around the
opening only: other arrays of the process are opened as they would be without us.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import threading
import warnings
from typing import Any

import zarr
from zarr.storage import StorePath

from gz3d_zarr.backends.missing_chunks import CompleteStore
from gz3d_zarr.backends.root import READ_ERRORS
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.shards import (
    Sharding,
    ignore_zarr_spec_warnings,
    open_lock,
    parse_sharding,
)

ZARRS = "zarrs.ZarrsCodecPipeline"
"""Of the extra ``fast``; reads local files by itself."""
FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"
"""Of zarr 3.3 and later."""
PIPELINES = (ZARRS, FUSED)
"""The fastest first; the last resort is zarr's default."""
_is_forked = threading.Event()
if hasattr(os, "register_at_fork"):  # Windows forks no processes
    os.register_at_fork(after_in_child=_is_forked.set)  # the threads of zarrs are not in the child


def open_array(store: ObjectStore, name: str, metadata: Any) -> Any:
    """Open an array with the fastest pipeline that takes it; no request.

    Parameters
    ----------
    store : ObjectStore
    name : str
    metadata : zarr.core.metadata.v3.ArrayV3Metadata
        As the root of the store has it.

    Returns
    -------
    zarr.Array
        Over a network, and if its layout is that of a build, a missing shard raises StoreError.
        A local one gives zeros, as pipelines that read files by themselves do.
    """
    path = StorePath(_zarr_store(store, name, metadata), name)
    for pipeline in PIPELINES:
        if pipeline == ZARRS and (_is_forked.is_set() or not store.is_local):
            continue
        try:
            # zarrs warns if it does not take an array.
            with open_lock, warnings.catch_warnings(), ignore_zarr_spec_warnings():
                warnings.simplefilter("error", UserWarning)
                with zarr.config.set({"codec_pipeline.path": pipeline}):
                    return zarr.Array(zarr.AsyncArray(metadata, path))
        except (ImportError, UserWarning, *READ_ERRORS):  # not installed; does not take it
            continue
    with open_lock, ignore_zarr_spec_warnings():
        return zarr.Array(zarr.AsyncArray(metadata, path))


def describe_pipeline(array: Any) -> str:
    """Package, version and class of the pipeline of an array."""
    pipeline = type(array.async_array.codec_pipeline)
    package = pipeline.__module__.partition(".")[0]
    return f"{package} {importlib.metadata.version(package)}, {pipeline.__name__}"


def describe_decoder(store: ObjectStore, name: str, metadata: Any) -> str:
    """What decodes a big array of a store: package, version and class.

    Over a network, arrays with the layout of a build are not read by zarr.
    """
    if not store.is_local and find_sharding(name, metadata) is not None:
        return f"numcodecs {importlib.metadata.version('numcodecs')}, ChunkReader of gz3d_zarr"
    return describe_pipeline(open_array(store, name, metadata))


def find_sharding(name: str, metadata: Any) -> Sharding | None:
    """The layout of a big array if it is that of a build, which writes every shard; else None."""
    document = json.loads(json.dumps(metadata.to_dict()))  # lists, as it is stored
    return parse_sharding(document, name)


def _zarr_store(store: ObjectStore, name: str, metadata: Any) -> Any:
    bare = store.zarr_store()
    if store.is_local or name not in BIG_ARRAYS or find_sharding(name, metadata) is None:
        return bare
    return CompleteStore(bare, store.url)
