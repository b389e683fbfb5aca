"""Training that loses a worker or a shard: an error in the main process, no hang."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from gz3d_zarr import StoreError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.long
LONG = 300
"""Seconds that a worker sleeps until it is killed; a test that waits for it fails by its length."""


def sleep_after_two(sample: Any, count: Any = itertools.count()) -> int:  # noqa: B008 - a worker's own
    if next(count) >= 2:
        time.sleep(LONG)
    return int(sample["zooniverse_subject_id"])


@pytest.mark.parametrize("persistent", [False, True])
def test_killed_worker_is_an_error(store: Path, persistent: bool) -> None:
    from gz3d_zarr.export.torch import GZ3DIterableDataset

    loader = torch.utils.data.DataLoader(
        GZ3DIterableDataset(store, transform=sleep_after_two),
        batch_size=None, num_workers=2, multiprocessing_context="fork",
        persistent_workers=persistent,
    )  # fmt: skip
    samples = iter(loader)
    try:
        next(samples)
        os.kill(samples._workers[0].pid, signal.SIGKILL)
        with pytest.raises(
            RuntimeError, match=r"DataLoader worker .*(killed by signal|exited unexpectedly)"
        ):
            list(samples)
    finally:
        for worker in samples._workers:
            worker.kill()
            worker.join()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["flip", "cut", "lose"])
def test_damaged_shard_stops_the_epoch_and_is_named(
    store: Path, tmp_path: Path, damage: str, workers: int
) -> None:
    from gz3d_zarr.export.torch import GZ3DIterableDataset

    copy = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    dataset = GZ3DIterableDataset(copy, shuffle=False, window=1)
    options = {"multiprocessing_context": "fork", "prefetch_factor": 1} if workers else {}
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers, **options)
    samples = iter(loader)
    for _ in range(4):
        next(samples)  # the first shard
    shard = copy / "image/c/3/0/0/0"
    data = bytearray(shard.read_bytes())
    if damage == "flip":
        data[len(data) // 3] ^= 0x10
    if damage == "lose":
        shard.unlink()
    else:
        shard.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    with pytest.raises(StoreError, match=r"(image of row 1[2-5] in|shard 3 of image in) .*g\.zarr"):
        list(samples)
    if workers:
        samples._shutdown_workers()
