"""Plate-IFUs such as 8623-12701 to MaNGA ids, by a table that has both."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gz3d_zarr.datamodel.ids import is_plate_ifu
from gz3d_zarr.datamodel.limits import MAX_TABLE, gunzip
from gz3d_zarr.errors import UsageError, error_message
from gz3d_zarr.locations import absolute, is_url, read_regular

COLUMNS = ("mangaid", "plateifu")


def read_plate_ifus(path: str | Path) -> dict[str, str]:
    """MaNGA id by plate-IFU, from a FITS or CSV table with the columns of `COLUMNS` in any case.

    Raises
    ------
    UsageError
        The table cannot be read, or lacks a column.
    """
    from astropy.table import Table  # slow to import

    what = "the table of ids_table (--table)"
    try:
        name = str(path).lower().removesuffix(".gz")
        form = "fits" if name.endswith((".fits", ".fit")) else "ascii.csv"
        hdu = {"hdu": 1} if form == "fits" else {}
        table = Table.read(_open(absolute(str(path))), format=form, **hdu)
    except UsageError:  # a URL with a secret, which is not repeated
        raise
    except Exception as error:  # astropy raises many kinds
        raise UsageError(
            f"{what} {path} cannot be read: {error_message(error)}; expected FITS or CSV"
        ) from error
    names = {str(name).lower(): name for name in table.colnames}
    lacking = [name for name in COLUMNS if name not in names]
    if lacking:
        raise UsageError(f"{what} {path} has no column {', '.join(lacking)}")
    manga_ids, plate_ifus = ([_text(v) for v in table[names[name]].tolist()] for name in COLUMNS)
    return dict(zip(plate_ifus, manga_ids, strict=True))


def _open(path: str | Path) -> Any:
    """What astropy reads a table from: the contents of a local file, within bounds."""
    if is_url(str(path)):
        return path
    data = read_regular(path, MAX_TABLE + 1)
    if len(data) > MAX_TABLE:
        raise ValueError(f"it has more than {MAX_TABLE // 2**20} MiB")
    return io.BytesIO(gunzip(data, MAX_TABLE) if str(path).lower().endswith(".gz") else data)


def replace_plate_ifus(ids: Sequence[str | int], plate_ifus: Mapping[str, str]) -> list[str | int]:
    """The ids with each plate-IFU of the table replaced by its MaNGA id."""
    return [plate_ifus.get(wanted, wanted) if is_plate_ifu(wanted) else wanted for wanted in ids]


def _text(value: object) -> str:
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip()
