"""Ways to read, edit and damage subject files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits


def subject_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("gz3d_*_*_*.fits.gz"))


def link_many(folder: Path, target: Path, count: int) -> Path:
    """Link `count` subject files under different names, which a sha1 list vouches for."""
    target.mkdir()
    files = subject_files(folder)
    digests = [hashlib.sha1(path.read_bytes()).hexdigest() for path in files]
    lines = []
    for i in range(count):
        name = f"gz3d_1-{i}_19_{i}.fits.gz"
        os.link(files[i % len(files)], target / name)
        lines.append(f"{digests[i % len(files)]}  {name}\n")
    (target / "many.sha1sum").write_text("".join(lines))
    return target


def opened(path: Path) -> fits.HDUList:
    """The file as astropy reads it, unpacked once: in a gzip file it seeks, and unpacks again."""
    return fits.open(io.BytesIO(gzip.decompress(path.read_bytes())), memmap=False)


def edited(data: bytes, edit: Callable[[fits.HDUList], Any]) -> bytes:
    """The file after `edit` changed its HDUs in place."""
    with fits.open(io.BytesIO(gzip.decompress(data)), mode="update") as hdus:
        hdus = fits.HDUList([hdu.copy() for hdu in hdus])
        edit(hdus)
        out = io.BytesIO()
        hdus.writeto(out)
    return gzip.compress(out.getvalue(), 1)


def with_mask_value(data: bytes, hdu: int, value: float) -> bytes:
    def edit(hdus: fits.HDUList) -> None:
        hdus[hdu].data[100, 200] = value

    return edited(data, edit)


def with_cell(data: bytes, column: str, value: Any) -> bytes:
    def edit(hdus: fits.HDUList) -> None:
        hdus[5].data[column][0] = value

    return edited(data, edit)


def without_column(data: bytes, column: str) -> bytes:
    def edit(hdus: fits.HDUList) -> None:
        kept = [c for c in hdus[5].columns if c.name != column]
        hdus[5] = fits.BinTableHDU.from_columns(kept)

    return edited(data, edit)


def with_image(data: bytes, hdu: int, values: np.ndarray) -> bytes:
    def edit(hdus: fits.HDUList) -> None:
        hdus[hdu].data = values

    return edited(data, edit)


def with_card(data: bytes, hdu: int, keyword: str, value: Any) -> bytes:
    def edit(hdus: fits.HDUList) -> None:
        hdus[hdu].header[keyword] = value

    return edited(data, edit)


def truth(path: Path) -> dict[str, Any]:
    """Values that astropy reads from a subject file."""
    with opened(path) as hdus:
        row = hdus[5].data[0]
        return {
            "image": np.array(hdus[0].data),
            "segmentation": np.stack([hdu.data for hdu in hdus[1:5]]),
            "ra": float(row["ra"]),
            "dec": float(row["dec"]),
            "scale": abs(hdus[0].header["PC1_1"] * hdus[0].header["CDELT1"]),
            "manga_id": row["MANGAID"].strip(),
            "iauname": row["IAUNAME"].strip(),
            "explorer_link": row["explorer_link"].strip(),
            "sample": row["sample"].strip(),
            "ifu_design_size": int(row["IFUDESIGNSIZE"]),
            "manga_tile_id": int(row["MANGA_TILEID"]),
            "nsa_id": int(row["nsa_id"]),
            "total_classifications": int(row["GZ_total_classifications"]),
            "spiral_votes": int(row["GZ_spiral_votes"]),
            "bar_votes": int(row["GZ_bar_votes"]),
            "number_galaxy_centers": len(hdus[6].data),
            "number_foreground_stars": len(hdus[7].data),
            "saturated_pixels": 0,
            **_truth_by_class(hdus),
        }


MARK_CELLS = ((8, "center_points"), (8, "star_points"), (9, "spiral_paths"), (10, "bar_paths"))


def _truth_by_class(hdus: fits.HDUList) -> dict[str, Any]:
    masks = [hdu.data for hdu in hdus[1:5]]
    return {
        "classifications": tuple(len(hdus[hdu].data) for hdu, _ in MARK_CELLS),
        "classifications_drawn": tuple(
            sum(len(json.loads(cell)) > 0 for cell in hdus[hdu].data[column])
            if len(hdus[hdu].data)
            else 0
            for hdu, column in MARK_CELLS
        ),
        "max_count": tuple(int(mask.max()) for mask in masks),
        "marked_pixels": tuple(int((mask > 0).sum()) for mask in masks),
        "marked_pixels_above_3": tuple(int((mask > 3).sum()) for mask in masks),
    }


def truth_of_clusters(path: Path) -> dict[str, np.ndarray]:
    """Clusters of centers and stars that astropy reads, shape (n, 11)."""
    with opened(path) as hdus:
        return {
            cls: np.array([list(row) for row in hdus[hdu].data], float).reshape(-1, 11)
            for cls, hdu in (("center", 6), ("star", 7))
        }


def truth_of_marks(path: Path) -> dict[str, list[tuple[int, str, str]]]:
    """Raw marks that astropy reads: classification, time and JSON text of each volunteer."""
    with opened(path) as hdus:
        return {
            column: [
                (int(row["classification_id"]), row["time_stamp"], row[column])
                for row in hdus[hdu].data
            ]
            for hdu, column in MARK_CELLS
        }
