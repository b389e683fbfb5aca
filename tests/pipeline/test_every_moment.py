"""Updates, retries, overwrites and first builds that are killed at any put or delete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from files import subject_files

import gz3d_zarr
from gz3d_zarr import GZ3DError, StoreError
from gz3d_zarr.storage import base_store
from gz3d_zarr.storage.build_record import LEASE_KEY
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store


class KilledError(StoreError):
    """Stands for SIGKILL: what is done about it cannot write either."""


@contextmanager
def killed_at(moment: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """From the moment-th write on, nothing is written any more, by anybody."""
    done: list[str] = []
    put, create, delete = ObjectStore.put, ObjectStore.put_if_absent, ObjectStore.delete

    def note(key: str) -> None:
        if key != LEASE_KEY:  # renewed at any time
            if len(done) >= moment:
                raise KilledError
            done.append(key)

    def dying_put(self: ObjectStore, key: str, data: bytes) -> None:
        note(key)
        put(self, key, data)

    def dying_create(self: ObjectStore, key: str, data: bytes) -> bool:
        note(key)
        return create(self, key, data)

    def dying_delete(self: ObjectStore, keys: Any) -> None:
        for key in keys:
            if key != LEASE_KEY:
                if len(done) >= moment:
                    raise KilledError
                done.append(f"delete {key}")
            delete(self, [key])

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", dying_put)
        patch.setattr(ObjectStore, "put_if_absent", dying_create)
        patch.setattr(ObjectStore, "delete", dying_delete)
        with suppress(GZ3DError):
            yield done


SCENARIOS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "new": ({}, {}),
    "update": ({"limit": 3}, {"update": True}),
    "retry": ({}, {"retry_failed": True}),
    "overwrite": ({"limit": 3, "codec": "compact"}, {"overwrite": True}),
}


@pytest.mark.long
# Tasks of a killed build still run, and Python's filters of warnings are not safe for threads.
@pytest.mark.filterwarnings("ignore:.*(Numcodecs codecs are not|is currently not part)")
@pytest.mark.parametrize(
    ("kind", "place"),
    [("new", "disk"), ("update", "disk"), ("retry", "memory"), ("overwrite", "disk"),
     ("overwrite", "memory")],
)  # fmt: skip
def test_killed_at_any_moment_and_resumed(
    archive: Path,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    place: str,
) -> None:
    """Readers see the old store, the new one, or none; resume gives what a clean build gives."""
    monkeypatch.setattr(base_store, "READ_BACK_SECONDS", 0.0)
    files = subject_files(archive)
    for path in files[5:]:
        path.unlink()
    before, options = SCENARIOS[kind]
    bad, whole = files[2], files[2].read_bytes()
    fixed = {"shard_size": 2}
    gz3d_zarr.build(archive, tmp_path / "clean.zarr", client, **fixed)
    expected = gz3d_zarr.open_store(tmp_path / "clean.zarr").compute()
    memory = fsspec.filesystem("memory")
    name = f"memory://every-moment-{kind}/g.zarr" if place == "memory" else str(tmp_path / "g.zarr")
    first = tmp_path / "first.zarr"
    old = None
    if kind != "new":
        if kind == "retry":
            bad.write_bytes(b"")
        gz3d_zarr.build(archive, first, client, **fixed, **before)
        bad.write_bytes(whole)
        old = gz3d_zarr.open_store(first).compute()
    lay(first if old is not None else None, name, memory)
    with killed_at(10**6, monkeypatch) as done:
        gz3d_zarr.build(archive, name, client, **fixed, **options)
    published = max(i for i, key in enumerate(done) if key == "zarr.json")
    assert done[published - 1] == ".gz3d/plan.json"
    states = set()
    for moment in (0, 2, published // 2, published, published + 1, len(done)):
        lay(first if old is not None else None, name, memory)
        with killed_at(moment, monkeypatch) as done:
            gz3d_zarr.build(archive, name, client, **fixed, **options)
        remove_lease(name, memory)
        states.add(read(name, old, expected))
        report = gz3d_zarr.verify(name, client=client) if stands(name) else None
        assert report is None or report.state in ("sound", "incomplete"), (done, report.to_text())
        if kind in ("update", "retry"):
            again = gz3d_zarr.build(archive, name, client, **fixed, **options)
        else:
            try:
                again = gz3d_zarr.build(archive, name, client, **fixed, resume=True)
            except StoreError as error:  # nothing had begun but a few notes
                assert kind == "overwrite", error
                assert read(name, old, expected) == "old"
                again = gz3d_zarr.build(archive, name, client, **fixed, overwrite=True)
        assert moment <= published or again.shards_built == 0, done
        assert not (open_object_store(name).list_sizes(".gz3d/")), done
        xr.testing.assert_equal(gz3d_zarr.open_store(name).compute(), expected)
        report = gz3d_zarr.verify(name, archive, client)
        assert report.passed, (done, report.to_text())
        if place == "disk":
            assert not [p for p in tmp_path.iterdir() if p.name.startswith("g.zarr.")]
    assert "new" in states
    if old is None:
        assert states == {"none", "new"}
    if place == "memory":
        memory.rm(f"/every-moment-{kind}", recursive=True)


def lay(first: Path | None, name: str, memory: Any) -> None:
    """Put a copy of the first store, or nothing, in place."""
    if name.startswith("memory://"):
        root = name.removeprefix("memory:/")
        if memory.exists(root):
            memory.rm(root, recursive=True)
        for path in first.rglob("*") if first is not None else ():
            if path.is_file():
                memory.pipe_file(f"{root}/{path.relative_to(first or path)}", path.read_bytes())
        return
    for path in Path(name).parent.glob("g.zarr*"):
        shutil.rmtree(path)
    if first is not None:
        shutil.copytree(first, name)


def remove_lease(name: str, memory: Any) -> None:
    """A process that is killed is dead; this one, that stands for it, is not."""
    for place in (name, f"{name}.building"):
        folder = open_object_store(place)
        if folder.is_local or place == name:
            folder.delete([LEASE_KEY])


def stands(name: str) -> bool:
    folder = open_object_store(name)
    return bool(
        [key for key in folder.list_sizes() if not key.startswith(".gz3d/") or "plan" in key]
    )


def read(name: str, old: xr.Dataset | None, new: xr.Dataset) -> str:
    """Which store a reader sees, and that it is wholly that one."""
    try:
        ds = gz3d_zarr.open_store(name).compute()
    except StoreError:
        return "none"
    for label, dataset in (("new", new), ("old", old)):
        if dataset is not None and ds.equals(dataset):
            return label
    assert old is not None
    # A retry changes values in place: each subject is as it was, or as it will be.
    status = ds["status"].values
    was, will = old.isel(subject=status != 0), new.isel(subject=status == 0)
    assert ds.sizes == old.sizes == new.sizes
    for variable in ("ra", "dec", "zooniverse_subject_id"):
        np.testing.assert_array_equal(ds[variable].values, new[variable].values)
    good = ds.isel(subject=status == 0)
    pictured = good["image"].values.any(axis=(1, 2, 3))
    np.testing.assert_array_equal(good["image"].values[pictured], will["image"].values[pictured])
    assert was.sizes["subject"] <= 1
    return "between"
