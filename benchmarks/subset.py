"""Compare ``gz3d-zarr subset`` with a build of the same subjects from files, and with a copy.

    python benchmarks/subset.py [--count 1024] [--random 500] [--source DIR] [--workers 2]

Subjects are hard links to the reference files (or to simulated files, if there are none), each
with its own name. A store of all is built first. Then random subjects of it are taken, a quarter
of its shards, and all of it; each beside a build of these subjects from their files, or a copy.
Seconds are those of the whole process, including imports and the start of the workers; in the last
row those of `ds.gz3d.save` and `gz3d_zarr.build`, called for the second time in one process. Prints
a Markdown table.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measuring import describe_machine, find_originals, link, run

import gz3d_zarr

SHARD = 64
SEED = 1


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1024)
    parser.add_argument("--random", type=int, default=500)
    parser.add_argument("--source", type=Path, help="a folder of subject files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--codec", default="portable")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gz3d-benchmark-") as scratch:
        folder = Path(scratch)
        originals = find_originals(options.source, folder)
        print(f"{describe_machine()}; {len(originals)} files from {originals[0].parent.name}")
        print()
        files, parent = link(originals, folder / "files", options.count), folder / "parent.zarr"
        build = ["--codec", options.codec, "--shard-size", SHARD, "--workers", options.workers]
        gz3d("build", files, parent, *build)
        names = sorted(path.name for path in files.glob("*.fits.gz"))
        ids = [name.removesuffix(".fits.gz").split("_")[3] for name in names]
        chosen = random.Random(SEED).sample(ids, options.random)
        quarter = ids[: max(1, options.count // (4 * SHARD)) * SHARD]
        print("| subjects | of | subset s | build from files s | copy s | ratio |")
        print("|" + " --- |" * 6)
        for what, wanted in (("random", chosen), ("whole shards", quarter), ("all", ids)):
            listed = folder / "ids.txt"
            listed.write_text("\n".join(wanted))
            taken = time_and_remove(folder, "subset", parent, "--ids", listed, options.workers)
            built = copied = None
            if what == "all":
                copied = time_and_remove(folder, "copy", parent, options.workers)
            else:
                built = time_and_remove(folder, "build", files, *build[:-2], "--ids", listed,
                                        options.workers)  # fmt: skip
            other = built or copied or float("nan")
            cells = [f"{len(wanted)} {what}", f"{options.count}", f"{taken:.1f}"]
            cells += ["" if each is None else f"{each:.1f}" for each in (built, copied)]
            print("| " + " | ".join([*cells, f"{taken / other:.2f}"]) + " |", flush=True)
        for _ in range(2):
            taken, built = time_calls(folder, files, parent, chosen, options.workers)
        print(
            f"| {len(chosen)} random, in one process | {options.count} | {taken:.1f} | {built:.1f} "
            f"| | {taken / built:.2f} |"
        )


def time_calls(
    folder: Path, files: Path, parent: Path, chosen: Sequence[str], workers: int
) -> tuple[float, float]:
    """Seconds of saving some subjects, and of building them, by calls in this process."""
    target, codec = folder / "target.zarr", gz3d_zarr.open_store(parent).attrs["codec"]
    began = time.perf_counter()
    gz3d_zarr.open_store(parent).gz3d.sel(chosen).gz3d.save(target, workers=workers)
    taken = time.perf_counter() - began
    shutil.rmtree(target)
    began = time.perf_counter()
    gz3d_zarr.build(
        files, target, ids=chosen, codec=codec, shard_size=SHARD, workers=workers, progress=False
    )
    built = time.perf_counter() - began
    shutil.rmtree(target)
    return taken, built


def time_and_remove(folder: Path, command: str, source: Path, *arguments: object) -> float:
    """Seconds of a command that writes a store, which is deleted; the last argument is workers."""
    target = folder / "target.zarr"
    *others, workers = arguments
    seconds = gz3d(command, source, target, *others, "--workers", workers)
    shutil.rmtree(target)
    return seconds


def gz3d(*arguments: object) -> float:
    """Run one of our commands; return its seconds."""
    command: Sequence[str] = [sys.executable, "-m", "gz3d_zarr", *map(str, arguments)]
    return run(command)[0].seconds


if __name__ == "__main__":
    main()
