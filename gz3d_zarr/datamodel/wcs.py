"""The WCS of a subject: what its file must have, and the astropy WCS built from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gz3d_zarr.datamodel.fits_header import HDU
from gz3d_zarr.datamodel.subject import CRPIX, SIDE
from gz3d_zarr.errors import Status, SubjectError

if TYPE_CHECKING:
    from astropy.wcs import WCS

CTYPE = ("RA---TAN", "DEC--TAN")
CUNIT = ("deg", "deg")
RADESYS = "ICRS"
EXPECTED_CARDS: Mapping[str, tuple[Any, Any]] = {
    "CTYPE1": (CTYPE[0], None),
    "CTYPE2": (CTYPE[1], None),
    "CRPIX1": (CRPIX, None),
    "CRPIX2": (CRPIX, None),
    "PC1_2": (0.0, 0.0),
    "PC2_1": (0.0, 0.0),
    "CROTA2": (0.0, 0.0),
    "LONPOLE": (180.0, 180.0),
    "CUNIT1": (CUNIT[0], CUNIT[0]),
    "CUNIT2": (CUNIT[1], CUNIT[1]),
    "RADESYS": (RADESYS, RADESYS),
}
"""Cards of HDUs 0 to 4: the only value that is accepted, and the value if the card is missing."""
_POSITION_TOLERANCE = 1e-9
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


def grid_attrs(wcs: WCS) -> dict[str, Any]:
    """Attributes that describe any linear WCS of the sky with two axes, for `grid_wcs`."""
    return {
        "wcs_ctype": list(wcs.wcs.ctype),
        "wcs_crpix": wcs.wcs.crpix.tolist(),
        "wcs_cd": wcs.pixel_scale_matrix.ravel().tolist(),
        "wcs_cunit": list(CUNIT),
        "wcs_crval": wcs.wcs.crval.tolist(),
        "wcs_radesys": wcs.wcs.radesys or RADESYS,
        "wcs_shape": list(wcs.array_shape),
    }


def grid_wcs(attrs: Mapping[Any, Any], crval: Sequence[float]) -> WCS:
    """WCS of the attributes that `grid_attrs` gives.

    Parameters
    ----------
    attrs : mapping
        ``wcs_cd`` has the matrix row by row, in degrees per pixel; ``wcs_shape`` rows and columns.
    crval : sequence of float
        Position of the reference pixel, in degrees.

    Raises
    ------
    KeyError, TypeError, ValueError
        Attributes are missing or have other values.
    """
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [str(name) for name in attrs["wcs_ctype"]]
    wcs.wcs.cunit = list(CUNIT)
    wcs.wcs.crpix = attrs["wcs_crpix"]
    wcs.wcs.crval = crval
    wcs.wcs.radesys = str(attrs["wcs_radesys"])
    wcs.wcs.pc = np.reshape(attrs["wcs_cd"], (2, 2))
    rows, columns = (int(length) for length in attrs["wcs_shape"])
    wcs.array_shape = (rows, columns)
    wcs.wcs.set()
    return wcs


def read_scale(images: Sequence[HDU], ra: float, dec: float) -> float:
    """Degrees per pixel, after a check that the store can represent the WCS.

    The store has ra, dec and scale per subject; the rest of the WCS is constant. Any other WCS
    (rotated, off-center, another projection) is refused, since the store would lose it.
    """
    scales = set()
    for hdu in images:
        found: dict[str, Any] = {
            name: hdu.text(name, default) if isinstance(value, str) else hdu.real(name, default)
            for name, (value, default) in EXPECTED_CARDS.items()
        }
        step1 = hdu.real("PC1_1", 1.0) * hdu.real("CDELT1", 1.0)
        step2 = hdu.real("PC2_2", 1.0) * hdu.real("CDELT2", 1.0)
        others = {name: value for name, value in found.items() if value != EXPECTED_CARDS[name][0]}
        if others or not (step1 == step2 and -1 < step1 < 0):
            raise SubjectError(
                Status.INVALID,
                f"the WCS of HDU {hdu.index} has {others}, steps {step1!r} and {step2!r}; expected "
                f"{ {name: EXPECTED_CARDS[name][0] for name in others} }, equal negative steps",
            )
        crval = hdu.real("CRVAL1"), hdu.real("CRVAL2")
        if not all(
            abs(a - b) <= _POSITION_TOLERANCE for a, b in zip(crval, (ra, dec), strict=True)
        ):
            raise SubjectError(
                Status.INVALID,
                f"CRVAL in HDU {hdu.index} is {crval}, HDU 5 has ra, dec = {(ra, dec)}",
            )
        scales.add(-step1)
    if len(scales) > 1:
        raise SubjectError(Status.INVALID, f"HDUs 0 to 4 differ in scale: {sorted(scales)}")
    return scales.pop()
