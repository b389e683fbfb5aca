"""Builds that are killed, starved of disk, or bereft of a worker lose nothing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from distributed import Client
from files import link_many
from stores import objects, shards
from waiting import LIMIT_SECONDS, ending, wait_until

import gz3d_zarr

pytestmark = pytest.mark.long
SUBJECTS = 80
SHARD_SIZE = 5


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


def build(
    source: Path,
    store: Path,
    *options: str,
    enter: Sequence[str] = (),
    log: Path | None = None,
) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, its scratch files beside the source."""
    scratch = source.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    arguments = ["build", str(source), str(store), "--shard-size", str(SHARD_SIZE)]
    arguments += ["--workers", "2", *options]
    with (log or store.parent / "log").open("ab") as output:
        return subprocess.Popen(
            [*enter, sys.executable, "-m", "gz3d_zarr", *arguments],
            env={**os.environ, "TMPDIR": str(scratch)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def receipts(store: Path) -> int:
    return len(list((store / ".gz3d" / "receipts").glob("0*.json")))


def kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """SIGKILL to the whole group, once the moment has come."""
    with ending(process):
        wait_until(lambda: ready() or process.poll() is not None)
        assert process.poll() is None, "it ended before it could be killed"


def finish(process: subprocess.Popen[bytes]) -> int:
    """Its exit status."""
    with ending(process):
        return process.wait(LIMIT_SECONDS)


def test_killed_at_five_moments_and_resumed_each_time(
    source: Path, clean: dict[str, str], client: Client, tmp_path: Path
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
    assert finish(build(source, store, "--resume")) == 0, (tmp_path / "log").read_text()
    assert shards(store) == clean
    gz3d_zarr.build(source, tmp_path / "one.zarr", client, limit=1)
    small = {key for key in objects(tmp_path / "one.zarr") if "/c/" not in key}
    found = {key for key in objects(store) if "/c/" not in key}
    assert len(found ^ small) == 6  # each has receipts and two packs, named by their digests
    assert all(key.startswith("receipts/") for key in found ^ small)


def test_killed_worker_does_not_stop_the_build(
    source: Path, clean: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "g.zarr"
    with ending(build(source, store)) as process:
        wait_until(lambda: receipts(store) >= 2 or process.poll() is not None)
        largest = max(
            psutil.Process(process.pid).children(recursive=True),
            key=lambda child: child.memory_info().rss,
        )  # a worker that holds a shard
        largest.kill()
        assert process.wait(LIMIT_SECONDS) == 0, (tmp_path / "log").read_text()
    assert shards(store) == clean
    assert not list(store.rglob("*.partial"))
    assert not (store / ".gz3d").exists()


@dataclass(frozen=True)
class SmallDisk:
    """A tmpfs that only the processes of one namespace have: it goes with them, however they end."""

    enter: tuple[str, ...]  # before a command that shall see it
    folder: Path  # for those
    seen: Path  # for this process

    def grow(self) -> None:
        command = [*self.enter, "mount", "-o", "remount,size=128m", str(self.folder)]
        subprocess.run(command, check=True, timeout=LIMIT_SECONDS)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 16 MB; tests skip where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("no disk can be mounted here: unshare, of util-linux, is missing")
    mount = 'mount -t tmpfs -o size=16m tmpfs "$0" && echo ready && exec cat'
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as holder:  # ends with its input
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != "ready\n":
            pytest.skip(f"no disk can be mounted here: {holder.stderr.read().strip()}")
        namespace = Path("/proc") / str(holder.pid)
        enter = ("nsenter", f"--mount={namespace / 'ns' / 'mnt'}")
        yield SmallDisk(enter, folder, namespace / "root" / folder.relative_to("/"))
        holder.communicate(timeout=10)


def test_full_disk_is_told_and_the_build_resumes(
    source: Path, clean: dict[str, str], small_disk: SmallDisk, tmp_path: Path
) -> None:
    store, log = small_disk.seen / "g.zarr", tmp_path / "log"

    def build_there(*options: str) -> int:
        place = small_disk.folder / "g.zarr"
        process = build(source, place, "--workers", "1", *options, enter=small_disk.enter, log=log)
        return finish(process)

    assert build_there() == 1
    assert f"cannot be written: {os.strerror(errno.ENOSPC)}" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert 0 < receipts(store) < SUBJECTS // SHARD_SIZE
    with pytest.raises(gz3d_zarr.IncompleteStoreError):
        gz3d_zarr.open_store(store)
    small_disk.grow()
    assert build_there("--resume") == 0, log.read_text()
    assert shards(store) == clean
    assert not list(store.rglob("*.partial"))
