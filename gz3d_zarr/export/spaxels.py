"""Export masks on the grids of MaNGA's maps: one FITS file for each plate-IFU of a survey table."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import deflate
import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.analysis.area_average import average_over_cells
from gz3d_zarr.analysis.masks import whole_threshold
from gz3d_zarr.analysis.spaxels import (
    MARVIN_NORTH,
    MARVIN_WEST,
    check_method,
    find_corners,
    resample,
    spaxel_wcs,
)
from gz3d_zarr.analysis.survey_table import read_survey_table
from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.datamodel.subject import CLASSES, THRESHOLD
from gz3d_zarr.datamodel.wcs import image_wcs
from gz3d_zarr.errors import plural
from gz3d_zarr.export.observations import Bundle, find_observations
from gz3d_zarr.export.runner import (
    ExportReport,
    Runner,
    WrittenFiles,
    open_source_and_destination,
)
from gz3d_zarr.export.subset import Selection
from gz3d_zarr.progress import ProgressOption
from gz3d_zarr.storage.object_store import ObjectStore

if TYPE_CHECKING:
    from astropy.io.fits import HDUList, Header
    from astropy.wcs import WCS
    from distributed import Client

    from gz3d_zarr.export.subset import Rows

Method = Literal["exact", "marvin"]
MASKS = "segmentation"
COMPRESSION = 6


@dataclass(frozen=True)
class SpaxelReport(ExportReport):
    """Result of an export of spaxels.

    Attributes
    ----------
    unmatched : int
        Rows of the table without a subject that is selected and whose status is ok.
    repeated : int
        Rows of the table that repeat a plate-IFU, of which the first is used.
    ambiguous : int
        Plate-IFUs of galaxies with more than one subject, of which one is used.
    """

    unmatched: int
    repeated: int
    ambiguous: int

    def to_text(self) -> str:
        """The output of the command."""
        lines = [super().to_text()]
        if self.unmatched:
            verb = "has" if self.unmatched == 1 else "have"
            lines.append(
                f"{plural(self.unmatched, 'row')} of the table {verb} no subject that is selected "
                "and whose status is ok"
            )
        if self.repeated:
            verb = "repeats" if self.repeated == 1 else "repeat"
            lines.append(
                f"{plural(self.repeated, 'row')} of the table {verb} a plate-IFU; the first row is "
                "used"
            )
        if self.ambiguous:
            lines.append(
                f"{plural(self.ambiguous, 'plate-IFU')} with more than one subject; the one with "
                "the same bundle is used, or else the first"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class _Task:
    """The subjects of one shard, and the bundles of each."""

    selection: Selection
    bundles: Sequence[Sequence[Bundle]]
    method: Method
    threshold: float
    destination: ObjectStore


def export_spaxels(
    store: str | Path,
    dest: str | Path,
    table: Any,
    client: Client | None = None,
    *,
    rows: Rows = None,
    method: Method = "exact",
    threshold: float = THRESHOLD,
    scheduler: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: ProgressOption = None,
    storage_options: Mapping[str, Any] | None = None,
    destination_options: Mapping[str, Any] | None = None,
) -> SpaxelReport:
    """Write ``manga-PLATE-IFU-gz3d.fits.gz`` for each row of a survey table such as DRPall.

    A file has three images (class, y, x) on the grid of the MAPS of this plate-IFU: ``COUNTS``,
    the number of volunteers who marked each spaxel, ``FRACTION``, the same divided by the number of
    volunteers who were asked, and ``MASK``, 1 where more than `threshold` volunteers marked it. As
    in MAPS, cards C1 to C4 name the classes. ``FRACTION`` is NaN where nobody was asked.

    The grid is computed: spaxels of 0.5 arcsec, 24 to 74 along each side depending on the bundle in
    the plate-IFU, CRPIX at n/2 + 1, and there the position ``ifura, ifudec``. For a MAPS file with
    another grid, use `GZ3DAccessor.to_spaxels` with that file.

    Parameters
    ----------
    store : str or Path
        A complete store.
    dest : str or Path
        Folder or fsspec URL; a missing folder is created.
    table : str, Path or table
        A file or a table, as `read_survey_table` and `match_subjects` take them, with columns
        ``mangaid``, ``plateifu``, ``ifura`` and ``ifudec``, in any case. A galaxy that was observed
        twice has two files. Of several subjects with the same MaNGA id, that for the size of the
        bundle is used, or else the first.
    client : distributed.Client, optional
        Runs the tasks, as for `build`.
    rows : sequence of int, Dataset, or RowRules, optional
        Only these subjects of the table, as for `export_fits`.
    method : {'exact', 'marvin'}
        As for `GZ3DAccessor.to_spaxels`.
    threshold : float
        Of the masks.
    scheduler, workers
        As for `build`.
    overwrite : bool
        Replace files with the same names.
    progress : callable or bool, optional
        Called with a `Progress` after every task, which has at most as many subjects as a shard.
    storage_options : mapping, optional
        Options for fsspec, for those of `store` and `dest` that are URLs.
    destination_options : mapping, optional
        Additional options for `dest`.

    Returns
    -------
    SpaxelReport

    Raises
    ------
    UsageError
        The table lacks a column, no row has the id of a subject, or the position in a row is
        unknown or not that of the subject; no selected subject has the status ok.
    StoreError
        The store cannot be read, or `dest` has files or cannot be written.
    BuildError
        A task failed for another reason; existing files are complete.
    """
    check_method(method)
    whole_threshold(threshold)
    table = read_survey_table(table) if isinstance(table, str | Path) else table
    selection, destination = open_source_and_destination(
        store, dest, rows, storage_options, destination_options, overwrite=overwrite
    )
    found = find_observations(selection, table)
    used = np.array(sorted(found.bundles), np.int64)
    # Those that are left out of the store's subjects may not be in the table: it counts its own.
    selection = replace(selection.take(used), left_out=0)
    bundles = [found.bundles[position] for position in used.tolist()]
    tasks = [
        _Task(
            selection.take(positions),
            [bundles[position] for position in positions],
            method,
            float(threshold),
            destination,
        )
        for positions in selection.shards()
    ]
    runner = Runner(_write_shard, "gz3d-export-spaxels", selection, destination, progress)
    report = runner.run(tasks, client, scheduler, workers)
    return SpaxelReport(
        **asdict(report),
        unmatched=found.unmatched,
        repeated=found.repeated,
        ambiguous=found.ambiguous,
    )


def _write_shard(task: _Task) -> WrittenFiles:
    files = size = 0
    reader, selection = ChunkReader(task.selection.generation), task.selection
    fetched = reader.fetch(selection.rows, [MASKS])
    for i, row in enumerate(selection.rows.tolist()):
        masks = reader.read(MASKS, row, fetched)
        values = {name: column[i] for name, column in selection.table.items()}
        for bundle in task.bundles[i]:
            buffer = io.BytesIO()
            hdus = make_hdus(values, masks, bundle, task.method, task.threshold)
            hdus.writeto(buffer, output_verify="ignore")  # all cards are ours; it takes long
            data = bytes(deflate.gzip_compress(buffer.getbuffer(), COMPRESSION))
            task.destination.put(bundle.file_name, data)
            files, size = files + 1, size + len(data)
    return WrittenFiles(len(selection), files, size)


def make_hdus(
    values: Mapping[str, Any],
    masks: NDArray[np.uint8],
    bundle: Bundle,
    method: Method,
    threshold: float,
) -> HDUList:
    """The HDUs of the file of one plate-IFU.

    Parameters
    ----------
    values : mapping
        Small variables of the store, for the subject.
    masks : ndarray of uint8, shape (4, 525, 525)
    bundle : Bundle
    method, threshold
        As for `export_spaxels`.

    Returns
    -------
    astropy.io.fits.HDUList
    """
    from astropy.io import fits

    ra, dec, scale = (float(values[name]) for name in ("ra", "dec", "scale"))
    wcs = spaxel_wcs(bundle.ra, bundle.dec, bundle.side)
    if method == "marvin":
        counts = resample(masks, scale, bundle.side, method)
    else:
        counts = average_over_cells(masks, find_corners(wcs, image_wcs(ra, dec, scale)))
    asked = values["classifications"].astype(np.float64)
    fraction = counts / np.where(asked > 0, asked, np.nan)[:, None, None]
    header = _sky_header(wcs)
    for i, (cls, number) in enumerate(zip(CLASSES, asked, strict=True), 1):
        header[f"C{i}"] = cls, f"Data in channel {i}"
        header[f"ASKED{i}"] = int(number), f"volunteers who were asked about {cls}"
    return fits.HDUList(
        [
            fits.PrimaryHDU(header=_primary_header(values, bundle, method, threshold)),
            fits.ImageHDU(counts.astype(np.float32), header, "COUNTS"),
            fits.ImageHDU(fraction.astype(np.float32), header, "FRACTION"),
            fits.ImageHDU((counts > threshold).astype(np.uint8), header, "MASK"),
        ]
    )


def _sky_header(wcs: WCS) -> Header:
    """Cards of the WCS with all digits; the classes are an axis without coordinates."""
    from astropy.io import fits

    header = fits.Header()
    for i in (0, 1):
        header[f"CTYPE{i + 1}"] = wcs.wcs.ctype[i]
        header[f"CUNIT{i + 1}"] = str(wcs.wcs.cunit[i])
        header[f"CRPIX{i + 1}"] = float(wcs.wcs.crpix[i])
        header[f"CRVAL{i + 1}"] = float(wcs.wcs.crval[i])
        header[f"CDELT{i + 1}"] = float(wcs.pixel_scale_matrix[i, i])
    header["RADESYS"] = wcs.wcs.radesys
    return header


def _primary_header(
    values: Mapping[str, Any], bundle: Bundle, method: Method, threshold: float
) -> Header:
    from astropy.io import fits

    header = fits.Header()
    header["PLATEIFU"] = bundle.plate_ifu
    header["MANGAID"] = str(values["subject"])
    header["ZOOID"] = int(values["zooniverse_subject_id"]), "Zooniverse subject of Galaxy Zoo: 3D"
    header["IFURA"] = bundle.ra, "[deg] position of the bundle"
    header["IFUDEC"] = bundle.dec, "[deg] position of the bundle"
    header["GZ3DRA"] = float(values["ra"]), "[deg] position in Galaxy Zoo: 3D"
    header["GZ3DDEC"] = float(values["dec"]), "[deg] position in Galaxy Zoo: 3D"
    header["METHOD"] = method, "how counts were put on spaxels"
    header["THRESHLD"] = threshold, "MASK is 1 where COUNTS is above this"
    if method == "marvin":
        header["OFFWEST"] = round(MARVIN_WEST, 6), "[arcsec] offset of Marvin's samples"
        header["OFFNORTH"] = round(MARVIN_NORTH, 6), "[arcsec] offset of Marvin's samples"
    return header
