"""The plan of a build: shards, bytes, memory per worker, fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from dask.utils import format_bytes, parse_bytes

from gz3d_zarr.datamodel.annotations import CLUSTER_COLUMNS
from gz3d_zarr.datamodel.arrays import GROUPS, SHARD_ARRAYS
from gz3d_zarr.datamodel.cluster_arrays import ROW_SIZES
from gz3d_zarr.datamodel.codecs import CODECS
from gz3d_zarr.datamodel.layout import DEFAULT_SHARD_SIZE, Layout, LayoutOptions, make_layout
from gz3d_zarr.datamodel.manifest import Manifest
from gz3d_zarr.datamodel.schema import SCHEMA_VERSION
from gz3d_zarr.datamodel.subject import IMAGE_BYTES, SEGMENTATION_BYTES
from gz3d_zarr.datamodel.text_report import TextReport
from gz3d_zarr.datamodel.variables import CATALOGUE_TEXT, LABELS, VARIABLES
from gz3d_zarr.errors import PlanError, UsageError, plural
from gz3d_zarr.sources.listing import Source
from gz3d_zarr.sources.options import FetchOptions, SelectionOptions
from gz3d_zarr.sources.select_subjects import read_manifest
from gz3d_zarr.storage.object_store import ObjectStore

WORKER_BYTES = 200 * 10**6
"""Memory of a worker process before its first shard: Python, dask and zarr."""
MEMORY_SHARE = 0.75
"""Fraction of a worker's memory that a plan uses; dask pauses a worker at 0.8."""
SOURCE_FILE_BYTES = 350_000
"""Size of a subject file if the listing does not give it."""
UNPACKED_BYTES = 16 * 2**20
"""Room for an unpacked subject file; real ones have 9.7 to 9.9 MB."""
_MASK_BYTES = 1_500
_SMALL_BYTES = 700


@dataclass(frozen=True)
class Resources:
    """Workers that a build runs on.

    Attributes
    ----------
    workers, threads : int
        Workers, and threads in each.
    memory : int or None
        Bytes that the smallest worker may use; None if there is no limit.
    where : str
        Description for people.
    notes : tuple of str
        Notes for the user about the workers.
    """

    workers: int
    threads: int
    memory: int | None
    where: str
    notes: tuple[str, ...] = ()

    def limit_memory(self, max_memory: int | None) -> Resources:
        """The same workers, each with at most so many bytes."""
        bounds = [bound for bound in (self.memory, max_memory) if bound is not None]
        return replace(self, memory=min(bounds, default=None))


@dataclass(frozen=True)
class Plan(TextReport):
    """What a build will do.

    Attributes
    ----------
    store : str
        Absolute path or URL.
    manifest : Manifest
    layout : Layout
    resources : Resources
    free_bytes : int or None
        Free space on the disk of the store; None if it has no limit.
    warning : str
        What exists at the target, if anything.
    refusal : str
        Why `build` would refuse to write there, if it would.
    """

    store: str
    manifest: Manifest
    layout: Layout
    resources: Resources
    free_bytes: int | None = None
    warning: str = ""
    refusal: str = ""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of layout and file names; builds that share it can be resumed.

        The contents of the files are not part of it; receipts record them.
        """
        names = [entry.file.name for entry in self.manifest.entries]
        parts = [SCHEMA_VERSION, asdict(self.layout), names]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def objects(self) -> int:
        """Number of objects of the complete store."""
        clusters = len(CLUSTER_COLUMNS) * len(ROW_SIZES) + len(ROW_SIZES)
        small = len(VARIABLES) + 1 + len(LABELS) + len(CATALOGUE_TEXT) + 1 + clusters
        sharded = len(SHARD_ARRAYS) * (self.layout.shards + 1)
        return sharded + 2 * small + 1 + len(GROUPS) + 1 + 2  # root, groups, receipts, packs

    @property
    def source_bytes(self) -> int:
        """Bytes of the source files, estimated if the listing does not give them."""
        listed = self.manifest.source_bytes
        return self.layout.subjects * SOURCE_FILE_BYTES if listed is None else listed

    @property
    def stored_bytes(self) -> int:
        """Estimate of the store's bytes."""
        pictures = self.source_bytes * CODECS[self.layout.codec].picture_ratio
        return round(pictures + self.layout.subjects * (_MASK_BYTES + _SMALL_BYTES))

    @property
    def slots(self) -> int:
        """Shards that one worker builds at a time."""
        resources = self.resources
        return max(1, count_slots(self.layout.shard_size, resources.threads, resources.memory))

    @property
    def worker_bytes(self) -> int:
        """Estimate of the peak memory of one worker."""
        return WORKER_BYTES + self.slots * task_bytes(self.layout.shard_size)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, before the build."""
        notes = [self.warning, *self.manifest.notes] if self.warning else [*self.manifest.notes]
        notes += self.resources.notes
        if self.slots < self.resources.threads:
            notes.append(
                f"memory lets a worker build {plural(self.slots, 'shard')} at a time, not one on "
                f"each of its {self.resources.threads} threads"
            )
        if self.refusal:
            notes.insert(0, f"build would refuse: {self.refusal}")
        if self.free_bytes is not None and self.stored_bytes > self.free_bytes:
            notes.append(
                f"the store needs about {format_bytes(self.stored_bytes)}, the disk has "
                f"{format_bytes(self.free_bytes)} free"
            )
        if (
            self.layout.shard_size < DEFAULT_SHARD_SIZE
            and self.layout.subjects > self.layout.shard_size
        ):
            subjects = plural(self.layout.shard_size, "subject")
            notes.append(f"shards of {subjects} make more and smaller objects")
        return tuple(notes)

    def summary(self) -> dict[str, Any]:
        """What ``gz3d-zarr plan --json`` prints."""
        return {
            "source": self.manifest.location,
            "store": self.store,
            "subjects": self.layout.subjects,
            "order": self.manifest.order,
            "codec": self.layout.codec,
            "nside": self.layout.nside,
            "shard_size": self.layout.shard_size,
            "shards": self.layout.shards,
            "objects": self.objects,
            "source_bytes": self.source_bytes,
            "source_bytes_estimated": self.manifest.source_bytes is None,
            "stored_bytes": self.stored_bytes,
            "free_bytes": self.free_bytes,
            "workers": self.resources.workers,
            "threads_per_worker": self.resources.threads,
            "shards_at_a_time_per_worker": self.slots,
            "worker_memory_needed": self.worker_bytes,
            "worker_memory_limit": self.resources.memory,
            "resources": self.resources.where,
            "manifest_digest": self.manifest.digest,
            "fingerprint": self.fingerprint,
            "refusal": self.refusal,
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        """What ``gz3d-zarr plan`` prints."""
        s = self.summary()
        limit = s["worker_memory_limit"]
        lines = [
            f"source    {s['source']}",
            f"store     {s['store']}",
            f"subjects  {s['subjects']}, in order of {s['order']}",
            f"shards    {s['shards']} of {plural(s['shard_size'], 'subject')}, codec {s['codec']}",
            f"objects   {s['objects']}",
            f"bytes     {format_bytes(s['source_bytes'])} of source files to about "
            f"{format_bytes(s['stored_bytes'])} of store",
            f"workers   {s['resources']}",
            f"memory    about {format_bytes(s['worker_memory_needed'])} per worker, which may use "
            f"{'any amount' if limit is None else format_bytes(limit)}",
            *(f"note      {note}" for note in s["notes"]),
        ]
        return "\n".join(lines)


def task_bytes(shard_size: int) -> int:
    """Peak memory that a worker needs to build one shard.

    That is a shard in memory, its encoded bytes twice (as chunks, and as the object that joins
    them), and one unpacked file. A file that unpacks to far more is rare; the memory that
    `MEMORY_SHARE` leaves free is for it.
    """
    encoded = 2 * shard_size * SOURCE_FILE_BYTES * 3 // 2
    return shard_size * (IMAGE_BYTES + SEGMENTATION_BYTES) + encoded + UNPACKED_BYTES


def count_slots(shard_size: int, threads: int, memory: int | None) -> int:
    """How many shards of a size a worker can build at a time; 0 if not even one fits."""
    if not memory:
        return threads
    available = memory * MEMORY_SHARE - WORKER_BYTES
    return max(0, min(threads, int(available // task_bytes(shard_size))))


def parse_memory(max_memory: int | str | None) -> int | None:
    """Bytes of a size such as ``"2GB"``; None stays None.

    Raises
    ------
    UsageError
        It is not a size.
    """
    if max_memory is None:
        return None
    try:
        size = int(parse_bytes(max_memory))
    except (ValueError, TypeError, AttributeError, OverflowError):
        size = 0
    if size <= 0:
        raise UsageError(f"max_memory is {max_memory!r:.60}, expected a size such as 2GB")
    return size


def make_plan(
    source: Source,
    target: ObjectStore,
    selection: SelectionOptions,
    options: LayoutOptions,
    fetch: FetchOptions,
    resources: Resources,
) -> Plan:
    """Plan a build: read the source's listing and catalogue, and write nothing.

    Raises
    ------
    PlanError
        A shard does not fit in a worker's memory.
    SourceError, UsageError
        As `list_source` and `make_manifest`.
    """
    manifest = read_manifest(source, selection, fetch)
    layout = make_layout(manifest, options, _fit(options.shard_size, resources))
    return Plan(target.url, manifest, layout, resources, target.free_bytes())


def _fit(wanted: int | None, resources: Resources) -> int:
    """Shard size that fits the workers: as requested, or the default, halved as needed."""
    size = wanted or DEFAULT_SHARD_SIZE
    while not count_slots(size, resources.threads, resources.memory) and size > 1:
        size = -(-size // 2)
    memory = format_bytes(resources.memory or 0)
    if not count_slots(size, resources.threads, resources.memory):
        need = (WORKER_BYTES + task_bytes(size)) / MEMORY_SHARE
        raise PlanError(
            f"a worker may use {memory}, but even shards of one subject need "
            f"{format_bytes(round(need))}: give workers more memory"
        )
    if wanted is not None and size < wanted:
        needed = (WORKER_BYTES + task_bytes(wanted)) / MEMORY_SHARE
        raise PlanError(
            f"shards of {wanted} subjects need {format_bytes(round(needed))} in a worker that may "
            f"use {memory}: use --shard-size {size}, or give workers more memory"
        )
    return size
