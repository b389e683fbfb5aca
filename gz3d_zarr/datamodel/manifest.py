"""The manifest: which subjects a store holds, in which order."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from gz3d_zarr.datamodel.file_names import SubjectFile
from gz3d_zarr.datamodel.subject import SubjectMetadata


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """One row of ``gz3d_metadata.fits``; `observed` is None where it is unknown."""

    metadata: SubjectMetadata
    observed: bool | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One subject of a manifest: its file, and its sha1 and catalogue row if known."""

    file: SubjectFile
    sha1: str | None = None
    row: CatalogueRow | None = None


@dataclass(frozen=True)
class Manifest:
    """Which subjects a store holds, in which order.

    Attributes
    ----------
    location : str
        The source of the subject files.
    entries : tuple of Entry
        In the order of the store.
    order : {'healpix', 'name'}
        How the subjects are ordered.
    catalogue : str or None
        Path of the catalogue that was used.
    samples : tuple of str
        Names of target samples in the catalogue, sorted.
    notes : tuple of str
        Remarks for the user.
    appended : int
        Subjects at the end that updates added behind the others, whatever the order.
    release : str
        Release of the catalogue, if the source is a named release.
    """

    location: str
    entries: tuple[Entry, ...]
    order: str
    catalogue: str | None = None
    samples: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    release: str = ""
    appended: int = 0

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of file names, sha1 digests and sizes, in order."""
        lines = [[e.file.name, e.sha1, e.file.size] for e in self.entries]
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()

    @property
    def source_bytes(self) -> int | None:
        """Total size of the files in bytes; None if the listing lacks a size."""
        sizes = [entry.file.size for entry in self.entries]
        return None if None in sizes else sum(size for size in sizes if size is not None)
