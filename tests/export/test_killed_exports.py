"""Exports and copies that are killed while they write: nothing partial stays that looks whole."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from manga_files import drpall_rows
from stores import objects
from waiting import wait_for_tasks

import gz3d_zarr
from gz3d_zarr import StoreError
from gz3d_zarr.export.fits import export_fits
from gz3d_zarr.export.marks import export_marks
from gz3d_zarr.export.mmu import export_mmu
from gz3d_zarr.export.spaxels import export_spaxels
from gz3d_zarr.storage import local_store
from gz3d_zarr.storage.build_record import LEASE_KEY

pytestmark = pytest.mark.long


class KilledError(StoreError):
    """Stands for SIGKILL: after it, nothing is written any more."""


def kill_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on no file is written, and the first that is not is left half written."""
    numbers = itertools.count()  # two workers write
    write = local_store.write_atomically

    def dying_write(path: Path, data: bytes) -> None:
        if path.name == Path(LEASE_KEY).name:
            return write(path, data)
        number = next(numbers)
        if number < writes:
            return write(path, data)
        if number == writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.{'0f' * 16}.partial").write_bytes(data[: len(data) // 2])
        raise KilledError

    monkeypatch.setattr(local_store, "write_atomically", dying_write)


def run_fits(store: Path, folder: Path, client: Client, **options: Any) -> Any:
    return export_fits(store, folder, client, rows=range(6), **options)


def run_mmu(store: Path, folder: Path, client: Client, **options: Any) -> Any:
    pytest.importorskip("h5py")
    return export_mmu(store, folder, client, rows=range(6), **options)


def run_spaxels(store: Path, folder: Path, client: Client, **options: Any) -> Any:
    table = drpall_rows(gz3d_zarr.open_store(store))
    return export_spaxels(store, folder, table, client, rows=range(6), **options)


@pytest.mark.parametrize("export", [run_fits, run_mmu, run_spaxels])
def test_killed_export_leaves_whole_files_and_is_repeated(
    store: Path,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    export: Callable[..., Any],
) -> None:
    export(store, tmp_path / "clean", client)
    clean = objects(tmp_path / "clean")
    assert len(clean) > 3
    for writes in (0, 3):
        folder = tmp_path / f"killed-{writes}"
        with monkeypatch.context() as patch:
            kill_after(writes, patch)
            with pytest.raises(KilledError):
                export(store, folder, client)
            wait_for_tasks(client)  # the other worker's dies later
        found = {key: value for key, value in objects(folder).items() if ".partial" not in key}
        assert found.items() <= clean.items()
        assert [*folder.rglob(".*.partial")]
        if writes:
            with pytest.raises(StoreError, match=r"already has \d files?;.*--overwrite"):
                export(store, folder, client)
        export(store, folder, client, overwrite=writes > 0)
        assert objects(folder) == clean


def test_killed_export_of_marks_keeps_the_old_file(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    target, clean = tmp_path / "marks.parquet", tmp_path / "clean.parquet"
    other = tmp_path / f".others.parquet.{'0f' * 16}.partial"  # perhaps of one that is running
    other.write_bytes(b"")
    export_marks(store, clean)
    written: list[Any] = []
    write_table = pq.ParquetWriter.write_table

    def dying_write(self: Any, table: Any) -> None:
        if len(written) == 2:
            raise KilledError
        written.append(table)
        write_table(self, table)

    def digest() -> str:
        return hashlib.sha256(target.read_bytes()).hexdigest()

    for exists in (False, True):
        if exists:
            export_marks(store, target, rows=range(3))
        before = digest() if exists else ""
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            written.clear()
            patch.setattr(pq.ParquetWriter, "write_table", dying_write)
            export_marks(store, target, overwrite=exists)
        (tmp_path / f".{target.name}.{'0f' * 16}.partial").write_bytes(b"of a process that died")
        assert target.exists() is exists
        assert not exists or digest() == before
    export_marks(store, target, overwrite=True)
    assert pq.read_table(target).equals(pq.read_table(clean))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        other.name,
        clean.name,
        target.name,
    ]


def test_copy_that_is_killed_at_any_write_is_resumed(
    store: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = objects(store)
    for writes in (0, 40, len(clean) + 1):  # the last is the root
        target = tmp_path / f"copy-{writes}.zarr"
        with monkeypatch.context() as patch:
            kill_after(writes, patch)
            with pytest.raises(KilledError):
                gz3d_zarr.copy(store, target, client)
        assert not (target / "zarr.json").exists()
        with pytest.raises(StoreError):
            gz3d_zarr.open_store(target)
        gz3d_zarr.copy(store, target, client, resume=True)
        assert objects(target) == clean
