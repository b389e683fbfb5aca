"""Open a complete store, or report why it cannot be opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from xarray.backends import ZarrStore

from gz3d_zarr.backends.assemble import assemble, text_array
from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.backends.codec_pipeline import find_sharding
from gz3d_zarr.backends.lazy_arrays import (
    chunked_variable,
    lazy_variable,
    mask_dataset,
    writable_encoding,
)
from gz3d_zarr.backends.mask_reader import (
    COUNTED_LEVELS,
    MASKS,
    MASKS_ENCODING,
    MaskReader,
    OpenedMasks,
)
from gz3d_zarr.backends.missing_chunks import refuse_missing_chunks
from gz3d_zarr.backends.partial_store import open_partial_store
from gz3d_zarr.backends.pixel_source import PixelSource
from gz3d_zarr.backends.root import READ_ERRORS, StoreRoot, open_root, unreadable_error
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS, CATALOGUE_GROUP
from gz3d_zarr.datamodel.layout import DEFAULT_SHARD_SIZE
from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.datamodel.schema import (
    GENERATION_ATTR,
    GROUP_ARRAYS_ATTR,
    SCHEMA,
    SMALL_ARRAYS_ATTR,
    check_schema_version,
)
from gz3d_zarr.datamodel.variables import LABELS, VARIABLES
from gz3d_zarr.errors import (
    IncompleteStoreError,
    StoreError,
    UsageError,
    access_errors,
    error_message,
)
from gz3d_zarr.locations import S3_SCHEMES
from gz3d_zarr.storage.build_record import parse_digest
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store
from gz3d_zarr.storage.packs import PACK_ATTRS
from gz3d_zarr.storage.shards import ignore_zarr_spec_warnings

STORE_ENCODING = "object_store"
"""Key in the encoding of a Dataset: the ObjectStore that it was opened from."""
ROOT_ENCODING = "store_root"
"""Key in the encoding of a Dataset: the StoreRoot of that store, so that it is read once."""


def open_store(
    store: str | Path,
    *,
    storage_options: Mapping[str, Any] | None = None,
    anon: bool = False,
    chunks: str | int | None = "shards",
    incomplete: bool = False,
    masked: bool = False,
    digest: str | None = None,
) -> xr.Dataset:
    """Open a complete store as a lazy Dataset; over a network, this takes two requests.

    Small variables are in memory. If the store is replaced later, or its failed subjects are read
    again, reading pixels from this Dataset raises StoreError; it goes on after an update.

    Parameters
    ----------
    store : str or Path
        A path, or a URL of any fsspec file system.
    storage_options : mapping, optional
        Options for fsspec.
    anon : bool
        Read from S3 without credentials, for public buckets.
    chunks : {'shards', None} or int
        Dask chunks of whole shards, or of this number of subjects. None opens the store without
        dask: each subject is read when its values are needed. This is the fastest way to look at
        one subject after another.
    incomplete : bool
        If the build is unfinished, open the subjects that it has written so far.
    masked : bool
        Give NaN for every sentinel, so that means are right: -1 where a value is unknown, and the
        flags -1.0 and -0.5 of ``vote_fraction``. Integers with a sentinel become floats; an
        ``observed`` is then 0, 1 or NaN.
    digest : str, optional
        SHA-256 of the root ``zarr.json``, as ``gz3d-zarr info`` shows it: a store with another one
        is refused. An unfinished build has none.

    Returns
    -------
    xarray.Dataset
        Like that of ``xr.open_zarr``, with `image` and `segmentation` in dask chunks of whole
        shards or of the number of subjects, and with the coordinate ``object_id`` (the published
        data model's name for the MaNGA id) in addition to ``subject``.

    Raises
    ------
    UsageError
        `chunks` has another value or is less than 1, or `digest` is not a SHA-256.
    IncompleteStoreError
        The build of the store is unfinished.
    StoreError
        There is no store, it cannot be read, it is not a store of Galaxy Zoo: 3D, or it has another
        digest.
    """
    expected = None if digest is None else parse_digest(digest)
    for name, flag in (("anon", anon), ("incomplete", incomplete), ("masked", masked)):
        check_type(name, flag, bool)
    options = dict(check_type("storage_options", storage_options, dict, is_shown=False) or {})
    if anon and str(store).startswith(S3_SCHEMES):
        options["anon"] = True
    opened = open_object_store(store, options)
    dataset = open_dataset(opened, chunks=chunks, incomplete=incomplete, digest=expected)
    return mask_dataset(dataset) if masked else dataset


def open_dataset(
    store: ObjectStore,
    *,
    chunks: str | int | None = "shards",
    incomplete: bool = False,
    digest: str | None = None,
) -> xr.Dataset:
    """Open a store as `open_store` does, from an ObjectStore with its client and options."""
    chunks = _check_chunks(chunks)
    try:
        root = open_root(store, (SMALL_ARRAYS_ATTR,), digest=digest)
    except IncompleteStoreError:
        if incomplete and digest is None:
            return _rechunk(open_partial_store(store), chunks)
        raise
    return _root_dataset(store, root, chunks)


def read_store(
    store: ObjectStore, *, packed: bool = True, generation: str = "", digest: str | None = None
) -> tuple[xr.Dataset, xr.Dataset]:
    """Open a complete store, and read its group ``catalogue``.

    Parameters
    ----------
    store : ObjectStore
    packed : bool
        Read the packs of small arrays; otherwise, what other programs read.
    generation, digest : str
        As for `open_root`.

    Returns
    -------
    dataset : xarray.Dataset
        The lazy Dataset of `open_store`.
    catalogue : xarray.Dataset
        In memory, with `status` in addition to the variables of the group.

    Raises
    ------
    StoreError
        As for `open_store`; or the group cannot be read.
    """
    root = open_root(store, PACK_ATTRS if packed else (), generation, digest)
    dataset = _root_dataset(store, root, "shards")
    catalogue = _read_group(store, CATALOGUE_GROUP, root)
    return dataset, catalogue.assign(status=dataset["status"].variable.load())


def read_group(
    store: ObjectStore, name: str, *, packed: bool = True, generation: str = ""
) -> xr.Dataset:
    """Read a whole group of a complete store into memory.

    Parameters
    ----------
    store : ObjectStore
    name : str
    packed, generation
        As for `read_store`.

    Raises
    ------
    StoreError
        It cannot be read, or a chunk is missing.
    """
    root = open_root(store, (GROUP_ARRAYS_ATTR,) if packed else (), generation)
    return _read_group(store, name, root)


def _read_group(store: ObjectStore, name: str, root: StoreRoot) -> xr.Dataset:
    try:
        with ignore_zarr_spec_warnings():
            # The root's metadata: an update may be rewriting the metadata of single arrays.
            group = refuse_missing_chunks(root.group, store.url)[name]
            if not isinstance(group, zarr.Group):
                raise TypeError(f"{name} is not a group")
            return xr.Dataset(
                {
                    key: (array.metadata.to_dict()["dimension_names"], array[...], {**array.attrs})
                    for key, array in group.arrays()
                }
            )
    except access_errors(*READ_ERRORS) as error:
        raise StoreError(
            f"the group {name} of {store.url} cannot be read: {error_message(error)}"
        ) from error


def read_rows(
    store: ObjectStore,
    name: str,
    rows: NDArray[np.intp] | slice = slice(None),
    root: StoreRoot | None = None,
) -> NDArray[Any]:
    """Read rows of one array of a complete store, such as ``marks/annotations``; by default all.

    Raises
    ------
    StoreError
        It cannot be read, a chunk is missing, or the store was replaced or changed after the root
        was read.
    """
    opened = open_root(store) if root is None else root
    group = refuse_missing_chunks(opened.group, store.url)
    try:
        with ignore_zarr_spec_warnings(), opened.generation.unchanged():
            array = group[name]
            if not isinstance(array, zarr.Array):
                raise TypeError(f"{name} is not an array")
            return np.asarray(array.get_orthogonal_selection(rows))
    except access_errors(*READ_ERRORS) as error:
        raise StoreError(
            f"the array {name} of {store.url} cannot be read: {error_message(error)}"
        ) from error


def find_object_store(
    dataset: xr.Dataset, purpose: str = "the volunteers' marks are in other groups of a store"
) -> ObjectStore:
    """The store that a Dataset was opened from, by `open_store` or ``xr.open_zarr``.

    Parameters
    ----------
    dataset : xarray.Dataset
    purpose : str
        Why the store is needed, for the error.

    Raises
    ------
    UsageError
        It was not opened from a store, or its encoding, which has the location, was removed.
    """
    store = dataset.encoding.get(STORE_ENCODING)
    if isinstance(store, ObjectStore):
        return store
    source = dataset.encoding.get("source")
    # A file is a subject's, or netCDF that xarray wrote.
    if source is None or Path(str(source)).is_file() or str(source).endswith(".fits.gz"):
        raise UsageError(
            f"{purpose}, and this Dataset does not say which store it was opened from: use a "
            "Dataset of gz3d_zarr.open_store, or a selection from one"
        )
    return open_object_store(str(source))


def find_root(dataset: xr.Dataset, store: ObjectStore) -> StoreRoot:
    """The root of the store that a Dataset was opened from; read where it is not known.

    Raises
    ------
    StoreError
        As `open_root`.
    """
    root = dataset.encoding.get(ROOT_ENCODING)
    if isinstance(root, StoreRoot):
        return root
    return open_root(store, (SMALL_ARRAYS_ATTR,), str(dataset.attrs.get(GENERATION_ATTR, "")))


def _check_chunks(chunks: str | int | None) -> str | int | None:
    if chunks is None or (isinstance(chunks, str) and chunks == "shards"):
        return chunks
    is_number = isinstance(chunks, int | np.integer) and not isinstance(chunks, bool)
    if not is_number or int(chunks) < 1:
        raise UsageError(
            f"chunks is {chunks!r:.60}, expected 'shards', None or a number of subjects"
        )
    return int(chunks)


def _rechunk(dataset: xr.Dataset, chunks: str | int | None) -> xr.Dataset:
    if not isinstance(chunks, int):
        return dataset
    cut = {name: dataset[name].variable.chunk({"subject": chunks}) for name in BIG_ARRAYS}
    return dataset.assign(cut)


def _read_root(
    store: ObjectStore, root: StoreRoot, labels: Mapping[str, tuple[str, ...]]
) -> xr.Dataset:
    """The root group without `labels`, its small arrays read; StoreError if it is not ours."""
    try:
        with ignore_zarr_spec_warnings():
            # A build writes every chunk, and small arrays are read now, also where a pack is lost.
            group = refuse_missing_chunks(root.group, store.url) if labels else root.group
            dataset = xr.open_dataset(
                ZarrStore(group, mode="r", use_zarr_fill_value_as_mask=False),
                engine="store",
                chunks=None,
                drop_variables=list(labels),
            )
            small = ({"subject", *VARIABLES} if labels else root.packed) & {*dataset.variables}
            for name in small:
                dataset.variables[name].load()
            if small - root.packed:
                root.generation.check()
    except access_errors(*READ_ERRORS) as error:
        raise unreadable_error(store, error) from error
    if dataset.attrs.get("schema") != SCHEMA:
        raise StoreError(f"{store.url} is a Zarr store, but not of Galaxy Zoo: 3D")
    check_schema_version(store.url, dataset.attrs)
    missing = [name for name in (*BIG_ARRAYS, "subject") if name not in dataset.variables]
    if missing:
        raise StoreError(f"{store.url} lacks {', '.join(missing)}: another program changed it")
    return dataset


def _root_dataset(store: ObjectStore, root: StoreRoot, chunks: str | int | None) -> xr.Dataset:
    """The dataset of `open_store`, whose pixels are read when they are needed."""
    labels = _known_labels(root.group)
    dataset = _read_root(store, root, labels)
    # A copy that xarray wrote may have no shards.
    default = (dataset.attrs.get("shard_size", DEFAULT_SHARD_SIZE),)
    size = (dataset["image"].encoding.get("shards") or default)[0]
    for array in dataset.variables:
        dataset[array].encoding = writable_encoding(dataset[array], size)
    if isinstance(chunks, int):
        size = chunks
    with ignore_zarr_spec_warnings():
        metadata = {name: root.group[name].metadata for name in BIG_ARRAYS}
    shardings = {name: find_sharding(name, metadata[name]) for name in BIG_ARRAYS}
    reader = ChunkReader(root.generation, shardings=shardings)
    variables: dict[str, Any] = {str(n): v for n, v in dataset.variables.items()}
    tokens = {}
    for name in BIG_ARRAYS:
        source = PixelSource(name, metadata[name], reader, root.generation)
        tokens[name] = source.token
        variables[name] = (
            lazy_variable(source, dataset[name])
            if chunks is None
            else chunked_variable(source, dataset[name], size)
        )
    for name, values in labels.items():
        variables[name] = (name, text_array(values))
    whole = assemble(variables, dataset.attrs, coordinates=set(map(str, dataset.coords)))
    whole.encoding["source"] = store.url
    whole.encoding[STORE_ENCODING] = store  # has the storage options, and does not show them
    whole.encoding[ROOT_ENCODING] = root
    # Another program may have written other masks, and left out shards without marks.
    if labels and chunks is not None and root.generation.id:
        sharding = shardings[MASKS]
        if sharding is not None and not sharding.compact:
            whole.encoding[MASKS_ENCODING] = OpenedMasks(
                MaskReader(root.generation, sharding),
                tokens[MASKS],
                {
                    level: dataset.variables[name].values.copy()  # the user may change the other
                    for level, name in COUNTED_LEVELS.items()
                    if name in root.packed
                },
            )
    return whole


def _known_labels(root: zarr.Group) -> Mapping[str, tuple[str, ...]]:
    """Labels that need not be read, in a store that was written by a build.

    xarray may write the labels of a selection in another order, and no group ``catalogue``.
    """
    consolidated = root.metadata.consolidated_metadata
    members = {} if consolidated is None else consolidated.metadata
    built = CATALOGUE_GROUP in members and all(
        getattr(members.get(name), "shape", None) == (len(labels),)
        for name, labels in LABELS.items()
    )
    return LABELS if built else {}
