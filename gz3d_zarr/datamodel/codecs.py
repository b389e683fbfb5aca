"""How arrays are compressed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_ZSTD_CHECKED: dict[str, Any] = {"name": "zstd", "configuration": {"level": 3, "checksum": True}}


@dataclass(frozen=True, slots=True)
class Codec:
    """Codecs of the image array.

    Attributes
    ----------
    filters, compressors : tuple of dict
        Zarr 3 codecs as JSON.
    picture_ratio : float
        Stored bytes of an image over bytes of its source file, measured on the reference files;
        for estimates only.
    """

    filters: tuple[dict[str, Any], ...]
    compressors: tuple[dict[str, Any], ...]
    picture_ratio: float


CODECS: Mapping[str, Codec] = {
    # Only codecs of the Zarr 3 specification.
    "portable": Codec((), (_ZSTD_CHECKED,), 0.986),
    # Differences along x, channel by channel; numcodecs comes with zarr-python.
    "compact": Codec(
        (
            {"name": "transpose", "configuration": {"order": [0, 1, 3, 2]}},
            {"name": "numcodecs.delta", "configuration": {"dtype": "|u1"}},
        ),
        ({"name": "zstd", "configuration": {"level": 1, "checksum": True}},),
        0.736,
    ),
}
_MASKS = Codec((), ({"name": "zstd", "configuration": {"level": 1, "checksum": True}},), 0.004)
SMALL_COMPRESSORS = (_ZSTD_CHECKED,)


def array_codec(name: str, codec: str) -> Codec:
    """Codec of one of the arrays in shards: `codec` for the image, fixed ones for the others."""
    if name == "image":
        return CODECS[codec]
    return _MASKS if name == "segmentation" else CODECS["portable"]
