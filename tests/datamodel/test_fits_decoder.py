"""Decoding: equal to astropy on good files; one clear SubjectError on every bad one."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from files import (
    edited,
    subject_files,
    truth,
    truth_of_clusters,
    truth_of_marks,
    with_card,
    with_cell,
    with_image,
    with_mask_value,
    without_column,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gz3d_zarr import Status, SubjectError, UsageError
from gz3d_zarr.datamodel import annotations
from gz3d_zarr.datamodel.annotations import CLASS_MARKS, decode_clusters
from gz3d_zarr.datamodel.fits_decoder import decode, unpack
from gz3d_zarr.datamodel.subject import SIDE
from gz3d_zarr.datamodel.variables import VARIABLES


@pytest.fixture(scope="session")
def data(simulated: Path) -> bytes:
    """The bytes of one good file, with arms and a bar."""
    return subject_files(simulated)[0].read_bytes()


def test_files_decode_to_what_astropy_reads(simulated: Path) -> None:
    for path in subject_files(simulated):
        expected = truth(path)
        subject = decode(path.read_bytes())
        assert subject.image.dtype == subject.segmentation.dtype == np.uint8
        np.testing.assert_array_equal(subject.image, expected.pop("image"))
        np.testing.assert_array_equal(subject.segmentation, expected.pop("segmentation"))
        metadata = asdict(subject.metadata)
        for cls, clusters in truth_of_clusters(path).items():
            np.testing.assert_array_equal(subject.annotations.clusters[cls], clusters)
            np.testing.assert_array_equal(
                decode_clusters(metadata.pop(f"{cls}_clusters")), clusters
            )
        assert metadata == expected
        for (question, column), marks in zip(
            CLASS_MARKS.values(), truth_of_marks(path).values(), strict=True
        ):
            table = subject.annotations.tables[question]
            found = zip(table.classification_id, table.time_stamp, table.marks[column], strict=True)
            assert list(found) == marks


BAD = {
    "empty": (lambda d: b"", Status.CORRUPT, "empty"),
    "html": (lambda d: b"<!DOCTYPE html><p>404</p>", Status.CORRUPT, "web page"),
    "truncated": (lambda d: d[:-1000], Status.CORRUPT, "cut short"),
    "only magic": (lambda d: d[:2], Status.CORRUPT, "cut short"),
    "flipped byte": (
        lambda d: d[:9000] + bytes([d[9000] ^ 16]) + d[9001:],
        Status.CORRUPT,
        "damaged",
    ),
    "wrong crc": (lambda d: d[:-8] + b"abcd" + d[-4:], Status.CORRUPT, "damaged"),
    "garbage behind": (lambda d: d + b"garbage", Status.CORRUPT, "damaged"),
    "gzip of text": (lambda d: gzip.compress(b"hello" * 999), Status.CORRUPT, "not FITS"),
    "gzip of nothing": (lambda d: gzip.compress(b""), Status.CORRUPT, "not FITS"),
    "half a FITS": (
        lambda d: gzip.compress(gzip.decompress(d)[:2_000_000], 1),
        Status.CORRUPT,
        "ends inside HDU 1",
    ),
    "NaN count": (lambda d: with_mask_value(d, 3, np.nan), Status.INVALID, "nan at x=200, y=100"),
    "infinite count": (lambda d: with_mask_value(d, 3, np.inf), Status.INVALID, "HDU 3 has inf"),
    "negative count": (lambda d: with_mask_value(d, 1, -1), Status.INVALID, "center mask .* -1.0"),
    "fractional count": (lambda d: with_mask_value(d, 4, 0.5), Status.INVALID, "bar mask .* 0.5"),
    "300.5 counts": (lambda d: with_mask_value(d, 2, 300.5), Status.INVALID, "star mask .* 300.5"),
    "minus infinity": (lambda d: with_mask_value(d, 2, -np.inf), Status.INVALID, "mask .* -inf"),
    "missing HDUs": (
        lambda d: edited(d, lambda hdus: hdus.__delitem__(slice(6, None))),
        Status.INVALID,
        "6 HDUs, expected 11",
    ),
    "mask shape": (
        lambda d: with_image(d, 2, np.zeros((500, SIDE))),
        Status.INVALID,
        r"HDU 2 is shape \(500, 525\)",
    ),
    "picture shape": (
        lambda d: with_image(d, 0, np.zeros((SIDE, SIDE), np.uint8)),
        Status.INVALID,
        r"HDU 0 is shape \(525, 525\)",
    ),
    "picture type": (
        lambda d: with_image(d, 0, np.zeros((SIDE, SIDE, 3), np.int16)),
        Status.INVALID,
        "not uint8",
    ),
    "scaled mask": (lambda d: with_card(d, 2, "BZERO", 32768.0), Status.INVALID, "scaled"),
    "no MANGAID": (lambda d: without_column(d, "MANGAID"), Status.INVALID, "no column MANGAID"),
    "ra NaN": (lambda d: with_cell(d, "ra", np.nan), Status.INVALID, "ra in HDU 5 is nan"),
    "ra beyond": (lambda d: with_cell(d, "ra", 400), Status.INVALID, "not on the sky"),
    "ra moved": (lambda d: with_cell(d, "ra", 12), Status.INVALID, "CRVAL in HDU 0"),
    "negative votes": (
        lambda d: with_cell(d, "GZ_bar_votes", -2),
        Status.INVALID,
        "GZ_bar_votes in HDU 5 is -2",
    ),
    "unknown bundle size": (
        lambda d: with_cell(d, "IFUDESIGNSIZE", -999),
        Status.INVALID,
        "IFUDESIGNSIZE in HDU 5 is -999",
    ),
    "bundle size": (
        lambda d: with_cell(d, "IFUDESIGNSIZE", 19.5),
        Status.INVALID,
        "IFUDESIGNSIZE in HDU 5 is 19.5",
    ),
    "rotated": (lambda d: with_card(d, 1, "PC1_2", 1e-6), Status.INVALID, "WCS of HDU 1"),
    "projection": (lambda d: with_card(d, 4, "CTYPE1", "RA---SIN"), Status.INVALID, "WCS of HDU 4"),
    "scaled column": (
        lambda d: with_card(d, 5, "TZERO11", 100.0),
        Status.INVALID,
        "GZ_spiral_votes in HDU 5",
    ),
    "other frame": (lambda d: with_card(d, 2, "RADESYS", "FK5"), Status.INVALID, "RADESYS.*FK5"),
    "turned": (lambda d: with_card(d, 0, "CROTA2", 30.0), Status.INVALID, "CROTA2"),
    "many members": (
        lambda d: gzip.compress(b"") * 20 + d,
        Status.CORRUPT,
        "more than 16 members",
    ),
    "bomb": (lambda d: gzip.compress(bytes(129 * 2**20), 1), Status.CORRUPT, "more than 128 MiB"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_file_gives_its_status_and_reason(data: bytes, kind: str) -> None:
    damage, status, reason = BAD[kind]
    with pytest.raises(SubjectError, match=reason) as caught:
        decode(damage(data))
    assert caught.value.status is status


def test_subject_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(SubjectError(Status.INVALID, "why")))
    assert (error.status, error.reason, str(error)) == (Status.INVALID, "why", "invalid: why")


@pytest.mark.parametrize(
    ("column", "field", "value"),
    [
        ("MANGA_TILEID", "manga_tile_id", np.nan),
        ("MANGA_TILEID", "manga_tile_id", -999),
        ("nsa_id", "nsa_id", -9999),
        ("GZ_total_classifications", "total_classifications", -1),
        ("GZ_spiral_votes", "spiral_votes", -999),
        ("GZ_bar_votes", "bar_votes", -9999),
    ],
)
def test_sentinels_become_minus_one(data: bytes, column: str, field: str, value: float) -> None:
    metadata = decode(with_cell(data, column, value)).metadata
    assert metadata == replace(decode(data).metadata, **{field: -1})


def test_a_path_is_not_taken_for_the_bytes_of_a_file() -> None:
    for wrong in ("gz3d.fits.gz", Path("gz3d.fits.gz")):
        with pytest.raises(UsageError, match=r"data is \w+, expected the bytes .*read_bytes"):
            decode(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [256, 300, 65_535])
def test_counts_above_255_are_stored_as_255_and_counted(data: bytes, value: float) -> None:
    assert decode(data).metadata.saturated_pixels == 0
    subject = decode(with_mask_value(data, 2, value))
    assert subject.segmentation[1, 100, 200] == 255
    assert subject.metadata.saturated_pixels == 1
    assert subject.metadata.max_count[1] == 255


def test_one_bad_count_among_saturated_ones_is_invalid(data: bytes) -> None:
    def edit(hdus: fits.HDUList) -> None:
        hdus[1].data[0, :3] = 300, -1, 400

    with pytest.raises(SubjectError, match="center mask .* -1.0 at x=1, y=0 and 1 such values"):
        decode(edited(data, edit))


def test_largest_count_is_exact_and_negative_zero_is_zero(data: bytes) -> None:
    assert decode(with_mask_value(data, 3, 255)).segmentation[2, 100, 200] == 255
    assert decode(with_mask_value(data, 3, -0.0)).segmentation[2, 100, 200] == 0


def test_more_and_reordered_columns_are_read_by_name(data: bytes) -> None:
    def edit(hdus: fits.HDUList) -> None:
        names = hdus[5].columns.names
        columns = [hdus[5].columns[name] for name in reversed(names)]
        extra = fits.Column("user_name", "12A", array=np.array(["somebody"]))
        bits = fits.Column("flags", "11X", array=np.ones((1, 11), bool))
        hdus[5] = fits.BinTableHDU.from_columns([extra, bits, *columns])

    assert decode(edited(data, edit)).metadata == decode(data).metadata


@pytest.mark.parametrize("level", [1, 9])
def test_members_and_padding_unpack_whole(data: bytes, level: int) -> None:
    raw = gzip.decompress(data)
    half = len(raw) // 2
    split = gzip.compress(raw[:half], level) + gzip.compress(raw[half:], level)
    assert bytes(unpack(split)) == raw
    assert bytes(unpack(data + bytes(512))) == raw


@pytest.mark.parametrize("trailer", [None, 1000])
def test_bomb_is_refused_in_bounded_memory(trailer: int | None) -> None:
    bomb = gzip.compress(bytes(50 * 2**20), 1)
    if trailer is not None:  # a trailer that lies
        bomb = bomb[:-4] + struct.pack("<I", trailer)
    tracemalloc.start()
    try:
        with pytest.raises(SubjectError, match="more than 1 MiB"):
            unpack(bomb, limit=2**20)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def decodes_or_is_refused(data: bytes) -> None:
    try:
        subject = decode(data)
    except SubjectError as error:
        assert error.status in (Status.CORRUPT, Status.INVALID)
        assert error.reason
    else:
        assert subject.image.shape == (SIDE, SIDE, 3)


@given(st.binary(max_size=4000))
@settings(max_examples=150)
def test_any_bytes_are_refused_in_one_way(noise: bytes) -> None:
    decodes_or_is_refused(noise)
    decodes_or_is_refused(gzip.compress(noise, 1))
    decodes_or_is_refused(gzip.compress(b"SIMPLE  = T".ljust(80) + noise, 1))


@given(
    hdu=st.integers(0, 10),
    edits=st.lists(st.tuples(st.integers(0, 2879), st.binary(min_size=1, max_size=30)), max_size=4),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_to_a_header_is_refused_in_one_way(
    data: bytes, hdu: int, edits: list[tuple[int, bytes]]
) -> None:
    raw = bytearray(gzip.decompress(data))
    with fits.open(io.BytesIO(raw)) as hdus:
        begin = hdus[hdu]._header_offset
    for offset, noise in edits:
        raw[begin + offset : begin + offset + len(noise)] = noise
    decodes_or_is_refused(gzip.compress(bytes(raw), 1))


def test_more_volunteers_than_can_be_stored_are_invalid(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their number would not fit int16, when all shards are written."""
    assert np.iinfo(VARIABLES["classifications"].dtype).max == annotations.MAX_VOLUNTEERS
    monkeypatch.setattr(annotations, "MAX_VOLUNTEERS", 3)
    with pytest.raises(SubjectError, match=r"HDU 8 has \d+ rows, expected at most 3") as caught:
        decode(data)
    assert caught.value.status is Status.INVALID
