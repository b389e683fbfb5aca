"""Columns of a binary table of a FITS file in memory, every access checked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.fits_header import HDU
from gz3d_zarr.errors import Status, SubjectError

_FORMATS = {"B": ">u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}


class FitsTable:
    """A binary table, read by column name.

    Parameters
    ----------
    raw : bytes
        The whole file.
    hdu : HDU
        A table.

    Raises
    ------
    SubjectError
        Invalid: the HDU is not a table.
    """

    def __init__(self, raw: bytes | bytearray, hdu: HDU) -> None:
        if not hdu.is_table or len(hdu.shape) != 2:
            raise SubjectError(Status.INVALID, f"HDU {hdu.index} is not a table, expected one")
        self.index = hdu.index
        self.rows, self._width = hdu.shape
        self._columns = hdu.columns()
        self._raw, self._start = raw, hdu.start

    def texts(self, name: str) -> list[str]:
        """Text of each row, without the padding at its end."""
        letter, repeat, offset = self._find(name)
        if letter != "A":
            raise self._wrong(name, f"is {repeat}{letter}, expected text")
        cells = self._cells(name, f"S{max(1, repeat)}", repeat, offset)
        try:
            return [cell.decode("ascii").partition("\0")[0].rstrip(" ") for cell in cells.tolist()]
        except UnicodeDecodeError:
            raise self._wrong(name, "is not ASCII") from None

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Number of each row as float64."""
        return self._numbers(name).astype(np.float64)

    def integers(self, name: str) -> list[int]:
        """Number of each row, which must be an integer."""
        values = self._numbers(name)
        if values.dtype.kind not in "iu":
            raise self._wrong(name, "is not of an integer type")
        return [int(value) for value in values.tolist()]

    def text(self, name: str) -> str:
        """Text of the first row."""
        return self.texts(name)[0].strip()

    def number(self, name: str) -> float:
        """Number of the first row, which must be finite."""
        value = float(self._numbers(name)[0])
        if not math.isfinite(value):
            raise self._wrong(name, f"is {value!r}, expected a finite number")
        return value

    def whole(self, name: str, bits: int = 32, *, unknown: Sequence[int] = ()) -> int:
        """Whole number of the first row; -1 where it is NaN or one of `unknown`, if any are."""
        value = self._numbers(name)[0].item()
        if unknown and (math.isnan(value) or value in unknown):
            return -1
        if not 0 <= value < 2 ** (bits - 1) or value != int(value):
            raise self._wrong(
                name, f"is {value!r}, expected a whole number from 0 to {2 ** (bits - 1) - 1}"
            )
        return int(value)

    def _numbers(self, name: str) -> NDArray[np.generic]:
        letter, repeat, offset = self._find(name)
        if letter not in _FORMATS or repeat != 1:
            raise self._wrong(name, f"is {repeat}{letter}, expected one number")
        return self._cells(name, _FORMATS[letter], np.dtype(_FORMATS[letter]).itemsize, offset)

    def _cells(self, name: str, form: str, size: int, offset: int) -> NDArray[np.generic]:
        if offset + size > self._width:
            raise self._wrong(name, f"lies beyond the row's {self._width} bytes")
        if not self.rows:
            return np.empty(0, form)
        dtype = np.dtype(
            {"names": ["c"], "formats": [form], "offsets": [offset], "itemsize": self._width}
        )
        return np.frombuffer(self._raw, dtype, self.rows, self._start)["c"]

    def _find(self, name: str) -> tuple[str, int, int]:
        try:
            return self._columns[name]
        except KeyError:
            raise SubjectError(
                Status.INVALID,
                f"HDU {self.index} has no column {name}; it has {', '.join(self._columns)}",
            ) from None

    def _wrong(self, name: str, what: str) -> SubjectError:
        return SubjectError(Status.INVALID, f"column {name} in HDU {self.index} {what}")
