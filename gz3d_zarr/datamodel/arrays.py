"""Arrays that hold pixels and marks, and the groups of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.annotations import marks_to_json
from gz3d_zarr.datamodel.subject import (
    CLASSES,
    SIDE,
    Subject,
)
from gz3d_zarr.datamodel.wcs import WCS_ATTRS

MASK_CHUNK = 8
"""Masks are 1 to 3 KB per subject: several in a chunk make fewer requests and fewer dask tasks."""
THUMBNAIL_SIDE = 75


@dataclass(frozen=True, slots=True)
class BigArray:
    """An array whose shards are written by the tasks of the build.

    Attributes
    ----------
    dims : tuple of str
    shape : tuple of int
        Of one subject.
    attrs : mapping
    max_chunk : int
        Most subjects in an inner chunk; a text array has none, its chunks are whole shards.
    is_text : bool
        Whether it holds a text per subject rather than uint8.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    attrs: Mapping[str, Any]
    max_chunk: int = 1
    is_text: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """In memory: uint8, or NumPy's variable-width string type."""
        return np.dtypes.StringDType() if self.is_text else np.dtype("uint8")

    def chunk_size(self, shard_size: int) -> int:
        """Subjects per inner chunk: the largest divisor of the shard size that is allowed."""
        if self.is_text:
            return shard_size
        return next(n for n in range(min(self.max_chunk, shard_size), 0, -1) if not shard_size % n)


BIG_ARRAYS: Mapping[str, BigArray] = {
    "image": BigArray(
        ("subject", "y", "x", "channel"),
        (SIDE, SIDE, 3),
        {
            "long_name": "gri image that the volunteers saw, with the outline of the bundle",
            "comment": "row 0 is at the top: north is up, east is left",
            **WCS_ATTRS,
        },
    ),
    "segmentation": BigArray(
        ("subject", "class", "y", "x"),
        (len(CLASSES), SIDE, SIDE),
        {
            "long_name": "how many volunteers marked each pixel",
            "comment": "center and star: marks in the cluster, as 2-sigma ellipses; spiral and "
            "bar: polygons that enclose the pixel. Counts above 15 occur",
            "units": "1",
            **WCS_ATTRS,
        },
        max_chunk=MASK_CHUNK,
    ),
}
"""Arrays of the root group with pixels."""
CATALOGUE_GROUP, CLUSTERS_GROUP = "catalogue", "clusters"
THUMBNAIL, MARKS = "thumbnail/image", "marks/annotations"
GROUPS = (CATALOGUE_GROUP, CLUSTERS_GROUP, "marks", "thumbnail")
SHARD_ARRAYS: Mapping[str, BigArray] = {
    **BIG_ARRAYS,
    THUMBNAIL: BigArray(
        ("subject", "y_thumbnail", "x_thumbnail", "channel"),
        (THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3),
        {
            "long_name": "image reduced to 75 x 75 pixels",
            "comment": "each pixel is the mean of a block of 7 x 7 pixels, rounded; row 0 is at "
            "the top",
        },
    ),
    MARKS: BigArray(
        ("subject",),
        (),
        {
            "long_name": "raw marks of every volunteer, HDUs 8 to 10 of the subject file",
            "comment": "JSON: for center_star, spiral and bar the columns of the HDU, one value "
            "per volunteer who was asked; columns of marks hold the JSON text of the file. "
            "Points are x, y in pixels of the image. Empty where the status is not ok",
        },
        is_text=True,
    ),
}
"""All arrays that the task of a shard writes, one object per shard each."""


def subject_arrays(subject: Subject) -> dict[str, Any]:
    """Value of each of `SHARD_ARRAYS` for one subject."""
    return {
        "image": subject.image,
        "segmentation": subject.segmentation,
        THUMBNAIL: make_thumbnail(subject.image),
        MARKS: marks_to_json(subject.annotations.tables),
    }


def make_thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of blocks of 7 x 7 pixels, rounded half up.

    Parameters
    ----------
    image : ndarray of uint8, shape (525, 525, 3)

    Returns
    -------
    ndarray of uint8, shape (75, 75, 3)
    """
    block = SIDE // THUMBNAIL_SIDE
    # Slices are added one by one: numpy's sums over short axes take twice the time.
    lines = image.reshape(THUMBNAIL_SIDE, block, SIDE * 3)
    rows = lines[:, 0].astype(np.uint16)
    for i in range(1, block):
        rows += lines[:, i]
    columns = rows.reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE, block, 3)
    sums = columns[:, :, 0].copy()
    for i in range(1, block):
        sums += columns[:, :, i]
    # At most 2 * 49 * 255 + 49, which uint16 holds.
    means: NDArray[np.uint8] = ((sums * 2 + block**2) // (2 * block**2)).astype(np.uint8)
    return means
