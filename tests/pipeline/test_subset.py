"""Stores of some subjects of a store: what they hold, resumed, refused, updated."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from distributed import Client
from files import subject_files
from page_server import Site, serve
from stores import StopHereError, objects, stop_after

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.backends.store_info import read_info
from gz3d_zarr.cli import main
from gz3d_zarr.export.fits import export_fits
from gz3d_zarr.pipeline import subset_task
from gz3d_zarr.storage.local_store import LocalStore
from gz3d_zarr.storage.object_store import ObjectStore

ROWS = (0, 1, 2, 3, 5, 9, 10, 11, 16, 17)
"""Two whole shards of 4, one of them the short last one, a quarter of one, and three quarters."""


def same_shards(one: Path, other: Path) -> None:
    """All objects but the root and the receipts, which tell when they were made, are the same."""
    first, second = (
        {k: v for k, v in objects(path).items() if not k.startswith(("receipts/", "zarr.json"))}
        for path in (one, other)
    )
    assert first == second


@pytest.fixture(scope="module")
def sample(store: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("subset") / "sample.zarr"
    report = gz3d_zarr.subset(store, path, client, rows=ROWS)
    assert (report.subjects, report.shards, report.shards_copied) == (10, 3, 2)
    return path


def test_a_subset_is_what_a_build_of_its_subjects_writes(
    sample: Path, store: Path, simulated: Path, client: Client, tmp_path: Path
) -> None:
    opened, ids = gz3d_zarr.open_store(sample), gz3d_zarr.open_store(store).isel(subject=[*ROWS])
    built = tmp_path / "built.zarr"
    wanted = ids["zooniverse_subject_id"].values.tolist()
    gz3d_zarr.build(simulated, built, client, shard_size=4, ids=wanted)
    same_shards(sample, built)
    xr.testing.assert_identical(
        opened.drop_attrs(deep=False).load(), ids.drop_attrs(deep=False).load()
    )
    report = gz3d_zarr.verify(sample, simulated, client)
    assert report.passed
    assert report.compared == len(ROWS)
    attrs, parent = opened.attrs, gz3d_zarr.open_store(store).attrs
    assert attrs["fingerprint"] == gz3d_zarr.open_store(built).attrs["fingerprint"]
    assert attrs["parent"] == store.name
    assert attrs["parent_digest"] == read_info(store).digest
    assert attrs["parent_fingerprint"] == parent["fingerprint"]
    assert attrs["parent_subjects"] == parent["subjects"] == 18
    assert attrs["source"] == parent["source"]
    assert attrs["generation"] != parent["generation"]
    lines = [line.split() for line in read_info(sample).to_text().splitlines()]
    assert ["parent", store.name] in lines
    assert ["subjects", "10:", "10", "ok"] in lines


def test_a_subset_is_read_like_any_store(sample: Path, client: Client, tmp_path: Path) -> None:
    assert export_fits(sample, tmp_path / "fits", client).files == len(ROWS)
    if importlib.util.find_spec("torch"):
        from gz3d_zarr.export.torch import GZ3DDataset

        assert len(GZ3DDataset(sample)) == len(ROWS)
    assert len(gz3d_zarr.open_store(sample).gz3d.clusters("center")) > 0
    again = gz3d_zarr.subset(sample, tmp_path / "half.zarr", client, rows=slice(None, None, 2))
    assert again.subjects == 5
    assert gz3d_zarr.verify(tmp_path / "half.zarr", client=client).passed
    gz3d_zarr.copy(sample, tmp_path / "copy.zarr", client)
    assert objects(tmp_path / "copy.zarr") == objects(sample)


def test_chunks_of_several_subjects(simulated: Path, client: Client, tmp_path: Path) -> None:
    parent, built, sample = (tmp_path / f"{name}.zarr" for name in ("parent", "built", "sample"))
    options: dict[str, Any] = {"shard_size": 16, "codec": "compact"}
    gz3d_zarr.build(simulated, parent, client, **options)
    rows = [*range(8), 9, 11, 16, 17]  # a whole chunk of masks, some of one, the last short one
    gz3d_zarr.subset(parent, sample, client, rows=rows)
    ids = gz3d_zarr.open_store(parent)["zooniverse_subject_id"].values[rows]
    gz3d_zarr.build(simulated, built, client, ids=ids.tolist(), **options)
    same_shards(sample, built)


def test_failed_subjects_stay_failed(archive: Path, client: Client, tmp_path: Path) -> None:
    bad = subject_files(archive)[2]
    bad.write_bytes(bad.read_bytes()[:20_000])
    parent, sample = tmp_path / "parent.zarr", tmp_path / "sample.zarr"
    gz3d_zarr.build(archive, parent, client, shard_size=4)
    status = gz3d_zarr.open_store(parent)["status"].values
    rows = np.unique([*np.flatnonzero(status), 4, 8])
    report = gz3d_zarr.subset(parent, sample, client, rows=rows)
    assert report.not_ok == 1
    assert "1 subject has a status that is not ok" in report.to_text()
    assert gz3d_zarr.open_store(sample).attrs["subjects_failed"] == 1
    assert gz3d_zarr.verify(sample, archive, client).passed


def test_a_stopped_subset_is_no_store_and_resumes(
    store: Path, sample: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gz3d_zarr.pipeline.dask_tasks.MAX_TASKS_IN_FLIGHT", 1)
    target = tmp_path / "sample.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.subset(store, target, client, rows=ROWS, progress=stop_after(2))
    with pytest.raises(StoreError, match=rf"gz3d-zarr subset {store.name} STORE --resume"):
        gz3d_zarr.open_store(target)
    with pytest.raises(StoreError, match="has not ended; use --resume"):
        gz3d_zarr.subset(store, target, client, rows=ROWS)
    with pytest.raises(StoreError, match="has not ended, and not one of these subjects"):
        gz3d_zarr.subset(store, target, client, rows=[1, 2], resume=True)
    damaged = target / "image/c/0/0/0/0"
    damaged.write_bytes(bytes(damaged.stat().st_size))  # as a power failure may leave it
    report = gz3d_zarr.subset(store, target, client, rows=ROWS, resume=True)
    assert report.shards_written == 2
    same_shards(target, sample)
    assert not (target / ".gz3d").exists()
    again = gz3d_zarr.subset(store, target, client, rows=ROWS, resume=True)
    assert again.to_text() == f"Nothing to write: {target} has the 10 of 18 subjects already"
    with pytest.raises(StoreError, match="holds a store already, and not one of these subjects"):
        gz3d_zarr.subset(store, target, client, rows=ROWS[1:], resume=True)


def test_a_subset_that_was_killed_at_its_very_end_resumes(
    store: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, sync = tmp_path / "sample.zarr", LocalStore.sync

    def stop_after_the_root(self: LocalStore, keys: Any) -> None:
        if keys == ["zarr.json"]:
            raise StopHereError
        sync(self, keys)

    with monkeypatch.context() as patch, pytest.raises(StopHereError):
        patch.setattr(LocalStore, "sync", stop_after_the_root)
        gz3d_zarr.subset(store, target, client, rows=[1])
    assert (target / ".gz3d/plan.json").exists()
    assert gz3d_zarr.subset(store, target, client, rows=[1], resume=True).shards_written == 0
    assert not (target / ".gz3d/plan.json").exists()
    assert gz3d_zarr.verify(target, client=client).passed


@pytest.mark.parametrize("rows", [[4, 5, 6], [4], [4, 5, 6, 7]], ids=["most", "one", "whole"])
@pytest.mark.parametrize("name", ["image", "segmentation"])
def test_a_damaged_parent_is_no_parent(
    store: Path, client: Client, tmp_path: Path, rows: list[int], name: str
) -> None:
    parent, sample = Path(shutil.copytree(store, tmp_path / "g.zarr")), tmp_path / "sample.zarr"
    shard = parent / f"{name}/c/1/0/0/0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1  # in the chunk of row 4
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=f"{name}/c/1/0/0/0 is damaged .*and no subset is made"):
        gz3d_zarr.subset(parent, sample, client, rows=rows)
    shard.write_bytes(data[:-1] + b"x")  # its index
    with pytest.raises(StoreError, match=f"{name}/c/1/0/0/0 is damaged"):
        gz3d_zarr.subset(parent, sample, client, rows=rows, resume=True)
    with pytest.raises(StoreError):
        gz3d_zarr.open_store(sample)


def test_a_parent_that_changes_meanwhile(
    store: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, sample = Path(shutil.copytree(store, tmp_path / "g.zarr")), tmp_path / "sample.zarr"
    root = (parent / "zarr.json").read_bytes()

    def after(shard: Callable[..., Any], new: bytes) -> Callable[..., Any]:
        def write(*args: Any) -> Any:
            try:
                return shard(*args)
            finally:
                (parent / "zarr.json").write_bytes(new)

        return write

    other = root.replace(b'"generation": "', b'"generation": "x')
    for function, new, message in (
        ("_join_parts", other, "replaced or changed after it was opened"),
        ("check_owner", root + b" ", "updated or replaced while the subset was taken; use --res"),
    ):
        with monkeypatch.context() as patch, pytest.raises(StoreError, match=message):
            patch.setattr(subset_task, function, after(getattr(subset_task, function), new))
            gz3d_zarr.subset(parent, sample, client, rows=[4, 9], resume=True)
        (parent / "zarr.json").write_bytes(root)
    assert gz3d_zarr.subset(parent, sample, client, rows=[4, 9], resume=True).shards_written == 0
    assert gz3d_zarr.verify(sample, client=client).passed


def test_what_is_refused(store: Path, sample: Path, client: Client, tmp_path: Path) -> None:
    there = objects(sample)
    with pytest.raises(StoreError, match=r"sample.zarr holds a store already; nothing was changed"):
        gz3d_zarr.subset(store, sample, client, rows=[1])
    assert objects(sample) == there
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(StoreError, match="not a Galaxy Zoo: 3D store; nothing was changed"):
        gz3d_zarr.subset(store, tmp_path / "mine", client, rows=[1])
    for path in (store, store / "inside" / "more.zarr"):
        with pytest.raises(UsageError, match="is in the store"):
            gz3d_zarr.subset(store, path, client, rows=[1])
    with pytest.raises(StoreError, match="lies in the store"):
        gz3d_zarr.subset(store, sample / "inside.zarr", client, rows=[1])
    new = tmp_path / "new.zarr"
    with pytest.raises(UsageError, match="no condition is given.*copy takes the whole store"):
        gz3d_zarr.subset(store, new, client)
    with pytest.raises(UsageError, match="none has one of the ids and has a vote fraction"):
        ids = gz3d_zarr.open_store(store)["zooniverse_subject_id"].values[:2]
        gz3d_zarr.subset(store, new, client, ids=ids, min_vote_fraction=1)
    with pytest.raises(UsageError, match="no subject is selected"):
        gz3d_zarr.subset(store, new, client, rows=[])
    with pytest.raises(UsageError, match="no subject is selected"):
        gz3d_zarr.subset(store, new, client, rows=[1], min_vote_fraction=1)
    with pytest.raises(StoreError, match="there is no Zarr 3 store"):
        gz3d_zarr.subset(tmp_path / "none.zarr", new, client, rows=[1])
    assert not new.exists()


def test_an_update_adds_the_other_subjects(
    sample: Path, simulated: Path, client: Client, tmp_path: Path
) -> None:
    grown = Path(shutil.copytree(sample, tmp_path / "grown.zarr"))
    before = gz3d_zarr.open_store(grown)
    report = gz3d_zarr.build(simulated, grown, client, update=True)
    assert report.subjects == 18
    after = gz3d_zarr.open_store(grown)
    assert after["subject"].values[:10].tolist() == before["subject"].values.tolist()
    assert after.attrs["parent_digest"] == before.attrs["parent_digest"]
    assert after.attrs["appended"] == 8
    assert gz3d_zarr.verify(grown, simulated, client).passed
    last = tmp_path / "last.zarr"
    gz3d_zarr.subset(grown, last, client, rows=[0, 9, 10, 17])
    assert gz3d_zarr.open_store(last).attrs["appended"] == 2


def test_what_replaces_a_subset_has_no_parent(
    sample: Path, simulated: Path, client: Client, tmp_path: Path
) -> None:
    replaced = Path(shutil.copytree(sample, tmp_path / "replaced.zarr"))
    root = json.loads((replaced / "zarr.json").read_bytes())
    root["attributes"]["mine"] = "kept"
    (replaced / "zarr.json").write_text(json.dumps(root))
    gz3d_zarr.build(simulated, replaced, client, overwrite=True, shard_size=16)
    attrs = gz3d_zarr.open_store(replaced).attrs
    assert attrs["mine"] == "kept"
    assert not [name for name in attrs if name.startswith("parent")]


def test_a_dataset_is_saved_with_what_its_store_has(
    store: Path, client: Client, tmp_path: Path
) -> None:
    dataset = gz3d_zarr.open_store(store)
    for i, opened in enumerate(
        (dataset, gz3d_zarr.open_store(store, chunks=None, masked=True), xr.open_zarr(store))
    ):
        target = tmp_path / f"{i}.zarr"
        chosen = opened.isel(subject=[7, 3, 7])  # the order of the store, each once
        report = chosen[["ra", "image"]].assign(ra=chosen["ra"] * 0).gz3d.save(target, client)
        assert report.subjects == 2
        saved = gz3d_zarr.open_store(target)
        xr.testing.assert_equal(saved["ra"], dataset["ra"].isel(subject=[3, 7]))
        np.testing.assert_array_equal(saved["image"][1].values, dataset["image"][7].values)
    dataset.isel(subject=3).gz3d.save(tmp_path / "one.zarr", client)
    assert gz3d_zarr.open_store(tmp_path / "one.zarr").sizes["subject"] == 1
    whole = dataset.gz3d.save(tmp_path / "whole.zarr", client)
    assert whole.shards_copied == whole.shards == 5
    same_shards(tmp_path / "whole.zarr", store)


def test_datasets_that_are_not_what_would_be_saved(
    store: Path, simulated: Path, client: Client, tmp_path: Path
) -> None:
    dataset, target = gz3d_zarr.open_store(store), tmp_path / "sample.zarr"
    for changed in (
        dataset.isel(x=slice(100, 200)),
        dataset.isel({"class": [2]}),
        dataset.assign(image=dataset["image"].astype("float32")),
    ):
        with pytest.raises(UsageError, match=r"was changed: it is .* in the store, whose values"):
            changed.gz3d.save(target, client)
    with pytest.raises(UsageError, match="no subject is selected"):
        dataset.isel(subject=[]).gz3d.save(target, client)
    elsewhere = gz3d_zarr.open_source(simulated).isel(subject=[2, 5])
    with pytest.raises(UsageError, match=r"does not say which store.*subset\(store, dest"):
        elsewhere.gz3d.save(target, client)
    with pytest.raises(UsageError, match="not for a Dataset"):
        gz3d_zarr.subset(dataset, target, client, rows=[1])
    old = dataset.assign_attrs(generation="another")
    with pytest.raises(StoreError, match="replaced or changed after it was opened"):
        old.gz3d.save(target, client)
    assert not target.exists()
    assert gz3d_zarr.subset(store, target, client, rows=elsewhere).subjects == 2


def test_a_script_needs_no_guard(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Local workers are threads: a process would begin by running the script again."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refuse)
    dataset = gz3d_zarr.open_store(store).isel(subject=[3, 9])
    assert dataset.gz3d.save(tmp_path / "sample.zarr", workers=2).subjects == 2


def test_the_command_and_urls(store: Path, client: Client, tmp_path: Path) -> None:
    labels = gz3d_zarr.open_store(store)["subject"].values
    table = tmp_path / "drpall.csv"
    table.write_text("\n".join(["plateifu,mangaid", *(f"1-{i},{x}" for i, x in enumerate(labels))]))
    memory, url = fsspec.filesystem("memory"), "memory://test-subset/g.zarr"
    target = tmp_path / "sample.zarr"
    try:
        with client.as_current():
            arguments = ["subset", str(store), url, "--table", str(table), "--ids", "-", "--json"]
            first = CliRunner().invoke(main, arguments, input="\n".join(labels[[2, 9, 10]]))
            assert first.exit_code == 0, first.output
            assert json.loads(first.stdout)["subjects"] == 4  # one of the ids has two
            arguments = ["subset", url, str(target), "--min-vote-fraction", "0"]
            second = CliRunner().invoke(main, arguments)
        assert second.exit_code == 0, second.output
        assert "subjects of memory://test-subset/g.zarr: wrote 1 shard" in second.stdout
    finally:
        memory.rm("/test-subset", recursive=True)
    assert gz3d_zarr.open_store(target).attrs["parent"] == url
    assert gz3d_zarr.verify(target, client=client).passed
    refused = CliRunner().invoke(main, ["subset", str(store), str(tmp_path / "new.zarr")])
    assert refused.exit_code == 2
    assert "no condition is given" in refused.stderr


def test_a_subset_of_a_link(store: Path, sample: Path, client: Client, tmp_path: Path) -> None:
    with serve(Site({"g.zarr": store})) as site:
        gz3d_zarr.subset(f"{site.url}/g.zarr", tmp_path / "sample.zarr", client, rows=ROWS)
        with pytest.raises(StoreError, match="is a web link"):
            gz3d_zarr.subset(store, f"{site.url}/sample.zarr", client, rows=ROWS)
    same_shards(tmp_path / "sample.zarr", sample)


def test_sparse_rows_are_read_by_ranges(
    store: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, get = set(), ObjectStore.get_up_to

    def watch(self: ObjectStore, key: str, size: int) -> bytes | None:
        if self.url == str(store):
            read.add(key)
        return get(self, key, size)

    monkeypatch.setattr(ObjectStore, "get_up_to", watch)
    gz3d_zarr.subset(store, tmp_path / "sample.zarr", client, rows=[1, 6])
    assert {key for key in read if "/c/" in key} == {
        "marks/annotations/c/0",
        "marks/annotations/c/1",
    }
