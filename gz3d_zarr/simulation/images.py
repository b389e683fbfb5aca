"""Simulated gri images, with the seeing, noise, colors and compression of SDSS.

Galaxies are drawn on the pixels of the SDSS camera (0.396 arcsec), blurred by the seeing and
stretched by asinh, which keeps colors (Lupton et al. 2004, PASP 116, 133). The result is enlarged
to the pixels of the files and becomes a JPEG, as in the image service of SDSS. Fluxes are in units
in which a faint flux of 1 is one count of the image.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.subject import BUNDLE_ARCSEC, SIDE
from gz3d_zarr.errors import missing_extra_error
from gz3d_zarr.simulation.galaxies import ARM_END, ARM_START, CENTER, SCALE_ARCSEC, Galaxy, Star

ENLARGEMENT = 4
"""Pixels of the image per pixel of the SDSS camera, along each axis."""
CAMERA_SIDE = -(-SIDE // ENLARGEMENT)
SEEING_PASSES = 4
"""Passes of the filter (1, 2, 1): a seeing of 1.3 arcsec, full width at half maximum."""
SEEING_PIXELS = 1.3 / SCALE_ARCSEC
SOFTENING = 40.0
"""Flux from which the asinh stretch is logarithmic."""
SKY_LEVEL = 8.0
NOISE_COUNTS = (3.3, 5.4)
"""Standard deviation of the sky noise on the pixels of the camera: lowest and highest, in counts.
Chosen so that files compress like the reference files: 380 KB, of which the codecs leave 0.97 and
0.76 (reference: 357 KB, 0.99 and 0.74)."""
JPEG_QUALITY = 90
OLD_COLOR = np.array([1.1, 0.9, 0.55])
YOUNG_COLOR = np.array([0.78, 0.82, 1.05])
RED_COLOR = np.array([1.4, 0.8, 0.45])
BLUE_COLOR = np.array([0.8, 0.9, 1.1])
"""Relative fluxes in the red, green and blue channel of stars in the bulge and disk, of stars in
arms, and of the reddest and bluest foreground stars."""
MAGENTA = (255, 0, 255)
HEXAGON_FACTOR = 2 * np.sqrt(3) / 5
"""Size of the hexagon in the images, relative to the bundle: a mistake of the project (C. Krawczyk,
GZ3D_production), which every image of the archive has."""
FluxArray = NDArray[np.floating[Any]]


def draw_image(rng: np.random.Generator, galaxy: Galaxy, bundle: int) -> NDArray[np.uint8]:
    """Draw the image that volunteers saw: galaxy, stars, sky noise, and the hexagon of the bundle.

    Parameters
    ----------
    bundle : int
        Fibers in the MaNGA bundle.

    Returns
    -------
    ndarray of uint8, shape (525, 525, 3)

    Raises
    ------
    UsageError
        Pillow, which comes with matplotlib, is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise missing_extra_error("simulating", error, "demo") from error
    counts = _stretch(_draw_sky(rng, galaxy))
    side = CAMERA_SIDE * ENLARGEMENT
    image = Image.fromarray(counts).resize((side, side), Image.Resampling.BICUBIC)
    image = image.crop((0, 0, SIDE, SIDE))
    ImageDraw.Draw(image).polygon(_hexagon(bundle), outline=MAGENTA)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(buffer))


def _draw_sky(rng: np.random.Generator, galaxy: Galaxy) -> FluxArray:
    """Flux on the pixels of the camera, shape (132, 132, 3)."""
    y, x = _pixel_grid(margin=SEEING_PASSES)
    flux = _blur(_galaxy_flux(rng, galaxy, x - CENTER, y - CENTER), SEEING_PASSES)
    y, x = _pixel_grid(margin=0)
    for star in (*galaxy.stars, *galaxy.faint_sources):
        flux += _star_flux(star, x, y)
    noise = rng.standard_normal((CAMERA_SIDE + 2, CAMERA_SIDE + 2, 3), np.float32)
    noise = _blur(noise, 1)  # neighboring pixels are correlated, since SDSS resampled its frames
    flux += noise * np.float32(rng.uniform(*NOISE_COUNTS) / noise.std())
    return flux


def _pixel_grid(margin: int) -> tuple[FluxArray, FluxArray]:
    """Positions of the camera's pixels, in pixels of the image: y as a column, x as a row."""
    camera = np.arange(-margin, CAMERA_SIDE + margin, dtype=np.float32)
    positions = camera * ENLARGEMENT + np.float32((ENLARGEMENT - 1) / 2)
    return positions[:, None], positions[None]


def _galaxy_flux(
    rng: np.random.Generator, galaxy: Galaxy, dx: FluxArray, dy: FluxArray
) -> FluxArray:
    """Flux of bulge, disk, bar and arms, shape (y, x, 3), before the seeing."""
    cos, sin = np.float32(np.cos(galaxy.angle)), np.float32(np.sin(galaxy.angle))
    u, v = cos * dx + sin * dy, (cos * dy - sin * dx) / np.float32(galaxy.axis_ratio)
    radius, angle = np.hypot(u, v) + np.float32(1e-3), np.arctan2(v, u) - np.float32(galaxy.phase)
    length, bar_length = galaxy.scale_length, galaxy.bar_length
    disk = np.exp(-radius / length)
    old = 300 * disk + 4000 * np.exp(-3.67 * np.sqrt(np.hypot(dx, dy) / (0.35 * length)))
    young = (130 if galaxy.has_arms else 50) * disk
    if galaxy.has_bar:
        p, q = radius * np.cos(angle), radius * np.sin(angle)
        old += 600 * np.exp(-((p / (0.85 * bar_length)) ** 4) - (q / (0.2 * bar_length)) ** 2)
    if galaxy.has_arms:
        inner, outer = bar_length * ARM_START, length * ARM_END
        turn = angle - np.log(radius / inner) / np.tan(galaxy.pitch)
        ends = _rise((radius - inner) / (0.08 * length)) * _rise((outer - radius) / (0.2 * length))
        knots = rng.standard_gamma(0.4, radius.shape, np.float32) / np.float32(0.4)
        arms = np.exp(-radius / (1.6 * length) + 4 * (np.cos(2 * turn) - 1)) * ends
        young += 560 * arms * (np.float32(0.5) + np.float32(0.5) * knots)
    flux = old[..., None] * OLD_COLOR + young[..., None] * YOUNG_COLOR
    return np.asarray(galaxy.brightness * flux, np.float32)


def _rise(x: FluxArray) -> FluxArray:
    """A smooth step from 0 to 1 at x = 0."""
    step: FluxArray = (1 + np.tanh(x)) / 2
    return step


def _star_flux(star: Star, x: FluxArray, y: FluxArray) -> FluxArray:
    """Moffat profile of index 3, shape (y, x, 3)."""
    core = SEEING_PIXELS / 2 / np.sqrt(2 ** (1 / 3) - 1)
    profile = (1 + ((x - star.x) ** 2 + (y - star.y) ** 2) / core**2) ** -3
    color = star.redness * RED_COLOR + (1 - star.redness) * BLUE_COLOR
    return np.asarray(profile[..., None] * (star.peak * color), np.float32)


def _blur(flux: FluxArray, passes: int) -> FluxArray:
    """Smooth rows and columns by the filter (1, 2, 1) / 4; each pass removes the outermost ones."""
    for _ in range(passes):
        flux = (flux[2:] + 2 * flux[1:-1] + flux[:-2]) / 4
        flux = (flux[:, 2:] + 2 * flux[:, 1:-1] + flux[:, :-2]) / 4
    return flux


def _stretch(flux: FluxArray) -> NDArray[np.uint8]:
    """Stretch the mean of the channels by asinh, with the colors kept also where it saturates."""
    mean = np.maximum(flux.mean(axis=-1, keepdims=True), 1e-3)
    counts = flux * (np.arcsinh(mean / SOFTENING) * SOFTENING / mean) + SKY_LEVEL
    counts *= 255 / np.maximum(counts.max(axis=-1, keepdims=True), 255)
    stretched: NDArray[np.uint8] = np.clip(np.rint(counts), 0, 255).astype(np.uint8)
    return stretched


def _hexagon(bundle: int) -> list[tuple[float, float]]:
    """Corners (x, y) of the hexagon in the image, which is smaller than the bundle."""
    radius = BUNDLE_ARCSEC[bundle] / SCALE_ARCSEC / 2 * HEXAGON_FACTOR
    angles = np.radians(np.arange(0, 360, 60))
    return [(CENTER + radius * np.cos(a), CENTER + radius * np.sin(a)) for a in angles]
