"""Compare ``gz3d-zarr build`` with a hand-written dask and xarray script, in one run.

    python benchmarks/build.py [--counts 64 256 1024] [--source DIR] [--workers 2]

Subjects are hard links to the reference files (or to simulated files, if there are none), each
with its own name. Seconds are those of the whole process, including imports and the start of the
workers. Memory is the peak of the sum over all its processes, sampled twice a second, with shared
pages counted once (PSS). Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import Measured, describe_machine, find_originals, link, run

HANDWRITTEN = Path(__file__).with_name("handwritten.py")
OPEN = """
import json, sys, time
import xarray, zarr, dask.array, gz3d_zarr.backends.store
start = time.perf_counter()
dataset = gz3d_zarr.open_store(sys.argv[1])
opened = time.perf_counter()
row = dataset.isel(subject=dataset.sizes["subject"] // 2)
row["image"].variable.to_numpy(), row["segmentation"].variable.to_numpy()
through_dask = time.perf_counter()
plain = xarray.open_zarr(sys.argv[1], chunks=None).isel(subject=dataset.sizes["subject"] // 3)
start_read = time.perf_counter()
plain["image"].values, plain["segmentation"].values
read = time.perf_counter()
print(json.dumps([opened - start, read - start_read, through_dask - opened]))
"""


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--source", type=Path, help="a folder of subject files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--skip-handwritten", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gz3d-benchmark-") as scratch:
        folder = Path(scratch)
        originals = find_originals(options.source, folder)
        print(f"{describe_machine()}; {len(originals)} files from {originals[0].parent.name}")
        print()
        print(
            "| subjects | codec | seconds | subjects/s | inside the build | peak MB | store/source "
            "| open ms | one subject ms | by dask ms | hand-written subjects/s | peak MB | ratio |"
        )
        print("|" + " --- |" * 13)
        for count in options.counts:
            source = link(originals, folder / f"source-{count}", count)
            other = (
                None
                if options.skip_handwritten
                else run_handwritten(source, folder / "handwritten.zarr", options.workers)
            )
            for codec in ("portable", "compact"):
                print_row(source, folder / "gz3d.zarr", count, codec, options.workers, other)
            shutil.rmtree(source)


def print_row(
    source: Path, store: Path, count: int, codec: str, workers: int, other: Measured | None
) -> None:
    """Build once and print one row."""
    arguments = ["build", source, store, "--codec", codec, "--workers", workers, "--json"]
    measured, output = run([sys.executable, "-m", "gz3d_zarr", *map(str, arguments)])
    report = json.loads(output)
    if report["ok"] != count:
        raise SystemExit(f"{report['failures']}")
    opened, read, by_dask = (
        1e3 * seconds
        for seconds in json.loads(
            subprocess.run(
                [sys.executable, "-W", "ignore", "-c", OPEN, str(store)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
    )
    size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    size /= sum(path.stat().st_size for path in source.glob("*.fits.gz"))
    rate = count / measured.seconds
    cells = [
        f"{count}", codec, f"{measured.seconds:.1f}", f"{rate:.0f}",
        f"{report['subjects_per_second']:.0f}", f"{measured.peak_bytes / 1e6:.0f}", f"{size:.3f}",
        f"{opened:.0f}", f"{read:.0f}", f"{by_dask:.0f}",
    ]  # fmt: skip
    if other is None:
        cells += ["", "", ""]
    else:
        theirs = count / other.seconds
        cells += [f"{theirs:.1f}", f"{other.peak_bytes / 1e6:.0f}", f"{rate / theirs:.1f}"]
    print("| " + " | ".join(cells) + " |", flush=True)
    shutil.rmtree(store)


def run_handwritten(source: Path, store: Path, workers: int) -> Measured:
    """Run the hand-written script once."""
    measured, _ = run([sys.executable, str(HANDWRITTEN), str(source), str(store), str(workers)])
    shutil.rmtree(store)
    return measured


if __name__ == "__main__":
    main()
