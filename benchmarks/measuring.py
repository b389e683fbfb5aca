"""Shared by the benchmarks: run a command, watch its memory, make sources, name the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

REFERENCE = Path(__file__).parents[2] / "shared" / "data" / "reference"


@dataclass(frozen=True)
class Measured:
    """One command's run."""

    seconds: float
    peak_bytes: int


def run(command: Sequence[str]) -> tuple[Measured, str]:
    """Run a command to its end and watch the memory of all its processes."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=tempfile.gettempdir(),
    )  # fmt: skip
    peak = [0]
    done = threading.Event()
    watcher = threading.Thread(target=watch, args=(process.pid, peak, done))
    watcher.start()
    output, errors = process.communicate()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors}")
    return Measured(seconds, peak[0]), output


def watch(pid: int, peak: list[int], done: threading.Event) -> None:
    """Keep the largest sum of PSS over a process and its descendants."""
    root = psutil.Process(pid)
    while not done.wait(0.5):
        total = 0
        try:
            for process in [root, *root.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
        except psutil.Error:
            return
        peak[0] = max(peak[0], total)


def find_originals(source: Path | None, scratch: Path) -> list[Path]:
    """Copy the subject files to the file system of the links that will be made."""
    folder = source or REFERENCE
    if not folder.is_dir():
        from gz3d_zarr.simulation import simulate_archive

        return simulate_archive(64, scratch / "simulated")
    copies = scratch / folder.name
    copies.mkdir()
    return [
        Path(shutil.copy(path, copies / path.name))
        for path in sorted(folder.glob("gz3d_*_*_*.fits.gz"))
    ]


def link(originals: Sequence[Path], folder: Path, count: int) -> Path:
    """Make `count` files with different names and ids, which a sha1 list vouches for."""
    folder.mkdir()
    names = {}
    for i in range(count):
        bundle = originals[i % len(originals)].name.split("_")[2]
        name = f"gz3d_1-{700_000 + i}_{bundle}_{20_000_000 + i}.fits.gz"
        os.link(originals[i % len(originals)], folder / name)
        names[name] = originals[i % len(originals)]
    sign(folder, names)
    return folder


def sign(folder: Path, names: Mapping[str, Path]) -> None:
    """Write the sha1 list of links with these names to these files."""
    digests = {
        path: hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in {*names.values()}
    }
    lines = [f"{digests[path]}  {name}\n" for name, path in names.items()]
    (folder / "manga_morphology_galaxyzoo3d_v4_0_0.sha1sum").write_text("".join(lines))


def describe_machine() -> str:
    """Cores, processor and versions, in one line."""
    import dask
    import xarray
    import zarr

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return (
        f"{os.cpu_count()} cores of {model}, {psutil.virtual_memory().total / 1e9:.0f} GB, "
        f"Python {platform.python_version()}, zarr {zarr.__version__}, "
        f"xarray {xarray.__version__}, dask {dask.__version__}"
    )
