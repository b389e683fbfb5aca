"""Commands that write a store's subjects in other formats."""

from __future__ import annotations

import functools
import sys
from typing import Any

import click

from gz3d_zarr.cli.group import Command, gather, handle_errors, main, print_result
from gz3d_zarr.cli.options import (
    ROW_OPTIONS,
    SectionGroup,
    all_of,
    class_option,
    cone_option,
    destination_option,
    ids_option,
    in_section,
    json_option,
    min_vote_fraction_option,
    row_options,
    store_options,
    worker_options,
)
from gz3d_zarr.datamodel.ids import is_plate_ifu

_file_options = all_of(
    store_options,
    destination_option,
    in_section("Other", "--overwrite", is_flag=True, help="Replace files of the same names."),
    json_option,
)
_export_options = all_of(row_options, _file_options)
_spaxel_options = all_of(
    in_section(
        "Spaxels",
        "--table",
        metavar="FILE",
        required=True,
        help="Survey table with mangaid, plateifu, ifura and ifudec, such as DRPall: FITS, CSV, "
        "ECSV, VOTable or Parquet.",
    ),
    in_section(
        "Spaxels",
        "--method",
        type=click.Choice(["exact", "marvin"]),
        default="exact",
        show_default=True,
        help="Average over the area of each spaxel, or sample as Marvin does, with its offset.",
    ),
    in_section(
        "Spaxels",
        "--threshold",
        type=float,
        metavar="N",
        default=3,
        show_default=True,
        help="Masks are 1 where more than N volunteers marked a spaxel.",
    ),
)


@main.group(cls=SectionGroup)
def export() -> None:
    """Write the subjects of a complete store in another format."""


@export.command("fits")
@click.argument("store")
@click.argument("dest")
@_export_options
@worker_options
@handle_errors
def export_fits_files(store: str, dest: str, as_json: bool, **options: Any) -> None:
    """Write subject files, with all 11 HDUs, into the folder DEST.

    They have the same names and values as the source files.
    """
    from gz3d_zarr.export.fits import export_fits

    _export(export_fits, store, dest, as_json, options)


@export.command("mmu")
@click.argument("store")
@click.argument("dest")
@_export_options
@worker_options
@handle_errors
def export_mmu_files(store: str, dest: str, as_json: bool, **options: Any) -> None:
    """Write HDF5 files in the layout of the Multimodal Universe.

    The files are DEST/healpix=N/001-of-001.hdf5, with N in NESTED order at nside 16.
    """
    from gz3d_zarr.export.mmu import export_mmu

    _export(export_mmu, store, dest, as_json, options)


@export.command("marks")
@click.argument("store")
@click.argument("dest")
@_export_options
@class_option
@handle_errors
def export_marks_file(store: str, dest: str, as_json: bool, **options: Any) -> None:
    """Write the volunteers' raw marks into the GeoParquet file DEST.

    It has one row per path (spiral, bar) or point (center, star), in pixels and in degrees.
    """
    from gz3d_zarr.export.marks import export_marks

    _export(export_marks, store, dest, as_json, options)


@export.command("table")
@click.argument("store")
@click.argument("dest")
@_export_options
@handle_errors
def export_table_file(store: str, dest: str, as_json: bool, **options: Any) -> None:
    """Write the table of the subjects into the file DEST.

    Its ending is the format: .parquet, .fits, .csv, .ecsv or .vot. It has one row per subject,
    also of those whose status is not ok, and the text columns of the catalogue.
    """
    from gz3d_zarr.export.table import export_table

    _export(export_table, store, dest, as_json, options)


@export.command("spaxels")
@click.argument("store")
@click.argument("dest")
@_spaxel_options
@all_of(ids_option, cone_option, min_vote_fraction_option)
@_file_options
@worker_options
@handle_errors
def export_spaxel_files(store: str, dest: str, table: str, as_json: bool, **options: Any) -> None:
    """Write masks on the grids of MaNGA's maps into the folder DEST.

    There is one file DEST/manga-PLATE-IFU-gz3d.fits.gz for each plate-IFU of the table, with the
    counts, fractions and masks of all classes and the WCS of its MAPS.
    """
    from gz3d_zarr.export.spaxels import export_spaxels

    function = functools.partial(export_spaxels, table=table)
    _export(function, store, dest, as_json, {**options, "table": None}, ids_table=table)


def _export(
    function: Command,
    store: str,
    dest: str,
    as_json: bool,
    options: dict[str, Any],
    ids_table: str | None = None,
) -> None:
    """Run an export on the subjects that the options select.

    A table of `ids_table` tells plate-IFUs of the ids, and selects nothing itself.
    """
    from gz3d_zarr.export.subset import RowRules
    from gz3d_zarr.progress import show_progress

    options = gather(options)
    rules = {name: options.pop(name) for name in ROW_OPTIONS}
    if any(is_plate_ifu(wanted) for wanted in rules["ids"] or ()):
        rules["table"] = rules["table"] or ids_table
    rows = RowRules(**rules)
    with show_progress(sys.stderr) as progress:
        report = function(store, dest, rows=rows, progress=progress, **options)
    print_result(report, as_json)
