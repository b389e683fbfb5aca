"""Constants and records of one subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.annotations import Annotations

SIDE = 525
"""Pixels along each side of the image and masks."""
CLASSES = ("center", "star", "spiral", "bar")
"""Masks in the order of HDUs 1 to 4."""
CHANNELS = ("red", "green", "blue")
CRPIX = 262.5
"""Reference pixel of the WCS of every file, on both axes (FITS convention: the first is 1)."""
BUNDLE_ARCSEC: Mapping[int, float] = {7: 7.5, 19: 12.5, 37: 17.5, 61: 22.5, 91: 27.5, 127: 32.5}
"""Number of fibers in a MaNGA bundle to the width of its hexagon, corner to corner, in arcsec: 2.5
per fiber, whose light-collecting core has 2.0 (Drory et al. 2015, AJ 149, 77)."""


UNKNOWN_BY_CLASS = (-1,) * len(CLASSES)
"""Numbers by class of a subject whose file was not read."""


@dataclass(frozen=True, slots=True)
class SubjectMetadata:
    """Metadata of a subject, from HDUs 0 and 5 to 7 or from one row of the catalogue.

    Attributes
    ----------
    ra, dec : float
        Position in degrees, ICRS.
    scale : float
        Degrees per pixel; NaN in a row of the catalogue, which lacks it.
    ifu_design_size : int
        Fibers in the MaNGA bundle (7 to 127).
    manga_tile_id, nsa_id : int
        -1 if the source has NaN, -1, -999 or -9999.
    total_classifications, spiral_votes, bar_votes : int
        Galaxy Zoo 2 or 4 volunteers who classified the galaxy, and who saw arms or a bar; -1 as
        above.
    saturated_pixels : int
        Values of the masks that are above 255 in the file, and 255 in `Subject.segmentation`.
    classifications, classifications_drawn : tuple of int
        Volunteers who were asked about each class, and who marked anything.
    max_count, marked_pixels, marked_pixels_above_3 : tuple of int
        Largest count of each mask, and its pixels with counts above 0 and above 3.
    center_clusters, star_clusters : str
        Rows of HDUs 6 and 7, as `encode_clusters` gives them.
    """

    manga_id: str
    iauname: str
    ra: float
    dec: float
    scale: float
    ifu_design_size: int
    manga_tile_id: int
    nsa_id: int
    explorer_link: str
    total_classifications: int
    spiral_votes: int
    bar_votes: int
    sample: str
    number_galaxy_centers: int
    number_foreground_stars: int
    classifications: tuple[int, ...] = UNKNOWN_BY_CLASS
    classifications_drawn: tuple[int, ...] = UNKNOWN_BY_CLASS
    max_count: tuple[int, ...] = UNKNOWN_BY_CLASS
    marked_pixels: tuple[int, ...] = UNKNOWN_BY_CLASS
    marked_pixels_above_3: tuple[int, ...] = UNKNOWN_BY_CLASS
    saturated_pixels: int = 0
    center_clusters: str = ""
    star_clusters: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """One decoded subject file.

    Attributes
    ----------
    metadata : SubjectMetadata
        All scalar values.
    image : ndarray of uint8, shape (525, 525, 3)
        The image (y, x, channel), row 0 at the top.
    segmentation : ndarray of uint8, shape (4, 525, 525)
        Volunteers' counts (class, y, x), classes in the order of `CLASSES`.
    annotations : Annotations
        Clusters of marks, and every volunteer's raw marks.
    """

    metadata: SubjectMetadata
    image: NDArray[np.uint8]
    segmentation: NDArray[np.uint8]
    annotations: Annotations


IMAGE_BYTES = SIDE * SIDE * 3
SEGMENTATION_BYTES = len(CLASSES) * SIDE * SIDE
THRESHOLD = 3
