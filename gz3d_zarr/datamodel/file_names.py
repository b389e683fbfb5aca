"""``gz3d_MANGAID_IFU_ID.fits.gz`` to ids and back."""

from __future__ import annotations

import re
from dataclasses import dataclass

CATALOGUE_NAME = "gz3d_metadata.fits"
SHA1_SUFFIX = ".sha1sum"
_SUBJECT_FILE = re.compile(r"(?:gz3d_)?([A-Za-z0-9.+-]+)_(\d{1,5})_(\d{1,18})\.fits\.gz")


@dataclass(frozen=True, slots=True)
class SubjectFile:
    """One file that is named like a subject file.

    Attributes
    ----------
    path : str
        Absolute path or full URL.
    size : int or None
        Bytes as stored (gzipped), where the listing tells.
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
    """Last part of a path or URL; of the file itself where URLs are chained (``zip://a::b``)."""
    head, _, rest = path.partition("::")
    return (head if "://" in head or not rest else rest).rstrip("/").rpartition("/")[2]


def parse_name(path: str, size: int | None = None) -> SubjectFile | None:
    """Read MaNGA id, bundle size and Zooniverse id from a file's name; None if it has none."""
    match = _SUBJECT_FILE.fullmatch(base_name(path))
    if match is None:
        return None
    return SubjectFile(path, size, match[1], int(match[2]), int(match[3]))


def parse_catalogue_name(name: str) -> tuple[str, int, int]:
    """What both spellings of a file name share: with and without ``gz3d_`` and ``.gz``."""
    stem = name.strip().removesuffix(".gz").removesuffix(".fits")
    file = parse_name(f"{stem}.fits.gz") if "/" not in stem else None
    if file is None:  # a path, too: no name may lead out of its folder
        raise ValueError("its file_name is not MANGAID_IFUDESIGNSIZE_SUBJECTID.fits")
    return file.manga_id, file.ifu_design_size, file.zooniverse_subject_id
