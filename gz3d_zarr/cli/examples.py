"""Commands that simulate an archive, to try everything on."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gz3d_zarr.cli.group import handle_errors, main


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
@handle_errors
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
@handle_errors
def demo(folder: Path) -> None:
    """Simulate an archive in DIR, build its store, and draw galaxies."""
    from gz3d_zarr.demo import run_demo

    run_demo(folder, click.echo)
