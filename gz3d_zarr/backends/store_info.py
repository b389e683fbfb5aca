"""Describe a complete store: arrays, shards, sizes, status counts, provenance."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from dask.utils import format_bytes

from gz3d_zarr.backends.codec_pipeline import describe_decoder
from gz3d_zarr.backends.store import find_root, read_store
from gz3d_zarr.datamodel.text_report import TextReport
from gz3d_zarr.errors import Status, shorten, status_counts
from gz3d_zarr.storage.build_record import ROOT_KEY, digest, refuse_dataset
from gz3d_zarr.storage.object_store import open_object_store
from gz3d_zarr.storage.shards import ignore_zarr_spec_warnings

WIDTH = 80
"""Columns of a terminal."""
LABEL_WIDTH = 15


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """One array of a store.

    Attributes
    ----------
    shards : int
        Number of stored objects with its data.
    shard, chunk : tuple of int
        Shape of one stored object, and of the smallest part that can be read separately.
    raw_bytes : int or None
        Size in memory; None for text, which has no fixed size.
    stored_bytes : int
        Total size of the objects.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shards: int
    shard: tuple[int, ...]
    chunk: tuple[int, ...]
    raw_bytes: int | None
    stored_bytes: int

    @property
    def ratio(self) -> float | None:
        """Size in memory divided by stored size; None for text."""
        return self.raw_bytes / self.stored_bytes if self.raw_bytes else None


@dataclass(frozen=True)
class StoreInfo(TextReport):
    """A complete store.

    Attributes
    ----------
    objects, stored_bytes, source_bytes : int
        Number of objects in the store, their total size, and that of the source files.
    status : dict
        Number of subjects for every status.
    attrs : dict
        Attributes of the root group: provenance.
    digest : str
        SHA-256 of the root ``zarr.json``, which names the receipts, which have the SHA-256 of every
        other object.
    pipeline : str
        By which the pixels of this store are decoded here: package, version, class.
    """

    store: str
    arrays: tuple[ArrayInfo, ...]
    objects: int
    stored_bytes: int
    source_bytes: int
    status: Mapping[str, int]
    attrs: Mapping[str, Any]
    digest: str
    pipeline: str

    def summary(self) -> dict[str, Any]:
        """The output of ``gz3d-zarr info --json``."""
        arrays = [{**asdict(array), "ratio": array.ratio} for array in self.arrays]
        return {**asdict(self), "arrays": arrays}

    def to_text(self) -> str:
        """The output of ``gz3d-zarr info``."""
        share = self.stored_bytes / self.source_bytes if self.source_bytes > 0 else float("nan")
        status = ", ".join(f"{count} {label}" for label, count in self.status.items() if count)
        facts = {
            "store": self.store,
            "digest": self.digest,
            "pipeline": self.pipeline,
            "subjects": f"{sum(self.status.values())}: {status}",
            "stored": f"{format_bytes(self.stored_bytes)} in {self.objects} objects, "
            f"{share:.3f} of the files' {format_bytes(self.source_bytes)}",
        }
        shown = (
            "parent", "parent_digest", "source", "source_catalogue", "order", "nside", "codec",
            "shard_size", "schema_version",
            "package_version", "created", "manifest_digest", "references", "license",
        )  # fmt: skip
        facts |= {
            name.removeprefix("source_"): shorten(self.attrs[name])
            for name in shown
            if name in self.attrs
        }
        lines = [line for name, value in facts.items() for line in _wrap(name, value)]
        notes = self.attrs.get("notes")
        if isinstance(notes, list):
            lines += [line for note in notes for line in _wrap("note", shorten(note))]
        return "\n".join([*lines, "", *_format_table(self.arrays)])


def read_info(store: str | Path, *, storage_options: Mapping[str, Any] | None = None) -> StoreInfo:
    """Describe a complete store, from its metadata, its listing and its small arrays.

    Raises
    ------
    StoreError
        As for `open_store`.
    """
    opened = open_object_store(store, storage_options)
    data = opened.get(ROOT_KEY) or b""
    refuse_dataset(opened.url, data)
    sha256 = digest(data)
    dataset, catalogue = read_store(opened, digest=sha256)
    # Files beside the root's document are no part of the store: the page, for one.
    sizes = {k: size for k, size in opened.list_sizes().items() if "/" in k or k == ROOT_KEY}
    stored: dict[str, list[int]] = defaultdict(list)
    for key, size in sizes.items():
        name, separator, _ = key.partition("/c/")
        if separator:
            stored[name].append(size)
    with ignore_zarr_spec_warnings():
        root = find_root(dataset, opened).group
        members = root.members(max_depth=None)
        decoder = describe_decoder(opened, "image", root["image"].metadata)
    arrays = [
        ArrayInfo(
            name,
            "string" if array.dtype.kind in "OT" else str(array.dtype),
            array.shape,
            len(stored[name]),
            array.shards or array.chunks,
            array.chunks,
            None if array.dtype.kind in "OT" else array.size * array.dtype.itemsize,
            sum(stored[name]),
        )
        for name, array in members
        if isinstance(array, zarr.Array) and name in stored
    ]
    read = catalogue["source_size"].values
    flags, counts = np.unique(catalogue["status"].values, return_counts=True)
    labels = [Status(int(f)).label for f, c in zip(flags, counts, strict=True) for _ in range(c)]
    ok = labels.count(Status.OK.label)
    return StoreInfo(
        opened.url,
        tuple(sorted(arrays, key=lambda array: -array.stored_bytes)),
        len(sizes),
        sum(sizes.values()),
        int(read[read > 0].sum()),
        status_counts(ok, labels),
        dict(dataset.attrs),
        sha256,
        decoder,
    )


def _wrap(name: str, value: object) -> list[str]:
    """Lines of one fact; long words, such as a URL, are not broken."""
    return textwrap.wrap(
        str(value),
        WIDTH,
        initial_indent=f"{name:<{LABEL_WIDTH}} ",
        subsequent_indent=" " * (LABEL_WIDTH + 1),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [name]


def _format_table(arrays: Sequence[ArrayInfo]) -> list[str]:
    """One line for each array, at most `WIDTH` characters long."""
    header = ("array", "dtype", "shape", "shards", "chunk", "stored")
    table = [header, *(_cells(array) for array in arrays)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    return [
        " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def _cells(array: ArrayInfo) -> tuple[str, ...]:
    return (
        array.name,
        array.dtype,
        "x".join(map(str, array.shape)),
        str(array.shards),
        str(array.chunk[0]),
        format_bytes(array.stored_bytes),
    )
