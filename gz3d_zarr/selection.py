"""Find subjects on the sky."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr


def find_cone(dataset: xr.Dataset, ra: float, dec: float, radius: float) -> NDArray[np.int64]:
    """Rows within a radius of a position.

    Parameters
    ----------
    dataset : xarray.Dataset
        With the coordinates ``ra`` and ``dec``.
    ra, dec : float
        Degrees.
    radius : float
        Arcseconds.

    Returns
    -------
    ndarray of int64
        Positions along ``subject``, ascending.
    """
    ra1, dec1 = np.radians(dataset["ra"].values), np.radians(dataset["dec"].values)
    ra0, dec0 = np.radians(ra), np.radians(dec)
    # The haversine formula, which keeps its digits at small separations.
    across = np.cos(dec0) * np.cos(dec1) * np.sin((ra1 - ra0) / 2) ** 2
    half = np.clip(np.sin((dec1 - dec0) / 2) ** 2 + across, 0, 1)
    return np.flatnonzero(2 * np.arcsin(np.sqrt(half)) <= np.radians(radius / 3600))
