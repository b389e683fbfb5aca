"""Marks and clusters of a Dataset that was opened from subject files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

if TYPE_CHECKING:
    import dask.array as da

FILES_ENCODING = "file_annotations"
"""Key in the encoding of a Dataset: the `FileAnnotations` of its files."""


@dataclass(frozen=True, eq=False)
class FileAnnotations:
    """What volunteers drew, in files that are read when it is needed.

    Attributes
    ----------
    subject_ids : ndarray of int64, shape (subject,)
        Zooniverse id of each file.
    annotations : dask array of object, shape (subject,)
        Its `Annotations`; None where the file cannot be read.
    """

    subject_ids: NDArray[np.int64]
    annotations: da.Array


def find_file_annotations(dataset: xr.Dataset) -> FileAnnotations | None:
    """The annotations of the files that a Dataset was opened from; None if these are not files."""
    found: Any = dataset.encoding.get(FILES_ENCODING)
    return found if isinstance(found, FileAnnotations) else None
