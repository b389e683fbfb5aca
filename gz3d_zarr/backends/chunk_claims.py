"""What a stored chunk may claim to hold, before zarr asks for the memory to decode it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gz3d_zarr.datamodel.arrays import BIG_ARRAYS, MARKS
from gz3d_zarr.datamodel.limits import MAX_ARRAY, MAX_PIXEL_CHUNK, MAX_TEXT_CHUNK
from gz3d_zarr.datamodel.root_claims import is_known_array
from gz3d_zarr.storage.zstd_frames import HEADER_BYTES, content_size, is_frame

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer


def check_claim(key: str, data: Buffer | None) -> Buffer | None:
    """Return what was read of a chunk, unless it is a zstd frame that claims too much.

    Parameters
    ----------
    key : str
        Arrays that a person added to a store are not bounded.
    data : Buffer or None

    Raises
    ------
    ValueError
        It claims more than any chunk of such an array holds.
    """
    name, separator, _ = key.partition("/c/")
    if data is None or not separator or not is_known_array(name):
        return data
    header = data[:HEADER_BYTES].to_bytes()
    most = MAX_PIXEL_CHUNK if name in BIG_ARRAYS else MAX_TEXT_CHUNK if name == MARKS else MAX_ARRAY
    claimed = content_size(header) if is_frame(header) else None
    if claimed is not None and claimed > most:
        raise ValueError(f"{key} claims {claimed} bytes, expected at most {most}")
    return data
