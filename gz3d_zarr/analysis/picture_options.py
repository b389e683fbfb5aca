"""Options of figures, for Python and the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gz3d_zarr.datamodel.option_fields import check_types, option
from gz3d_zarr.datamodel.subject import CLASSES, THRESHOLD
from gz3d_zarr.errors import UsageError

PANELS = ("both", "image", "masks")
MIN_DPI, MAX_DPI = 20, 1200


@dataclass(frozen=True)
class PictureOptions:
    """What figures of subjects show, and how finely; the threshold is checked where it is used."""

    classes: str | Sequence[str] | None = option(
        None,
        "Only the marks of this class. Repeatable. [default: all]",
        tuple,
        choices=CLASSES,
        flags=("class", "classes"),
    )
    threshold: float = option(
        THRESHOLD, "Outline the pixels that have more than N marks.", float, "N"
    )
    hexagon: bool = option(
        True, "Draw the true outline of the bundle; that in the image is too small.", bool
    )
    panels: str | None = option(
        None,
        "The image, the image with the masks over it, or both. [default: both; masks on contact "
        "sheets]",
        choices=PANELS,
    )
    spaxels: bool = option(
        False, "Show the mean counts of the spaxels of MaNGA, not those of pixels.", bool
    )
    dpi: float = option(200, "Pixels of the figure per inch.", float, "N")

    def __post_init__(self) -> None:
        """Check all values.

        Raises
        ------
        UsageError
            Names the first that is wrong.
        """
        check_types(self)
        if self.panels is not None and self.panels not in PANELS:
            raise UsageError(f"panels is {self.panels!r:.60}, expected {', '.join(PANELS)}")
        if not (math.isfinite(self.dpi) and MIN_DPI <= self.dpi <= MAX_DPI):
            raise UsageError(f"dpi is {self.dpi:g}, expected a number from {MIN_DPI} to {MAX_DPI}")
