"""Simulated galaxies: their shapes, and the outlines that volunteers draw around arms and bars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.subject import BUNDLE_ARCSEC, SIDE

SCALE_ARCSEC = 0.099
"""Arcseconds per pixel of every file."""
CENTER = (SIDE - 1) / 2
"""Position of the galaxy and of the hexagon on both axes, in pixels counted from 0."""
ARM_START = 0.9
"""Radius at which arms start, in lengths of the bar."""
ARM_END = 3.2
"""Radius at which arms end, in scale lengths of the disk."""
ARM_HALF_WIDTH = 0.15
"""Half the width of an outline around an arm, in radii."""
BAR_HALF_WIDTH = 0.28
"""Half the width of an outline around a bar, in lengths of the bar."""
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Star:
    """A point source: position in pixels counted from 0, flux at its peak, and color.

    Attributes
    ----------
    redness : float
        From 0 (blue) to 1 (red).
    """

    x: float
    y: float
    peak: float
    redness: float


@dataclass(frozen=True)
class Galaxy:
    """Shape of a simulated galaxy, and the sources around it.

    Lengths are in pixels and in the plane of the disk, angles in radians.

    Attributes
    ----------
    pitch : float
        Angle between the arms, which are logarithmic spirals, and circles.
    phase : float
        Direction of the bar in the plane of the disk; the arms start at its ends.
    brightness : float
        Factor for the fluxes of all components.
    stars : tuple of Star
        Foreground stars, which volunteers mark.
    faint_sources : tuple of Star
        Sources that volunteers do not mark.
    """

    scale_length: float
    axis_ratio: float
    angle: float
    pitch: float
    phase: float
    bar_length: float
    brightness: float
    has_arms: bool
    has_bar: bool
    stars: tuple[Star, ...]
    faint_sources: tuple[Star, ...]


def draw_galaxy(rng: np.random.Generator, bundle: int, *, has_arms: bool, has_bar: bool) -> Galaxy:
    """Draw a galaxy at random; larger bundles were assigned to larger galaxies.

    Parameters
    ----------
    bundle : int
        Fibers in the MaNGA bundle.
    """
    reach = BUNDLE_ARCSEC[bundle] / SCALE_ARCSEC / 2
    length = 22 + reach * rng.uniform(0.06, 0.2)
    return Galaxy(
        scale_length=length,
        axis_ratio=rng.uniform(0.5 if has_arms or has_bar else 0.3, 1.0),
        angle=rng.uniform(0, np.pi),
        pitch=float(np.radians(rng.uniform(15, 26))),
        phase=rng.uniform(0, 2 * np.pi),
        bar_length=length * rng.uniform(0.9, 1.4),
        brightness=rng.uniform(0.8, 2.2),
        has_arms=has_arms,
        has_bar=has_bar,
        stars=_draw_stars(rng, rng.poisson(0.8), (150, 20_000)),
        faint_sources=_draw_stars(rng, rng.poisson(4), (8, 50)),
    )


def _draw_stars(
    rng: np.random.Generator, count: int, peaks: tuple[float, float]
) -> tuple[Star, ...]:
    low, high = np.log(peaks)
    return tuple(
        Star(
            x=rng.uniform(40, SIDE - 40),
            y=rng.uniform(40, SIDE - 40),
            peak=float(np.exp(rng.uniform(low, high))),
            redness=rng.beta(1, 2),
        )
        for _ in range(count)
    )


def arm_outline(galaxy: Galaxy, side: int) -> FloatArray:
    """Closed outline around one of the two arms (0 or 1), shape (28, 2): x, y in pixels."""
    inner, outer = galaxy.bar_length * ARM_START, galaxy.scale_length * ARM_END
    radius = np.geomspace(inner, outer, 14)
    angle = galaxy.phase + side * np.pi + np.log(radius / inner) / np.tan(galaxy.pitch)
    edges = [_to_pixels(galaxy, radius * (1 + sign * ARM_HALF_WIDTH), angle) for sign in (1, -1)]
    return np.concatenate([edges[0], edges[1][::-1]])


def bar_outline(galaxy: Galaxy) -> FloatArray:
    """Closed outline around the bar, shape (6, 2): x, y in pixels."""
    half, width = galaxy.bar_length * 0.95, galaxy.bar_length * BAR_HALF_WIDTH
    x = np.array([-half, 0, half, half, 0, -half])
    y = np.array([-width, -width, -width, width, width, width])
    return _to_pixels(galaxy, np.hypot(x, y), np.arctan2(y, x) + galaxy.phase)


def _to_pixels(galaxy: Galaxy, radius: FloatArray, angle: FloatArray) -> FloatArray:
    """Transform polar coordinates in the plane of the disk to pixels, shape (n, 2)."""
    u, v = radius * np.cos(angle), radius * np.sin(angle) * galaxy.axis_ratio
    cos, sin = np.cos(galaxy.angle), np.sin(galaxy.angle)
    return np.column_stack([CENTER + cos * u - sin * v, CENTER + sin * u + cos * v])
