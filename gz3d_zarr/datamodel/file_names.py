"""``gz3d_MANGAID_IFU_ID.fits.gz`` to ids and back."""

from __future__ import annotations

import re
from dataclasses import dataclass

CATALOGUE_NAME = "gz3d_metadata.fits"
SHA1_SUFFIX = ".sha1sum"
_SUBJECT_FILE = re.compile(r"(?:gz3d_)?([A-Za-z0-9.+-]{1,64})_(\d{1,5})_(\d{1,18})\.fits\.gz")


@dataclass(frozen=True, slots=True)
class SubjectFile:
    """One file with the name of a subject file.

    Attributes
    ----------
    path : str
        Absolute path or full URL.
    size : int or None
        Size in bytes (gzipped), if the listing has it.
    """

    path: str
    size: int | None
    manga_id: str
    ifu_design_size: int
    zooniverse_subject_id: int

    @property
    def name(self) -> str:
        """Base name, such as ``gz3d_1-150000_91_14760000.fits.gz``."""
        return base_name(self.path)


def base_name(path: str) -> str:
    """Last part of a path or URL; for chained URLs (``zip://a::b``), of the file inside."""
    head, _, rest = path.partition("::")
    return (head if "://" in head or not rest else rest).rstrip("/").rpartition("/")[2]


def parse_name(path: str, size: int | None = None) -> SubjectFile | None:
    """Read MaNGA id, bundle size and Zooniverse id from a file name; None if it has none."""
    match = _SUBJECT_FILE.fullmatch(base_name(path))
    if match is None:
        return None
    return SubjectFile(path, size, match[1], int(match[2]), int(match[3]))


def parse_catalogue_name(name: str) -> tuple[str, int, int]:
    """Ids in a file name with or without ``gz3d_`` and ``.gz``; ValueError if it has none."""
    stem = name.strip().removesuffix(".gz").removesuffix(".fits")
    file = parse_name(f"{stem}.fits.gz") if "/" not in stem else None
    if file is None:  # also a path: a name must not lead out of its folder
        raise ValueError("its file_name is not MANGAID_IFUDESIGNSIZE_SUBJECTID.fits")
    return file.manga_id, file.ifu_design_size, file.zooniverse_subject_id
