"""The catalogue as the real archive may have it: 253-byte rows, text, padding, sentinels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from gz3d_zarr import SourceError
from gz3d_zarr.sources.catalogue import read_catalogue, read_file_names

IDS = [("1-100", 127, 1001), ("1-200", 19, 1002), ("1-300", 37, 1003)]
NAMES = [f"{manga_id}_{bundle}_{subject}.fits" for manga_id, bundle, subject in IDS]
COLUMNS: dict[str, tuple[str, list[Any]]] = {
    "file_name": ("26A", NAMES),
    "zooniverse_subject_id": ("J", [1001, 1002, 1003]),
    "number_galaxy_centers": ("I", [1, 2, 1]),
    "number_foreground_stars": ("I", [0, 3, 5]),
    "observed": ("5A", ["True", "False", "true"]),
    "ra": ("E", [0.5, 120.25, 359.75]),
    "dec": ("E", [-1.5, 0.0, 45.0]),
    "MANGAID": ("11A", ["1-100", "1-200", "1-300"]),
    "IAUNAME": ("19A", ["J000200.00-013000.0", "", "J235900.00+450000.0"]),
    "IFUDESIGNSIZE": ("I", [127, 19, 37]),
    "MANGA_TILEID": ("E", [5.0, 6.0, -999.0]),
    "nsa_id": ("J", [77, -2147483648, 79]),
    "explorer_link": ("90A", ["http://x.org/1", "http://x.org/2", "http://x.org/3"]),
    "GZ_total_classifications": ("I", [40, 30, 20]),
    "GZ_bar_votes": ("I", [4, 3, 2]),
    "GZ_spiral_votes": ("I", [8, 6, 4]),
    "sample": ("70A", ["original", "sdss_lost_set,original", ""]),
}


def catalogue(*without: str, **changed: tuple[str, list[Any]]) -> bytes:
    """A catalogue of three rows, its text padded with spaces and its nsa_id with a TNULL."""
    columns = []
    for name, (form, values) in {**COLUMNS, **changed}.items():
        if name in without:
            continue
        array: Any = values
        if form.endswith("A"):
            array = np.array([value.encode("latin-1") for value in values])
        null = -2147483648 if name == "nsa_id" and form == "J" else None
        columns.append(fits.Column(name, form, array=array, null=null))
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(out)
    data = bytearray(out.getvalue())
    with fits.open(io.BytesIO(data)) as hdus:  # astropy pads with zeros
        start, dtype = hdus[1].fileinfo()["datLoc"], hdus[1].data.dtype
    for row in range(len(NAMES)):
        for kind, offset in (dtype.fields[name][:2] for name in dtype.names):
            if kind.kind == "S":
                begin = start + row * dtype.itemsize + offset
                cell = slice(begin, begin + kind.itemsize)
                data[cell] = data[cell].replace(b"\0", b" ")
    return bytes(data)


def test_rows_of_253_bytes_are_read_cell_by_cell() -> None:
    data = catalogue()
    with fits.open(io.BytesIO(data)) as hdus:
        assert hdus[1].header["NAXIS1"] == 253
    assert b"1-100_127_1001.fits       " in data
    found = read_catalogue("c.fits", data)
    assert list(found.rows) == IDS
    rows = list(found.rows.values())
    assert [row.observed for row in rows] == [True, False, True]
    assert [row.metadata.manga_tile_id for row in rows] == [5, 6, -1]
    assert [row.metadata.nsa_id for row in rows] == [77, -1, 79]
    assert [row.metadata.spiral_votes for row in rows] == [8, 6, 4]
    assert [row.metadata.ra for row in rows] == [0.5, 120.25, 359.75]
    assert rows[1].metadata.sample == "sdss_lost_set,original"
    assert rows[1].metadata.iauname == ""
    (note,) = found.notes
    assert note == (
        "no usable value in 2 cells of the catalogue: unknown "
        "(first nsa_id of 1-200_19_1002.fits: None)"
    )


@pytest.mark.parametrize(
    ("form", "values", "expected", "unusable"),
    [
        ("L", [True, False, True], [True, False, True], 0),
        ("B", [1, 0, 1], [True, False, True], 0),
        ("J", [1, 0, 2], [True, False, None], 1),
        ("D", [1.0, np.nan, 0.0], [True, None, False], 1),
        ("7A", ["TRUE", " false", "yes"], [True, False, None], 1),
        ("5A", ["1", "", "\xe9"], [None, None, None], 3),
        ("2I", [[1, 1], [0, 0], [1, 0]], [None, None, None], 3),
    ],
)
def test_observed_is_read_in_every_type(
    form: str, values: list[Any], expected: list[bool | None], unusable: int
) -> None:
    found = read_catalogue("c.fits", catalogue(nsa_id=("J", [1, 2, 3]), observed=(form, values)))
    assert [row.observed for row in found.rows.values()] == expected
    number = f"no usable value in {unusable + 1} cell"  # and the tile of -999
    assert number in found.notes[0]


def test_undefined_logical_is_unknown() -> None:
    data = catalogue(observed=("L", [True, False, True]))
    with fits.open(io.BytesIO(data)) as hdus:
        start, width = hdus[1].fileinfo()["datLoc"], hdus[1].header["NAXIS1"]
    undefined = bytearray(data)
    undefined[start + 2 * width + 26 + 8] = 0
    found = read_catalogue("c.fits", bytes(undefined))
    assert [row.observed for row in found.rows.values()] == [True, False, None]


@pytest.mark.parametrize(
    ("form", "values", "expected"),
    [
        ("K", [2**40, 2, 3], [2**40, 2, 3]),
        ("20A", ["12", "x", " 7 "], [12, -1, 7]),
        ("D", [1.5, np.inf, 3.0], [-1, -1, 3]),
        ("E", [-9999.0, np.nan, 3.0], [-1, -1, 3]),
    ],
)
def test_numbers_of_any_type_cost_only_their_cell(
    form: str, values: list[Any], expected: list[int]
) -> None:
    found = read_catalogue("c.fits", catalogue(nsa_id=(form, values)))
    assert [row.metadata.nsa_id for row in found.rows.values()] == expected
    assert [row.observed for row in found.rows.values()] == [True, False, True]


def test_unsigned_and_scaled_columns_are_read_as_astropy_reads_them() -> None:
    columns = [
        fits.Column("FILE_NAME", "26A", array=np.array(NAMES)),
        fits.Column("RA", "I", array=np.array([2, 4, 6])),
        fits.Column("DEC", "D", array=np.array([1.0, 2.0, 3.0])),
        fits.Column("nsa_id", "J", array=np.array([0, 2**31, 5], np.uint32), bzero=2**31, null=-(2**31)),
    ]  # fmt: skip
    table = fits.BinTableHDU.from_columns(columns)
    table.header["TSCAL2"] = 0.5
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(out)
    found = read_catalogue("c.fits", out.getvalue())
    rows = [row.metadata for row in found.rows.values()]
    assert [row.ra for row in rows] == [1.0, 2.0, 3.0]
    assert [row.nsa_id for row in rows] == [-1, 2**31, 5]
    assert [row.total_classifications for row in rows] == [-1, -1, -1]
    assert "the catalogue has no column observed, MANGAID" in found.notes[0]
    assert "no usable value in 1 cell" in found.notes[1]


def test_rows_without_name_or_position_are_left_out() -> None:
    data = catalogue(
        file_name=("26A", [NAMES[0], "../" + NAMES[1], NAMES[2]]), ra=("E", [np.nan, 1.0, 2.0])
    )
    found = read_catalogue("c.fits", data)
    assert list(found.rows) == IDS[2:]
    assert found.notes[-1] == (
        "left out 2 rows of the catalogue without a usable file_name, ra and dec "
        f"(first row 0, '{NAMES[0]}')"
    )
    assert read_file_names("c.fits", data) == [f"gz3d_{NAMES[0]}.gz", f"gz3d_{NAMES[2]}.gz"]


@pytest.mark.parametrize("column", ["file_name", "ra", "dec"])
def test_needed_columns_must_exist(column: str) -> None:
    with pytest.raises(SourceError, match=f"the catalogue c.fits has no column {column}$"):
        read_catalogue("c.fits", catalogue(column))
