"""Decode one ``.fits.gz`` to a typed record. Pure: no I/O; every value is checked.

The layout is that of the SDSS DR17 value-added catalogue MANGA_MORPHOLOGY/galaxyzoo3d
(Masters et al. 2021, MNRAS 507, 3923): eleven HDUs, of which 0 is the image, 1 to 4 are the
masks, 5 is one row of metadata, 6 and 7 are the clusters, 8 to 10 the volunteers' raw marks.
"""

from __future__ import annotations

import math
import struct
import zlib

import deflate
import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.annotations import Annotations, encode_clusters, read_annotations
from gz3d_zarr.datamodel.fits_header import HDU, scan
from gz3d_zarr.datamodel.fits_table import FitsTable
from gz3d_zarr.datamodel.subject import CLASSES, SIDE, THRESHOLD, Subject, SubjectMetadata
from gz3d_zarr.datamodel.wcs import read_scale
from gz3d_zarr.errors import Status, SubjectError, UsageError

HDU_COUNT = 11
MAX_UNPACKED = 128 * 2**20
"""Largest unpacked file that is accepted, in bytes; real ones have 9.7 to 9.9 MB, and more where
volunteers drew many marks."""
MAX_MEMBERS = 16
"""Members that a gzip file may have; real ones have one."""
UNKNOWN_VALUES = (-1, -999, -9999)
"""Numbers, besides NaN, that stand for an unknown tile, NSA id or number of votes."""
MAX_COUNT = 255
"""Largest count that is stored; one volunteer who clicks hundreds of times can exceed it."""
_DTYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"


def decode(data: bytes) -> Subject:
    """Decode one subject file.

    Parameters
    ----------
    data : bytes
        The whole ``.fits.gz``.

    Returns
    -------
    Subject

    Raises
    ------
    SubjectError
        Status corrupt: the bytes are damaged (gzip, CRC, not FITS, truncated). Status invalid:
        valid FITS with a wrong HDU, shape, column or value.
    UsageError
        What is given is not bytes, such as a path.
    """
    if not isinstance(data, bytes | bytearray):
        raise UsageError(
            f"data is {type(data).__name__}, expected the bytes of a subject file, such as "
            "pathlib.Path(path).read_bytes()"
        )
    return decode_fits(unpack(data))


def decode_fits(raw: bytes | bytearray) -> Subject:
    """Decode an unpacked subject file, as `decode` documents; the image is a view of `raw`."""
    hdus = scan(raw, HDU_COUNT)
    if len(hdus) < HDU_COUNT:
        raise SubjectError(Status.INVALID, f"it has {len(hdus)} HDUs, expected {HDU_COUNT}")
    image = _pixels(raw, hdus[0], "uint8", (SIDE, SIDE, 3))
    if hdus[0].integer("BITPIX") != 8:
        raise SubjectError(Status.INVALID, "the image in HDU 0 is not uint8 (BITPIX 8)")
    segmentation = np.empty((len(CLASSES), SIDE, SIDE), np.uint8)
    saturated = 0
    for hdu, name, out in zip(hdus[1:5], CLASSES, segmentation, strict=True):
        counts = _pixels(raw, hdu, "counts", (SIDE, SIDE))
        saturated += _copy_counts(counts, f"{name} mask in HDU {hdu.index}", out)
    annotations = read_annotations({i: FitsTable(raw, hdus[i]) for i in range(6, HDU_COUNT)})
    metadata = _metadata(raw, hdus, segmentation, annotations, saturated)
    return Subject(metadata, image.view(np.uint8), segmentation, annotations)


def unpack(data: bytes, limit: int = MAX_UNPACKED) -> bytes | bytearray:
    """Gunzip, never to more than `limit` bytes; the CRC is checked.

    libdeflate unpacks files whose gzip trailer has the right size. Files that it does not accept
    (several members, padding, damage) go through zlib, which also reports what is wrong.

    Raises
    ------
    SubjectError
        Corrupt: not gzip, truncated, damaged, or larger than `limit` when unpacked.
    """
    if data[:2] != _GZIP_MAGIC:
        what = "it is empty" if not data else f"it begins with {data[:16]!r}"
        hint = " (a web page?)" if data[:64].lstrip().startswith(b"<") else ""
        raise SubjectError(Status.CORRUPT, f"not a gzip file: {what}{hint}")
    crc, size = struct.unpack("<II", data[-8:]) if len(data) >= 18 else (0, 0)
    if 0 < size <= limit:
        try:
            raw = deflate.gzip_decompress(data)
        except (deflate.DeflateError, ValueError):
            pass
        else:
            if len(raw) == size and deflate.crc32(raw) == crc:  # nothing follows the first member
                return raw
    return _unpack_slowly(data, limit)


def _unpack_slowly(data: bytes, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    rest = data
    while rest.strip(b"\0"):  # zero padding may follow the last member
        if len(parts) == MAX_MEMBERS:
            raise SubjectError(Status.CORRUPT, f"gzip has more than {MAX_MEMBERS} members")
        member = zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(rest, limit - size + 1)
        except zlib.error as error:
            raise SubjectError(Status.CORRUPT, f"gzip is damaged ({error})") from None
        size += len(part)
        if size > limit:
            raise SubjectError(
                Status.CORRUPT,
                f"it unpacks to more than {limit // 2**20} MiB; real files have about 10 MB",
            )
        if not member.eof:
            raise SubjectError(
                Status.CORRUPT, f"gzip is cut short: {len(data)} bytes end inside a member"
            )
        parts.append(part)
        rest = member.unused_data
    return b"".join(parts)


def _pixels(
    raw: bytes | bytearray, hdu: HDU, kind: str, shape: tuple[int, ...]
) -> NDArray[np.generic]:
    """View of the data of an image HDU, after a check of its shape; scaling is refused."""
    if hdu.is_table or hdu.shape != shape:
        found = "a table" if hdu.is_table else f"shape {hdu.shape}"
        raise SubjectError(
            Status.INVALID, f"HDU {hdu.index} is {found}, expected {kind} of shape {shape}"
        )
    if hdu.real("BSCALE", 1.0) != 1.0 or hdu.real("BZERO", 0.0) != 0.0:
        raise SubjectError(Status.INVALID, f"HDU {hdu.index} is scaled (BSCALE, BZERO)")
    dtype = np.dtype(_DTYPES[hdu.integer("BITPIX")])
    return np.frombuffer(raw, dtype, math.prod(shape), hdu.start).reshape(shape)


def _copy_counts(values: NDArray[np.generic], where: str, out: NDArray[np.uint8]) -> int:
    """Copy counts to `out`, those above `MAX_COUNT` as `MAX_COUNT`; return how many those are.

    SubjectError (invalid) if a value is negative, fractional or not finite.
    """
    out[...] = 0
    rows = np.flatnonzero(_nonzero_rows(values))
    if rows.size == 0:
        return 0
    top, bottom = rows[0], rows[-1] + 1
    part, target = values[top:bottom], out[top:bottom]
    with np.errstate(invalid="ignore"):  # lossy casts are found below
        np.copyto(target, part, casting="unsafe")
    wrong = target != part
    if not wrong.any():
        return 0
    above = np.isfinite(part) & np.greater(part, MAX_COUNT) & (part == np.trunc(part))
    target[above] = MAX_COUNT
    wrong &= ~above
    if wrong.any():
        y, x = (int(i) for i in np.argwhere(wrong)[0])
        raise SubjectError(
            Status.INVALID,
            f"{where} has {float(part[y, x])!r} at x={x}, y={y + top} and "
            f"{int(wrong.sum())} such values; expected whole numbers, 0 or more",
        )
    return int(np.count_nonzero(above))


def _nonzero_rows(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Rows of a mask with any bit set; most have none, so casting only these is faster."""
    bits = values.view(f"u{values.dtype.itemsize}")
    rows: NDArray[np.bool_] = np.bitwise_or.reduce(bits, axis=1) != 0
    return rows


def _metadata(
    raw: bytes | bytearray,
    hdus: tuple[HDU, ...],
    segmentation: NDArray[np.uint8],
    annotations: Annotations,
    saturated: int,
) -> SubjectMetadata:
    row = FitsTable(raw, hdus[5])
    if row.rows != 1:
        raise SubjectError(Status.INVALID, f"HDU 5 has {row.rows} rows, expected one")
    ra, dec = row.number("ra"), row.number("dec")
    if not (0 <= ra <= 360 and -90 <= dec <= 90):
        raise SubjectError(
            Status.INVALID,
            f"HDU 5 has the position ra={ra!r}, dec={dec!r}, which is not on the sky",
        )
    return SubjectMetadata(
        manga_id=row.text("MANGAID"),
        iauname=row.text("IAUNAME"),
        ra=ra,
        dec=dec,
        scale=read_scale(hdus[:5], ra, dec),
        ifu_design_size=row.whole("IFUDESIGNSIZE", 16),
        manga_tile_id=row.whole("MANGA_TILEID", unknown=UNKNOWN_VALUES),
        nsa_id=row.whole("nsa_id", 64, unknown=UNKNOWN_VALUES),
        explorer_link=row.text("explorer_link"),
        total_classifications=row.whole("GZ_total_classifications", unknown=UNKNOWN_VALUES),
        spiral_votes=row.whole("GZ_spiral_votes", unknown=UNKNOWN_VALUES),
        bar_votes=row.whole("GZ_bar_votes", unknown=UNKNOWN_VALUES),
        sample=row.text("sample"),
        number_galaxy_centers=len(annotations.clusters["center"]),
        number_foreground_stars=len(annotations.clusters["star"]),
        classifications=annotations.asked,
        classifications_drawn=annotations.drawn,
        max_count=tuple(int(mask.max()) for mask in segmentation),
        saturated_pixels=saturated,
        marked_pixels=_marked_pixels(segmentation, 0),
        marked_pixels_above_3=_marked_pixels(segmentation, THRESHOLD),
        center_clusters=encode_clusters(annotations.clusters["center"]),
        star_clusters=encode_clusters(annotations.clusters["star"]),
    )


def _marked_pixels(segmentation: NDArray[np.uint8], threshold: int) -> tuple[int, ...]:
    """Pixels of each class whose count exceeds the threshold."""
    return tuple(int(np.count_nonzero(mask > threshold)) for mask in segmentation)
