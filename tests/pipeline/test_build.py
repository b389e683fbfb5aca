"""Builds: equal to the files, whole or refused, and the same bytes every time."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import stat
import warnings
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from astropy.table import Table
from distributed import Client, LocalCluster
from files import subject_files, truth, with_mask_value
from stores import StopHereError, keys, objects, shards, stop_after

import gz3d_zarr
from gz3d_zarr import (
    BuildError,
    IncompleteStoreError,
    Status,
    StoreError,
    SubjectError,
    UsageError,
)
from gz3d_zarr.backends.store import read_store
from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.pipeline.build_state import is_shard
from gz3d_zarr.pipeline.dask_tasks import MAX_TASKS_IN_FLIGHT
from gz3d_zarr.pipeline.publish import write_build_record
from gz3d_zarr.pipeline.resume import ResumePlan
from gz3d_zarr.pipeline.shard_task import ShardTask, build_shard
from gz3d_zarr.progress import Progress
from gz3d_zarr.storage import local_store
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store
from gz3d_zarr.storage.shards import array_documents


def assert_equals_files(dataset: xr.Dataset, catalogue: xr.Dataset, folder: Path) -> None:
    rows = {str(name): i for i, name in enumerate(catalogue["file_name"].values)}
    assert len(rows) == dataset.sizes["subject"]
    image, segmentation = dataset["image"].values, dataset["segmentation"].values
    for path in subject_files(folder):
        i, expected = rows[path.name], truth(path)
        np.testing.assert_array_equal(image[i], expected.pop("image"))
        np.testing.assert_array_equal(segmentation[i], expected.pop("segmentation"))
        assert dataset["subject"].values[i] == expected.pop("manga_id")
        for column, name in (("iauname",) * 2, ("explorer_link",) * 2, ("sample", "sample_name")):
            assert catalogue[name].values[i] == expected[column]
        flags = dataset["sample"].attrs
        masks = zip(flags["flag_masks"], flags["flag_meanings"].split(), strict=True)
        words = {word for mask, word in masks if dataset["sample"].values[i] & mask}
        assert words == {word for word in expected.pop("sample").split(",") if word}
        assert dataset["saturated"].values[i] == (expected.pop("saturated_pixels") > 0)
        spiral, bar = expected["spiral_votes"], expected["bar_votes"]
        total = expected["total_classifications"]
        fractions = (-0.5, -0.5) if total == 0 else (spiral / total, bar / total)
        np.testing.assert_array_equal(
            dataset["vote_fraction"].values[i], np.array([-1, -1, *fractions], np.float32)
        )
        for name in set(expected) - {"iauname", "explorer_link"}:
            assert np.array_equal(dataset[name].values[i], expected[name]), name
        assert catalogue["source_size"].values[i] == path.stat().st_size
        digest = hashlib.sha1(path.read_bytes()).hexdigest()
        assert catalogue["source_sha1"].values[i] == digest


def test_store_equals_its_files(simulated: Path, store: Path) -> None:
    dataset = gz3d_zarr.open_store(store)
    opened, catalogue = read_store(open_object_store(str(store)))
    attrs = opened.attrs
    assert_equals_files(dataset, catalogue, simulated)
    assert (dataset["status"] == 0).all()
    assert attrs["complete"] == 1
    assert (attrs["subjects"], attrs["subjects_ok"], attrs["subjects_failed"]) == (18, 18, 0)


@pytest.mark.long
def test_reference_store_equals_its_files(reference: Path, client: Client, tmp_path: Path) -> None:
    report = gz3d_zarr.build(reference, tmp_path / "gz3d.zarr", client)
    assert (report.subjects, report.ok, report.failures) == (64, 64, ())
    dataset = gz3d_zarr.open_store(report.store)
    _, catalogue = read_store(open_object_store(report.store))
    assert_equals_files(dataset, catalogue, reference)
    stored = sum(path.stat().st_size for path in Path(report.store).rglob("*") if path.is_file())
    source = sum(path.stat().st_size for path in subject_files(reference))
    assert stored <= 1.05 * source
    compact = gz3d_zarr.build(reference, tmp_path / "compact.zarr", client, codec="compact")
    size = sum(path.stat().st_size for path in Path(compact.store).rglob("*") if path.is_file())
    assert size <= 0.80 * source


def test_healpix_and_observed(simulated: Path, store: Path) -> None:
    from astropy_healpix import healpy

    ds = gz3d_zarr.open_store(store)
    pixels = healpy.ang2pix(16, ds["ra"].values, ds["dec"].values, nest=True, lonlat=True)
    np.testing.assert_array_equal(ds["healpix"].values, pixels)
    assert ds["healpix"].attrs["nside"] == 16
    table = Table.read(simulated / "gz3d_metadata.fits")
    observed = dict(zip(table["zooniverse_subject_id"], table["observed"], strict=True))
    assert [observed[i] for i in ds["zooniverse_subject_id"].values] == list(ds["observed"].values)
    assert 0 < ds["observed"].values.sum() < 18


@pytest.mark.parametrize("options", [{}, {"chunks": "auto"}, {"chunks": None}])
def test_plain_xarray_opens_it_without_warnings(store: Path, options: dict[str, Any]) -> None:
    dataset = xr.open_zarr(store, **options)
    for name, variable in dataset.variables.items():
        ours = gz3d_zarr.open_store(store)[name]
        assert variable.dtype == ours.dtype
        assert "_FillValue" not in variable.encoding or variable.encoding["_FillValue"] is None
    assert dataset["spiral_votes"].dtype == np.int32
    assert dataset["healpix"].dtype == np.int64
    assert dataset["image"].dtype == np.uint8
    assert dataset["observed"].dtype == np.int8
    assert set(dataset.coords) == {
        "subject", "class", "channel", "zooniverse_subject_id", "ra", "dec", "healpix", "scale",
        "ifu_design_size", "status",
    }  # fmt: skip
    assert dataset.isel(subject=3)["image"].values.any()


def test_opened_store_has_chunks_of_whole_shards(store: Path) -> None:
    dataset = gz3d_zarr.open_store(store)
    assert dataset["image"].chunks == ((4, 4, 4, 4, 2), (525,), (525,), (3,))
    assert dataset["segmentation"].chunks == ((4, 4, 4, 4, 2), (4,), (525,), (525,))
    np.testing.assert_array_equal(dataset["object_id"].values, dataset["subject"].values)


def test_only_portable_codecs_and_checksums_everywhere(store: Path) -> None:
    def codecs(node: Any) -> list[dict[str, Any]]:
        if isinstance(node, dict):
            own = [node] if "name" in node and "configuration" in node else []
            return own + [found for value in node.values() for found in codecs(value)]
        return (
            [found for value in node for found in codecs(value)] if isinstance(node, list) else []
        )

    for key in objects(store):
        if key.endswith("zarr.json"):
            document = json.loads((store / key).read_bytes())
            for codec in codecs(document.get("codecs", [])):
                allowed = {"bytes", "zstd", "sharding_indexed", "crc32c"}
                if document["data_type"] == "string":
                    allowed.add("vlen-utf8")
                assert codec["name"] in allowed
                if codec["name"] == "zstd":
                    assert codec["configuration"]["checksum"] is True


def test_compact_store_is_smaller_and_equal(
    simulated: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    report = gz3d_zarr.build(simulated, tmp_path / "c.zarr", client, codec="compact", shard_size=4)
    compact = gz3d_zarr.open_store(report.store)
    xr.testing.assert_equal(compact.compute(), gz3d_zarr.open_store(store).compute())

    def pictures(path: Path) -> int:
        return sum(p.stat().st_size for p in (path / "image").rglob("*") if p.is_file())

    assert pictures(Path(report.store)) < 0.8 * pictures(store)


def test_every_array_stores_all_its_chunks(store: Path) -> None:
    group = zarr.open_group(store, mode="r")
    keys = objects(store)
    for name, array in group.members(max_depth=None):
        if isinstance(array, zarr.Array):
            count = -(-array.shape[0] // (array.shards or array.chunks)[0])
            assert sum(key.startswith(f"{name}/c/") for key in keys) == count, name


def test_same_files_same_shards(
    simulated: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    gz3d_zarr.build(simulated, tmp_path / "again.zarr", client, shard_size=4)
    again = objects(tmp_path / "again.zarr")
    first = objects(store)
    assert shards(tmp_path / "again.zarr") == shards(store)
    assert len(shards(store)) == 2 * 5
    other = {key for key in first if first[key] != again.get(key)}
    assert {key.partition("/")[0] for key in other} == {"zarr.json", "receipts"}  # another time


def test_each_shard_is_one_put_and_not_read_back(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts, gets = [], []
    get = ObjectStore.get
    for name in ("put", "put_if_absent"):
        method = getattr(ObjectStore, name)
        monkeypatch.setattr(
            ObjectStore,
            name,
            lambda self, key, data, call=method: (puts.append(key), call(self, key, data))[1],
        )
    monkeypatch.setattr(ObjectStore, "get", lambda self, key: (gets.append(key), get(self, key))[1])
    gz3d_zarr.build(simulated, tmp_path / "p.zarr", client, shard_size=9)
    assert puts.count(".gz3d/plan.json") == 2  # the second says that the root comes next
    assert len(puts) == len(set(puts)) + 1
    assert sorted(key for key in puts if "/c/" in key and key.startswith(("image/", "segm"))) == [
        "image/c/0/0/0/0",
        "image/c/1/0/0/0",
        "segmentation/c/0/0/0/0",
        "segmentation/c/1/0/0/0",
    ]
    assert puts[:3] == [".gz3d/lease.json", ".gz3d/files.txt", ".gz3d/plan.json"]
    assert puts[-1] == "zarr.json"
    assert not [key for key in gets if is_shard(key)]
    assert {key for key in puts if not key.startswith(".gz3d/") and not is_shard(key)} <= {*gets}


def test_all_is_kept_by_the_disk_before_the_root_is_written(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, kept, before_root = tmp_path / "g.zarr", set(), set()
    fsync, put = os.fsync, ObjectStore.put

    def note_fsync(descriptor: int) -> None:
        fsync(descriptor)
        kept.add(os.fstat(descriptor).st_ino)

    def note_put(self: ObjectStore, key: str, data: bytes) -> None:
        if key == "zarr.json":
            before_root.update(kept)
            kept.clear()
        put(self, key, data)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(ObjectStore, "put", note_put)
    gz3d_zarr.build(simulated, target, client, shard_size=9)
    root = target / "zarr.json"
    files = {path.stat().st_ino for path in target.rglob("*") if path.is_file() and path != root}
    assert files <= before_root
    assert {root.stat().st_ino, target.stat().st_ino} <= kept


def test_file_system_that_syncs_no_folders_will_do(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    assert gz3d_zarr.build(simulated, tmp_path / "g.zarr", client, limit=2).ok == 2


def test_bad_files_keep_their_rows_and_are_named(
    archive: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    files = subject_files(archive)
    files[2].write_bytes(b"<html>")
    files[5].write_bytes(with_mask_value(files[5].read_bytes(), 3, 300.5))
    report = gz3d_zarr.build(archive, tmp_path / "g.zarr", client, shard_size=4)
    assert report.counts == {"ok": 16, "missing": 0, "unreachable": 0, "corrupt": 2, "invalid": 0}
    reasons = {failure.file_name: failure.reason for failure in report.failures}
    assert set(reasons) == {files[2].name, files[5].name}
    assert "sha1" in reasons[files[2].name]
    assert files[2].name in report.to_text()
    (archive / "manga_morphology_galaxyzoo3d_v4_0_0.sha1sum").unlink()
    report = gz3d_zarr.build(archive, tmp_path / "g.zarr", client, shard_size=4, overwrite=True)
    assert report.counts["corrupt"] == report.counts["invalid"] == 1

    good = gz3d_zarr.open_store(store).compute()
    ds = gz3d_zarr.open_store(tmp_path / "g.zarr").compute()
    bad = ds["status"].values != 0
    assert bad.sum() == 2
    xr.testing.assert_equal(ds.isel(subject=~bad), good.isel(subject=~bad))
    # What the file name and the catalogue tell stays; the rest is fill.
    by_class = [
        "classifications", "classifications_drawn", "max_count", "marked_pixels",
        "marked_pixels_above_3",
    ]  # fmt: skip
    lost = ["image", "segmentation", "scale", "status", *by_class]
    kept = [name for name in ds.variables if name not in lost]
    xr.testing.assert_equal(
        ds[kept].isel(subject=bad).drop_vars(["scale", "status"]),
        good[kept].isel(subject=bad).drop_vars(["scale", "status"]),
    )
    assert all((ds[name].values[bad] == -1).all() for name in by_class)
    assert not ds["image"].values[bad].any()
    assert not ds["segmentation"].values[bad].any()
    assert np.isnan(ds["scale"].values[bad]).all()


def test_bad_file_without_a_catalogue_has_fill_values(
    archive: Path, client: Client, tmp_path: Path
) -> None:
    bad = subject_files(archive)[0]
    bad.write_bytes(b"")
    missing = archive / "gz3d_1-9_37_9.fits.gz"
    report = gz3d_zarr.build([bad, missing], tmp_path / "g.zarr", client, catalogue="none")
    assert [failure.status for failure in report.failures] == ["corrupt", "missing"]
    ds = gz3d_zarr.open_store(report.store)
    assert list(ds["subject"].values) == ["1-600000", "1-9"]
    assert list(ds["ifu_design_size"].values) == [19, 37]
    assert list(ds["zooniverse_subject_id"].values) == [14000000, 9]
    for name in ("ra", "dec", "scale"):
        assert np.isnan(ds[name].values).all()
    for name in ("healpix", "total_classifications", "spiral_votes", "bar_votes", "nsa_id"):
        assert (ds[name].values == -1).all()
    np.testing.assert_array_equal(ds["vote_fraction"].values, [[-1, -1, np.nan, np.nan]] * 2)
    assert list(ds["status"].values) == [3, 1]
    assert ds["status"].attrs["flag_meanings"].split()[3] == "corrupt"


def test_store_that_stands_there_is_refused(
    simulated: Path, client: Client, tmp_path: Path
) -> None:
    store = tmp_path / "g.zarr"
    gz3d_zarr.build(simulated, store, client, limit=2)
    before = objects(store)
    with pytest.raises(StoreError, match="complete store; use --overwrite"):
        gz3d_zarr.build(simulated, store, client, limit=3)
    assert objects(store) == before
    report = gz3d_zarr.build(simulated, store, client, limit=2, resume=True)
    assert report.shards_built == 0
    assert "Nothing to build" in report.to_text()
    assert objects(store) == before
    with pytest.raises(
        StoreError, match=r"subjects is 3 \(existing: 2\); 1 file missing in the existing one"
    ):
        gz3d_zarr.build(simulated, store, client, limit=3, resume=True)
    assert objects(store) == before
    gz3d_zarr.build(simulated, store, client, limit=3, overwrite=True)
    assert gz3d_zarr.open_store(store).sizes["subject"] == 3


def test_foreign_content_is_never_touched(simulated: Path, client: Client, tmp_path: Path) -> None:
    store = tmp_path / "mine"
    store.mkdir()
    (store / "thesis.tex").write_text("years of work")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(StoreError, match="not a Galaxy Zoo: 3D store; nothing was changed"):
            gz3d_zarr.build(simulated, store, client, limit=1, **options)
    assert objects(store).keys() == {"thesis.tex"}
    xr.Dataset({"a": ("x", [1.0])}).to_zarr(tmp_path / "z", zarr_format=3, consolidated=False)
    before = objects(tmp_path / "z")
    with pytest.raises(StoreError, match="not a Galaxy Zoo: 3D store"):
        gz3d_zarr.build(simulated, tmp_path / "z", client, limit=1, overwrite=True)
    assert objects(tmp_path / "z") == before
    with pytest.raises(StoreError, match="no consolidated metadata"):
        gz3d_zarr.open_store(tmp_path / "z")
    with warnings.catch_warnings(action="ignore"):
        xr.Dataset({"a": ("x", [1.0])}).to_zarr(tmp_path / "y", zarr_format=3, consolidated=True)
    with pytest.raises(StoreError, match="not of Galaxy Zoo: 3D"):
        gz3d_zarr.open_store(tmp_path / "y")
    with pytest.raises(StoreError, match="there is no Zarr 3 store at"):
        gz3d_zarr.open_store(tmp_path / "nowhere")


def test_overwriting_that_is_stopped_is_still_ours(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "g.zarr"
    (tmp_path / "elsewhere").mkdir()
    store.symlink_to(tmp_path / "elsewhere")  # cannot be renamed: it is built in place
    gz3d_zarr.build(simulated, store, client, limit=6, shard_size=2)
    (store / "notes.txt").write_text("mine")
    delete = ObjectStore.delete
    calls = []

    def dying(self: ObjectStore, keys: Any) -> None:
        calls.append(list(keys))
        if len(calls) == 3:  # receipts, root, and then the rest
            delete(self, calls[-1][:3])
            raise KeyboardInterrupt
        delete(self, calls[-1])

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "delete", dying)
        with pytest.raises(KeyboardInterrupt):
            gz3d_zarr.build(
                simulated, store, client, limit=3, shard_size=2, overwrite=True, allow_loss=True
            )
    with pytest.raises(IncompleteStoreError):
        gz3d_zarr.open_store(store)
    gz3d_zarr.build(simulated, store, client, limit=3, shard_size=2, resume=True)
    gz3d_zarr.build(simulated, tmp_path / "clean.zarr", client, limit=3, shard_size=2)
    assert keys(objects(store)) == {*keys(objects(tmp_path / "clean.zarr")), "notes.txt"}
    assert shards(store) == shards(tmp_path / "clean.zarr")


def test_what_a_killed_writer_left_is_removed(
    simulated: Path, client: Client, tmp_path: Path
) -> None:
    half = tmp_path / "half.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.build(simulated, half, client, shard_size=9, progress=stop_after(1))
    for name in ("image/c/0/0/0/.0.abc.partial", ".gz3d/receipts/.000000.json.abc.partial"):
        (half / name).parent.mkdir(parents=True, exist_ok=True)
        (half / name).write_bytes(b"half of it")
    gz3d_zarr.build(simulated, half, client, shard_size=9, resume=True)
    assert not list(half.rglob("*.partial"))
    assert not (half / ".gz3d").exists()


def test_build_runs_on_a_scheduler_by_address(simulated: Path, store: Path, tmp_path: Path) -> None:
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path / "dask"),
    ) as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tcp://127.0.0.1:")
        plan = gz3d_zarr.plan(simulated, tmp_path / "g.zarr", scheduler=address)
        assert (plan.resources.workers, plan.resources.threads) == (1, 2)
        gz3d_zarr.build(simulated, tmp_path / "g.zarr", scheduler=address, shard_size=4)
    assert shards(tmp_path / "g.zarr") == shards(store)


def test_store_on_another_file_system_is_the_same(
    simulated: Path, store: Path, client: Client
) -> None:
    memory = fsspec.filesystem("memory")
    url = "memory://test-store/g.zarr"
    try:
        report = gz3d_zarr.build(simulated, url, client, shard_size=4)
        assert report.store == url
        xr.testing.assert_equal(
            gz3d_zarr.open_store(url).compute(), gz3d_zarr.open_store(store).compute()
        )
        with pytest.raises(StoreError, match="complete store"):
            gz3d_zarr.build(simulated, url, client, shard_size=4)
        names = {name.removeprefix("/test-store/g.zarr/") for name in memory.find("/test-store")}
        assert keys(names) == keys(objects(store))
    finally:
        memory.rm("/test-store", recursive=True)
    with pytest.raises(StoreError, match="there is no Zarr 3 store at memory:"):
        gz3d_zarr.open_store(url)


def test_shards_that_are_not_where_workers_put_them_are_missed(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ObjectStore.put

    def elsewhere(self: ObjectStore, key: str, data: bytes) -> None:
        if key != "image/c/1/0/0/0":  # as on a worker's own disk
            put(self, key, data)

    monkeypatch.setattr(ObjectStore, "put", elsewhere)
    with pytest.raises(StoreError, match="lacks 1 of 8 objects .* same store under this name"):
        gz3d_zarr.build(simulated, tmp_path / "g.zarr", client, shard_size=9)
    with pytest.raises(IncompleteStoreError):
        gz3d_zarr.open_store(tmp_path / "g.zarr")


def test_build_that_is_overtaken_writes_no_more(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gz3d_zarr.pipeline.dask_tasks.MAX_TASKS_IN_FLIGHT", 1)
    store = tmp_path / "g.zarr"
    plan = gz3d_zarr.plan(simulated, store, client=client, shard_size=4)
    folder = open_object_store(str(store))

    def overtake(after: int) -> Any:
        def progress(state: Progress) -> None:
            if state.done >= after:
                write_build_record(folder, ResumePlan(plan), "another build")

        return progress

    with pytest.raises(StoreError, match="was taken over by another build"):
        gz3d_zarr.build(simulated, store, client, shard_size=4, progress=overtake(4))
    assert len(shards(store)) == 2
    with pytest.raises(StoreError, match="was taken over"):  # between the last shard and the end
        gz3d_zarr.build(simulated, store, client, shard_size=4, progress=overtake(18), resume=True)
    with pytest.raises(IncompleteStoreError):
        gz3d_zarr.open_store(store)
    report = gz3d_zarr.build(simulated, store, client, shard_size=4, resume=True)
    assert report.shards_built == 0


def test_late_task_of_a_finished_build_writes_nothing(
    simulated: Path, store: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    before = objects(copy)
    files = tuple((str(path), None) for path in subject_files(simulated)[:4])
    documents = array_documents(Layout(18, 4))
    task = ShardTask(0, "x", "an earlier build", files, documents, open_object_store(str(copy)))
    with pytest.raises(StoreError, match="was taken over"):
        build_shard(task)
    assert objects(copy) == before


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_resume_builds_again_what_is_lost(
    simulated: Path, store: Path, client: Client, tmp_path: Path, damage: Any
) -> None:
    half = tmp_path / "half.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.build(simulated, half, client, shard_size=4, progress=stop_after(2))
    damage(next((half / "image" / "c").rglob("0/0/0/0")))
    gz3d_zarr.build(simulated, half, client, shard_size=4, resume=True)
    assert shards(half) == shards(store)


def test_votes_that_the_catalogue_does_not_know_have_no_fraction(
    archive: Path, client: Client, tmp_path: Path
) -> None:
    path = archive / "gz3d_metadata.fits"
    table = Table.read(path)
    for name in ("GZ_total_classifications", "GZ_bar_votes", "IFUDESIGNSIZE"):
        table[name] = table[name].astype(float)
        table[name][0] = np.nan
    table.write(path, overwrite=True)
    subject_files(archive)[0].write_bytes(b"")
    report = gz3d_zarr.build(archive, tmp_path / "g.zarr", client, ids=[14000000])
    ds = gz3d_zarr.open_store(report.store)
    np.testing.assert_array_equal(ds["vote_fraction"].values, [[-1, -1, np.nan, np.nan]])
    assert ds["total_classifications"].item() == -1
    assert ds["ifu_design_size"].item() == 19


def test_what_a_person_keeps_beside_a_store_stays(
    simulated: Path, client: Client, tmp_path: Path
) -> None:
    store = tmp_path / "g.zarr"
    gz3d_zarr.build(simulated, store, client, limit=2)
    (store / "mine.partial").write_text("mine")
    (store / "empty").mkdir()
    gz3d_zarr.build(simulated, store, client, limit=3, overwrite=True)
    assert (store / "mine.partial").exists()
    assert (store / "empty").is_dir()


def test_copy_that_xarray_wrote_opens(store: Path, tmp_path: Path) -> None:
    part = xr.open_zarr(store).isel(subject=slice(2, 5)).drop_encoding()
    with warnings.catch_warnings(action="ignore"):
        part.to_zarr(tmp_path / "part.zarr", zarr_format=3, consolidated=True)
    assert gz3d_zarr.open_store(tmp_path / "part.zarr").sizes["subject"] == 3
    with warnings.catch_warnings(action="ignore"):
        part.drop_vars("image").to_zarr(tmp_path / "p.zarr", zarr_format=3, consolidated=True)
    with pytest.raises(StoreError, match="lacks image: another program"):
        gz3d_zarr.open_store(tmp_path / "p.zarr")


def test_copy_of_files_that_xarray_wrote_opens(simulated: Path, tmp_path: Path) -> None:
    files = gz3d_zarr.open_source(simulated, limit=3)
    with warnings.catch_warnings(action="ignore"):
        files.to_zarr(tmp_path / "files.zarr", zarr_format=3, consolidated=True)
    xr.testing.assert_equal(gz3d_zarr.open_store(tmp_path / "files.zarr"), files)


def test_selection_can_be_saved_as_netcdf(store: Path, tmp_path: Path) -> None:
    ds = gz3d_zarr.open_store(store).isel(subject=[1, 4])
    ds.to_netcdf(tmp_path / "some.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "some.nc", engine="h5netcdf") as saved:
        xr.testing.assert_equal(saved.gz3d.mask("spiral"), ds.gz3d.mask("spiral"))
        np.testing.assert_array_equal(saved["image"], ds["image"])


@pytest.mark.parametrize("built", [1, 3])
def test_stopped_build_is_incomplete_and_resumes_to_the_same_bytes(
    simulated: Path,
    store: Path,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    built: int,
) -> None:
    monkeypatch.setattr(
        "gz3d_zarr.pipeline.dask_tasks.MAX_TASKS_IN_FLIGHT", 1
    )  # one shard after the other
    half = tmp_path / "half.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.build(simulated, half, client, shard_size=4, progress=stop_after(built))
    with pytest.raises(IncompleteStoreError, match=f"is not complete, {built} of 5 shards built"):
        gz3d_zarr.open_store(half)
    with pytest.raises(FileNotFoundError):
        xr.open_zarr(half)
    with pytest.raises(StoreError, match="build that has not ended; use --overwrite .* --resume"):
        gz3d_zarr.build(simulated, half, client, shard_size=4)
    with pytest.raises(
        StoreError, match=r"built with another plan: shard_size is 5 \(existing: 4\)"
    ):
        gz3d_zarr.build(simulated, half, client, shard_size=5, resume=True)
    states: list[Progress] = []
    report = gz3d_zarr.build(
        simulated, half, client, shard_size=4, resume=True, progress=states.append
    )
    assert report.shards_built == 5 - built
    assert states[-1].done == states[-1].total == 18
    assert sum(state.new for state in states) == report.subjects_built < 18
    assert shards(half) == shards(store)
    assert not (half / ".gz3d").exists()
    xr.testing.assert_equal(gz3d_zarr.open_store(half), gz3d_zarr.open_store(store))


def test_damaged_plan_is_named(tmp_path: Path) -> None:
    for content, what in (
        (b"{", "plan.json cannot be read"),
        (b'{"schema": "gz3d", "schema_version": 99}', "is of a build by another version"),
    ):
        open_object_store(str(tmp_path)).put(".gz3d/plan.json", content)
        with pytest.raises(StoreError, match=f"{what}.*--overwrite"):
            gz3d_zarr.open_store(tmp_path)


def test_build_stops_where_it_is_told_to(archive: Path, client: Client, tmp_path: Path) -> None:
    for path in subject_files(archive)[:4]:
        path.write_bytes(b"")
    with pytest.raises(BuildError, match=r"first subject that failed: .*fits\.gz: its sha1"):
        gz3d_zarr.build(archive, tmp_path / "a.zarr", client, on_error="raise")
    with pytest.raises(StopHereError):
        gz3d_zarr.build(archive, tmp_path / "c.zarr", client, shard_size=1, progress=stop_after(17))
    with pytest.raises(BuildError, match="first subject that failed: corrupt: gz3d_"):
        gz3d_zarr.build(
            archive, tmp_path / "c.zarr", client, shard_size=1, resume=True, on_error="raise"
        )
    with pytest.raises(BuildError, match=r"stopped: \d subjects failed, more than the 2"):
        gz3d_zarr.build(archive, tmp_path / "b.zarr", client, shard_size=1, max_failures=2)
    with pytest.raises(IncompleteStoreError):
        gz3d_zarr.open_store(tmp_path / "b.zarr")
    with pytest.raises(BuildError, match="more than the 2 allowed"):
        gz3d_zarr.build(
            archive, tmp_path / "b.zarr", client, shard_size=1, max_failures=2, resume=True
        )
    report = gz3d_zarr.build(
        archive, tmp_path / "b.zarr", client, shard_size=1, max_failures=4, resume=True
    )
    assert len(report.failures) == 4


def test_more_shards_than_tasks_in_flight(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_TASKS_IN_FLIGHT > 3
    monkeypatch.setattr("gz3d_zarr.pipeline.dask_tasks.MAX_TASKS_IN_FLIGHT", 3)
    report = gz3d_zarr.build(simulated, tmp_path / "a.zarr", client, shard_size=2)
    assert (report.shards_built, report.ok) == (9, 18)


def test_place_in_another_store_is_refused(simulated: Path, store: Path, client: Client) -> None:
    with pytest.raises(StoreError, match="lies in the store"):
        gz3d_zarr.build(simulated, store / "sub", client, limit=1)
    assert not (store / "sub").exists()


def test_unwritable_places_are_named(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"file/g\.zarr.* cannot be written: "):
        gz3d_zarr.build(simulated, tmp_path / "file" / "g.zarr", client, limit=1)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = tmp_path / "g.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(local_store, "write_atomically", full)
        with pytest.raises(StoreError, match="cannot be written: No space left on device"):
            gz3d_zarr.build(simulated, store, client, limit=1)


@pytest.mark.parametrize("key", ["segmentation/c/2/0/0/0", "ra/c/0", "/zarr.json"])
def test_disk_full_in_mid_build_resumes(
    simulated: Path,
    store: Path,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    put_file, half = local_store.write_atomically, tmp_path / "half.zarr"

    def nearly_full(path: Path, data: bytes) -> None:
        if path.as_posix().endswith(key) and (key[0] != "/" or path.parent == half):
            raise OSError(errno.ENOSPC, "No space left on device")
        put_file(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(local_store, "write_atomically", nearly_full)
        with pytest.raises(StoreError, match=f"{key} cannot be written: No space"):
            gz3d_zarr.build(simulated, half, client, shard_size=4)
    with pytest.raises(IncompleteStoreError):
        gz3d_zarr.open_store(half)
    gz3d_zarr.build(simulated, half, client, shard_size=4, resume=True)
    assert shards(half) == shards(store)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "jpeg"}, "codec is 'jpeg', expected one of portable, compact"),
        ({"nside": 12}, "nside is 12, expected a power of two"),
        ({"shard_size": 0}, "shard_size is 0"),
        ({"max_memory": "lots"}, "max_memory is 'lots', expected a size such as 2GB"),
        ({"tiny": True, "limit": 3}, "one of tiny and limit"),
        ({"shards": 3}, "unknown option shards for build; its options are limit, tiny"),
        ({"on_error": "ignore"}, "on_error is 'ignore', expected one of skip, raise"),
        ({"max_failures": -1}, "max_failures is -1"),
        ({"resume": True, "overwrite": True}, "choose one"),
        ({"workers": 2}, "workers is for a local cluster"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "give one"),
    ],
)
def test_impossible_options_are_refused_before_any_work(
    simulated: Path, client: Client, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        gz3d_zarr.build(simulated, tmp_path / "g.zarr", client, **options)
    assert not (tmp_path / "g.zarr").exists()


@pytest.mark.parametrize("name", ["gz3d_1-5_{bundle}_5.fits.gz", "gz3d_{manga_id}_7_5.fits.gz"])
def test_file_of_another_name_is_invalid_unless_names_are_trusted(
    archive: Path, client: Client, tmp_path: Path, name: str
) -> None:
    first = subject_files(archive)[0]
    _, manga_id, bundle, _ = first.name.split("_")
    renamed = first.rename(first.with_name(name.format(manga_id=manga_id, bundle=bundle)))
    target = tmp_path / "g.zarr"
    report = gz3d_zarr.build([renamed], target, client)
    assert report.counts["invalid"] == 1
    assert "no sha1 vouches for it; if names were changed" in report.failures[0].reason
    assert "use trust_names (--trust-names)" in report.failures[0].reason
    assert gz3d_zarr.open_source([renamed])["status"].values == [Status.INVALID]
    with (
        xr.open_dataset(renamed, engine="gz3d") as ds,
        pytest.raises(SubjectError, match="its name says"),
    ):
        ds["ra"].load()
    with xr.open_dataset(renamed, engine="gz3d", trust_names=True) as ds:
        assert ds["ra"].load().notnull().all()
    trusting = gz3d_zarr.open_source([renamed], trust_names=True)
    assert trusting["status"].values == [Status.OK]
    report = gz3d_zarr.build([renamed], target, client, retry_failed=True, trust_names=True)
    assert report.ok == 1
    xr.testing.assert_equal(gz3d_zarr.open_store(target).compute(), trusting.compute())
    assert gz3d_zarr.verify(target, [renamed], client).state == "sound"
    sha1 = hashlib.sha1(renamed.read_bytes()).hexdigest()
    (archive / "renamed.sha1sum").write_text(f"{sha1}  {renamed.name}\n")
    assert gz3d_zarr.build([renamed], tmp_path / "vouched.zarr", client).ok == 1


def test_trusted_subject_is_kept_when_its_shard_is_read_again(
    archive: Path, client: Client, tmp_path: Path
) -> None:
    first = subject_files(archive)[0]
    renamed = first.rename(first.with_name("gz3d_1-5_19_5.fits.gz"))
    target = tmp_path / "g.zarr"
    gz3d_zarr.build([renamed], target, client, trust_names=True)
    (target / "image/c/0/0/0/0").unlink()
    assert gz3d_zarr.build([renamed], target, client, resume=True).ok == 1
    assert gz3d_zarr.verify(target, client=client).state == "sound"


def test_files_that_hold_another_id_are_told(archive: Path, client: Client, tmp_path: Path) -> None:
    first = subject_files(archive)[0]
    renamed = first.rename(first.with_name("gz3d_1-5_19_5.fits.gz"))
    report = gz3d_zarr.build([renamed], tmp_path / "g.zarr", client, trust_names=True)
    assert report.ok == 1
    assert "another MANGAID inside than in the name of 1 file" in report.to_text()
    ds = gz3d_zarr.open_store(report.store)
    assert ds["subject"].item() == "1-5"
    _, catalogue = read_store(open_object_store(report.store))
    assert catalogue["manga_id"].item() == "1-600000"


def test_report_lists_fifty_and_counts_the_rest(store: Path) -> None:
    from gz3d_zarr.pipeline.report import BuildReport, Failure

    failures = tuple(Failure(f"f{i}.fits.gz", "corrupt", "why") for i in range(60))
    report = BuildReport("s", 100, 40, failures, 2, 2, 100, 10**6, 2.0)
    text = report.to_text()
    assert "f49.fits.gz" in text
    assert "f50.fits.gz" not in text
    assert "and 10 more" in text
    assert len(json.loads(json.dumps(report.summary()))["failures"]) == 60
    assert report.rate == 50
    assert dataclasses.replace(report, seconds=0.0).rate == 0
