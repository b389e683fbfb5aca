"""Measure reductions of the whole sample, beside a plain loop over the same shards, in one run.

    python benchmarks/reductions.py [--count 1024] [--rounds 3] [--workers 2] [--source DIR]

The loop reads each shard of masks, decodes its chunks with numcodecs into one buffer per thread,
and adds spiral > 3: what nothing can be faster than. Every method runs on as many threads, and on
as many processes of dask.distributed, each with one thread. "by zarr" is the same recipe of a
Dataset that does not say what it was opened from. Methods take turns; the best round counts. Files
are in the page cache. Processor seconds are those of the main process.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
from distributed import Client, LocalCluster
from measuring import describe_machine, find_originals, link
from numcodecs import Zstd

import gz3d_zarr
from gz3d_zarr.recipes import arms_against_bars, mean_mask, radial_profile
from gz3d_zarr.storage.shards import ABSENT_CHUNK

CHUNK = (8, 4, 525, 525)
Reduce = Callable[[xr.Dataset], Any]
REDUCTIONS: dict[str, Reduce] = {
    "mean_mask": lambda ds: mean_mask(ds).compute(),
    "mean_mask, all classes": lambda ds: mean_mask(ds, None).compute(),
    "radial_profile": lambda ds: radial_profile(ds).compute(),
    "area above 3": lambda ds: ds.gz3d.area("spiral").compute(),
    "area above 5": lambda ds: ds.gz3d.area("spiral", 5).compute(),
    "arms_against_bars above 5": lambda ds: arms_against_bars(ds, threshold=5),
    "fraction, then its mean": lambda ds: ds.gz3d.fraction("spiral").mean("subject").compute(),
}


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--source", type=Path, help="a folder of subject files")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="gz3d-benchmark-") as scratch:
        folder = Path(scratch)
        source = link(find_originals(options.source, folder), folder / "source", options.count)
        store = folder / "gz3d.zarr"
        gz3d_zarr.build(source, store, workers=options.workers)
        dataset = gz3d_zarr.open_store(store)
        print(f"{describe_machine()}; {options.count} subjects, {options.workers} workers")
        print()
        ways = make_ways(store, dataset, options.workers)
        with dask.config.set(scheduler="threads", num_workers=options.workers):
            print_table("threads", measure(ways, options.rounds), options.count)
        with (
            LocalCluster(
                n_workers=options.workers, threads_per_worker=1, dashboard_address=None
            ) as cluster,
            Client(cluster),
        ):
            print_table("distributed", measure(ways, options.rounds), options.count)


def make_ways(store: Path, dataset: xr.Dataset, workers: int) -> dict[str, Callable[[], Any]]:
    """Name of each method and its function; the plain loop always runs on threads."""
    plain = dataset.copy()
    plain.encoding = {}
    ways: dict[str, Callable[[], Any]] = {"plain loop (threads)": lambda: run_loop(store, workers)}
    for name, reduce in REDUCTIONS.items():
        ways[name] = lambda reduce=reduce: reduce(dataset)
        ways[f"{name}, by zarr"] = lambda reduce=reduce: reduce(plain)
    return ways


def run_loop(store: Path, workers: int) -> Any:
    """Sum of spiral > 3 over all subjects."""
    kept = threading.local()

    def add(path: Path) -> Any:
        buffer = vars(kept).setdefault("masks", np.empty(CHUNK, np.uint8))
        data = path.read_bytes()
        total = np.zeros(CHUNK[2:], np.uint16)
        for offset, size in np.frombuffer(data[-132:-4], "<u8").reshape(8, 2).tolist():
            if offset == ABSENT_CHUNK:  # of a last shard that is not full
                continue
            Zstd().decode(memoryview(data)[offset : offset + size], buffer)
            for masks in buffer:
                total += masks[2] > 3
        return total

    shards = sorted((store / "segmentation" / "c").glob("*/0/0/0"))
    with ThreadPoolExecutor(workers) as threads:
        return sum(total.astype(np.int64) for total in threads.map(add, shards))


def measure(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Fewest seconds, and fewest processor seconds of this process, of each method."""
    best = dict.fromkeys(ways, (np.inf, np.inf))
    for _ in range(rounds):
        for name, way in ways.items():
            start, used = time.perf_counter(), time.process_time()
            way()
            spent = time.perf_counter() - start, time.process_time() - used
            best[name] = min(best[name][0], spent[0]), min(best[name][1], spent[1])
    return best


def print_table(scheduler: str, best: dict[str, tuple[float, float]], count: int) -> None:
    """Print subjects a second, and how they compare to the plain loop."""
    print(f"| {scheduler} | seconds | processor seconds | subjects/s | of the plain loop |")
    print("|" + " --- |" * 5)
    loop = next(iter(best.values()))[0]
    for name, (seconds, used) in best.items():
        rates = f"{count / seconds:.0f} | {loop / seconds:.2f}"
        print(f"| {name} | {seconds:.3f} | {used:.3f} | {rates} |")
    print()


if __name__ == "__main__":
    main()
