"""Positions and ids: one function each for the whole package."""

from __future__ import annotations

import numpy as np
import pytest
from astropy_healpix import healpy

from gz3d_zarr import UsageError
from gz3d_zarr.datamodel.healpix import healpix_pixels
from gz3d_zarr.datamodel.ids import find_rows, parse_id
from gz3d_zarr.datamodel.wcs import WCS_ATTRS, image_wcs


def test_unknown_positions_have_no_pixel() -> None:
    ra, dec = [12.5, np.nan, 200.0, 0.0], [-3.0, 4.0, np.nan, 90.0]
    pixels = healpix_pixels(ra, dec, 64)
    assert pixels.dtype == np.int64
    assert pixels[1] == pixels[2] == -1
    known = healpy.ang2pix(64, [12.5, 0.0], [-3.0, 90.0], nest=True, lonlat=True)
    assert pixels[[0, 3]].tolist() == known.tolist()
    assert healpix_pixels([], [], 16).shape == (0,)


def test_wcs_is_what_the_attributes_say() -> None:
    header = image_wcs(150.25, 2.5, 2.75e-5).to_header()
    assert [header["CTYPE1"], header["CTYPE2"]] == WCS_ATTRS["wcs_ctype"]
    assert [header["CRPIX1"], header["CRPIX2"]] == WCS_ATTRS["wcs_crpix"]
    assert [header["CDELT1"], header["CDELT2"]] == WCS_ATTRS["wcs_cdelt"]
    assert [header["CUNIT1"], header["CUNIT2"]] == WCS_ATTRS["wcs_cunit"]
    assert header["RADESYS"] == WCS_ATTRS["wcs_radesys"]
    assert header["PC1_1"] == header["PC2_2"] == -2.75e-5
    assert (header["CRVAL1"], header["CRVAL2"]) == (150.25, 2.5)


MANGA_IDS, SUBJECT_IDS = ["1-100", "1-101", "1-100", "12-3"], [7, 100, 101, 5]


@pytest.mark.parametrize(
    ("ids", "rows"),
    [
        (["1-100"], [0, 2]),
        ([101, "12-3", "1-100"], [2, 3, 0]),
        ([" 5 ", "1-101"], [3, 1]),
    ],
)
def test_ids_give_rows_in_their_order(ids: list[str | int], rows: list[int]) -> None:
    parsed = [parse_id(i) for i in ids]
    assert find_rows(parsed, MANGA_IDS, SUBJECT_IDS) == rows
    assert find_rows(parsed, np.array(MANGA_IDS), np.array(SUBJECT_IDS)) == rows


def test_unknown_ids_are_listed_with_near_matches() -> None:
    with pytest.raises(UsageError, match="list of ids is empty"):
        find_rows([], MANGA_IDS, SUBJECT_IDS)
    with pytest.raises(UsageError, match="MaNGA id '1-102'; near matches: 1-10"):
        find_rows(["1-102", 7], MANGA_IDS, SUBJECT_IDS)
    many = range(1000, 1009)
    with pytest.raises(UsageError, match="'x' or the Zooniverse subject id 1000, .* and 4 more"):
        find_rows(["x", *many], MANGA_IDS, SUBJECT_IDS)
