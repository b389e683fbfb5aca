"""HDUs of a simulated subject file, with the producer's headers and column types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from gz3d_zarr.datamodel.subject import SubjectMetadata
from gz3d_zarr.datamodel.wcs import image_wcs
from gz3d_zarr.simulation.volunteers import Cluster, FloatArray, Paths, Points, mark_mask, path_mask


@dataclass(frozen=True)
class Marks:
    """Marks of each volunteer; None if the structure was not asked about."""

    centers: list[Points]
    stars: list[Points]
    spirals: list[Paths] | None
    bars: list[Paths] | None


def make_hdus(
    image: NDArray[np.uint8],
    metadata: SubjectMetadata,
    marks: Marks,
    clusters: tuple[list[Cluster], list[Cluster]],
    index: int,
) -> fits.HDUList:
    """The eleven HDUs of a subject file."""
    wcs = image_wcs(metadata.ra, metadata.dec, metadata.scale)
    header = wcs.to_header()
    header.remove("MJDREF", ignore_missing=True)  # newer releases of WCSLIB write it
    masks = [
        mark_mask(clusters[0]),
        mark_mask(clusters[1]),
        path_mask([path for paths in marks.spirals or [] for path in paths]),
        path_mask([path for paths in marks.bars or [] for path in paths]),
    ]
    images = [fits.ImageHDU(mask, header) for mask in masks]
    tables = [
        Table(rows=[_hdu5_row(metadata)], names=list(_HDU5), dtype=list(_HDU5.values())),
        _cluster_table(clusters[0], flatten(marks.centers), wcs),
        _cluster_table(clusters[1], flatten(marks.stars), wcs),
        _mark_table(index, 0, {"center_points": marks.centers, "star_points": marks.stars}),
        _mark_table(index, 1, {"spiral_paths": marks.spirals}),
        _mark_table(index, 2, {"bar_paths": marks.bars}),
    ]
    primary = fits.PrimaryHDU(image, header)
    return fits.HDUList([primary, *images, *(fits.table_to_hdu(table) for table in tables)])


_HDU5 = {
    "ra": ">f4",
    "dec": ">f4",
    "MANGAID": "S11",
    "IAUNAME": "S19",
    "IFUDESIGNSIZE": ">f8",
    "MANGA_TILEID": ">f8",
    "nsa_id": ">i8",
    "explorer_link": "S90",
    "GZ_total_classifications": ">i2",
    "GZ_bar_votes": ">i2",
    "GZ_spiral_votes": ">i2",
    "sample": "S70",
}


def _hdu5_row(m: SubjectMetadata) -> tuple[Any, ...]:
    return (
        m.ra, m.dec, m.manga_id, m.iauname, m.ifu_design_size, m.manga_tile_id, m.nsa_id,
        m.explorer_link, m.total_classifications, m.bar_votes, m.spiral_votes, m.sample,
    )  # fmt: skip


def flatten(drawn: Sequence[Points]) -> FloatArray:
    """Points of all volunteers in one array, shape (n, 2)."""
    points = [point for points in drawn for point in points]
    return np.array(points, float).reshape(-1, 2)


def _cluster_table(clusters: Sequence[Cluster], marks: FloatArray, wcs: WCS) -> Table:
    """Clusters in pixels and on the sky; without any, astropy writes every column as D."""
    rows: dict[str, list[float]] = {
        name: []
        for name in (
            "x", "y", "var_x", "var_y", "var_x_y",
            "ra", "dec", "var_ra", "var_dec", "var_ra_dec", "count",
        )
    }  # fmt: skip
    sky = wcs.wcs_pix2world(marks, 1) if len(marks) else marks
    for cluster in clusters:
        members = sky[cluster.members]
        spread = np.cov(members.T)
        values = (
            *cluster.mean, *cluster.covariance.diagonal(), cluster.covariance[0, 1],
            *members.mean(axis=0), *spread.diagonal(), spread[0, 1], cluster.count,
        )  # fmt: skip
        for column, value in zip(rows.values(), values, strict=True):
            column.append(value)
    return Table(rows)


def _mark_table(index: int, workflow: int, columns: dict[str, list[Any] | None]) -> Table:
    """One row per volunteer, with JSON lists; no rows if nothing was asked."""
    count = max(len(drawn or []) for drawn in columns.values())
    first = 88_000_000 + index * 1000 + workflow * 300
    table: dict[str, list[Any]] = {
        "classification_id": [first + i for i in range(count)],
        "time_stamp": [f"2018-02-{i % 28 + 1:02d} 04:05:{i % 60:02d} UTC" for i in range(count)],
    }
    for name, drawn in columns.items():
        table[name] = [json.dumps(marks) for marks in drawn or []]
    return Table(table)
