"""Bounds of what is read: a few times what the whole survey of 29,813 subjects needs."""

from __future__ import annotations

import zlib

MAX_SUBJECTS = 2**18
"""Subjects of a source or a store."""
MAX_ROWS = 2**20
"""Rows of any other array, such as the clusters (the survey: about 300,000)."""
MAX_ROW_VALUES = 4 * 525 * 525
"""Values of one row: all masks of a subject."""
MAX_ARRAY = 32 * 2**20
"""Bytes of the values, or of a chunk, of any array without pixels or marks (the survey: 2.4 MB)."""
MAX_SMALL_ARRAYS = 2**28
"""Bytes of the values of all such arrays."""
MAX_PIXEL_CHUNK = 2**30
"""Bytes of the pixels in a chunk of an array that another program may have cut."""
MAX_TEXT_CHUNK = 2**28
"""Bytes of the marks of all subjects of a shard, unpacked."""
MAX_LIST = 32 * 2**20
"""Bytes of a catalogue (the survey: 7.6 MB), a sha1 list, an index page, a list of files or ids."""
MAX_TABLE = 256 * 2**20
"""Bytes of a table of ids, such as DRPall, unpacked."""
MAX_DOCUMENT = 8 * 2**20
"""Bytes of a ``zarr.json`` or of a document of a build (the root: about 0.1 MB)."""
MAX_RECEIPTS = 128 * 2**20
"""Bytes of receipts as stored, and of the list of files of a build."""
MAX_SUBJECT_RECEIPT = 64 * 2**10
"""Bytes of the receipt of one subject, unpacked (on average about 2 KB)."""
MAX_SHARD_SUBJECT = 32 * 2**20
"""Bytes of a shard of one array per subject, where the receipt does not say: as a whole file."""
MAX_ALL_RECEIPTS = 2**29
"""Bytes of all receipts, unpacked."""
MAX_RECEIPTS_RATIO = 200
"""Bytes of receipts, unpacked, for each as stored (on average about 4, at most about 40)."""
MAX_PACK_DIRECTORY = 2**20
"""Bytes of the list of members of a pack (the survey: about 10 kB)."""


def object_limit(key: str) -> int | None:
    """Bytes of the object with this key in a store that are read at most; None for chunks."""
    if "/c/" in key:
        return None
    is_list = "receipts/" in key or key.endswith("files.txt")
    return MAX_RECEIPTS if is_list else MAX_DOCUMENT


def gunzip(data: bytes, limit: int) -> bytes:
    """Unpack one gzip member; ValueError if it is damaged or has more than `limit` bytes."""
    member = zlib.decompressobj(wbits=31)
    try:
        unpacked = member.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(f"gzip is damaged ({error})") from None
    if len(unpacked) > limit:
        raise ValueError(f"it unpacks to more than {limit} bytes")
    if not member.eof:
        raise ValueError("gzip is cut short")
    return unpacked
