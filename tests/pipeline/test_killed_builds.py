"""Builds that are killed, starved of disk, or bereft of a worker lose nothing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client
from files import link_many
from stores import objects, shards

import gz3d_zarr

pytestmark = pytest.mark.long
SUBJECTS = 160
SHARD_SIZE = 10


@pytest.fixture(scope="module")
def source(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link_many(simulated, tmp_path_factory.mktemp("many") / "files", SUBJECTS)


@pytest.fixture(scope="module")
def clean(source: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of all shards of a build that was never interrupted."""
    store = tmp_path_factory.mktemp("clean") / "g.zarr"
    gz3d_zarr.build(source, store, client, shard_size=SHARD_SIZE)
    found = shards(store)
    assert len(found) == 2 * SUBJECTS // SHARD_SIZE
    return found


def build(source: Path, store: Path, *options: str) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, its scratch files beside the source."""
    scratch = source.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    arguments = ["build", str(source), str(store), "--shard-size", str(SHARD_SIZE), *options]
    with (store.parent / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "gz3d_zarr", *arguments, "--workers", "2"],
            env={**os.environ, "TMPDIR": str(scratch)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def receipts(store: Path) -> int:
    return len(list((store / ".gz3d" / "receipts").glob("0*.json")))


def kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """SIGKILL to the whole group, once the moment has come."""
    deadline = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    try:
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_killed_at_five_moments_and_resumed_each_time(
    source: Path, clean: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "g.zarr"
    shard = store / "image" / "c"
    moments: list[Callable[[], bool]] = [
        lambda: (store / ".gz3d" / "lease.json").exists(),
        lambda: any(shard.rglob("*.partial")) or receipts(store) > 0,
        lambda: receipts(store) >= 4,
        lambda: receipts(store) >= 9,
        lambda: receipts(store) == SUBJECTS // SHARD_SIZE,  # before it publishes
    ]
    done = 0
    for moment in moments:
        kill_when(build(source, store, "--resume"), moment)
        with pytest.raises(gz3d_zarr.StoreError):  # not complete, or not even begun
            gz3d_zarr.open_store(store)
        assert receipts(store) >= done
        done = receipts(store)
    assert done == SUBJECTS // SHARD_SIZE
    assert build(source, store, "--resume").wait() == 0, (tmp_path / "log").read_text()
    assert shards(store) == clean
    gz3d_zarr.build(source, tmp_path / "one.zarr", workers=1, limit=1)
    small = {key for key in objects(tmp_path / "one.zarr") if "/c/" not in key}
    found = {key for key in objects(store) if "/c/" not in key}
    assert len(found ^ small) == 6  # each has receipts and two packs, named by their digests
    assert all(key.startswith("receipts/") for key in found ^ small)


def test_killed_worker_does_not_stop_the_build(
    source: Path, clean: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "g.zarr"
    process = build(source, store)
    while receipts(store) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    largest = max(
        psutil.Process(process.pid).children(recursive=True),
        key=lambda child: child.memory_info().rss,
    )  # a worker that holds a shard
    largest.kill()
    assert process.wait() == 0, (tmp_path / "log").read_text()
    assert shards(store) == clean
    assert not list(store.rglob("*.partial"))
    assert not (store / ".gz3d").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MB; tests skip where none may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_full_disk_is_told_and_the_build_resumes(
    source: Path, clean: dict[str, str], small_disk: Path, tmp_path: Path
) -> None:
    store = small_disk / "g.zarr"
    process = build(source, store)
    assert process.wait() == 1
    log = (small_disk / "log").read_text()
    assert f"cannot be written: {os.strerror(errno.ENOSPC)}" in log
    assert "Traceback" not in log
    assert 0 < receipts(store) < SUBJECTS // SHARD_SIZE
    with pytest.raises(gz3d_zarr.IncompleteStoreError):
        gz3d_zarr.open_store(store)
    subprocess.run(["mount", "-o", "remount,size=256m", str(small_disk)], check=True)
    assert build(source, store, "--resume").wait() == 0, (small_disk / "log").read_text()
    assert shards(store) == clean
    assert not list(store.rglob("*.partial"))
