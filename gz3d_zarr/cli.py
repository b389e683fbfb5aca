"""The command line: a thin shell over the same functions.

Results go to standard output, progress and messages to standard error. Exit status: 0 all well,
1 failed, 2 wrong usage, 3 finished with subjects that are not ok, 130 interrupted.
"""

from __future__ import annotations

import functools
import json
import logging
import math
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
    all_of,
    destination_option,
    ids_option,
    json_option,
    plan_options,
    rule_options,
    source_options,
    store_options,
    worker_options,
)
from gz3d_zarr.errors import GZ3DError, LeftOutWarning, UsageError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_OK = 3
EXIT_INTERRUPTED = 130
Command = Callable[..., Any]


def _gather(options: dict[str, Any]) -> dict[str, Any]:
    """Turn what click gives into keyword arguments of `plan` and `build`."""
    storage = options["storage_options"]
    for name in ("endpoint_url", "profile", "anon", "backend"):
        value = options.pop(name)
        if value:
            storage[name] = value
    region = options.pop("region")
    if region:
        storage["client_kwargs"] = {**storage.get("client_kwargs", {}), "region_name": region}
    file = options.get("ids")
    if file is not None:
        try:
            lines = [line.partition("#")[0].split() for line in file]
        except UnicodeDecodeError:
            raise UsageError(f"{file.name} is not text; expected one id a line") from None
        options["ids"] = [word for words in lines for word in words]
    return options


def _numbers(
    _: click.Context, param: click.Parameter, text: str | None
) -> tuple[float, float, float] | None:
    """RA,DEC,RADIUS to three numbers on the sky."""
    if text is None:
        return None
    try:
        ra, dec, radius = (float(part) for part in text.split(","))
    except ValueError:
        ra = dec = radius = math.nan
    if not (math.isfinite(ra) and -90 <= dec <= 90 and 0 < radius <= 180 * 3600):
        raise click.BadParameter(
            f"{text!r} is not RA,DEC,RADIUS: degrees, degrees, arcseconds", param=param
        )
    return ra, dec, radius


def _print(result: Any, as_json: bool) -> None:
    click.echo(json.dumps(result.summary(), indent=1) if as_json else result.to_text())


def _guarded(command: Command) -> Command:
    """Errors become one line and an exit status."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except GZ3DError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED)
        except KeyboardInterrupt:
            more = "; the same command with --resume goes on" if "resume" in kwargs else ""
            click.echo(f"Interrupted{more}.", err=True)
            sys.exit(EXIT_INTERRUPTED)

    return run


class _Messages(logging.Handler):
    """Our own log lines, such as what is waited for, among the messages."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(record.getMessage(), err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(gz3d_zarr.__version__, prog_name="gz3d-zarr")
def main() -> None:
    """Galaxy Zoo: 3D as one cloud-native Zarr store."""
    # Dask reports every lost connection of an ending cluster; our own errors say what matters.
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
    ours = logging.getLogger("gz3d_zarr")
    ours.setLevel(logging.INFO)
    ours.handlers = [_Messages()]
    # Ends as cleanly as Ctrl-C, which a shell's background jobs ignore.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@main.command()
@click.argument("source")
@click.argument("store")
@plan_options
@rule_options
@_guarded
def build(source: str, store: str, as_json: bool, **options: Any) -> None:
    """Turn the subject files of SOURCE into the Zarr store STORE.

    SOURCE is dr17 (the archive), a URL, a folder, a glob in quotes, or a .txt list of files.
    STORE is a path or a URL such as s3://bucket/gz3d.zarr.
    """
    from gz3d_zarr.progress import show_progress

    told: list[str] = []

    def announce(made: Any) -> None:
        told.extend(made.notes)
        for note in told:
            click.echo(f"Note: {note}.", err=True)

    with show_progress(sys.stderr) as progress:
        report = gz3d_zarr.build(
            source, store, progress=progress, announce=announce, **_gather(options)
        )
    if not as_json:  # what has been told before is not told again
        report = replace(report, notes=tuple(note for note in report.notes if note not in told))
    _print(report, as_json)
    sys.exit(EXIT_NOT_OK if report.failures else 0)


@main.command()
@click.argument("source")
@click.argument("store")
@plan_options
@rule_options
@_guarded
def plan(
    source: str,
    store: str,
    as_json: bool,
    on_error: str,  # noqa: ARG001 - taken so that a command's "build" can be made "plan"
    max_failures: int | None,  # noqa: ARG001
    **options: Any,
) -> None:
    """Say what build would do with the same options; write nothing."""
    made = gz3d_zarr.plan(source, store, **_gather(options))
    _print(made, as_json)
    sys.exit(EXIT_FAILED if made.refusal else 0)


@main.command()
@click.argument("store")
@click.option("--source", metavar="SOURCE", help="Compare every value with the files of SOURCE.")
@all_of([*worker_options, *source_options])
@store_options
@json_option
@_guarded
def verify(store: str, as_json: bool, **options: Any) -> None:
    """Check every chunk of STORE; with --source, every value.

    The exit status is 0 where all checks pass, and 1 where one does not.
    """
    from gz3d_zarr.progress import show_progress

    with show_progress(sys.stderr) as progress:
        report = gz3d_zarr.verify(store, progress=progress, **_gather(options))
    _print(report, as_json)
    sys.exit(0 if report.passed else EXIT_FAILED)


@main.command()
@click.argument("store")
@click.argument("destination")
@all_of(worker_options)
@store_options
@destination_option
@click.option("--resume", is_flag=True, help="Go on with a copy that was stopped.")
@json_option
@_guarded
def copy(store: str, destination: str, as_json: bool, **options: Any) -> None:
    """Copy the store STORE to DESTINATION, checked.

    Its metadata come last, so that nobody sees half a store.

    Both are paths or URLs; the options for S3 are for each of them that is a URL.
    """
    from gz3d_zarr.locations import is_url
    from gz3d_zarr.progress import show_progress

    options = _gather(options)
    shared = options["storage_options"]
    for name, place, more in (
        ("storage_options", store, {}),
        ("destination_options", destination, options["destination_options"]),
    ):
        options[name] = {**shared, **more} if is_url(place) else more
    with show_progress(sys.stderr, "objects") as progress:
        report = gz3d_zarr.copy(store, destination, progress=progress, **options)
    _print(report, as_json)


@main.command()
@click.argument("store")
@store_options
@json_option
@_guarded
def info(store: str, as_json: bool, **options: Any) -> None:
    """Show what a complete store holds, and what it was made from."""
    from gz3d_zarr.backends.store_info import read_info

    _print(read_info(store, **_gather(options)), as_json)


_export_options = all_of(
    [
        ids_option,
        click.option(
            "--cone",
            metavar="RA,DEC,RADIUS",
            callback=_numbers,
            help="Only subjects within RADIUS arcseconds of a position in degrees.",
        ),
        *worker_options,
        click.option("--overwrite", is_flag=True, help="Replace files of the same names."),
        store_options,
        destination_option,
        json_option,
    ]
)


@main.group()
def export() -> None:
    """Write the subjects of a complete store in another format."""


@export.command("fits")
@click.argument("store")
@click.argument("dest")
@_export_options
@_guarded
def export_fits_files(store: str, dest: str, as_json: bool, **options: Any) -> None:
    """Write subject files, HDUs 0 to 5, into the folder DEST.

    They have the names of the source's.
    """
    from gz3d_zarr.export.fits import export_fits

    _export(export_fits, store, dest, as_json, options)


@export.command("mmu")
@click.argument("store")
@click.argument("dest")
@_export_options
@_guarded
def export_mmu_files(store: str, dest: str, as_json: bool, **options: Any) -> None:
    """Write HDF5 files in the Multimodal Universe's layout.

    DEST/healpix=N/001-of-001.hdf5, with N NESTED at nside 16.
    """
    from gz3d_zarr.export.mmu import export_mmu

    _export(export_mmu, store, dest, as_json, options)


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
@click.option(
    "-o", "--output", metavar="FILE", required=True, help="Picture: .png, .pdf, .svg, .jpg."
)
@click.option(
    "--threshold",
    type=float,
    metavar="N",
    default=3,
    show_default=True,
    help="Outline what more volunteers than N marked.",
)
@store_options
@_guarded
def plot(
    store: str, object_ids: tuple[str, ...], output: str, threshold: float, **options: Any
) -> None:
    """Draw one subject of STORE, or several on a contact sheet.

    OBJECT_ID is a MaNGA id, of which all rows are drawn, or a Zooniverse subject id.
    """
    from gz3d_zarr.analysis.plotting import save_picture

    dataset = gz3d_zarr.open_store(store, **_gather(options))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", LeftOutWarning)
        save_picture(dataset, object_ids, output, threshold=threshold)
    for warning in told:
        click.echo(f"Warning: {warning.message}", err=True)
    click.echo(output)


@main.command()
@click.argument("count", metavar="N", type=click.IntRange(min=1))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), metavar="S", default=0, show_default=True)
@_guarded
def simulate(count: int, folder: Path, seed: int) -> None:
    """Make up an archive of N subject files in DIR.

    A catalogue and a sha1 list stand beside the files, as in the real archive.
    """
    from gz3d_zarr.progress import show_progress
    from gz3d_zarr.simulation.archive import simulate_archive

    with show_progress(sys.stderr) as progress:
        files = simulate_archive(count, folder, seed=seed, progress=progress)
    click.echo(f"{len(files)} subject files, gz3d_metadata.fits and a sha1 list in {folder}")


@main.command()
@click.argument("folder", metavar="[DIR]", default="gz3d-demo", type=click.Path(path_type=Path))
@_guarded
def demo(folder: Path) -> None:
    """Go the whole way in DIR: simulate, build, open, draw."""
    from gz3d_zarr.demo import run_demo

    run_demo(folder, click.echo)


if __name__ == "__main__":
    main()
