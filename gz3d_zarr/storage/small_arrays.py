"""Arrays that are not sharded, and the metadata of a store, encoded in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.buffer import cpu
from zarr.storage import MemoryStore

from gz3d_zarr.datamodel.arrays import CATALOGUE_GROUP, CLUSTERS_GROUP, GROUPS
from gz3d_zarr.datamodel.cluster_arrays import cluster_arrays
from gz3d_zarr.datamodel.codecs import SMALL_COMPRESSORS
from gz3d_zarr.datamodel.layout import SMALL_CHUNKS, Layout
from gz3d_zarr.datamodel.schema import index_labels
from gz3d_zarr.datamodel.variables import (
    CATALOGUE_TEXT,
    VARIABLES,
    SubjectRecord,
    variable_attrs,
    variable_values,
)
from gz3d_zarr.storage.build_record import ROOT_KEY
from gz3d_zarr.storage.packs import encode_packs, pack_key
from gz3d_zarr.storage.shards import array_documents, ignore_zarr_spec_warnings


def encode_small_objects(
    rows: Sequence[SubjectRecord],
    layout: Layout,
    attrs: Mapping[str, Any],
) -> dict[str, bytes]:
    """Encode all objects of a complete store except the shards and receipts.

    Parameters
    ----------
    rows : sequence of SubjectRecord
    layout : Layout
    attrs : mapping
        Attributes of the root.

    Returns
    -------
    dict
        Bytes by key; the packs, and the root with the consolidated metadata among them.
    """
    memory: dict[str, Any] = {}
    store = MemoryStore(memory)
    # Chunks of fill values are written too, so that a missing chunk means damage.
    with ignore_zarr_spec_warnings(), zarr.config.set({"array.write_empty_chunks": True}):
        root = zarr.create_group(store, attributes=dict(attrs), zarr_format=3)
        for name, (labels, attrs) in index_labels([row.entry for row in rows]).items():
            _create(root, name, (name,), labels, attrs)
        for name, variable in VARIABLES.items():
            values = variable_values(name, rows, layout)
            _create(root, name, variable.dims, values, variable_attrs(name, layout))
        _fill_catalogue(root.create_group(CATALOGUE_GROUP), rows)
        _fill_clusters(root.create_group(CLUSTERS_GROUP), rows)
        for name in GROUPS[2:]:
            root.create_group(name)  # filled by the tasks of shards
        packs = encode_packs({key: buffer.to_bytes() for key, buffer in memory.items()})
        root.update_attributes({name: sha256 for name, (sha256, _) in packs.items()})
        for name, document in array_documents(layout).items():
            memory[f"{name}/{ROOT_KEY}"] = cpu.Buffer.from_bytes(document)
        zarr.consolidate_metadata(store, zarr_format=3)
    objects = {key: buffer.to_bytes() for key, buffer in memory.items()}
    return objects | {pack_key(sha256): data for sha256, data in packs.values()}


def _fill_catalogue(group: zarr.Group, rows: Sequence[SubjectRecord]) -> None:
    """Write text and provenance of each subject."""
    for name, (meaning, text) in CATALOGUE_TEXT.items():
        _create(group, name, ("subject",), [text(row) for row in rows], {"long_name": meaning})
    sizes = np.array([row.outcome.size for row in rows], np.int64)
    meaning = "bytes of the file as read, -1 where it could not be read"
    _create(group, "source_size", ("subject",), sizes, {"long_name": meaning})


def _fill_clusters(group: zarr.Group, rows: Sequence[SubjectRecord]) -> None:
    """Write HDUs 6 and 7 as contiguous ragged arrays of the CF conventions."""
    for name, values in cluster_arrays(rows).items():
        _create(group, name, values.dims, values.values, values.attrs)


def _create(
    group: zarr.Group,
    name: str,
    dims: tuple[str, ...],
    values: Sequence[str] | NDArray[Any],
    attrs: Mapping[str, Any],
) -> None:
    """Write a small array in one chunk with a checksum; text gets Zarr's type ``string``.

    There is no attribute ``_FillValue``: with it, xarray would convert integers to floats.
    """
    data = values if isinstance(values, np.ndarray) else np.array(values, np.dtypes.StringDType())
    group.create_array(
        name,
        data=data,
        chunks=tuple(SMALL_CHUNKS.get(dim, n) for dim, n in zip(dims, data.shape, strict=True)),
        compressors=SMALL_COMPRESSORS,
        attributes=dict(attrs),
        dimension_names=dims,
    )
