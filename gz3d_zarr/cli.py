"""The command line: a thin layer over the Python functions of the same names.

Results go to standard output, progress and messages to standard error. Exit status: 0 success,
1 error, 2 wrong usage, 3 finished with failed subjects, 130 interrupted.
"""

from __future__ import annotations

import functools
import json
import logging
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

import gz3d_zarr
from gz3d_zarr.cli_options import (
    SectionGroup,
    all_of,
    class_option,
    cone_option,
    destination_option,
    failure_options,
    ids_option,
    in_section,
    json_option,
    layout_options,
    memory_option,
    mode_options,
    picture_options,
    plan_source_options,
    selection_options,
    source_options,
    store_options,
    unused_failure_options,
    worker_options,
)
from gz3d_zarr.datamodel.limits import MAX_LIST
from gz3d_zarr.errors import GZ3DError, LeftOutWarning, UsageError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SUBJECTS_FAILED = 3
EXIT_INTERRUPTED = 130
Command = Callable[..., Any]


def _gather(options: dict[str, Any]) -> dict[str, Any]:
    """Turn what click gives into keyword arguments of the Python functions."""
    storage = options["storage_options"]
    for name in ("endpoint_url", "profile", "anon", "backend"):
        value = options.pop(name)
        if value:
            storage[name] = value
    region = options.pop("region")
    if region:
        more = storage.get("client_kwargs", {})
        if not isinstance(more, dict):
            raise UsageError("the storage option client_kwargs is a value, expected names in it")
        storage["client_kwargs"] = {**more, "region_name": region}
    file = options.get("ids")
    if file is not None:
        try:
            text = file.read(MAX_LIST + 1)
        except UnicodeDecodeError:
            raise UsageError(f"{file.name} is not text; expected one id per line") from None
        if len(text) > MAX_LIST:
            raise UsageError(f"{file.name} has more than {MAX_LIST // 2**20} MiB; expected ids")
        lines = [line.partition("#")[0].split() for line in text.splitlines()]
        options["ids"] = [word for words in lines for word in words]
    return options


def _print(result: Any, as_json: bool) -> None:
    click.echo(json.dumps(result.summary(), indent=1) if as_json else result.to_text())


def _handle_errors(command: Command) -> Command:
    """Turn an error into one line and an exit status."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except GZ3DError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED)
        except KeyboardInterrupt:
            hint = " To continue, run the same command with --resume." if "resume" in kwargs else ""
            click.echo(f"Interrupted.{hint}", err=True)
            sys.exit(EXIT_INTERRUPTED)

    return run


class _Messages(logging.Handler):
    """Log lines of this package, printed with the other messages."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(record.getMessage(), err=True)


@click.group(
    cls=SectionGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(gz3d_zarr.__version__, prog_name="gz3d-zarr")
def main() -> None:
    """Galaxy Zoo: 3D as one cloud-native Zarr store."""
    # Dask reports every lost connection of a closing cluster; our own errors say what matters.
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
    ours = logging.getLogger("gz3d_zarr")
    ours.setLevel(logging.INFO)
    ours.handlers = [_Messages()]
    # As clean an end as Ctrl-C, which a shell's background jobs ignore.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@main.command()
@click.argument("source")
@click.argument("store")
@selection_options
@layout_options
@source_options
@store_options
@worker_options
@memory_option
@mode_options
@failure_options
@json_option
@_handle_errors
def build(source: str, store: str, as_json: bool, **options: Any) -> None:
    """Turn the subject files of SOURCE into the Zarr store STORE.

    SOURCE is dr17 (the SDSS archive), a URL, a folder, a glob in quotes, or a .txt list of files.
    STORE is a path or a URL such as s3://bucket/gz3d.zarr.
    """
    from gz3d_zarr.progress import show_progress

    printed: list[str] = []

    def announce(plan: Any) -> None:
        printed.extend(plan.notes)
        for note in printed:
            click.echo(f"Note: {note}.", err=True)

    with show_progress(sys.stderr) as progress:
        report = gz3d_zarr.build(
            source, store, progress=progress, announce=announce, **_gather(options)
        )
    if not as_json:
        report = replace(report, notes=tuple(n for n in report.notes if n not in printed))
    _print(report, as_json)
    sys.exit(EXIT_SUBJECTS_FAILED if report.failures else 0)


@main.command()
@click.argument("source")
@click.argument("store")
@selection_options
@layout_options
@plan_source_options
@store_options
@worker_options
@memory_option
@mode_options
@unused_failure_options
@json_option
@_handle_errors
def plan(source: str, store: str, as_json: bool, **options: Any) -> None:
    """Show what build would do with the same options; write nothing.

    --cache, --connections, --on-error and --max-failures are accepted as well, and have no effect.
    The exit status is 1 if build would refuse.
    """
    del options["on_error"], options["max_failures"]
    result = gz3d_zarr.plan(source, store, **_gather(options))
    _print(result, as_json)
    sys.exit(EXIT_FAILED if result.refusal else 0)


@main.command()
@click.argument("store")
@in_section(
    "Source", "--source", metavar="SOURCE", help="Compare every value with the files of SOURCE."
)
@in_section(
    "Store and S3", "--digest", metavar="HEX", help="Refuse a store with another digest (see info)."
)
@source_options
@store_options
@worker_options
@json_option
@_handle_errors
def verify(store: str, as_json: bool, **options: Any) -> None:
    """Check every chunk of STORE; with --source, every value.

    The exit status is 0 if all checks pass, and 1 if one fails.
    """
    from gz3d_zarr.progress import show_progress

    with show_progress(sys.stderr) as progress:
        report = gz3d_zarr.verify(store, progress=progress, **_gather(options))
    _print(report, as_json)
    sys.exit(0 if report.passed else EXIT_FAILED)


@main.command()
@click.argument("store")
@click.argument("destination")
@store_options
@destination_option
@worker_options
@in_section("Recovery", "--resume", is_flag=True, help="Resume a copy that was interrupted.")
@json_option
@_handle_errors
def copy(store: str, destination: str, as_json: bool, **options: Any) -> None:
    """Copy the store STORE to DESTINATION, and check the copy.

    Both are paths or URLs; options for S3 apply to each of them that is a URL. The root metadata
    is written last, so readers never see half a store.
    """
    from gz3d_zarr.locations import is_url
    from gz3d_zarr.progress import show_progress

    options = _gather(options)
    shared = options["storage_options"]
    for name, url, more in (
        ("storage_options", store, {}),
        ("destination_options", destination, options["destination_options"]),
    ):
        options[name] = {**shared, **more} if is_url(url) else more
    with show_progress(sys.stderr, "objects") as progress:
        report = gz3d_zarr.copy(store, destination, progress=progress, **options)
    _print(report, as_json)


@main.command()
@click.argument("store")
@store_options
@json_option
@_handle_errors
def info(store: str, as_json: bool, **options: Any) -> None:
    """Show what a complete store holds, and what it was built from."""
    from gz3d_zarr.backends.store_info import read_info

    _print(read_info(store, **_gather(options)), as_json)


_export_options = all_of(
    ids_option,
    cone_option,
    store_options,
    destination_option,
    in_section("Other", "--overwrite", is_flag=True, help="Replace files of the same names."),
    json_option,
)


@main.group(cls=SectionGroup)
def export() -> None:
    """Write the subjects of a complete store in another format."""


@export.command("fits")
@click.argument("store")
@click.argument("dest")
@_export_options
@worker_options
@_handle_errors
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
@_handle_errors
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
@_handle_errors
def export_marks_file(store: str, dest: str, as_json: bool, **options: Any) -> None:
    """Write the volunteers' raw marks into the GeoParquet file DEST.

    It has one row per path (spiral, bar) or point (center, star), in pixels and in degrees.
    """
    from gz3d_zarr.export.marks import export_marks

    _export(export_marks, store, dest, as_json, options)


def _export(
    function: Command, store: str, dest: str, as_json: bool, options: dict[str, Any]
) -> None:
    """Run an export on the subjects that the options select."""
    from gz3d_zarr.export.subset import resolve_rows
    from gz3d_zarr.locations import is_url
    from gz3d_zarr.progress import show_progress

    options = _gather(options)
    rows = resolve_rows(
        store,
        ids=options.pop("ids"),
        cone=options.pop("cone"),
        storage_options=options["storage_options"] if is_url(store) else None,
    )
    with show_progress(sys.stderr) as progress:
        report = function(store, dest, rows=rows, progress=progress, **options)
    _print(report, as_json)


@main.command()
@click.argument("store")
@click.argument("object_ids", metavar="OBJECT_ID...", nargs=-1, required=True)
@picture_options
@store_options
@_handle_errors
def plot(
    store: str, object_ids: tuple[str, ...], output: str, threshold: float, **options: Any
) -> None:
    """Draw one subject of STORE, or several on a contact sheet.

    OBJECT_ID is a MaNGA id, which draws all its rows, or a Zooniverse subject id.
    """
    from gz3d_zarr.analysis.plotting import save_picture

    dataset = gz3d_zarr.open_store(store, **_gather(options))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LeftOutWarning)
        save_picture(dataset, object_ids, output, threshold=threshold)
    for warning in caught:
        click.echo(f"Warning: {warning.message}", err=True)
    click.echo(output)


@main.command()
@click.argument("count", metavar="N", type=click.IntRange(min=1))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="S",
    default=0,
    show_default=True,
    help="Seed of the random numbers.",
)
@_handle_errors
def simulate(count: int, folder: Path, seed: int) -> None:
    """Simulate an archive of N subject files in DIR.

    It includes a catalogue and a sha1 list, like the real archive.
    """
    from gz3d_zarr.progress import show_progress
    from gz3d_zarr.simulation import simulate_archive

    with show_progress(sys.stderr) as progress:
        files = simulate_archive(count, folder, seed=seed, progress=progress)
    click.echo(f"{len(files)} subject files, gz3d_metadata.fits and a sha1 list in {folder}")


@main.command()
@click.argument("folder", metavar="[DIR]", default="gz3d-demo", type=click.Path(path_type=Path))
@_handle_errors
def demo(folder: Path) -> None:
    """Simulate an archive in DIR, build a store, open it, and draw some subjects."""
    from gz3d_zarr.demo import run_demo

    run_demo(folder, click.echo)


if __name__ == "__main__":
    main()
