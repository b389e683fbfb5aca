"""Colors and line styles of the classes and outlines, for figures and for the web viewer.

The class colors are those of Okabe and Ito (2008, "Color Universal Design"), brighter where that is
needed on dark images. `tests/analysis/test_palette.py` checks, by simulation, that people with
deuteranopia and protanopia tell all of them apart, also from both outlines of the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping

CLASS_COLORS: Mapping[str, str] = {
    "center": "#f0e442",  # yellow
    "star": "#e8601a",  # vermilion
    "spiral": "#80d0ff",  # sky blue
    "bar": "#00a878",  # bluish green
}
CLASS_DASHES: Mapping[str, tuple[float, ...]] = {
    "center": (),
    "star": (1, 1),
    "spiral": (),
    "bar": (4, 1.5),
}
"""Lengths of dashes and gaps in units of the line width; empty for a solid line.

Centers and stars are rings and spirals and bars outlines, so that each class differs from the
others in its line, or in its form."""
BUNDLE_COLOR = "#ffffff"
"""Of the true outline of the bundle."""
BURNT_COLOR = "#ff00ff"
"""Of the outline that is part of the images, and too small."""
EDGE_COLOR = "#101010"
"""Of the dark edge that makes bright lines readable on bright parts of an image."""
