"""Build the whole survey on this machine: up to 29,813 subjects.

    python benchmarks/survey.py [--counts 1000 4000 29813] [--codec portable] [--workers 2]

The archive consists of hard links to simulated files (``--originals`` of them), each with its own
name, and a catalogue with a row for each. Reports, for each count: seconds of the whole command,
subjects per second, peak memory of all its processes, objects and bytes of the store; then, in a
separate process, the time to open the store, to read one subject, and to reduce all masks with dask
(the mean spiral mask), with the largest ratio of a worker's memory to its limit. Prints a Markdown
table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from astropy.table import Table
from measuring import describe_machine, run, sign

READ = """
import json, sys, time
import numpy as np
import gz3d_zarr, gz3d_zarr.backends.store
from distributed import Client, LocalCluster

if __name__ == "__main__":
    start = time.perf_counter()
    dataset = gz3d_zarr.open_store(sys.argv[1], chunks=None)
    opened = time.perf_counter() - start
    row = dataset.isel(subject=dataset.sizes["subject"] // 3)
    start = time.perf_counter()
    row["image"].values, row["segmentation"].values
    read = time.perf_counter() - start
    with LocalCluster(n_workers=int(sys.argv[2]), threads_per_worker=1,
                      dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client:
        masks = gz3d_zarr.open_store(sys.argv[1])["segmentation"].sel({"class": "spiral"})
        mean = masks.mean("subject", dtype="float64")
        tasks = len(mean.__dask_graph__())
        start = time.perf_counter()
        future = client.compute(mean)
        largest = 0.0
        while not future.done():
            time.sleep(0.2)
            workers = client.scheduler_info(n_workers=-1)["workers"].values()
            largest = max(largest, *(w["metrics"]["memory"] / w["memory_limit"] for w in workers))
        value = float(future.result().max())
        reduced = time.perf_counter() - start
    print(json.dumps([opened, read, reduced, tasks, largest, value]))
"""


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 4_000, 29_813])
    parser.add_argument("--codec", default="portable")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--originals", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gz3d-benchmark-") as scratch:
        folder = Path(scratch)
        from gz3d_zarr.simulation import simulate_archive

        originals = simulate_archive(options.originals, folder / "originals")
        print(f"{describe_machine()}; {options.codec}, {options.workers} workers\n")
        print(
            "| subjects | seconds | subjects/s | peak MB | objects | store MB | store/source "
            "| open ms | one subject ms | mean mask s | tasks | worker memory of its limit |"
        )
        print("|" + " --- |" * 12)
        for count in options.counts:
            source = make_archive(originals, folder / f"archive-{count}", count)
            print_row(source, folder / "g.zarr", count, options)
            shutil.rmtree(source)


def make_archive(originals: list[Path], folder: Path, count: int) -> Path:
    """Make an archive of so many subjects, all over the sky, with a catalogue."""
    folder.mkdir()
    rows = Table.read(originals[0].parent / "gz3d_metadata.fits")
    order = {str(name): i for i, name in enumerate(rows["file_name"])}
    links = [originals[i % len(originals)] for i in range(count)]
    many = rows[[order[path.name.removeprefix("gz3d_").removesuffix(".gz")] for path in links]]
    names = [
        f"1-{700_000 + i}_{path.name.split('_')[2]}_{20_000_000 + i}.fits"
        for i, path in enumerate(links)
    ]
    for path, name in zip(links, names, strict=True):
        os.link(path, folder / f"gz3d_{name}.gz")
    sign(folder, {f"gz3d_{name}.gz": path for path, name in zip(links, names, strict=True)})
    many["file_name"] = names
    rng = np.random.default_rng(1)
    many["ra"] = rng.uniform(0, 360, count)
    many["dec"] = np.degrees(np.arcsin(rng.uniform(-1, 1, count)))
    many.write(folder / "gz3d_metadata.fits")
    return folder


def print_row(source: Path, store: Path, count: int, options: argparse.Namespace) -> None:
    """Build once, read, and print one row."""
    arguments = ["build", source, store, "--codec", options.codec, "--workers", options.workers]
    measured, output = run([sys.executable, "-m", "gz3d_zarr", *map(str, arguments), "--json"])
    report = json.loads(output)
    if report["ok"] != count:
        raise SystemExit(f"{report['failures'][:3]}")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, str(store), str(options.workers)],
        check=True, capture_output=True, text=True, cwd=tempfile.gettempdir(),
    )  # fmt: skip
    opened, read, reduced, tasks, largest, _ = json.loads(done.stdout)
    objects = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in source.glob("*.fits.gz"))
    print(
        f"| {count} | {measured.seconds:.0f} | {count / measured.seconds:.0f} "
        f"| {measured.peak_bytes / 1e6:.0f} | {len(objects)} | {sum(objects) / 1e6:.0f} "
        f"| {sum(objects) / size:.3f} | {1e3 * opened:.0f} | {1e3 * read:.1f} | {reduced:.1f} "
        f"| {tasks} | {largest:.0%} |",
        flush=True,
    )
    shutil.rmtree(store)


if __name__ == "__main__":
    main()
