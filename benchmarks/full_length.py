"""Measure a store as long as the survey: 29,813 subjects, made in seconds of a store of a few.

    python benchmarks/full_length.py [--source DIR] [--rounds 3] [--workers 2] [--keep TARGET]

`make_full_length_store` makes up the small arrays: ids, positions over MaNGA's footprint in HEALPix
order, and votes. Its shards are hard links to the whole shards of the store that it is made of, so
that it takes hardly any space, and all that is read is in the page cache; the last shard, which is
not full, is written anew. The store is valid in every respect: ``gz3d-zarr verify`` finds nothing.

Reports seconds to open it, to read one subject, and to reduce all masks on threads, beside a plain
loop over the same shards. Prints Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
from measuring import describe_machine, find_originals
from reductions import run_loop

import gz3d_zarr
from gz3d_zarr.datamodel.arrays import SHARD_ARRAYS
from gz3d_zarr.datamodel.file_names import parse_name
from gz3d_zarr.datamodel.healpix import healpix_pixels
from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.manifest import CatalogueRow, Entry
from gz3d_zarr.datamodel.receipts import Receipt, StoredObject
from gz3d_zarr.datamodel.schema import Provenance
from gz3d_zarr.datamodel.variables import SubjectRecord
from gz3d_zarr.pipeline.publish import publish
from gz3d_zarr.recipes import mean_mask
from gz3d_zarr.sources.select_subjects import ORDER_NSIDE
from gz3d_zarr.storage.build_record import BuildRecord, digest, put_record, read_attrs
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store
from gz3d_zarr.storage.published_receipts import PublishedReceipts, read_published_receipts
from gz3d_zarr.storage.shards import array_documents, decode_shard, encode_shard, shard_key

SURVEY = 29_813
"""Subjects of Galaxy Zoo: 3D."""
FOOTPRINT = (((110, 260), (0, 60)), ((-45, 60), (-2, 2)), ((-30, 40), (10, 20)))
"""Ranges of right ascension and declination, about as MaNGA covers the sky, in degrees."""


def main() -> None:
    """Make a store, run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--source", type=Path, help="a folder of at least 64 subject files")
    parser.add_argument("--keep", type=Path, help="make the store here, and leave it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    near = options.keep and options.keep.absolute().parent  # links cannot leave a file system
    with tempfile.TemporaryDirectory(prefix="gz3d-benchmark-", dir=near) as scratch:
        folder = Path(scratch)
        files = [str(path) for path in find_originals(options.source, folder)]
        gz3d_zarr.build(files, folder / "few.zarr", workers=options.workers)
        store = options.keep or folder / "full.zarr"
        start = time.perf_counter()
        make_full_length_store(folder / "few.zarr", store)
        print(f"{describe_machine()}; made in {time.perf_counter() - start:.0f} s\n")
        print("| what | seconds | subjects/s |")
        print("|" + " --- |" * 3)
        for name, (way, subjects) in make_ways(store, options.workers).items():
            with dask.config.set(scheduler="threads", num_workers=options.workers):
                seconds = min(measure(way) for _ in range(options.rounds))
            print(f"| {name} | {seconds:.3f} | {subjects / seconds:.0f} |", flush=True)


def make_ways(store: Path, workers: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """Name of each measurement, its function, and the number of subjects that it reads."""
    dataset = gz3d_zarr.open_store(store)
    rows: Iterator[int] = itertools.cycle(np.random.default_rng(0).permutation(SURVEY).tolist())
    unchunked = gz3d_zarr.open_store(store, chunks=None)

    def read_one() -> Any:
        subject = unchunked.isel(subject=next(rows))
        return subject["image"].values, subject["segmentation"].values

    return {
        "open_store()": (lambda: gz3d_zarr.open_store(store), SURVEY),
        "one subject, open_store(chunks=None)": (read_one, 1),
        "plain loop": (lambda: run_loop(store, workers), SURVEY),
        'mean_mask("spiral")': (lambda: mean_mask(dataset).compute(), SURVEY),
        "mean_mask, all classes": (lambda: mean_mask(dataset, None).compute(), SURVEY),
    }


def measure(way: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def make_full_length_store(
    source_store: str | Path, target: str | Path, subjects: int = SURVEY, seed: int = 0
) -> None:
    """Make a long store of a short one, on the same file system.

    Parameters
    ----------
    source_store : str or Path
        A complete store with at least one full shard, all of whose subjects are ok.
    target : str or Path
        A folder that does not exist. If the source is changed in place, it changes as well: build
        anew instead, or delete it first.
    subjects : int
        Length of the new store.
    seed : int
        Of ids, positions and votes; the same seed and source give the same shards and small arrays.

    Raises
    ------
    SystemExit
        The source has no full shard, or the target exists.
    """
    source, store = open_object_store(source_store), open_object_store(target)
    attrs = read_attrs(source.get("zarr.json"))
    published = read_published_receipts(source, attrs)
    full = [
        receipt
        for receipt in published.receipts
        if receipt.is_ok and len(receipt.outcomes) == published.layout.shard_size
    ]
    if not full:
        raise SystemExit(f"{source.url} has no full shard of {published.layout.shard_size}")
    if Path(store.url).exists():
        raise SystemExit(f"{store.url} exists")
    layout = replace(published.layout, subjects=subjects)
    put_record(store, BuildRecord("full-length", layout=layout))
    receipts, records = [], make_up_records(published, full, layout, seed)
    for shard in range(layout.shards):
        original, rows = full[shard % len(full)], layout.rows(shard)
        outcomes = tuple(record.outcome for record in records[rows])
        is_full = len(outcomes) == layout.shard_size
        make = link_shard if is_full else write_last_shard
        receipts.append(Receipt(shard, "", outcomes, make(source, store, original, shard, layout)))
    provenance = Provenance(
        source=f"made of {attrs['source']}",
        catalogue="",
        release=str(attrs["release"]),
        package_version=str(attrs["package_version"]),
        manifest_digest=str(attrs["manifest_digest"]),
        fingerprint=str(attrs["fingerprint"]),
        created=str(attrs["created"]),
        order="healpix",
        ok=subjects,
        failed=0,
        notes=("made up for measurements: pixels repeat, ids, positions and votes are random",),
        generation=f"full-length-{seed}",
    )
    publish(store, records, receipts, layout, provenance, "full-length", store)


def link_shard(
    source: ObjectStore, store: ObjectStore, original: Receipt, shard: int, _: Layout
) -> tuple[StoredObject, ...]:
    """Link each object of a shard under the key of another shard."""
    objects = []
    for name, stored in zip(SHARD_ARRAYS, original.objects, strict=True):
        path = Path(store.url, shard_key(name, shard))
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(Path(source.url, stored.key), path)
        objects.append(replace(stored, key=shard_key(name, shard)))
    return tuple(objects)


def write_last_shard(
    source: ObjectStore, store: ObjectStore, original: Receipt, shard: int, layout: Layout
) -> tuple[StoredObject, ...]:
    """Write the first subjects of a shard as the last shard, which is not full."""
    documents, objects = array_documents(layout), []
    before = array_documents(replace(layout, subjects=(original.shard + 1) * layout.shard_size))
    rows = layout.rows(shard)
    for name, stored in zip(SHARD_ARRAYS, original.objects, strict=True):
        data = source.get(stored.key) or b""
        block = decode_shard(before, name, original.shard, data, rows.stop - rows.start)
        key, encoded = encode_shard(documents, name, shard, block)
        store.put(key, encoded)
        objects.append(StoredObject(key, len(encoded), digest(encoded)))
    return tuple(objects)


def make_up_records(
    published: PublishedReceipts, full: list[Receipt], layout: Layout, seed: int
) -> list[SubjectRecord]:
    """Records of all subjects: what describes the pixels is that of the original."""
    rng = np.random.default_rng(seed)
    ra, dec = make_up_positions(rng, layout.subjects)
    zooniverse = np.sort(rng.choice(5_000_000, layout.subjects, replace=False)) + 14_000_000
    zooniverse = rng.permutation(zooniverse)
    classifications = rng.integers(20, 80, layout.subjects)
    votes = rng.integers(0, classifications + 1, (2, layout.subjects))
    originals = [published.records[published.layout.rows(receipt.shard)] for receipt in full]
    records = []
    for row in range(layout.subjects):
        shard, inside = divmod(row, layout.shard_size)
        before = originals[shard % len(full)][inside].outcome
        if before.metadata is None:
            raise SystemExit(f"{before.file_name} has no metadata")
        size = before.metadata.ifu_design_size
        name = f"gz3d_1-{100_000 + row}_{size}_{zooniverse[row]}.fits.gz"
        file = parse_name(name)
        if file is None:
            raise SystemExit(f"{name} is not the name of a subject file")
        metadata = replace(
            before.metadata,
            manga_id=file.manga_id,
            iauname=f"J{ra[row]:08.4f}{dec[row]:+08.4f}",
            ra=float(ra[row]),
            dec=float(dec[row]),
            nsa_id=100_000 + row,
            total_classifications=int(classifications[row]),
            spiral_votes=int(votes[0, row]),
            bar_votes=int(votes[1, row]),
        )
        entry = Entry(file, None, CatalogueRow(metadata, observed=bool(row % 3)))
        records.append(
            SubjectRecord(entry, replace(before, file_name=file.name, metadata=metadata))
        )
    return records


def make_up_positions(rng: np.random.Generator, count: int) -> tuple[Any, Any]:
    """Right ascension and declination in degrees, within `FOOTPRINT`, along HEALPix."""
    areas = [
        (east - west) * (np.sin(np.radians(north)) - np.sin(np.radians(south)))
        for (west, east), (south, north) in FOOTPRINT
    ]
    fields = np.array(FOOTPRINT)[rng.choice(len(areas), count, p=np.divide(areas, sum(areas)))]
    ra = rng.uniform(fields[:, 0, 0], fields[:, 0, 1]) % 360
    sines = np.sin(np.radians(fields[:, 1]))
    dec = np.degrees(np.arcsin(rng.uniform(sines[:, 0], sines[:, 1])))
    order = np.argsort(healpix_pixels(ra, dec, ORDER_NSIDE), kind="stable")
    return ra[order], dec[order]


if __name__ == "__main__":
    main()
