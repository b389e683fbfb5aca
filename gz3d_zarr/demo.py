"""The whole way in one command and without a network: archive, store, Dataset, picture."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from dask.utils import format_bytes

from gz3d_zarr.analysis.plotting import plot_sheet
from gz3d_zarr.backends.store import open_store
from gz3d_zarr.pipeline.build import build
from gz3d_zarr.pipeline.report import BuildReport
from gz3d_zarr.progress import show_progress
from gz3d_zarr.simulation.archive import simulate_archive

SUBJECTS = 24
SHOWN = 4


def run_demo(folder: Path, say: Callable[[str], None], *, subjects: int = SUBJECTS) -> BuildReport:
    """Simulate an archive, build a store from it, open that lazily, and save a picture.

    Parameters
    ----------
    folder : Path
        Gets ``archive/``, ``gz3d.zarr/`` and ``gz3d.png``; a store of an earlier demo there is
        replaced.
    say : callable
        Takes each line for the reader.
    subjects : int
        How many to simulate.

    Raises
    ------
    GZ3DError
        As `simulate_archive` and `build`.
    """
    archive, store, picture = folder / "archive", folder / "gz3d.zarr", folder / "gz3d.png"
    began = time.monotonic()
    with show_progress(sys.stderr) as progress:
        simulate_archive(subjects, archive, progress=progress)
    say(f"Simulated {subjects} subject files in {archive} ({time.monotonic() - began:.1f} s).")
    with show_progress(sys.stderr) as progress:
        report = build(archive, store, shard_size=8, overwrite=True, progress=progress)
    say(report.to_text())
    began = time.monotonic()
    dataset = open_store(store)
    opened = time.monotonic() - began
    say(f"\n>>> gz3d_zarr.open_store({str(store)!r})\n{dataset}\n")
    arms = dataset["vote_fraction"].sel({"class": "spiral"}).values
    best = dataset.isel(subject=(-arms).argsort()[:SHOWN])
    began = time.monotonic()
    best.isel(subject=0)["image"].values  # noqa: B018 - read for its time
    read = time.monotonic() - began
    plot_sheet(best, title="The most voted spirals of a simulated archive").savefig(picture)
    stored = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    source = sum(path.stat().st_size for path in archive.glob("*.fits.gz"))
    say(
        f"{subjects} subjects: {format_bytes(source)} of files, {format_bytes(stored)} of store; "
        f"opened in {opened * 1e3:.0f} ms, first picture read in {read * 1e3:.0f} ms.\n"
        f"Picture: {picture}"
    )
    return report
