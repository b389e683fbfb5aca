"""Copies of stores: whole, checked, resumed, published last."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner
from distributed import Client
from stores import StopHereError, objects, stop_after

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.cli import main
from gz3d_zarr.pipeline import copy as copying
from gz3d_zarr.storage.fsspec_store import FsspecStore
from gz3d_zarr.storage.local_store import LocalStore


def test_copy_is_the_same_object_for_object(store: Path, client: Client, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    url = "memory://test-copy/g.zarr"
    try:
        report = gz3d_zarr.copy(store, url, client)
        assert report.copied == report.objects == len(objects(store))
        names = {name.removeprefix("/test-copy/g.zarr/") for name in memory.find("/test-copy")}
        assert names == set(objects(store))
        with client.as_current():
            back = CliRunner().invoke(main, ["copy", url, str(tmp_path / "back.zarr"), "--json"])
        assert back.exit_code == 0, back.output
        assert json.loads(back.stdout)["copied"] == report.objects
        assert f"{report.objects - 1} of {report.objects - 1} objects" in back.stderr
    finally:
        memory.rm("/test-copy", recursive=True)
    assert objects(tmp_path / "back.zarr") == objects(store)
    assert gz3d_zarr.verify(tmp_path / "back.zarr", client=client).passed


def test_stopped_copy_is_no_store_and_resumes(
    store: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "TASK_BYTES", 10**6)
    monkeypatch.setattr("gz3d_zarr.pipeline.dask_tasks.MAX_TASKS_IN_FLIGHT", 1)
    target = tmp_path / "copy.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.copy(store, target, client, progress=stop_after(2))
    with pytest.raises(StoreError):
        gz3d_zarr.open_store(target)
    with pytest.raises(StoreError, match="a copy that has not ended; use --resume"):
        gz3d_zarr.copy(store, target, client)
    damaged = next(path for path in target.rglob("*") if path.is_file() and "/c/" in str(path))
    damaged.write_bytes(bytes(damaged.stat().st_size))  # as a power failure may leave it
    report = gz3d_zarr.copy(store, target, client, resume=True)
    assert 1 < report.copied < report.objects
    assert objects(target) == objects(store)
    again = gz3d_zarr.copy(store, target, client, resume=True)
    assert again.copied == 0
    assert again.to_text().startswith(f"Nothing to copy: all {again.objects} objects are in")
    (target / "ra" / "c" / "0").unlink()
    with pytest.raises(StoreError, match="holds a store already"):
        gz3d_zarr.copy(store, target, client)
    repaired = gz3d_zarr.copy(store, target, client, resume=True)
    assert repaired.copied == 2  # with the root
    assert objects(target) == objects(store)


def test_copy_that_was_killed_at_its_very_end_resumes(
    store: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, sync = tmp_path / "copy.zarr", LocalStore.sync

    def stop_after_the_root(self: LocalStore, keys: Any) -> None:
        if keys == ["zarr.json"]:
            raise StopHereError
        sync(self, keys)

    with monkeypatch.context() as patch, pytest.raises(StopHereError):
        patch.setattr(LocalStore, "sync", stop_after_the_root)
        gz3d_zarr.copy(store, target, client)
    assert (target / "zarr.json").exists()
    assert (target / ".gz3d/plan.json").exists()
    assert gz3d_zarr.copy(store, target, client, resume=True).copied == 1
    assert objects(target) == objects(store)


def test_damaged_store_is_not_copied(store: Path, client: Client, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    shard = damaged / "image/c/2/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="image/c/2/0/0/0 is not as it was written"):
        gz3d_zarr.copy(damaged, tmp_path / "copy.zarr", client)
    with pytest.raises(StoreError):
        gz3d_zarr.open_store(tmp_path / "copy.zarr")
    shard.write_bytes(shard.read_bytes() + b"x")
    size = shard.stat().st_size
    message = f"not copied: image/c/2/0/0/0 has {size} bytes, expected {size - 1}"
    with pytest.raises(StoreError, match=message):
        gz3d_zarr.copy(damaged, tmp_path / "none.zarr", client)
    assert not (tmp_path / "none.zarr").exists()
    shard.unlink()
    with pytest.raises(StoreError, match="has lost image/c/2/0/0/0"):
        gz3d_zarr.copy(damaged, tmp_path / "other.zarr", client)


@pytest.mark.parametrize(
    "key",
    [
        "vote_fraction/c/0/0",
        "observed/c/0",
        "subject/c/0",
        "class/c/0",
        "catalogue/file_name/c/0",
        "healpix/zarr.json",
    ],
)
def test_damage_to_small_objects_is_found_before_anything_is_copied(
    store: Path, client: Client, tmp_path: Path, key: str
) -> None:
    damaged = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    data = bytearray((damaged / key).read_bytes())
    data[len(data) // 2] ^= 0x40
    (damaged / key).write_bytes(data)
    with pytest.raises(StoreError, match=f"is not copied: {key}: its bytes are not"):
        gz3d_zarr.copy(damaged, tmp_path / "copy.zarr", client)
    assert not (tmp_path / "copy.zarr").exists()
    (damaged / key).unlink()
    with pytest.raises(StoreError):
        gz3d_zarr.copy(damaged, tmp_path / "copy.zarr", client)
    assert not (tmp_path / "copy.zarr").exists()


def test_what_is_not_of_the_store_stays_behind(store: Path, client: Client, tmp_path: Path) -> None:
    source = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    for key in ("private-notes.txt", "image/c/todo.txt", ".netrc", "image/c/9/0/0/0"):
        (source / key).parent.mkdir(parents=True, exist_ok=True)
        (source / key).write_text("mine")
    report = gz3d_zarr.copy(source, tmp_path / "copy.zarr", client)
    assert objects(tmp_path / "copy.zarr") == objects(store)
    assert report.left_behind == 4
    text = f"Not copied: 4 other objects in {source}, not part of the store"
    assert report.to_text().splitlines()[1:] == [text]
    assert text in gz3d_zarr.copy(source, tmp_path / "copy.zarr", client, resume=True).to_text()


def test_files_that_a_killed_copy_was_writing_are_deleted(
    store: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "copy.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.copy(store, target, client, progress=stop_after(0))
    for key in ("image/c/1/0/0/.0", "catalogue/.zarr.json", ".zarr.json", ".gz3d/.plan.json"):
        partial = target / f"{key}.{'0f' * 16}.partial"
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(b"half")
    (target / ".mine.partial").write_text("mine")
    gz3d_zarr.copy(store, target, client, resume=True)
    assert (target / ".mine.partial").read_text() == "mine"
    (target / ".mine.partial").unlink()
    assert objects(target) == objects(store)
    assert not (target / ".gz3d").exists()


def test_store_that_changes_meanwhile_is_not_published(
    store: Path, client: Client, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(store, tmp_path / "g.zarr"))

    def change(_: Any) -> None:
        (source / "zarr.json").write_bytes((store / "zarr.json").read_bytes() + b" ")

    with pytest.raises(StoreError, match="was updated while it was copied"):
        gz3d_zarr.copy(source, tmp_path / "copy.zarr", client, progress=change)
    assert not (tmp_path / "copy.zarr" / "zarr.json").exists()


def test_places_that_cannot_be_copied_to_are_refused(
    store: Path, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file.txt").write_text("mine")
    with pytest.raises(StoreError, match="nothing was changed"):
        gz3d_zarr.copy(store, tmp_path / "mine", client)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file.txt"]
    for place in (store, store / "sub"):
        with pytest.raises(UsageError, match="cannot be copied to itself, nor into itself"):
            gz3d_zarr.copy(store, place, client)
    with pytest.raises(StoreError, match="there is no Zarr 3 store"):
        gz3d_zarr.copy(tmp_path / "nowhere", tmp_path / "copy.zarr", client)
    assert not (tmp_path / "copy.zarr").exists()


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (("http://127.0.0.1:9/g.zarr", "s3://b/g.zarr"), "cannot be copied; use the store's own"),
        (
            ("s3://b/g.zarr", "https://127.0.0.1:9/g.zarr"),
            "cannot be copied to; use the store's own",
        ),
    ],
)
def test_links_are_refused_whatever_options_there_are(
    places: tuple[str, str], message: str
) -> None:
    result = CliRunner().invoke(main, ["copy", *places, "--storage-option", "key=x"])
    assert result.exit_code == 1
    assert "is a web link: a store can be opened and read there" in result.stderr
    assert message in result.stderr


@pytest.mark.parametrize(("url", "package"), [("gs://b/g.zarr", "gcsfs"), ("abfs://b/g", "adlfs")])
def test_scheme_without_its_package_is_told_how_to_get_it(
    simulated: Path, client: Client, url: str, package: str
) -> None:
    pytest.importorskip("fsspec")
    try:
        __import__(package)
    except ImportError:
        pass
    else:
        pytest.skip(f"{package} is installed")
    for action in (
        lambda: gz3d_zarr.build(simulated, url, client),
        lambda: gz3d_zarr.open_store(url),
        lambda: gz3d_zarr.plan(url, "g.zarr", workers=1),
    ):
        with pytest.raises(gz3d_zarr.GZ3DError, match=f"python3 -m pip install {package}"):
            action()


def test_region_and_endpoint_reach_the_file_system(
    monkeypatch: pytest.MonkeyPatch, simulated: Path
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        gz3d_zarr, "open_store", lambda *_, **options: seen.update(options) or exit(7)
    )
    arguments = ["plot", "s3://b/g.zarr", "1-1", "-o", "x.png", "--region", "eu-west-1"]
    CliRunner().invoke(main, [*arguments, "--storage-option", "client_kwargs.verify=false"])
    assert seen["storage_options"]["client_kwargs"] == {"region_name": "eu-west-1", "verify": False}
    assert FsspecStore("s3://b/g").storage_options == {}
