"""Positions on the sky: the HEALPix pixel and the WCS of a subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gz3d_zarr.datamodel.subject import CRPIX, SIDE

if TYPE_CHECKING:
    from astropy.wcs import WCS

UNKNOWN_PIXEL = -1
"""HEALPix pixel of a subject whose position is unknown."""
MAX_NSIDE = 2**29
CTYPE = ("RA---TAN", "DEC--TAN")
CUNIT = ("deg", "deg")
RADESYS = "ICRS"
WCS_ATTRS: Mapping[str, Any] = {
    "wcs_ctype": list(CTYPE),
    "wcs_crpix": [CRPIX, CRPIX],
    "wcs_cdelt": [1.0, 1.0],
    "wcs_cunit": list(CUNIT),
    "wcs_pc": "PC1_1 = PC2_2 = -scale, PC1_2 = PC2_1 = 0",
    "wcs_crval": "ra dec",
    "wcs_radesys": RADESYS,
}
"""Attributes that describe `image_wcs` in a store; quoted names are those of variables."""


def healpix_pixels(ra: ArrayLike, dec: ArrayLike, nside: int) -> NDArray[np.int64]:
    """HEALPix pixels, in nested order, of positions some of which may be unknown.

    Parameters
    ----------
    ra, dec : array_like of float, shape (n,)
        Degrees, ICRS; NaN where unknown.
    nside : int
        Resolution, a power of two.

    Returns
    -------
    ndarray of int64, shape (n,)
        -1 where the position is unknown.
    """
    ra, dec = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
    pixels = np.full(ra.shape, UNKNOWN_PIXEL, np.int64)
    known = np.isfinite(ra) & np.isfinite(dec)
    if known.any():
        from astropy_healpix import healpy  # slow to import, and workers do not need it

        pixels[known] = healpy.ang2pix(nside, ra[known], dec[known], nest=True, lonlat=True)
    return pixels


def image_wcs(ra: float, dec: float, scale: float) -> WCS:
    """WCS of the image and masks of a subject, as every file of the archive has it.

    Parameters
    ----------
    ra, dec : float
        Position of the subject in degrees, ICRS.
    scale : float
        Degrees per pixel. North is up and east is left when row 0 is at the top.
    """
    return tangent_wcs(ra, dec, (-scale, -scale), CRPIX, (SIDE, SIDE))


def tangent_wcs(
    ra: float, dec: float, steps: Sequence[float], crpix: float, shape: tuple[int, int]
) -> WCS:
    """Gnomonic (TAN) projection about a position.

    Parameters
    ----------
    ra, dec : float
        Degrees, ICRS.
    steps : sequence of float
        Degrees per pixel along x and along y.
    crpix : float
        Reference pixel on both axes (the first pixel is 1).
    shape : tuple of int
        Rows and columns.
    """
    from astropy.wcs import WCS  # slow to import, and workers do not need it

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = list(CTYPE)
    wcs.wcs.cunit = list(CUNIT)
    wcs.wcs.crpix = [crpix, crpix]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.radesys = RADESYS
    wcs.wcs.pc = np.diag(steps)
    wcs.array_shape = shape
    wcs.wcs.set()
    return wcs
