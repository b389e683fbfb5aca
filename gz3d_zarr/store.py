"""Create, write a shard, finalise, open: the only file that touches Zarr.

Everything is made in memory, by zarr itself, and then put object by object: a
shard is one PUT that reads nothing back, whatever the version of zarr, and the root
``zarr.json``, which holds the consolidated metadata and says ``complete``, comes last. Until then
there is no group, so nobody can take a half-built store for a whole one.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.buffer import cpu
from zarr.storage import MemoryStore

from gz3d_zarr.catalogue import Entry
from gz3d_zarr.errors import (
    IncompleteStoreError,
    StoreError,
    UsageError,
    access_errors,
    describe,
)
from gz3d_zarr.objects import ObjectFolder, object_folder
from gz3d_zarr.pixels import PixelReader
from gz3d_zarr.receipts import (
    PLAN_KEY,
    RECEIPTS_PREFIX,
    WORK_PREFIX,
    Receipt,
    check_build,
)
from gz3d_zarr.schema import (
    BIG_ARRAYS,
    CATALOGUE_TEXT,
    LABELS,
    OBJECT_ID_ATTRS,
    SCHEMA,
    SMALL_COMPRESSORS,
    VARIABLES,
    Layout,
    Provenance,
    Row,
    array_codec,
    group_attrs,
    variable_attrs,
    variable_values,
)

if TYPE_CHECKING:
    import xarray as xr

ROOT_KEY = "zarr.json"
CATALOGUE_GROUP = "catalogue"
_OPENING = threading.Lock()


def array_documents(layout: Layout) -> dict[str, bytes]:
    """Metadata documents of the two big arrays.

    Returns
    -------
    dict
        ``image`` and ``segmentation`` to the bytes of their ``zarr.json``.
    """
    documents: dict[str, Any] = {}
    for name, array in BIG_ARRAYS.items():
        codec = array_codec(name, layout)
        with _quiet():
            zarr.create_array(
                MemoryStore(documents),
                name=name,
                shape=(layout.subjects, *array.shape),
                dtype=array.dtype,
                chunks=(1, *array.shape),
                shards=(layout.shard_size, *array.shape),
                filters=codec.filters,
                compressors=codec.compressors,
                fill_value=0,
                attributes=dict(array.attrs),
                dimension_names=array.dims,
                zarr_format=3,
            )
    return {name: documents[f"{name}/{ROOT_KEY}"].to_bytes() for name in BIG_ARRAYS}


def encode_shard(
    documents: Mapping[str, bytes], name: str, shard: int, block: NDArray[np.uint8]
) -> tuple[str, bytes]:
    """Encode one whole shard of a big array in memory.

    Parameters
    ----------
    documents : mapping
        From `array_documents`.
    name : {'image', 'segmentation'}
    shard : int
    block : ndarray of uint8
        All subjects of the shard; fewer than the shard size only in the last shard.

    Returns
    -------
    key, data : str, bytes
        The one object to put.

    Raises
    ------
    StoreError
        Where the block does not fill its shard; zarr would take it in silence.
    """
    memory: dict[str, Any] = {}
    store = MemoryStore(memory)
    memory[f"{name}/{ROOT_KEY}"] = cpu.Buffer.from_bytes(documents[name])
    # An all-zero chunk is written too: whatever has been built is there to be seen. What zarr
    # reads when it opens an array is set for the whole process, so one thread at a time opens.
    with _OPENING, _quiet(), zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.open_array(store, path=name, mode="r+", zarr_format=3)
    array[_rows_of(array, shard, block)] = block
    key = f"{name}/c/{shard}" + "/0" * (block.ndim - 1)
    return key, memory[key].to_bytes()


def _rows_of(array: zarr.Array[Any], shard: int, block: NDArray[np.uint8]) -> slice:
    """The shard's subjects, where the block fills them and nothing else."""
    size = (array.shards or array.chunks)[0]
    rows = slice(shard * size, min((shard + 1) * size, array.shape[0]))
    shape = (rows.stop - rows.start, *array.shape[1:])
    if block.shape != shape or block.dtype != array.dtype:
        raise StoreError(
            f"shard {shard} of {array.name} takes {array.dtype} of shape {shape}, not "
            f"{block.dtype} of shape {block.shape}"
        )
    return rows


def index_labels(entries: Sequence[Entry]) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Index coordinates, named as their dimensions: labels and attributes of each."""
    manga_ids = [entry.file.manga_id for entry in entries]
    return {
        "subject": (manga_ids, {"long_name": "MaNGA id, not unique"}),
        **{name: (list(labels), {}) for name, labels in LABELS.items()},
    }


def publish(
    folder: ObjectFolder,
    rows: Sequence[Row],
    receipts: Sequence[Receipt],
    layout: Layout,
    made: Provenance,
    build_id: str,
) -> None:
    """Write all that is not a shard, the consolidated metadata last, and remove the receipts.

    Raises
    ------
    StoreError
        Where an object cannot be written; the store is then still incomplete.
    """
    objects = _stage(rows, receipts, layout, made)
    root = objects.pop(ROOT_KEY)
    for key, data in objects.items():
        folder.put(key, data)
    check_build(folder, build_id)
    folder.put(ROOT_KEY, root)
    folder.delete(sorted(folder.sizes(RECEIPTS_PREFIX)))
    folder.delete([PLAN_KEY])
    folder.prune((WORK_PREFIX,))


def _stage(
    rows: Sequence[Row], receipts: Sequence[Receipt], layout: Layout, made: Provenance
) -> dict[str, bytes]:
    """All objects of a complete store but the shards, made in memory."""
    memory: dict[str, Any] = {}
    store = MemoryStore(memory)
    coordinates = [name for name, variable in VARIABLES.items() if variable.is_coordinate]
    # A chunk that is all fill value is written too: what is absent is then known to be lost.
    with _quiet(), zarr.config.set({"array.write_empty_chunks": True}):
        root = zarr.create_group(
            store,
            attributes={**group_attrs(layout, made), "coordinates": " ".join(coordinates)},
            zarr_format=3,
        )
        for name, (labels, attrs) in index_labels([row.entry for row in rows]).items():
            _create(root, name, (name,), labels, attrs)
        for name, variable in VARIABLES.items():
            values = variable_values(name, rows, layout)
            _create(root, name, variable.dims, values, variable_attrs(name, layout))
        _fill_catalogue(root.create_group(CATALOGUE_GROUP), rows, receipts)
        for name, document in array_documents(layout).items():
            memory[f"{name}/{ROOT_KEY}"] = cpu.Buffer.from_bytes(document)
        zarr.consolidate_metadata(store, zarr_format=3)
    return {key: buffer.to_bytes() for key, buffer in memory.items()}


def _fill_catalogue(group: zarr.Group, rows: Sequence[Row], receipts: Sequence[Receipt]) -> None:
    """Write the text and provenance of each subject, and the digests of each shard."""
    for name, (meaning, text) in CATALOGUE_TEXT.items():
        _create(group, name, ("subject",), [text(row) for row in rows], {"long_name": meaning})
    sizes = np.array([row.outcome.size for row in rows], np.int64)
    meaning = "bytes of the file as read, -1 where it could not be"
    _create(group, "source_size", ("subject",), sizes, {"long_name": meaning})
    for name in BIG_ARRAYS:
        digests = [o.sha256 for r in receipts for o in r.objects if o.key.startswith(f"{name}/")]
        meaning = f"SHA-256 of each shard of {name} as written"
        _create(group, f"{name}_sha256", ("shard",), digests, {"long_name": meaning})


def _create(
    group: zarr.Group,
    name: str,
    dims: tuple[str, ...],
    values: Sequence[str] | NDArray[Any],
    attrs: Mapping[str, Any],
) -> None:
    """Write a small array whole, in one checked chunk; text gets Zarr's type ``string``.

    Without the attribute ``_FillValue``: xarray would turn whole numbers into floats.
    """
    data = values if isinstance(values, np.ndarray) else np.array(values, np.dtypes.StringDType())
    group.create_array(
        name,
        data=data,
        chunks=data.shape,
        compressors=SMALL_COMPRESSORS,
        attributes=dict(attrs),
        dimension_names=dims,
    )


def open_store(
    store: str | Path,
    *,
    storage_options: Mapping[str, Any] | None = None,
    chunks: str | None = "shards",
) -> xr.Dataset:
    """Open a complete store as a lazy Dataset.

    Parameters
    ----------
    store : str or Path
        A path, or a URL of any fsspec file system.
    storage_options : mapping, optional
        For fsspec.
    chunks : {'shards', None}
        None: no dask, each subject is read when its values are needed; the quickest way to look
        at one subject after another.

    Returns
    -------
    xarray.Dataset
        As ``xr.open_zarr`` gives it, with `image` and `segmentation` in dask chunks of whole
        shards, and the coordinate ``object_id`` (the published data model's name for the MaNGA
        id) beside ``subject``.

    Raises
    ------
    UsageError
        `chunks` is something else.
    IncompleteStoreError
        A build of it has begun and not ended.
    StoreError
        There is no store, it cannot be read, or it is not of Galaxy Zoo: 3D.
    """
    import xarray as xr  # slow to import, and workers do without

    if chunks not in ("shards", None):
        raise UsageError(f"chunks is {chunks!r}, expected 'shards' or None")
    folder = object_folder(store, storage_options)
    try:
        with _quiet():
            dataset = xr.open_zarr(
                folder.url,
                zarr_format=3,
                consolidated=True,
                chunks=None,
                storage_options=dict(folder.storage_options) or None,
            )
    except access_errors(ImportError, KeyError, TypeError, ValueError) as error:
        raise _not_open(folder, error) from error
    if dataset.attrs.get("schema") != SCHEMA:
        raise StoreError(f"{folder.url} is a Zarr store, but not of Galaxy Zoo: 3D")
    if not set(BIG_ARRAYS) <= set(dataset.data_vars):
        raise StoreError(f"{folder.url} lacks {' or '.join(BIG_ARRAYS)}: it was changed since")
    # A copy that xarray has written may have no shards.
    size = (dataset["image"].encoding.get("shards") or (dataset.attrs["shard_size"],))[0]
    if chunks is None:
        from gz3d_zarr.lazy_pixels import make_lazy

        reader = PixelReader(folder)
        for name in BIG_ARRAYS:
            dataset[name] = make_lazy(reader, name, dataset[name])
    else:
        for name in BIG_ARRAYS:
            with _quiet():
                dataset[name] = dataset[name].chunk(subject=size)
    known = [name for name in (*BIG_ARRAYS, *VARIABLES) if name in dataset.data_vars]
    dataset = dataset[[*known, *(name for name in dataset.data_vars if name not in known)]]
    object_id = ("subject", dataset["subject"].data, OBJECT_ID_ATTRS)
    named: xr.Dataset = dataset.assign_coords(object_id=object_id)
    return named


def _not_open(folder: ObjectFolder, error: Exception) -> StoreError:
    """Say why a store does not open: nothing there, incomplete, something else, or damaged."""
    root = folder.get(ROOT_KEY)
    if root is not None and b'"inline"' not in root:  # the kind of consolidated metadata
        return StoreError(
            f"{folder.url} has no consolidated metadata: it is not of Galaxy Zoo: 3D, or was "
            "changed by another program"
        )
    if root is not None:
        return StoreError(f"{folder.url} cannot be opened as a Zarr 3 store: {describe(error)}")
    if folder.get(PLAN_KEY) is not None:
        done = len(folder.sizes(RECEIPTS_PREFIX))
        return IncompleteStoreError(
            f"the store {folder.url} is not complete: {done} shards are built; go on with "
            "gz3d-zarr build SOURCE STORE --resume"
        )
    if isinstance(error, FileNotFoundError):
        return StoreError(f"there is no Zarr 3 store at {folder.url}")
    return StoreError(f"{folder.url} cannot be opened: {describe(error)}")


def read_build(folder: ObjectFolder) -> tuple[dict[str, Any], xr.Dataset]:
    """Attributes of a complete store, and its group ``catalogue`` with `status` beside it.

    Raises
    ------
    StoreError
        As `open_store`.
    """
    import xarray as xr  # slow to import, and workers do without

    dataset = open_store(folder.url, storage_options=folder.storage_options)
    with _quiet():
        catalogue = xr.open_zarr(
            folder.url,
            group=CATALOGUE_GROUP,
            zarr_format=3,
            consolidated=False,
            chunks=None,
            storage_options=dict(folder.storage_options) or None,
        )
    return dict(dataset.attrs), catalogue.assign(status=dataset["status"].variable).load()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what versions of zarr say of features that a store uses on purpose."""
    with warnings.catch_warnings():
        for message in (
            "Consolidated metadata is currently not part",
            "Numcodecs codecs are not in the Zarr version 3",
            "The (codec|dtype) .* is currently not part in the Zarr (format|version) 3",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
