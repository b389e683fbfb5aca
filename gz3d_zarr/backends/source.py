"""Subject files as the lazy Dataset that a store of them would give."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.backends.annotations import FILES_ENCODING, FileAnnotations
from gz3d_zarr.backends.assemble import assemble, define_variables
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.datamodel.layout import Layout, LayoutOptions, make_layout
from gz3d_zarr.datamodel.manifest import Entry
from gz3d_zarr.datamodel.option_fields import check_options, take_options
from gz3d_zarr.datamodel.receipts import SubjectOutcome
from gz3d_zarr.datamodel.schema import dataset_attrs
from gz3d_zarr.datamodel.subject import Subject
from gz3d_zarr.datamodel.variables import VARIABLES, SubjectRecord, variable_values
from gz3d_zarr.errors import Status, SubjectError
from gz3d_zarr.locations import public_name
from gz3d_zarr.sources.download import FileBody, decode_body, read_file
from gz3d_zarr.sources.listing import Source
from gz3d_zarr.sources.options import FetchOptions, SelectionOptions
from gz3d_zarr.sources.select_subjects import read_manifest


def open_source(
    source: Source,
    *,
    nside: int | None = None,
    cache: str | Path | None = None,
    source_options: Mapping[str, Any] | None = None,
    trust_names: bool = False,
    **options: Any,
) -> xr.Dataset:
    """Open subject files as the Dataset that a store built from them would give.

    Only the listing and the catalogue are read. Each subject is one dask chunk, and its file is
    fetched and decoded when one of its values is computed.

    Parameters
    ----------
    source : str, Path or sequence of them
        As for `build`.
    nside, cache, source_options, trust_names
        As for `build`.
    **options
        Fields of `SelectionOptions`: ``limit, tiny, ids, missing_ids, ids_table,
        min_vote_fraction, catalogue, order``, as for `build`.

    Returns
    -------
    xarray.Dataset
        Equal, value for value, to what `open_store` gives after a `build` with the same options.
        A file that cannot be read gives the same fill values and ``status``.

    Raises
    ------
    SourceError, UsageError
        As for `build`, before anything is computed.
    """
    check_options(open_source, options, SelectionOptions)
    selection = take_options(SelectionOptions, options)
    layout_options = LayoutOptions(nside=nside)
    fetch = FetchOptions(cache=None if cache is None else str(cache), source_options=source_options)
    manifest = read_manifest(source, selection, fetch)
    layout = make_layout(manifest, layout_options, 1)
    entries = np.empty(len(manifest.entries), object)
    entries[:] = manifest.entries
    records = da.from_array(entries, chunks=1).map_blocks(
        _read,
        source_options=dict(source_options or {}),
        cache=fetch.cache,
        trust_names=trust_names,
        dtype=object,
        meta=np.empty(0, object),
    )
    unread = [SubjectRecord(entry, _NOT_READ) for entry in manifest.entries]

    def read(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        if name in BIG_ARRAYS:
            return _derive(records, partial(_pixels, name=name), shape, dtype)
        if VARIABLES[name].needs_file:
            return _derive(records, partial(_values, name=name, layout=layout), shape, dtype)
        return variable_values(name, unread, layout)

    attrs = dataset_attrs(
        public_name(manifest.location), public_name(manifest.catalogue or ""), manifest.release
    )
    dataset = assemble(define_variables(manifest.entries, layout, read), attrs)
    ids = np.array([entry.file.zooniverse_subject_id for entry in manifest.entries], np.int64)
    drawn = records.map_blocks(_annotations, dtype=object, meta=np.empty(0, object))
    dataset.encoding[FILES_ENCODING] = FileAnnotations(ids, drawn)
    return dataset


_NOT_READ = SubjectOutcome("", Status.OK, "", "", -1, None)


def _derive(
    records: da.Array, function: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> da.Array:
    """An array with `shape` per subject, computed from the records block by block."""
    derived: da.Array = da.map_blocks(
        function,
        records,
        dtype=dtype,
        meta=np.empty((0,) * (1 + len(shape)), dtype),
        new_axis=list(range(1, 1 + len(shape))) or None,
        chunks=(records.chunks[0], *((length,) for length in shape)),
    )
    return derived


def _read(
    block: NDArray[Any], source_options: Mapping[str, Any], cache: str | None, trust_names: bool
) -> NDArray[Any]:
    """Read and decode entries: an array of pairs (SubjectRecord, Subject or None)."""
    records = np.empty(len(block), object)
    for i, entry in enumerate(block):
        records[i] = _read_one(entry, source_options, cache, trust_names=trust_names)
    return records


def _read_one(
    entry: Entry, source_options: Mapping[str, Any], cache: str | None, *, trust_names: bool
) -> tuple[SubjectRecord, Subject | None]:
    body: FileBody | SubjectError
    try:
        body = read_file(entry.file.path, entry.sha1, source_options, cache)
    except SubjectError as error:
        body = error
    subject, outcome = decode_body(entry.file.path, entry.sha1, body, trust_names=trust_names)
    return SubjectRecord(entry, outcome), subject


def _pixels(records: NDArray[Any], name: str) -> NDArray[np.uint8]:
    pixels = np.zeros((len(records), *BIG_ARRAYS[name].shape), np.uint8)
    for i, (_, subject) in enumerate(records):
        if subject is not None:
            pixels[i] = getattr(subject, name)
    return pixels


def _annotations(records: NDArray[Any]) -> NDArray[Any]:
    drawn = np.empty(len(records), object)
    drawn[:] = [None if subject is None else subject.annotations for _, subject in records]
    return drawn


def _values(records: NDArray[Any], name: str, layout: Layout) -> NDArray[Any]:
    return variable_values(name, [record for record, _ in records], layout)
