"""Made-up files of MaNGA with the headers of real ones: MAPS, CUBE and the table DRPall."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
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


def drpall_rows(ds: xr.Dataset, bundles: Sequence[int] = (127, 19, 61)) -> Table:
    """A table of one plate-IFU for each subject, which bundles of these sizes observed.

    The position has more digits than that of Galaxy Zoo: 3D.
    """
    fibers = [bundles[i % len(bundles)] for i in range(ds.sizes["subject"])]
    return Table(
        {
            "plateifu": [f"{8000 + i}-{size}{1 + i % 5:02d}" for i, size in enumerate(fibers)],
            "mangaid": [str(label) for label in ds["subject"].values],
            "ifura": ds["ra"].values + 7e-6,
            "ifudec": ds["dec"].values - 3e-6,
            "ifudesignsize": fibers,
        }
    )


def write_drpall(path: Path, table: Table) -> Path:
    """Write a table as DRPall is: text padded in columns of fixed widths, after an empty HDU."""
    padded = table.copy()
    for name, width in (("plateifu", 11), ("mangaid", 9)):
        padded[name] = np.char.ljust(np.array(table[name], str), width).astype("S")
    fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(padded)]).writeto(path)
    return path
