"""Made-up files of MaNGA with the headers of real ones: MAPS, CUBE and the table DRPall."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table


def sky_cards(ra: float, dec: float, side: int) -> dict[str, Any]:
    return {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg",
        "CRPIX1": side / 2 + 1, "CRPIX2": side / 2 + 1, "CRVAL1": ra, "CRVAL2": dec,
        "CD1_1": -0.5 / 3600, "CD2_2": 0.5 / 3600,
    }  # fmt: skip


def primary(plateifu: str, mangaid: str, ra: float, dec: float) -> fits.PrimaryHDU:
    cards = {"PLATEIFU": plateifu, "MANGAID": mangaid, "IFURA": ra, "IFUDEC": dec}
    return fits.PrimaryHDU(header=fits.Header(cards))


def maps_hdus(ra: float, dec: float, side: int) -> fits.HDUList:
    """The first HDUs of a MAPS file: those of several channels have three axes."""
    header = fits.Header(sky_cards(ra, dec, side))
    return fits.HDUList(
        [
            primary("8623-12701", "1-1", ra, dec),
            fits.BinTableHDU.from_columns([fits.Column("x", "D", array=[1.0])]),
            fits.ImageHDU(np.zeros((2, side, side), np.float32), header, "SPX_SKYCOO"),
            fits.ImageHDU(np.zeros((side, side), np.float32), header, "SPX_MFLUX"),
        ]
    )


def cube_hdus(ra: float, dec: float, side: int) -> fits.HDUList:
    header = fits.Header(sky_cards(ra, dec, side))
    header.update(
        {"CTYPE3": "WAVE-LOG", "CUNIT3": "Angstrom", "CRPIX3": 1, "CRVAL3": 3621.6, "CD3_3": 0.834}
    )
    flux = fits.ImageHDU(np.zeros((3, side, side), np.float32), header, "FLUX")
    return fits.HDUList([primary("8623-12701", "1-1", ra, dec), flux])


def write_drpall(path: Path, rows: Sequence[tuple[Any, ...]]) -> Path:
    """Write plateifu, mangaid, ifura, ifudec, ifudesignsize, in columns as wide as DRPall's."""
    names = ("plateifu", "mangaid", "ifura", "ifudec", "ifudesignsize")
    table = Table(rows=list(rows), names=names)
    table["plateifu"], table["mangaid"] = (
        table["plateifu"].astype("S11"),
        table["mangaid"].astype("S9"),
    )
    empty = fits.PrimaryHDU()
    fits.HDUList([empty, fits.table_to_hdu(table)]).writeto(path)
    return path
