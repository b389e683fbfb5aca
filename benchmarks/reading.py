"""Measure reads of one subject, image and masks: store, HDF5 and FITS, in one run.

    python benchmarks/reading.py [--count 256] [--rounds 3] [--source DIR]

The HDF5 file has the layout of ``gz3d-zarr export mmu`` (uncompressed, one dataset per mask), with
all subjects in one open file. astropy reads HDUs 0 to 4 of each FITS file of the source. All
methods read the same subjects in the same random order and take turns, so that they run under the
same load. Files are in the page cache. Reports medians in milliseconds.

A second table has 40 random subjects of the count, selected in four ways from ``open_store()`` and
from ``open_store(chunks=None)``; give ``--count 1200`` to compare it with other runs.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
import zarr
from astropy.io import fits
from measuring import describe_machine, find_originals, link

import gz3d_zarr
from gz3d_zarr.backends import codec_pipeline
from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.backends.generation import Generation
from gz3d_zarr.datamodel.subject import CLASSES
from gz3d_zarr.storage.object_store import open_object_store

Read = Callable[[int], Any]
DEFAULT_PIPELINE = "zarr.core.codec_pipeline.BatchedCodecPipeline"
SELECTED = 40
"""Random subjects of the second table."""


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--source", type=Path, help="a folder of subject files")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="gz3d-benchmark-") as scratch:
        folder = Path(scratch)
        source = link(find_originals(options.source, folder), folder / "source", options.count)
        for codec in ("portable", "compact"):
            store = folder / f"{codec}.zarr"
            gz3d_zarr.build(source, store, codec=codec, workers=2, order="name")
        print(f"{describe_machine()}, h5py {h5py.__version__}; {options.count} subjects")
        print()
        with h5py.File(make_hdf5(folder / "portable.zarr", folder / "all.hdf5")) as file:
            ways = make_ways(folder, file)
            check(ways)
            print_table(measure(ways, options.count, options.rounds))
        print()
        print_selections(folder / "portable.zarr", options.rounds)


def make_hdf5(store: Path, path: Path) -> Path:
    """All subjects of a store in one HDF5 file of the Multimodal Universe's datasets."""
    group = zarr.open_group(store, mode="r")
    with h5py.File(path, "w") as file:
        file["false_color"] = group["image"][:]
        for i, name in enumerate(CLASSES):
            file[name] = group["segmentation"][:, i]
    return path


def make_ways(folder: Path, file: h5py.File) -> dict[str, Read]:
    """Name of each method to read a subject, and its function of a row."""
    store = folder / "portable.zarr"
    files = [
        folder / "source" / str(name)
        for name in xr.open_zarr(store, group="catalogue", chunks=None)["file_name"].values
    ]
    names = ("false_color", *CLASSES)

    def by_astropy(row: int) -> Any:
        with fits.open(files[row]) as hdus:
            return hdus[0].data, np.stack([hdu.data for hdu in hdus[1:5]])

    def by_xarray(dataset: xr.Dataset) -> Read:
        def read(row: int) -> Any:
            subject = dataset.isel(subject=row)
            return subject["image"].values, subject["segmentation"].values

        return read

    def by_reader(path: Path) -> Read:
        store = open_object_store(path, None)
        reader = ChunkReader(Generation.from_root(store, store.get("zarr.json") or b""))
        return lambda row: (reader.read("image", row), reader.read("segmentation", row))

    def by_zarr(pipeline: str) -> dict[str, Read]:
        """Plain zarr and xarray, opened with this pipeline; none if it is not installed."""
        name = pipeline.rpartition(".")[2]
        try:
            with zarr.config.set({"codec_pipeline.path": pipeline}):
                group = zarr.open_group(store, mode="r")
                image, masks = group["image"], group["segmentation"]
                dataset = xr.open_zarr(store, chunks=None)
        except (ImportError, ValueError, AttributeError, KeyError):
            return {}
        return {
            f"store, zarr arrays, {name}": lambda row: (image[row], masks[row]),
            f"store, xr.open_zarr(chunks=None), {name}": by_xarray(dataset),
        }

    pipelines: dict[str, Read] = {}
    for pipeline in (DEFAULT_PIPELINE, *codec_pipeline.PIPELINES):
        pipelines |= by_zarr(pipeline)
    return {
        "HDF5, uncompressed": lambda row: [file[name][row] for name in names],
        "FITS by astropy": by_astropy,
        "store, ChunkReader": by_reader(store),
        "store, compact, ChunkReader": by_reader(folder / "compact.zarr"),
        **pipelines,
        "store, open_store(chunks=None)": by_xarray(gz3d_zarr.open_store(store, chunks=None)),
        "store, open_store (dask)": by_xarray(gz3d_zarr.open_store(store)),
        "store, compact, open_store (dask)": by_xarray(
            gz3d_zarr.open_store(folder / "compact.zarr")
        ),
    }


def check(ways: dict[str, Read]) -> None:
    """Check that all methods give the same values."""
    expected = ways["FITS by astropy"](7)
    for name, read in ways.items():
        image, *masks = read(7)
        if not (np.array_equal(image, expected[0]) and (np.squeeze(masks) == expected[1]).all()):
            raise SystemExit(f"{name} reads other values")


def measure(ways: dict[str, Read], count: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of each method."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    for _ in range(rounds):
        rows = order.sample(range(count), min(count, 100))
        for name, read in ways.items():
            for row in rows:
                start = time.perf_counter()
                read(row)
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def print_table(medians: dict[str, float]) -> None:
    """Print milliseconds, and how they compare to HDF5 and astropy."""
    print("| method | ms per subject | relative to HDF5 | times faster than astropy |")
    print("|" + " --- |" * 4)
    hdf5, astropy = medians["HDF5, uncompressed"], medians["FITS by astropy"]
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} | {median / hdf5:.1f} | {astropy / median:.0f} |")


def print_selections(store: Path, rounds: int) -> None:
    """Print how long some random subjects take, image and masks, selected in each way."""
    opened = {"open_store()": gz3d_zarr.open_store(store)}
    opened["open_store(chunks=None)"] = gz3d_zarr.open_store(store, chunks=None)
    count = opened["open_store()"].sizes["subject"]
    rows = sorted(random.Random(0).sample(range(count), min(count, SELECTED)))
    chosen = np.isin(np.arange(count), rows)
    ids = opened["open_store()"]["zooniverse_subject_id"].values[rows].tolist()
    ways: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
        "isel": lambda ds: ds.isel(subject=rows),
        "mask": lambda ds: ds.isel(subject=chosen),
        "where(drop=True)": lambda ds: ds.where(xr.DataArray(chosen, dims="subject"), drop=True),
        "gz3d.sel": lambda ds: ds.gz3d.sel(zooniverse_subject_id=ids),
    }
    print(f"{len(rows)} random subjects of {count}, seconds after a first time (dask's imports):")
    print()
    print("| selected by | " + " | ".join(opened) + " |")
    print("|" + " --- |" * (1 + len(opened)))
    for way, select in ways.items():
        times: dict[str, list[float]] = {name: [] for name in opened}
        for _ in range(1 + rounds):
            for name, dataset in opened.items():
                start = time.perf_counter()
                taken = select(dataset)
                taken["image"].load()
                taken["segmentation"].load()
                times[name].append(time.perf_counter() - start)
        cells = [f"{statistics.median(values[1:]):.2f}" for values in times.values()]
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
