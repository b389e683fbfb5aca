"""Colors: told apart by people with color vision deficiencies, and readable on dark images."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from gz3d_zarr.analysis.palette import (
    BUNDLE_COLOR,
    BURNT_COLOR,
    CLASS_COLORS,
    CLASS_DASHES,
    EDGE_COLOR,
)
from gz3d_zarr.datamodel.annotations import POINT_CLASSES
from gz3d_zarr.datamodel.subject import CLASSES

VISION = {
    "usual": np.eye(3),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
"""Linear RGB as seen, of severity 1: Machado, Oliveira and Fernandes 2009, IEEE TVCG 15, 1291."""
RGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
WHITE = RGB_TO_XYZ.sum(axis=1)
LEAST = {"usual": 35, "deuteranopia": 24, "protanopia": 24, "tritanopia": 20}
"""Distance in CIELAB; 2.3 is just noticeable, and that of the colors before was 5."""


def see(color: str, vision: str) -> NDArray[np.float64]:
    """CIELAB of a color like #80d0ff as it is seen."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    t = RGB_TO_XYZ @ np.clip(VISION[vision] @ linear, 0, 1) / WHITE
    fx, fy, fz = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def distance(first: str, second: str, vision: str) -> float:
    return float(np.linalg.norm(see(first, vision) - see(second, vision)))


def test_each_class_has_a_color_and_a_line_or_form_of_its_own() -> None:
    assert list(CLASS_COLORS) == list(CLASSES)
    assert list(CLASS_DASHES) == list(CLASSES)
    assert len({(CLASS_DASHES[name], name in POINT_CLASSES) for name in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("vision", VISION)
def test_colors_are_told_apart(vision: str) -> None:
    for first, second in combinations([*CLASS_COLORS.values(), BUNDLE_COLOR, BURNT_COLOR], 2):
        assert distance(first, second, vision) > LEAST[vision], (first, second)


@pytest.mark.parametrize("vision", VISION)
def test_colors_are_readable_on_the_dark_sky(vision: str) -> None:
    for color in [*CLASS_COLORS.values(), BUNDLE_COLOR]:
        assert see(color, vision)[0] - see(EDGE_COLOR, vision)[0] > 35
        assert distance(color, EDGE_COLOR, vision) > 50


def test_the_simulation_confuses_what_people_confuse() -> None:
    assert distance("#ff5a3c", "#5ce65c", "usual") > 100
    assert distance("#ff5a3c", "#5ce65c", "deuteranopia") < 16  # star and bar of earlier figures
    assert distance("#808080", "#ffffff", "deuteranopia") == pytest.approx(
        distance("#808080", "#ffffff", "usual"), abs=0.1
    )
