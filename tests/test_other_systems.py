"""What Windows and macOS lack is taken away here: building, reading and commands do without it."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path, PureWindowsPath
from typing import Any

import click.core
import pytest
from distributed import Client

import gz3d_zarr
from gz3d_zarr import locations
from gz3d_zarr.backends import codec_pipeline
from gz3d_zarr.cli import main
from gz3d_zarr.export.fits import export_fits
from gz3d_zarr.pipeline import dask_client
from gz3d_zarr.storage import lease

ONLY_POSIX = ("O_DIRECTORY", "O_NONBLOCK", "pread", "register_at_fork")


def refuse(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """A system like Windows; the inodes of the files that it was asked to keep."""
    fsync, kept = os.fsync, set()

    def sync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        fsync(descriptor)
        kept.add(os.fstat(descriptor).st_ino)

    for name in ONLY_POSIX:
        if name != "O_NONBLOCK" or sys.version_info < (3, 13):  # shutil of 3.13 needs it here
            monkeypatch.delattr(os, name)
    monkeypatch.setattr(os, "link", refuse)  # FAT has no hard links
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "is_mount", refuse)  # NotImplementedError on Windows before 3.12
    return kept


def test_stores_are_built_replaced_and_read(
    simulated: Path, client: Client, tmp_path: Path, synced: set[int]
) -> None:
    target = tmp_path / "g.zarr"
    gz3d_zarr.build(simulated, target, client, limit=2, shard_size=1)
    gz3d_zarr.build(simulated, target, client, limit=3, shard_size=2, overwrite=True)
    assert {path.stat().st_ino for path in target.rglob("*") if path.is_file()} <= synced
    assert gz3d_zarr.verify(target, simulated, client).passed
    with gz3d_zarr.open_store(target) as ds:
        assert ds["image"].any(("y", "x", "channel")).values.all()
    export_fits(target, tmp_path / "files", client)
    assert len(list((tmp_path / "files").glob("*.fits.gz"))) == 3


def test_the_module_that_notes_forks_is_imported(synced: set[int]) -> None:
    spec = importlib.util.find_spec(codec_pipeline.__name__)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


class WindowsPath(PureWindowsPath):
    """A path as Windows makes it, in its folder C:\\Users\\me."""

    def expanduser(self) -> WindowsPath:
        return self

    def absolute(self) -> WindowsPath:
        return WindowsPath("C:\\Users\\me", self)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("g.zarr", "C:/Users/me/g.zarr"),
        ("a\\g.zarr\\", "C:/Users/me/a/g.zarr"),
        ("D:\\a/g.zarr", "D:/a/g.zarr"),
        ("d:/g.zarr", "d:/g.zarr"),
        ("\\\\server\\share\\g.zarr", "//server/share/g.zarr"),
        ("s3://bucket/g.zarr", "s3://bucket/g.zarr"),
    ],
)
def test_paths_of_windows_have_slashes(
    path: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "Path", WindowsPath)
    assert locations.absolute(path) == expected


def test_commands_get_globs_as_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Windows:
        name = "nt"

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    monkeypatch.setattr(click.core, "os", Windows())
    monkeypatch.setattr(sys, "argv", ["gz3d-zarr", "info", f"{tmp_path}/*.zarr"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in ("a.zarr", "b.zarr"):
        (tmp_path / name).mkdir()
    with pytest.raises(SystemExit, match="1"):
        main()
    assert f"{tmp_path}/*.zarr" in capsys.readouterr().err


def test_workers_start_where_signals_cannot_be_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(signal, "pthread_sigmask")
    with dask_client._hold_interrupts():
        assert threading.current_thread() is threading.main_thread()


def test_leases_know_their_process_without_proc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Any, *_: Any) -> Any:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr(Path, "read_bytes", read)
    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(os, "readlink", read)
    mine = lease._process()
    assert mine["machine"].strip()
    assert mine["started"] is not None
    assert lease._is_running(mine)
    assert not lease._is_running({**mine, "started": mine["started"] - 1})
