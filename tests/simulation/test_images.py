"""Simulated images: structures where volunteers mark them, the hexagon, stretch and noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gz3d_zarr.datamodel.subject import BUNDLE_ARCSEC, SIDE
from gz3d_zarr.simulation.galaxies import (
    ARM_END,
    CENTER,
    Galaxy,
    Star,
    arm_outline,
    bar_outline,
    draw_galaxy,
)
from gz3d_zarr.simulation.images import SKY_LEVEL, SOFTENING, _stretch, draw_image
from gz3d_zarr.simulation.volunteers import path_mask

SMALLEST = 19


def draw(galaxy: Galaxy, bundle: int = SMALLEST) -> np.ndarray:
    """Counts of an image, whose noise is the same in each call."""
    return draw_image(np.random.default_rng(3), galaxy, bundle).astype(float)


@pytest.fixture(scope="module")
def galaxy() -> Galaxy:
    rng = np.random.default_rng(0)
    drawn = draw_galaxy(rng, 127, has_arms=True, has_bar=True)
    return replace(drawn, axis_ratio=0.8, stars=(), faint_sources=())


@pytest.mark.parametrize("pitch", [15, 25])
def test_arms_are_bright_and_blue_where_volunteers_mark_them(galaxy: Galaxy, pitch: int) -> None:
    galaxy = replace(galaxy, pitch=np.radians(pitch))
    image = draw(galaxy)
    smooth = draw(replace(galaxy, has_arms=False))
    marked = path_mask([arm_outline(galaxy, side).tolist() for side in (0, 1)]) > 0
    y, x = np.mgrid[:SIDE, :SIDE] - CENTER
    cos, sin = np.cos(galaxy.angle), np.sin(galaxy.angle)
    radius = np.hypot(cos * x + sin * y, (cos * y - sin * x) / galaxy.axis_ratio)
    arms = (radius > galaxy.bar_length) & (radius < ARM_END * 0.9 * galaxy.scale_length)
    inside, outside = arms & marked, arms & ~marked
    assert image[inside].mean() > 1.3 * image[outside].mean()
    assert image[inside].mean() > 1.3 * smooth[inside].mean()
    bluer = [(image[part][:, 2] - image[part][:, 0]).mean() for part in (inside, outside)]
    assert bluer[0] > bluer[1] + 5


def test_bar_is_bright_where_volunteers_mark_it(galaxy: Galaxy) -> None:
    galaxy = replace(galaxy, has_arms=False)
    added = (draw(galaxy) - draw(replace(galaxy, has_bar=False))).mean(axis=-1)
    marked = path_mask([bar_outline(galaxy).tolist()]) > 0
    assert added[marked].mean() > 15
    assert added[marked].sum() > 0.6 * added.sum()


def test_star_is_where_volunteers_mark_it(galaxy: Galaxy) -> None:
    star = Star(x=100.0, y=430.0, peak=2000.0, redness=0.0)
    added = (draw(replace(galaxy, stars=(star,))) - draw(galaxy)).sum(axis=-1)
    y, x = np.mgrid[:SIDE, :SIDE]
    weight = np.where(added > 100, added, 0)
    assert (weight * x).sum() / weight.sum() == pytest.approx(100, abs=0.7)
    assert (weight * y).sum() / weight.sum() == pytest.approx(430, abs=0.7)
    width = np.sqrt((added > added.max() / 2).sum() * 4 / np.pi)
    assert 13 < width < 35  # wider than the seeing, since the stretch flattens the peak


@pytest.mark.parametrize("bundle", [fibers for fibers in BUNDLE_ARCSEC if fibers > 7])
def test_hexagon_is_too_small_by_the_mistake_of_the_project(galaxy: Galaxy, bundle: int) -> None:
    image = draw(replace(galaxy, brightness=0), bundle)
    y, x = np.nonzero(np.minimum(image[..., 0], image[..., 2]) - image[..., 1] > 60)
    half_width = BUNDLE_ARCSEC[bundle] / 0.099 / 2 * 2 * np.sqrt(3) / 5
    half_height = half_width * np.sqrt(3) / 2
    expected = [
        CENTER - half_width,
        CENTER + half_width,
        CENTER - half_height,
        CENTER + half_height,
    ]
    np.testing.assert_allclose([x.min(), x.max(), y.min(), y.max()], expected, atol=2)
    # All of it is on the outline.
    dx, dy = np.abs(x - CENTER), np.abs(y - CENTER)
    assert np.abs(np.maximum(dy, (np.sqrt(3) * dx + dy) / 2) - half_height).max() < 2.5


def test_sky_is_dark_and_its_noise_smooth_as_in_the_reference_files(galaxy: Galaxy) -> None:
    corner = draw(replace(galaxy, brightness=0))[:100, :100]
    assert 2 < corner.mean() < 10  # reference files: 2 to 10
    assert 1.5 < corner.std() < 6  # 1.5 to 6
    green = corner[..., 1]
    lags = {k: np.corrcoef(green[:, :-k].ravel(), green[:, k:].ravel())[0, 1] for k in (1, 4, 8)}
    assert lags[1] > 0.9
    assert 0.2 < lags[4] < 0.85
    assert lags[8] < 0.5


def test_stretch_is_linear_then_logarithmic_and_keeps_colors() -> None:
    color = np.array([1.3, 1.0, 0.7])
    flux = np.array([1.0, 400.0, 1e6])[:, None, None] * color
    counts = _stretch(flux.astype(np.float32))[:, 0].astype(float)
    np.testing.assert_allclose(counts[0], SKY_LEVEL + color, atol=0.6)
    expected = SKY_LEVEL + color * SOFTENING * np.arcsinh(400 / SOFTENING)
    np.testing.assert_allclose(counts[1], expected, atol=0.6)
    assert counts[2].max() == 255
    np.testing.assert_allclose(counts[2] / counts[2, 1], color, rtol=0.03)
