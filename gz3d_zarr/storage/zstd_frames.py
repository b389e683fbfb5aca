"""Decode a zstd frame into memory of a known size; its header is not trusted with the size.

The header of a frame (RFC 8878, section 3.1.1) may say how long its content is. A decoder that
believes it asks for that much memory, or leaves the rest of the memory that it was given as it was.
"""

from __future__ import annotations

from typing import Any

from numcodecs import Zstd
from numpy.typing import NDArray

HEADER_BYTES = 18
"""Of the longest header of a frame."""
_MAGIC = b"\x28\xb5\x2f\xfd"
_SIZE_BYTES = (0, 2, 4, 8)
"""Bytes of the size of the content, by the first two bits of the descriptor."""
_DICTIONARY_BYTES = (0, 1, 2, 4)


def is_frame(data: bytes | memoryview) -> bool:
    """Whether these bytes begin a zstd frame."""
    return bytes(data[:4]) == _MAGIC


def content_size(frame: bytes | memoryview) -> int | None:
    """Bytes of content that the header of a frame claims; None if it does not say.

    Raises
    ------
    ValueError
        It is not a zstd frame, or is cut short.
    """
    header = bytes(frame[:HEADER_BYTES])
    if header[:4] != _MAGIC or len(header) < 6:
        raise ValueError("it is not a zstd frame")
    descriptor = header[4]
    is_single = bool(descriptor & 0x20)  # then it has no window descriptor, and always a size
    length = _SIZE_BYTES[descriptor >> 6] or int(is_single)
    start = 5 + (not is_single) + _DICTIONARY_BYTES[descriptor & 3]
    field = header[start : start + length]
    if len(field) < length:
        raise ValueError("the header of its zstd frame is cut short")
    if not length:
        return None
    return int.from_bytes(field, "little") + (256 if length == 2 else 0)


def check_size(frame: bytes | memoryview, expected: int) -> None:
    """Raise ValueError if the header of a frame claims other than `expected` bytes."""
    claimed = content_size(frame)
    if claimed not in (None, expected):
        raise ValueError(f"its zstd frame claims {claimed} bytes, expected {expected}")


def decode_into(frame: bytes | memoryview, values: NDArray[Any]) -> None:
    """Decode a frame whose content fills an array, and check its checksum.

    Raises
    ------
    RuntimeError, ValueError
        It is damaged, or its content has another size.
    """
    check_size(frame, values.nbytes)
    Zstd().decode(frame, values)  # where the frame does not say, it compares the sizes itself


def refuse_large(frame: bytes | memoryview, limit: int) -> None:
    """Raise ValueError if a frame claims more content than `limit` bytes, or does not say."""
    claimed = content_size(frame)
    if claimed is None or claimed > limit:
        raise ValueError(f"its zstd frame claims {claimed or 'unknown'} bytes, at most {limit} fit")
