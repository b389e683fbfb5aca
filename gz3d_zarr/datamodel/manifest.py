"""Which subjects a store holds, in which order."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from gz3d_zarr.datamodel.file_names import SubjectFile
from gz3d_zarr.datamodel.subject import SubjectMetadata


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """One row of ``gz3d_metadata.fits``."""

    metadata: SubjectMetadata
    observed: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One subject of a manifest: its file, its digest and its row where they are known."""

    file: SubjectFile
    sha1: str | None = None
    row: CatalogueRow | None = None


@dataclass(frozen=True)
class Manifest:
    """Which subjects a store holds, in which order.

    Attributes
    ----------
    location : str
        The source that they come from.
    entries : tuple of Entry
        In the order of the store.
    order : {'healpix', 'name'}
        How they were ordered.
    catalogue : str or None
        Path of the catalogue that was used.
    samples : tuple of str
        Names of target samples in the catalogue, sorted.
    notes : tuple of str
        What a person should be told.
    release : str
        Release of the catalogue, where the source is a named one.
    """

    location: str
    entries: tuple[Entry, ...]
    order: str
    catalogue: str | None = None
    samples: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    release: str = ""

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 over file names, sha1 digests and sizes, in order."""
        lines = [[e.file.name, e.sha1, e.file.size] for e in self.entries]
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()

    @property
    def source_bytes(self) -> int | None:
        """Bytes of all files, or None where a listing does not tell."""
        sizes = [entry.file.size for entry in self.entries]
        return None if None in sizes else sum(size for size in sizes if size is not None)
