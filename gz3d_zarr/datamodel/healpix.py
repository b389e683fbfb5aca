"""The HEALPix pixel of a position."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

UNKNOWN_PIXEL = -1
"""HEALPix pixel of a subject whose position is unknown."""


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
