"""Which of a subject's pixels a reader returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.subject import CLASSES, SIDE


@dataclass(frozen=True, slots=True)
class PixelPart:
    """What a reader returns of each subject; by default, everything.

    Attributes
    ----------
    classes : tuple of int
        Positions of the masks along ``class``, in the order wanted.
    side : int
        Pixels along each side of a square about the center.
    """

    classes: tuple[int, ...] = tuple(range(len(CLASSES)))
    side: int = SIDE

    @property
    def start(self) -> int:
        """First row and column of the square."""
        return (SIDE - self.side) // 2

    def cut(self, name: str, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut this part out of the pixels of one or more subjects."""
        window = slice(self.start, self.start + self.side)
        if name == "image":
            return pixels[..., window, window, :]
        cropped = pixels[..., window, window]
        if self.classes == tuple(range(len(CLASSES))):
            return cropped
        return cropped[..., list(self.classes), :, :]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one subject's pixels."""
        sides = self.side, self.side
        return (*sides, 3) if name == "image" else (len(self.classes), *sides)


EVERYTHING = PixelPart()
"""All pixels of all classes."""
