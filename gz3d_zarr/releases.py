"""Named sources: the releases of the catalogue, and what stands where in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Release:
    """One release of the Galaxy Zoo: 3D catalogue.

    Attributes
    ----------
    release : str
        Data release of SDSS.
    version : str
        Version of the value-added catalogue in it.
    url : str
        Folder of the subject files.
    catalogue, sha1_list : str
        Names of the two files that stand in it.
    """

    release: str
    version: str
    url: str
    catalogue: str
    sha1_list: str


RELEASES: Mapping[str, Release] = {
    "dr17": Release(
        release="SDSS DR17",
        version="v4_0_0",
        url="https://data.sdss.org/sas/dr17/env/MANGA_MORPHOLOGY/galaxyzoo3d/v4_0_0/",
        catalogue="gz3d_metadata.fits",
        sha1_list="manga_morphology_galaxyzoo3d_v4_0_0.sha1sum",
    ),
}
