"""Commands that make, check and describe stores."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import click

import gz3d_zarr
from gz3d_zarr.cli.group import (
    EXIT_FAILED,
    EXIT_SUBJECTS_FAILED,
    gather,
    handle_errors,
    main,
    print_result,
)
from gz3d_zarr.cli.options import (
    destination_option,
    failure_options,
    in_section,
    json_option,
    layout_options,
    memory_option,
    mode_options,
    plan_source_options,
    row_options,
    selection_options,
    source_options,
    store_options,
    unused_failure_options,
    worker_options,
)


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
@handle_errors
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
            source, store, progress=progress, announce=announce, **gather(options)
        )
    if not as_json:
        report = replace(report, notes=tuple(n for n in report.notes if n not in printed))
    print_result(report, as_json)
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
@handle_errors
def plan(source: str, store: str, as_json: bool, **options: Any) -> None:
    """Show what build would do with the same options; write nothing.

    --cache, --connections, --on-error and --max-failures are accepted as well, and have no effect.
    The exit status is 1 if build would refuse.
    """
    del options["on_error"], options["max_failures"]
    result = gz3d_zarr.plan(source, store, **gather(options))
    print_result(result, as_json)
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
@in_section("Other", "--failed-only", is_flag=True, help="Leave out checks that passed.")
@handle_errors
def verify(store: str, as_json: bool, failed_only: bool, **options: Any) -> None:
    """Check every chunk of STORE; with --source, every value.

    The exit status is 0 if all checks pass, and 1 if one fails.
    """
    from gz3d_zarr.progress import show_progress

    with show_progress(sys.stderr) as progress:
        report = gz3d_zarr.verify(store, progress=progress, **gather(options))
    print_result(report.without_passed() if failed_only else report, as_json)
    sys.exit(0 if report.passed else EXIT_FAILED)


@main.command()
@click.argument("store")
@click.argument("destination")
@store_options
@destination_option
@worker_options
@in_section("Recovery", "--resume", is_flag=True, help="Resume a copy that was interrupted.")
@in_section("Other", "--page", is_flag=True, help="Put the page that shows it there, too.")
@json_option
@handle_errors
def copy(store: str, destination: str, page: bool, as_json: bool, **options: Any) -> None:
    """Copy the store STORE to DESTINATION, and check the copy.

    Both are paths or URLs; options for S3 apply to each of them that is a URL. The root metadata
    is written last, so readers never see half a store.
    """
    from gz3d_zarr.progress import show_progress

    options = _share_options(store, destination, options)
    with show_progress(sys.stderr, "objects") as progress:
        report = gz3d_zarr.copy(store, destination, progress=progress, **options)
    if page:
        gz3d_zarr.page(destination, storage_options=options["destination_options"])
    print_result(report, as_json)


@main.command()
@click.argument("store")
@click.argument("destination")
@row_options
@store_options
@destination_option
@worker_options
@in_section("Recovery", "--resume", is_flag=True, help="Resume a subset that was interrupted.")
@json_option
@handle_errors
def subset(store: str, destination: str, as_json: bool, **options: Any) -> None:
    """Make a store of some subjects of the store STORE at DESTINATION.

    Both are paths or URLs; options for S3 apply to each of them that is a URL. Subjects that meet
    all conditions are taken, with everything that STORE has of them, in its order.
    """
    from gz3d_zarr.progress import show_progress

    options = _share_options(store, destination, options)
    with show_progress(sys.stderr) as progress:
        report = gz3d_zarr.subset(store, destination, progress=progress, **options)
    print_result(report, as_json)


def _share_options(store: str, destination: str, options: dict[str, Any]) -> dict[str, Any]:
    """Give the options of the store to the destination too, each where it is a URL."""
    from gz3d_zarr.locations import is_url

    gathered = gather(options)
    shared = gathered["storage_options"]
    for name, url, more in (
        ("storage_options", store, {}),
        ("destination_options", destination, gathered["destination_options"]),
    ):
        gathered[name] = {**shared, **more} if is_url(url) else more
    return gathered


@main.command()
@click.argument("store")
@store_options
@json_option
@handle_errors
def info(store: str, as_json: bool, **options: Any) -> None:
    """Show what a complete store holds, and what it was built from."""
    from gz3d_zarr.backends.store_info import read_info

    print_result(read_info(store, **gather(options)), as_json)
