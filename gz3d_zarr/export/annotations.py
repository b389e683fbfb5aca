"""Clusters and raw marks of the selected subjects of a store (HDUs 6 to 10 of their files)."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.backends.root import READ_ERRORS, read_member
from gz3d_zarr.backends.store import read_group
from gz3d_zarr.datamodel.annotations import CLUSTER_COLUMNS, MarkTable, marks_from_json
from gz3d_zarr.datamodel.arrays import CLUSTERS_GROUP, MARKS
from gz3d_zarr.datamodel.cluster_arrays import ROW_SIZES
from gz3d_zarr.datamodel.limits import MAX_SHARD_SUBJECT
from gz3d_zarr.datamodel.sealed_json import PARSE_ERRORS
from gz3d_zarr.errors import StoreError
from gz3d_zarr.export.subset import Selection
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.shards import decode_shard, shard_key

Clusters = Mapping[str, NDArray[np.float64]]
"""Class to the clusters of one subject, shape (n, 11), columns as in `CLUSTER_COLUMNS`."""


def read_clusters(selection: Selection) -> list[Clusters]:
    """Read the whole group ``clusters``, and split it by subject.

    Returns
    -------
    list of mapping
        One per selected subject.

    Raises
    ------
    StoreError
        The group cannot be read, or it does not have as many clusters as the root says.
    """
    generation = selection.generation
    group = read_group(selection.store, CLUSTERS_GROUP, generation=generation.id)
    by_class = {}
    for cls, (size_name, _) in ROW_SIZES.items():
        names = [f"{cls}_{column}" for column in CLUSTER_COLUMNS]
        missing = [name for name in (size_name, *names) if name not in group]
        if missing:
            raise StoreError(
                f"the group {CLUSTERS_GROUP} of {selection.store.url} lacks {', '.join(missing)}: "
                "another program changed it"
            )
        try:
            whole = np.column_stack([group[name].values for name in names])
            sizes = group[size_name].values
            stops = np.cumsum(sizes)
            is_same = sizes.min() >= 0 and stops[-1] == len(whole)
            is_same &= bool((sizes[selection.rows] == selection.table[size_name]).all())
        except READ_ERRORS:
            is_same = False
        if not is_same:
            raise StoreError(
                f"the group {CLUSTERS_GROUP} of {selection.store.url} does not have as many {cls} "
                f"clusters as {size_name} says: the store is damaged; gz3d-zarr verify says where"
            )
        by_class[cls] = [whole[stops[row] - sizes[row] : stops[row]] for row in selection.rows]
    return [{cls: by_class[cls][i] for cls in by_class} for i in range(len(selection))]


def read_marks(selection: Selection) -> list[dict[str, MarkTable]]:
    """Read the raw marks of each selected subject, one object per shard.

    Returns
    -------
    list of dict
        One per selected subject: a `MarkTable` for each key of `MARK_COLUMNS`.

    Raises
    ------
    StoreError
        A shard is missing, or it cannot be read; or the store was replaced or changed after it was
        opened.
    """
    with selection.generation.unchanged():
        return _read_marks(selection.store, selection)


def _read_marks(store: ObjectStore, selection: Selection) -> list[dict[str, MarkTable]]:
    array = read_member(selection.generation, MARKS)
    try:
        (size,) = array["chunk_grid"]["configuration"]["chunk_shape"]
        if size < 1:  # the root is known to have whole numbers here
            raise ValueError(size)
    except PARSE_ERRORS as error:
        raise StoreError(
            f"the metadata of {MARKS} in {store.url} cannot be understood: another program changed "
            "it; gz3d-zarr verify says how"
        ) from error
    shards, inside = np.divmod(selection.rows, size)
    document = json.dumps(array).encode()
    marks = []
    for number in np.unique(shards).tolist():
        data = store.get(shard_key(MARKS, number), size * MAX_SHARD_SUBJECT)
        if data is None:
            raise StoreError(
                f"shard {number} of {MARKS} in {store.url} is missing: the store is damaged"
            )
        within = inside[shards == number]
        texts = decode_shard({MARKS: document}, MARKS, number, data, int(within[-1]) + 1)
        marks += [marks_from_json(str(text)) for text in texts[within]]
    return marks
