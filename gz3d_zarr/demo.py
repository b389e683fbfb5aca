"""The whole workflow in one command, without a network: archive, store, Dataset, picture."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from dask.utils import format_bytes

from gz3d_zarr.analysis.picture_options import PictureOptions
from gz3d_zarr.analysis.plot_sheet import plot_sheet
from gz3d_zarr.backends.store import open_store
from gz3d_zarr.errors import plural
from gz3d_zarr.pipeline.build import build
from gz3d_zarr.pipeline.report import BuildReport
from gz3d_zarr.progress import show_progress
from gz3d_zarr.simulation import simulate_archive

DEFAULT_SUBJECTS = 24
PLOTTED_SUBJECTS = 4


def run_demo(
    folder: Path, say: Callable[[str], None], *, subjects: int = DEFAULT_SUBJECTS
) -> BuildReport:
    """Simulate an archive, build a store from it, open the store lazily, and save a picture.

    Parameters
    ----------
    folder : Path
        Where to write ``archive/``, ``gz3d.zarr/`` and ``gz3d.png``; the store of an earlier demo
        is replaced.
    say : callable
        Called with each line of output.
    subjects : int
        How many to simulate.

    Raises
    ------
    GZ3DError
        As `simulate_archive` and `build`.
    """
    archive, store, picture = folder / "archive", folder / "gz3d.zarr", folder / "gz3d.png"
    start = time.monotonic()
    with show_progress(sys.stderr) as progress:
        simulate_archive(subjects, archive, progress=progress)
    seconds = time.monotonic() - start
    say(f"Simulated {plural(subjects, 'subject file')} in {archive} ({seconds:.1f} s).")
    with show_progress(sys.stderr) as progress:
        report = build(archive, store, shard_size=8, overwrite=True, progress=progress)
    say(report.to_text())
    start = time.monotonic()
    dataset = open_store(store)
    opened = time.monotonic() - start
    say(f"\n>>> gz3d_zarr.open_store({str(store)!r})\n{dataset}\n")
    arms = dataset["vote_fraction"].sel({"class": "spiral"}).values
    best = dataset.isel(subject=(-arms).argsort()[:PLOTTED_SUBJECTS])
    start = time.monotonic()
    best.isel(subject=0)["image"].values  # noqa: B018 - to measure the read
    read = time.monotonic() - start
    figure = plot_sheet(
        best, None, PictureOptions(), title="Spirals with most votes in a simulated archive"
    )
    figure.savefig(picture)
    stored = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    source = sum(path.stat().st_size for path in archive.glob("*.fits.gz"))
    say(
        f"{plural(subjects, 'subject')}: {format_bytes(source)} of files, "
        f"{format_bytes(stored)} of store; opened in {opened * 1e3:.0f} ms, first picture read in "
        f"{read * 1e3:.0f} ms.\n"
        f"Picture: {picture}"
    )
    return report
