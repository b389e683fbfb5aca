"""What others add to the root of a store is still there after an update, a retry, an overwrite."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from distributed import Client
from files import subject_files
from stores import StopHereError, objects, stop_after

import gz3d_zarr
from gz3d_zarr import StoreError
from gz3d_zarr.pipeline import root_additions
from gz3d_zarr.pipeline.light_checks import check_without_shards
from gz3d_zarr.pipeline.publish import publish_root
from gz3d_zarr.pipeline.root_additions import carry_additions
from gz3d_zarr.storage.base_store import ObjectStore
from gz3d_zarr.storage.build_record import BuildRecord, put_record
from gz3d_zarr.storage.memory_store import MemoryStore
from gz3d_zarr.storage.object_store import open_object_store

OPTIONS: dict[str, Any] = {"shard_size": 2, "catalogue": "none"}
SUBJECTS = 4
ATTRIBUTE = "zarr.json: attribute project"
ARRAY, GROUP, ALONG = "zarr.json: extra", "zarr.json: mine", "zarr.json: per_subject"


@pytest.fixture(scope="module")
def first(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of four subjects, of which one has failed, with what a person added."""
    folder = tmp_path_factory.mktemp("first")
    files = subject_files(simulated)[:SUBJECTS]
    bad = folder / files[3].name
    bad.write_bytes(b"no longer good")
    store = folder / "g.zarr"
    gz3d_zarr.build([*files[:3], bad], store, client, **OPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.open_group(store, mode="r+", use_consolidated=False)
        group.attrs["project"] = {"who": "me"}
        mine = {"dimension_names": ["thing"], "data": np.arange(5)}
        group.create_array("extra", **mine)
        group.create_group("mine").create_array("x", **mine)
        along = {"dimension_names": ["subject"], "data": np.arange(SUBJECTS)}
        group.create_array("per_subject", **along)
        zarr.consolidate_metadata(store)
    return store


@pytest.fixture(params=["disk", "memory"])
def target(first: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A copy of it on a disk, or where an overwrite deletes first; its path or URL."""
    if request.param == "disk":
        yield str(shutil.copytree(first, tmp_path / "g.zarr"))
        return
    fs, name = fsspec.filesystem("memory"), f"added-{os.getpid()}"
    for key in objects(first):
        fs.pipe_file(f"/{name}/{key}", (first / key).read_bytes())
    yield f"memory://{name}"
    fs.rm(f"/{name}", recursive=True)


def additions(target: str) -> set[str]:
    """What others added to the root, of a store that is sound."""
    light = check_without_shards(open_object_store(target))
    assert [check for check in light.checks if not check.passed] == []
    return {name for name in light.additions if name.startswith("zarr.json")}


def files(simulated: Path, first: Path, count: int = SUBJECTS) -> list[Path]:
    """Files of the store, of which one is damaged, and more."""
    good = subject_files(simulated)[:count]
    return [*good[:3], first.parent / good[3].name, *good[4:]]


ALL = {ATTRIBUTE, ARRAY, GROUP, "zarr.json: mine/x", ALONG}


def test_additions_stay_after_retry_and_update(
    simulated: Path, first: Path, tmp_path: Path, client: Client
) -> None:
    target = str(shutil.copytree(first, tmp_path / "g.zarr"))
    assert additions(target) == ALL
    good = subject_files(simulated)
    report = gz3d_zarr.build(good[:SUBJECTS], target, client, retry_failed=True, **OPTIONS)
    assert report.ok == SUBJECTS
    assert additions(target) == ALL
    report = gz3d_zarr.build(good[:6], target, client, update=True, **OPTIONS)
    assert additions(target) == ALL - {ALONG}  # as long as the store was: it cannot be opened
    assert "does not list per_subject, as the subjects of the store are others" in report.notes[-1]
    ds = gz3d_zarr.open_store(target)
    assert ds.attrs["project"] == {"who": "me"}
    assert ds["extra"].values.tolist() == [0, 1, 2, 3, 4]
    assert ds.sizes["subject"] == 6
    assert gz3d_zarr.verify(target, good[:6], client, catalogue="none").passed


def test_additions_stay_after_an_overwrite_that_was_stopped(
    simulated: Path, first: Path, target: str, client: Client
) -> None:
    source = files(simulated, first)
    arguments = {**OPTIONS, "overwrite": True}
    with pytest.raises(StopHereError):
        gz3d_zarr.build(source, target, client, progress=stop_after(1), **arguments)
    report = gz3d_zarr.build(source, target, client, resume=True, **OPTIONS)
    assert additions(target) == ALL  # the subjects are the same
    assert not [note for note in report.notes if "does not list" in note]
    before = gz3d_zarr.open_store(target)["per_subject"].values.tolist()
    assert before == [*range(SUBJECTS)]
    others = subject_files(simulated)[:3] + subject_files(simulated)[5:6]
    arguments["allow_loss"] = True
    report = gz3d_zarr.build(others, target, client, **arguments)
    assert additions(target) == ALL - {ALONG}  # it would have the labels of others
    assert "does not list per_subject" in report.notes[-1]
    assert gz3d_zarr.open_store(target).attrs["project"] == {"who": "me"}
    assert not any(key.startswith(".gz3d") for key in open_object_store(target).list_sizes())


def test_what_cannot_be_carried_is_said(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = (first / "zarr.json").read_bytes()
    root = json.loads(old)
    del root["attributes"]["project"]
    for name in ("extra", "mine", "mine/x", "per_subject"):
        del root["consolidated_metadata"]["metadata"][name]
    new = json.dumps(root, indent=2).encode()
    assert carry_additions(new, None, lambda: True) == (new, "")
    assert carry_additions(new, new, lambda: True) == (new, "")
    carried, note = carry_additions(new, old, lambda: True)
    assert (json.loads(carried), note) == (json.loads(old), "")

    def other(**changes: Any) -> bytes:
        document = json.loads(old)
        for name, value in changes.items():
            document["consolidated_metadata"]["metadata"][name] = value
        return json.dumps(document).encode()

    for damaged, why in (
        (old[:-100], "it was damaged or of another version"),
        (old.replace(b'"schema_version": ', b'"schema_version": 1'), "of another version"),
        (other(broken={"node_type": "nonsense"}), "it cannot be opened by zarr"),
        (other(broken={"node_type": "array", "shape": 7}), "it cannot be opened by zarr"),
        (other(broken=[]), "it cannot be opened by zarr"),
    ):
        carried, note = carry_additions(new, damaged, lambda: True)
        assert carried == new
        assert why in note
        assert "files of theirs stay" in note
    monkeypatch.setattr(root_additions, "MAX_DOCUMENT", len(new))
    assert carry_additions(new, old, lambda: True)[0] == new


def test_long_names_of_additions_are_cut() -> None:
    long = "n" * 5000
    document = {"attributes": {long: 1}, "consolidated_metadata": {"metadata": {long: {}}}}
    plain = {"zarr.json": b'{"attributes": {}}'}
    published: Any = SimpleNamespace(attributes={})
    stored = {"zarr.json": json.dumps(document).encode()}
    found = root_additions.find_root_additions(stored, plain, published)
    assert len(found) == 2
    assert max(map(len, found)) < 240


class CuttingStore(MemoryStore):
    """A server that keeps half of a new root, though it confirms it."""

    def _put(self, key: str, data: bytes, content_type: str = "") -> None:
        kept = data[: len(data) // 2] if b"new" in data else data
        super()._put(key, kept, content_type)


@pytest.mark.parametrize("before", [None, b"{", b'{"attributes": {"old": 1}}'])
def test_half_a_root_is_replaced_by_what_was_there(before: bytes | None) -> None:
    store: ObjectStore = CuttingStore("memory", objects={})
    put_record(store, BuildRecord("mine"))
    if before is not None:
        store.put("zarr.json", before)
    with pytest.raises(StoreError, match="did not keep 1 of 1 object"):
        publish_root(store, b'{"attributes": {"new": 1}}', [], "mine")
    whole = before if before and before.endswith(b"}}") else None
    assert store.get("zarr.json") == whole
