"""Grids to which pixels are moved: a WCS, a FITS header, an HDU, or a file such as MaNGA's MAPS."""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gz3d_zarr.analysis.selection import separation
from gz3d_zarr.errors import CLIENT_ERRORS, UsageError, error_message, quote, shorten
from gz3d_zarr.locations import absolute, is_url, refuse_irregular

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.wcs import WCS

MANGA_CARDS = ("PLATEIFU", "MANGAID")
"""Cards in the first header of MaNGA's files, MAPS and CUBE alike."""
_EXPECTED = (
    "expected an astropy WCS, a FITS header, HDU or HDUList, or the path of a file such as MaNGA's "
    "MAPS or CUBE"
)
_FITS_ERRORS = (*CLIENT_ERRORS, EOFError, OSError, zlib.error)


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid of pixels on the sky.

    Attributes
    ----------
    wcs : astropy.wcs.WCS
        Two celestial axes, with ``array_shape``.
    name : str
        What it is, for messages.
    is_manga : bool
        Whether it is of a file of MaNGA, and thus of one galaxy.
    """

    wcs: WCS
    name: str
    is_manga: bool

    def has_position(self, ra: float, dec: float) -> bool:
        """Whether a position, in degrees, is on the grid."""
        from astropy.coordinates import SkyCoord

        x, y = self.wcs.world_to_pixel(SkyCoord(ra, dec, unit="deg"))
        rows, columns = self.wcs.array_shape
        return bool(-0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5)

    def require_position(self, ra: float, dec: float, subject: str) -> None:
        """Check that a subject's position, in degrees, is on the grid.

        Raises
        ------
        UsageError
            It is not: the grid is of another galaxy.
        """
        if self.has_position(ra, dec):
            return
        rows, columns = self.wcs.array_shape
        center = self.wcs.pixel_to_world((columns - 1) / 2, (rows - 1) / 2).icrs
        away = float(separation(center.ra.deg, center.dec.deg, ra, dec))
        angle = f"{away:.1f} arcsec" if away < 3600 else f"{away / 3600:.1f} deg"
        what = "is of another galaxy" if self.is_manga else "does not have the subject on its grid"
        raise UsageError(
            f"{self.name} {what}: its center is ra={center.ra.deg:.5f}, dec={center.dec.deg:.5f}, "
            f"and subject {subject} is at ra={ra:.5f}, dec={dec:.5f}, {angle} from it"
        )


def find_grid(target: Any, shape: tuple[int, int] | None = None) -> Grid:
    """Find the grid of a target.

    Parameters
    ----------
    target : WCS, Header, HDU, HDUList, str or Path
        Of a cube, the two celestial axes are taken; of several HDUs, the first image with a WCS of
        the sky. Only headers are read of a file.
    shape : tuple of int, optional
        Rows and columns; by default those of the target.

    Raises
    ------
    UsageError
        The target is none of these, has no WCS of the sky or no shape; a file cannot be read.
    """
    from astropy.io import fits
    from astropy.wcs import WCS

    name, is_manga = "the target", False
    if isinstance(target, str | Path):
        wcs, name, is_manga = _read_file(target)
    elif isinstance(target, fits.HDUList):
        wcs, is_manga = _first_wcs(target, name), _is_manga(target)
    elif isinstance(target, WCS):
        wcs = target
    else:
        header = target if isinstance(target, fits.Header) else getattr(target, "header", None)
        if not isinstance(header, fits.Header):
            raise UsageError(f"the target is {type(target).__name__}, {_EXPECTED}")
        wcs, is_manga = _read_wcs(header, name), any(card in header for card in MANGA_CARDS)
    if not wcs.has_celestial:
        raise UsageError(f"the WCS of {name} is not a WCS of the sky")
    wcs = wcs.celestial  # a copy, with only the celestial axes of a cube
    shape = wcs.array_shape if shape is None else shape
    if shape is None:
        raise UsageError(f"the WCS of {name} has no shape: give shape=(rows, columns)")
    try:
        rows, columns = (int(length) for length in shape)
    except (TypeError, ValueError):
        rows = columns = 0
    if rows < 1 or columns < 1:
        raise UsageError(f"shape is {quote(shape)}, expected (rows, columns)")
    wcs.array_shape = (rows, columns)
    return Grid(wcs, name, is_manga)


def _read_file(path: str | Path) -> tuple[WCS, str, bool]:
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyWarning

    if is_url(str(path)):
        absolute(str(path))  # refuses a secret, which is not repeated
        raise UsageError(f"the target {quote(str(path))} is a URL, expected a local file")
    local = absolute(str(path))
    name = f"the file {shorten(local)}"
    try:
        refuse_irregular(local)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            with fits.open(local, memmap=False) as hdus:
                is_manga = _is_manga(hdus)
                return _first_wcs(hdus, name), name, is_manga
    except _FITS_ERRORS as error:
        raise UsageError(f"{name} cannot be read as FITS: {error_message(error)}") from error


def _is_manga(hdus: Any) -> bool:
    return bool(len(hdus)) and any(card in hdus[0].header for card in MANGA_CARDS)


def _first_wcs(hdus: Any, name: str) -> WCS:
    """WCS of the first image of the sky; the HDUs of a file are read until it is found."""
    for hdu in hdus:
        if hdu.is_image and hdu.header.get("NAXIS", 0) >= 2:
            wcs = _read_wcs(hdu.header, name)
            if wcs.has_celestial:
                return wcs
    raise UsageError(f"{name} has no image with a WCS of the sky")


def _read_wcs(header: Header, name: str) -> WCS:
    from astropy.utils.exceptions import AstropyWarning
    from astropy.wcs import WCS

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)  # such as names of old cards
            return WCS(header)
    except _FITS_ERRORS as error:
        raise UsageError(f"the WCS of {name} cannot be used: {error_message(error)}") from error


def is_plain(wcs: WCS, other: WCS) -> bool:
    """Whether two WCSs give the same positions at the corners of the first, to 1e-9 deg."""
    rows, columns = wcs.array_shape
    x, y = (np.array([-0.5, length - 0.5]) for length in (columns, rows))
    x, y = (values.ravel() for values in np.meshgrid(x, y))
    one, two = wcs.pixel_to_world(x, y), other.pixel_to_world(x, y)
    return bool((one.icrs.separation(two.icrs).deg < 1e-9).all())
