"""Chunks, shards and codecs of a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gz3d_zarr.datamodel.codecs import CODECS
from gz3d_zarr.datamodel.limits import MAX_SUBJECTS
from gz3d_zarr.datamodel.option_fields import check_types, option
from gz3d_zarr.errors import StoreError, UsageError, quote

if TYPE_CHECKING:
    from gz3d_zarr.datamodel.manifest import Manifest

DEFAULT_SHARD_SIZE = 64
DEFAULT_CODEC = "portable"
MAX_NSIDE = 2**29
DEFAULT_NSIDE = 16
SMALL_CHUNKS = {"subject": 32_768, "galaxy_center": 131_072, "foreground_star": 131_072}
"""Chunk size of the small arrays, which are not sharded, along these dimensions. The whole survey
fits in one chunk, and a store can grow without a new layout."""
SAMPLES = ("extra", "original", "sdss_lost_set", "stripe82", "stripe82_coadd_1")
"""Target samples known without a catalogue."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The choices that, with its subjects, determine the bytes of a store.

    Attributes
    ----------
    subjects : int
        Length of the dimension ``subject``.
    shard_size : int
        Subjects per shard.
    codec : str
        A key of `CODECS`.
    nside : int
        HEALPix resolution of the coordinate ``healpix``.
    samples : tuple of str
        Names of the flag masks of ``sample``, from mask 2 on.
    """

    subjects: int
    shard_size: int = DEFAULT_SHARD_SIZE
    codec: str = DEFAULT_CODEC
    nside: int = DEFAULT_NSIDE
    samples: tuple[str, ...] = SAMPLES

    @property
    def shards(self) -> int:
        """Number of shards of each big array."""
        return -(-self.subjects // self.shard_size)

    def rows(self, shard: int) -> slice:
        """Subjects of a shard."""
        return slice(shard * self.shard_size, min(self.subjects, (shard + 1) * self.shard_size))


@dataclass(frozen=True, slots=True)
class LayoutOptions:
    """How subjects are stored; what is None gets a default."""

    shard_size: int | None = option(
        None,
        f"Subjects per shard. [default: {DEFAULT_SHARD_SIZE}, or fewer if memory is small]",
        int,
        "N",
    )
    codec: str | None = option(
        None,
        "portable: any Zarr 3 library can read it; compact: a quarter smaller, for zarr-python and "
        f"zarrita. [default: {DEFAULT_CODEC}]",
        choices=tuple(CODECS),
    )
    nside: int | None = option(
        None,
        f"HEALPix resolution of the coordinate healpix, a power of two. [default: {DEFAULT_NSIDE}]",
        int,
        "N",
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot be used, before any work."""
        check_types(self)
        if self.codec is not None and self.codec not in CODECS:
            raise UsageError(f"codec is {self.codec!r}, expected one of {', '.join(CODECS)}")
        nside = self.nside
        if nside is not None and (not 1 <= nside <= MAX_NSIDE or nside & (nside - 1)):
            raise UsageError(f"nside is {nside}, expected a power of two from 1 to 2^29")
        if self.shard_size is not None and self.shard_size < 1:
            raise UsageError(f"shard_size is {self.shard_size}, expected at least 1")
        if self.shard_size is not None and self.shard_size > MAX_SUBJECTS:
            raise UsageError(f"shard_size is {self.shard_size}, expected at most {MAX_SUBJECTS}")

    def adopt(self, record: Mapping[str, Any]) -> LayoutOptions:
        """Fill in what is not given from the record of a store or of an unfinished build."""
        return replace(
            self,
            shard_size=record.get("shard_size") if self.shard_size is None else self.shard_size,
            codec=self.codec or record.get("codec"),
            nside=self.nside or record.get("nside"),
        )


def make_layout(manifest: Manifest, options: LayoutOptions, shard_size: int) -> Layout:
    """Layout of a store of these subjects, in shards of a size that fits the workers."""
    return Layout(
        len(manifest.entries),
        shard_size,
        options.codec or DEFAULT_CODEC,
        options.nside or DEFAULT_NSIDE,
        tuple(sorted({*SAMPLES, *manifest.samples})),
    )


def read_layout(attrs: Mapping[str, Any]) -> Layout:
    """Read the layout of a complete store from the attributes of its root.

    Raises
    ------
    StoreError
        An attribute is missing or wrong.
    """
    wrong = [name for name, is_valid in _LAYOUT_ATTRS.items() if not is_valid(attrs.get(name))]
    if wrong:
        raise StoreError(
            f"the attributes of the store lack its layout ({wrong[0]} is "
            f"{quote(attrs.get(wrong[0]))}): it was modified, or written by another version; build "
            "it again with --overwrite"
        )
    return Layout(
        attrs["subjects"],
        attrs["shard_size"],
        attrs["codec"],
        attrs["nside"],
        tuple(attrs["samples"]),
    )


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_SUBJECTS


_LAYOUT_ATTRS: Mapping[str, Callable[[Any], bool]] = {
    "subjects": _is_count,
    "shard_size": _is_count,
    "codec": lambda value: isinstance(value, str) and value in CODECS,
    "nside": lambda value: _is_count(value) and value <= MAX_NSIDE and not value & (value - 1),
    "samples": lambda value: (
        isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    ),
}
"""Attributes that give a layout, and whether a value can be one."""
