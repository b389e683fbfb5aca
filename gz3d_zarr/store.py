"""Create, write and read a shard, finalise: with `opening`, the only file that touches Zarr.

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
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.buffer import cpu
from zarr.storage import MemoryStore

from gz3d_zarr.catalogue import Entry
from gz3d_zarr.errors import StoreError, describe
from gz3d_zarr.objects import ObjectFolder
from gz3d_zarr.receipts import (
    PLAN_KEY,
    Receipt,
    check_build,
    sign_plan,
)
from gz3d_zarr.schema import (
    BIG_ARRAYS,
    CATALOGUE_TEXT,
    LABELS,
    SMALL_CHUNKS,
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
    pass

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
        with quiet():
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
    with _OPENING, quiet(), zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.open_array(store, path=name, mode="r+", zarr_format=3)
    array[_rows_of(array, shard, block)] = block
    key = shard_key(name, shard)
    return key, memory[key].to_bytes()


def shard_key(name: str, shard: int) -> str:
    """Name of the object that holds one shard of a big array."""
    return f"{name}/c/{shard}" + "/0" * len(BIG_ARRAYS[name].shape)


def decode_shard(
    documents: Mapping[str, bytes], name: str, shard: int, data: bytes, subjects: int
) -> NDArray[np.uint8]:
    """Decode the first `subjects` of them of a shard, every checksum checked.

    Raises
    ------
    StoreError
        Where the bytes are damaged.
    """
    memory: dict[str, Any] = {
        f"{name}/{ROOT_KEY}": cpu.Buffer.from_bytes(documents[name]),
        shard_key(name, shard): cpu.Buffer.from_bytes(data),
    }
    with _OPENING, quiet():
        array = zarr.open_array(MemoryStore(memory), path=name, mode="r", zarr_format=3)
    first = shard * (array.shards or array.chunks)[0]
    try:
        block = np.asarray(array[first : first + subjects], np.uint8)
    except (ValueError, RuntimeError, IndexError, TypeError) as error:  # each codec has its own
        raise StoreError(f"{shard_key(name, shard)} is damaged: {describe(error)}") from None
    return block


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
    """Write all that is not a shard, the consolidated metadata last.

    Raises
    ------
    StoreError
        Where an object cannot be written; the store is then still incomplete.
    """
    objects = _stage(rows, receipts, layout, made)
    root = objects.pop(ROOT_KEY)
    # Values before metadata: who goes by the old metadata reads old rows, which do not change.
    metadata = {key: objects.pop(key) for key in [*objects] if key.endswith(ROOT_KEY)}
    for part in (objects, metadata):
        check_build(folder, build_id)
        folder.put_all(part)
    plan = check_build(folder, build_id)
    shards = {stored.key for receipt in receipts for stored in receipt.objects}
    folder.sync([*shards, *objects, *metadata])  # after a power failure too, the root is the last
    folder.put(PLAN_KEY, sign_plan(plan, root))
    folder.put(ROOT_KEY, root)
    folder.sync([ROOT_KEY])


def _stage(
    rows: Sequence[Row], receipts: Sequence[Receipt], layout: Layout, made: Provenance
) -> dict[str, bytes]:
    """All objects of a complete store but the shards, made in memory."""
    memory: dict[str, Any] = {}
    store = MemoryStore(memory)
    coordinates = [name for name, variable in VARIABLES.items() if variable.is_coordinate]
    # A chunk that is all fill value is written too: what is absent is then known to be lost.
    with quiet(), zarr.config.set({"array.write_empty_chunks": True}):
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
        chunks=tuple(SMALL_CHUNKS.get(dim, n) for dim, n in zip(dims, data.shape, strict=True)),
        compressors=SMALL_COMPRESSORS,
        attributes=dict(attrs),
        dimension_names=dims,
    )


def read_layout(attrs: Mapping[str, Any]) -> Layout:
    """The layout of a complete store, from the attributes of its root.

    Raises
    ------
    StoreError
        Where they do not tell it.
    """
    try:
        return Layout(
            attrs["subjects"],
            attrs["shard_size"],
            attrs["codec"],
            attrs["nside"],
            tuple(attrs["samples"]),
        )
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"the store does not say how it was laid out ({error}): it was changed since, or made "
            "by another version; build it anew with --overwrite"
        ) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what versions of zarr say of features that a store uses on purpose."""
    with warnings.catch_warnings():
        for message in (
            "Consolidated metadata is currently not part",
            "Numcodecs codecs are not in the Zarr version 3",
            "The (codec|dtype) .* is currently not part in the Zarr (format|version) 3",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
