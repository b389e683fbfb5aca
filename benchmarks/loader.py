"""Measure epochs of the loaders over a store of hard-linked reference files.

    python benchmarks/loader.py [--count 1024] [--batch 32] [--workers 2] [--source DIR]

Subjects a second, from the first batch on (workers are running by then) and start included, of
the best of some epochs, and the most memory (RSS, MiB) of the main process, shared pages included.
Each row has a main process of its own, in which every batch is looked at: one picture's mean.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from datasets import IterableDataset
from measuring import describe_machine, find_originals, link

import gz3d_zarr
from gz3d_zarr.export.huggingface import iterable_dataset
from gz3d_zarr.export.torch import GZ3DDataset, GZ3DIterableDataset

CHOICES: dict[str, dict[str, Any]] = {
    "ready batches": {},
    "ready batches, spiral, crop 256": {"classes": ["spiral"], "crop": 256},
    "ready batches, spiral, crop 256, size 128": {"classes": ["spiral"], "crop": 256, "size": 128},
}
"""Choices of the iterable dataset whose workers make batches."""


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--source", type=Path, help="a folder of subject files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gz3d-benchmark-") as scratch:
        folder = Path(scratch)
        source = link(find_originals(options.source, folder), folder / "source", options.count)
        print(f"{describe_machine()}, torch {torch.__version__}; {options.count} subjects")
        print()
        print("| codec | dataset | workers | start | subjects/s | with the start | MiB |")
        print("|" + " --- |" * 7)
        context = multiprocessing.get_context("spawn")
        for codec in ("portable", "compact"):
            store = folder / f"{codec}.zarr"
            gz3d_zarr.build(source, store, codec=codec, workers=2)
            for name, workers, start in list_rows(options.workers):
                arguments = (codec, name, store, options, workers, start)
                process = context.Process(target=print_row, args=arguments)
                process.start()
                process.join()
                if process.exitcode:
                    raise SystemExit(process.exitcode)


def list_rows(workers: int) -> Iterator[tuple[str, int, str | None]]:
    """Give name, number of workers and how they start, of each row of a codec."""
    yield from (
        ("iterable", 0, None),
        ("iterable", workers, "fork"),
        ("iterable", workers, "spawn"),
    )
    for name in [*CHOICES, "map-style, shuffled", "Hugging Face, torch"]:
        yield name, workers, "fork"
    yield "Hugging Face, numpy", 0, None


def make_dataset(
    name: str, store: Path, batch: int
) -> GZ3DDataset | GZ3DIterableDataset | IterableDataset:
    """Make the dataset of a row."""
    if name == "iterable":
        return GZ3DIterableDataset(store)
    if name in CHOICES:
        return GZ3DIterableDataset(store, batch_size=batch, **CHOICES[name])
    if name == "map-style, shuffled":
        return GZ3DDataset(store)
    return iterable_dataset(store).with_format(name.removeprefix("Hugging Face, "))


def gather(examples: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Combine examples; PyTorch's default cannot combine text in numpy arrays."""
    return {name: [example[name] for example in examples] for name in examples[0]}


def print_row(
    codec: str,
    name: str,
    store: Path,
    options: argparse.Namespace,
    workers: int,
    start: str | None,
) -> None:
    """Run some epochs in this process and print the best."""
    dataset = make_dataset(name, store, options.batch)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=None if name in CHOICES else options.batch,
        num_workers=workers,
        multiprocessing_context=start,
        persistent_workers=workers > 0,
        shuffle=True if isinstance(dataset, GZ3DDataset) else None,
        collate_fn=gather if name.endswith("numpy") else None,
    )
    steady, whole, memory = 0.0, 0.0, 0
    for epoch in range(options.epochs):
        if not isinstance(dataset, GZ3DDataset):
            dataset.set_epoch(epoch)
        began = time.perf_counter()
        seen, first, after_first = set(), 0, began
        for batch in loader:
            torch.as_tensor(batch["image"][0]).float().mean()
            if not seen:
                first, after_first = len(batch["image"]), time.perf_counter()
            seen.update(batch["object_id"])
            memory = max(memory, psutil.Process().memory_info().rss)
        ended = time.perf_counter()
        if len(seen) != options.count:
            raise SystemExit(f"{len(seen)} of {options.count} subjects came")
        steady = max(steady, (len(seen) - first) / (ended - after_first))
        whole = max(whole, len(seen) / (ended - began))
    start = start or ""
    print(
        f"| {codec} | {name} | {workers} | {start} | {steady:.0f} | {whole:.0f} "
        f"| {memory / 2**20:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
