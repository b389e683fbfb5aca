"""Stores that are gone on with: failed subjects read again, new ones added, old ones replaced."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from files import subject_files
from servers import only_first, serve, status
from stores import StopHereError, keys, objects, shards, stop_after

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.datamodel.sealed_json import seal, unseal
from gz3d_zarr.pipeline import build as building
from gz3d_zarr.pipeline.light_checks import find_light_damage
from gz3d_zarr.progress import Progress
from gz3d_zarr.sources import http as fetch
from gz3d_zarr.storage.build_record import BUILDING_SUFFIX, LEASE_KEY
from gz3d_zarr.storage.local_store import LocalStore
from gz3d_zarr.storage.object_store import open_object_store


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)


def times(store: Path) -> dict[str, int]:
    return {key: (store / key).stat().st_mtime_ns for key in shards(store)}


def test_retry_reads_failed_subjects_only(
    archive: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "g.zarr"
    with serve(archive) as server:
        bad = [path.name for path in subject_files(archive)[:2]]
        for name, code in zip(bad, (404, 503), strict=True):
            server.faults[name] = [only_first(status(code))]
        report = gz3d_zarr.build(server.url, target, client, shard_size=4)
        assert {f.file_name: f.status for f in report.failures} == dict(
            zip(bad, ("missing", "unreachable"), strict=True)
        )
        before, written = server.requests.copy(), times(target)
        report = gz3d_zarr.build(server.url, target, client, shard_size=4, retry_failed=True)
        asked = {name for name in server.requests if server.requests[name] > before[name]}
        assert {name for name in asked if name.endswith(".fits.gz")} == set(bad)
        assert report.failures == ()
    assert shards(target) == shards(store)
    rewritten = [key for key, when in times(target).items() if when != written[key]]
    assert 0 < len(rewritten) == 2 * report.shards_built <= 4
    xr.testing.assert_equal(gz3d_zarr.open_store(target), gz3d_zarr.open_store(store))
    assert not (target / ".gz3d").exists()
    assert gz3d_zarr.verify(target, archive, client).passed
    report = gz3d_zarr.build(archive, target, client, shard_size=4, retry_failed=True)
    assert (report.shards_built, report.ok) == (0, 18)


def test_retry_that_fails_again_loses_nothing(
    archive: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    target, bad = tmp_path / "g.zarr", subject_files(archive)[3]
    whole = bad.read_bytes()
    bad.write_bytes(b"")
    gz3d_zarr.build(archive, target, client, shard_size=4)
    before = objects(target)
    report = gz3d_zarr.build(archive, target, client, shard_size=4, retry_failed=True)
    assert [f.file_name for f in report.failures] == [bad.name]
    assert shards(target) == {key: before[key] for key in shards(target)}
    bad.write_bytes(whole)
    gz3d_zarr.build(archive, target, client, shard_size=4, retry_failed=True)
    assert shards(target) == shards(store)


def test_retry_goes_on_with_a_build_that_has_not_ended(
    archive: Path, store: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gz3d_zarr.pipeline.dask_tasks.MAX_TASKS_IN_FLIGHT", 1)
    target = tmp_path / "g.zarr"
    saved = {path: path.read_bytes() for path in subject_files(archive)}
    for path in saved:
        path.write_bytes(b"")
    with pytest.raises(StopHereError):
        gz3d_zarr.build(archive, target, client, shard_size=4, progress=stop_after(2))
    for path, data in saved.items():
        path.write_bytes(data)
    report = gz3d_zarr.build(archive, target, client, shard_size=4, retry_failed=True)
    assert (report.ok, report.shards_built) == (18, 5)
    assert shards(target) == shards(store)


def test_resume_refuses_good_files_that_were_replaced(
    archive: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "g.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.build(archive, target, client, shard_size=18, progress=stop_after(1))
    path = subject_files(archive)[0]
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(StoreError, match=f"1 file of the source changed since .*{path.name}"):
        gz3d_zarr.build(archive, target, client, shard_size=18, resume=True)
    path.rename(path.with_name("gz3d_9-9_19_9.fits.gz"))
    with pytest.raises(StoreError) as caught:
        gz3d_zarr.build(archive, target, client, shard_size=18, resume=True)
    assert "1 file missing in the existing one (first gz3d_9-9_19_9.fits.gz)" in str(caught.value)
    assert f"1 file missing in the source (first {path.name})" in str(caught.value)


@pytest.mark.parametrize("first", [8, 10])
def test_update_adds_and_leaves_the_rest_alone(
    simulated: Path, store: Path, client: Client, tmp_path: Path, first: int
) -> None:
    target = tmp_path / "g.zarr"
    gz3d_zarr.build(simulated, target, client, shard_size=4, limit=first)
    before, written = shards(target), times(target)
    report = gz3d_zarr.build(simulated, target, client, shard_size=4, update=True)
    assert (report.subjects, report.ok) == (18, 18)
    assert shards(target) == shards(store)
    whole = [key for key in before if int(key.split("/")[2]) < first // 4]
    assert len(whole) == 4
    assert all(times(target)[key] == written[key] for key in whole)
    xr.testing.assert_equal(gz3d_zarr.open_store(target), gz3d_zarr.open_store(store))
    assert gz3d_zarr.verify(target, simulated, client).passed
    report = gz3d_zarr.build(simulated, target, client, shard_size=4, update=True)
    assert report.shards_built == 0


def test_update_reads_new_subjects_only_and_builds_where_there_is_nothing(
    archive: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "g.zarr"
    with serve(archive) as server:
        gz3d_zarr.build(server.url, target, client, shard_size=4, limit=10, update=True)
        before = server.requests.copy()
        gz3d_zarr.build(server.url, target, client, shard_size=4, update=True)
        asked = {n for n in server.requests if n.endswith(".gz") and server.requests[n] > before[n]}
    assert len(asked) == 8
    assert not asked & {name for name in before if name.endswith(".gz")}


def test_readers_see_the_old_store_until_the_update_ends(
    simulated: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "g.zarr"
    gz3d_zarr.build(simulated, target, client, shard_size=4, limit=10)
    expected = gz3d_zarr.open_store(target).compute()
    early = [gz3d_zarr.open_store(target), xr.open_zarr(target, chunks=None)]
    with pytest.raises(StopHereError):
        gz3d_zarr.build(
            simulated, target, client, shard_size=4, update=True, progress=stop_after(3)
        )
    xr.testing.assert_identical(gz3d_zarr.open_store(target).compute(), expected)
    report = gz3d_zarr.verify(target, client=client)
    assert report.state == "incomplete"
    assert "an update or a retry is unfinished" in report.failures[0].detail
    with pytest.raises(
        StoreError, match=r"built with another plan: subjects is 10 \(existing: 18\)"
    ):
        gz3d_zarr.build(simulated, target, client, shard_size=4, limit=10, resume=True)
    gz3d_zarr.build(simulated, target, client, shard_size=4, resume=True)
    assert shards(target) == shards(store)
    assert not (target / ".gz3d").exists()
    for dataset in early:  # opened before, read after
        loaded = dataset.compute()
        for name in expected.variables:
            if name in loaded.variables:
                np.testing.assert_array_equal(loaded[name].values, expected[name].values)


def test_update_that_is_given_up_can_be_another(
    simulated: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "g.zarr"
    gz3d_zarr.build(simulated, target, client, shard_size=4, limit=6)
    with pytest.raises(StopHereError):
        gz3d_zarr.build(
            simulated, target, client, shard_size=4, update=True, progress=stop_after(3)
        )
    gz3d_zarr.build(simulated, target, client, shard_size=4, limit=7, update=True)
    gz3d_zarr.build(simulated, tmp_path / "clean.zarr", client, shard_size=4, limit=7)
    assert keys(objects(target)) == keys(objects(tmp_path / "clean.zarr"))
    assert shards(target) == shards(tmp_path / "clean.zarr")


def test_update_that_cannot_be_is_refused(
    simulated: Path, archive: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "g.zarr"
    files = subject_files(archive)
    gz3d_zarr.build(archive, target, client, ids=[f.name.split("_")[1] for f in files[4:9]])
    before = objects(target)
    with pytest.raises(StoreError, match="the source lacks 4 files of it"):
        gz3d_zarr.build(files[8:], target, client, catalogue=archive / "gz3d_metadata.fits",
                        update=True)  # fmt: skip
    with pytest.raises(StoreError, match=r"codec is compact \(existing: portable\)"):
        gz3d_zarr.build(archive, target, client, update=True, codec="compact")
    with pytest.raises(StoreError, match="or --update to add subjects"):
        gz3d_zarr.build(archive, target, client)
    with pytest.raises(UsageError, match="overwrite and update: choose one"):
        gz3d_zarr.build(archive, target, client, update=True, overwrite=True)
    assert objects(target) == before
    assert (
        "cannot be updated"
        in gz3d_zarr.plan(archive, target, workers=1, update=True, codec="compact").refusal
    )


def test_old_store_stays_until_the_new_one_is_whole(
    simulated: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "g.zarr"
    gz3d_zarr.build(simulated, target, client, limit=6, shard_size=2)
    before = objects(target)
    with pytest.raises(StopHereError):
        gz3d_zarr.build(
            simulated, target, client, shard_size=4, overwrite=True, progress=stop_after(2)
        )
    assert objects(target) == before
    with pytest.raises(StoreError, match="was to replace .* --resume to continue .* --overwrite"):
        gz3d_zarr.build(simulated, target, client, shard_size=4, update=True)
    report = gz3d_zarr.build(simulated, target, client, shard_size=4, resume=True)
    assert report.store == str(target)
    assert 0 < report.shards_built < 5
    assert shards(target) == shards(store)
    assert [path.name for path in tmp_path.iterdir()] == ["g.zarr"]


def test_new_store_that_was_not_switched_in_is_by_resume(
    simulated: Path, store: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "g.zarr"
    gz3d_zarr.build(simulated, target, client, limit=6, shard_size=2)
    before = objects(target)
    rename = Path.rename

    def dying(self: Path, to: Any) -> Any:
        if self.name.endswith(BUILDING_SUFFIX):
            raise KeyboardInterrupt  # between the two renames
        return rename(self, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            gz3d_zarr.build(simulated, target, client, shard_size=4, overwrite=True)
    assert objects(target) == before
    report = gz3d_zarr.build(simulated, target, client, shard_size=4, resume=True)
    assert report.ok == 18
    assert shards(target) == shards(store)
    assert [path.name for path in tmp_path.iterdir()] == ["g.zarr"]


def test_second_builder_is_refused_while_the_first_lives(
    simulated: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "g.zarr"
    refused: list[str] = []

    def intrude(state: Progress) -> None:
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(StoreError, match=f"is being built by process {os.getpid()} on"):
                gz3d_zarr.build(simulated, target, client, shard_size=4, **options)
            refused.append("once")

    gz3d_zarr.build(simulated, target, client, shard_size=4, progress=intrude)
    assert len(refused) > 2
    assert shards(target) == shards(store)
    assert not (target / LEASE_KEY).exists()


def test_builder_that_slept_meanwhile_changes_nothing(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a laptop is closed: its lease lapses, and others go on."""
    target = tmp_path / "g.zarr"
    options: dict[str, Any] = {"shard_size": 4, "order": "name"}
    reconcile = building.reconcile_objects
    before: list[dict[str, str]] = []

    def sleep_and_reconcile(*args: Any) -> None:
        monkeypatch.setattr(building, "reconcile_objects", reconcile)
        open_object_store(str(target)).delete([LEASE_KEY])
        gz3d_zarr.build(simulated, target, client, limit=8, resume=True, **options)
        gz3d_zarr.build(simulated, target, client, update=True, **options)
        before.append(objects(target))
        reconcile(*args)

    monkeypatch.setattr(building, "reconcile_objects", sleep_and_reconcile)
    with pytest.raises(StoreError, match="was taken over by another build"):
        gz3d_zarr.build(simulated, target, client, limit=8, **options)
    assert objects(target) == before[0]
    assert gz3d_zarr.verify(target, simulated, client).passed


def test_unfinished_build_can_be_looked_at(
    simulated: Path, store: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gz3d_zarr.pipeline.dask_tasks.MAX_TASKS_IN_FLIGHT", 1)
    half = tmp_path / "half.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.build(simulated, half, client, shard_size=4, progress=stop_after(2))
    with pytest.raises(
        gz3d_zarr.IncompleteStoreError, match="2 of 5 shards built.* incomplete=True"
    ):
        gz3d_zarr.open_store(half)
    ds = gz3d_zarr.open_store(half, incomplete=True)
    assert ds.attrs["complete"] == 0
    expected = gz3d_zarr.open_store(store).isel(subject=slice(0, 8)).drop_vars("observed")
    xr.testing.assert_equal(ds.drop_vars("observed").compute(), expected.compute())
    shutil.rmtree(half / "image")
    with pytest.raises(StoreError, match="no longer exists"):
        ds["image"].compute()
    with pytest.raises(StoreError, match="there is no Zarr 3 store"):
        gz3d_zarr.open_store(tmp_path / "nowhere", incomplete=True)


def test_files_of_a_person_among_the_receipts_are_kept(
    simulated: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "g.zarr"
    gz3d_zarr.build(simulated, target, client, shard_size=4, limit=6)
    mine = target / "receipts" / "invoice.pdf"
    mine.write_text("mine")
    gz3d_zarr.build(simulated, target, client, shard_size=4, update=True)
    assert mine.read_text() == "mine"
    assert len(list(mine.parent.iterdir())) == 4  # the old store's receipts are gone
    gz3d_zarr.build(
        simulated, target, client, shard_size=4, limit=6, overwrite=True, allow_loss=True
    )
    assert mine.read_text() == "mine"


def test_store_beside_survives_where_there_are_no_workers(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between the two renames: the new store is all that there is."""
    target, beside = tmp_path / "g.zarr", tmp_path / f"g.zarr{BUILDING_SUFFIX}"
    gz3d_zarr.build(simulated, beside, client, shard_size=9)
    before = objects(beside)

    def no_workers(*_: Any) -> Any:
        raise gz3d_zarr.BuildError("no workers")

    monkeypatch.setattr("gz3d_zarr.pipeline.dask_client.use_workers", no_workers)
    with pytest.raises(gz3d_zarr.BuildError, match="no workers"):
        gz3d_zarr.build(simulated, target, client, overwrite=True)
    assert objects(beside) == before


def test_resume_builds_a_lost_shard_again_whatever_became_of_its_files(
    archive: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gz3d_zarr.pipeline.dask_tasks.MAX_TASKS_IN_FLIGHT", 1)
    (archive / "manga_morphology_galaxyzoo3d_v4_0_0.sha1sum").unlink()
    target, files = tmp_path / "g.zarr", subject_files(archive)
    options: dict[str, Any] = {"shard_size": 6, "order": "name"}
    with pytest.raises(StopHereError):
        gz3d_zarr.build(archive, target, client, progress=stop_after(2), **options)
    shutil.rmtree(target / "image" / "c" / "0")
    files[0].write_bytes(gzip.compress(gzip.decompress(files[0].read_bytes()), 1))
    report = gz3d_zarr.build(archive, target, client, resume=True, **options)
    assert (report.shards_built, report.ok) == (2, 18)


def test_overwrite_of_a_store_that_lost_its_root_builds_beside_it(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gz3d_zarr.pipeline.dask_tasks.MAX_TASKS_IN_FLIGHT", 1)
    target = tmp_path / "g.zarr"
    gz3d_zarr.build(simulated, target, client, shard_size=9)
    (target / "zarr.json").unlink()
    before = objects(target)
    with pytest.raises(StopHereError):
        gz3d_zarr.build(
            simulated, target, client, shard_size=9, overwrite=True, progress=stop_after(1)
        )
    assert objects(target) == before


def test_store_of_another_schema_is_refused_in_one_sentence(
    simulated: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "g.zarr"
    gz3d_zarr.build(simulated, target, client, shard_size=9, limit=4)
    root = json.loads((target / "zarr.json").read_text())
    root["attributes"]["schema_version"] = 1
    (target / "zarr.json").write_text(json.dumps(root))
    message = "has version 1 of the schema, and this gz3d-zarr needs version"
    for action in (
        lambda: gz3d_zarr.open_store(target),
        lambda: gz3d_zarr.build(simulated, target, client, update=True),
        lambda: gz3d_zarr.copy(target, tmp_path / "c.zarr", client),
    ):
        with pytest.raises(StoreError, match=message):
            action()
    assert message in gz3d_zarr.verify(target, client=client).failures[0].detail
    gz3d_zarr.build(simulated, target, client, shard_size=9, limit=4, overwrite=True)
    assert gz3d_zarr.open_store(target).sizes["subject"] == 4


def test_update_adds_subjects_that_lie_between_those_of_the_store(
    archive: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    target, files = tmp_path / "g.zarr", subject_files(archive)
    ids = [path.name.split("_")[1] for path in files[4:9]]
    gz3d_zarr.build(archive, target, client, shard_size=4, ids=ids)
    before = gz3d_zarr.open_store(target)["zooniverse_subject_id"].values
    with pytest.raises(StopHereError):
        gz3d_zarr.build(archive, target, client, shard_size=4, update=True, progress=stop_after(2))
    gz3d_zarr.build(archive, target, client, shard_size=4, resume=True)
    ds = gz3d_zarr.open_store(target)
    after = ds["zooniverse_subject_id"].values
    np.testing.assert_array_equal(after[: len(before)], before)
    assert (ds.attrs["order"], ds.attrs["appended"]) == ("healpix", len(after) - len(before))
    assert any("added behind the others" in note for note in ds.attrs["notes"])
    every = gz3d_zarr.open_store(store)
    rows = [int(np.flatnonzero(after == i)[0]) for i in every["zooniverse_subject_id"].values]
    np.testing.assert_array_equal(ds["image"].values[rows], every["image"].values)
    assert gz3d_zarr.verify(target, archive, client).passed
    report = gz3d_zarr.build(archive, target, client, shard_size=4, update=True)
    assert report.shards_built == 0
    assert gz3d_zarr.build(archive, target, client, retry_failed=True).shards_built == 0


def values(store: Path) -> dict[str, str]:
    """Digests of all objects with values: also of marks, clusters and thumbnails."""
    return {key: digest for key, digest in objects(store).items() if "/c/" in key}


@pytest.mark.parametrize("how", ["resume", "update", "retry_failed"])
def test_marks_clusters_and_thumbnails_come_along(
    archive: Path,
    store: Path,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    monkeypatch.setattr("gz3d_zarr.pipeline.dask_tasks.MAX_TASKS_IN_FLIGHT", 1)
    target = tmp_path / "g.zarr"
    if how == "resume":
        with pytest.raises(StopHereError):
            gz3d_zarr.build(archive, target, client, shard_size=4, progress=stop_after(2))
    elif how == "update":
        gz3d_zarr.build(archive, target, client, shard_size=4, limit=10)
    else:
        saved = {path: path.read_bytes() for path in subject_files(archive)[3:12:2]}
        for path in saved:
            path.write_bytes(b"")
        assert gz3d_zarr.build(archive, target, client, shard_size=4).ok == 13
        for path, data in saved.items():
            path.write_bytes(data)
    gz3d_zarr.build(archive, target, client, shard_size=4, **{how: True})
    found = values(target)
    assert found == values(store)
    groups = ("marks/annotations/c/4", "thumbnail/image/c/4/0/0/0", "clusters/star_count/c/0")
    assert set(groups) <= set(found)


def stopped_build(simulated: Path, client: Client, target: Path) -> Path:
    """A build in shards of 9 that was killed when both were written, before it published."""
    with pytest.raises(StopHereError):
        gz3d_zarr.build(simulated, target, client, shard_size=9, progress=stop_after(2))
    return target


def test_resume_builds_a_shard_again_that_was_damaged_since(
    simulated: Path, client: Client, tmp_path: Path
) -> None:
    target = stopped_build(simulated, client, tmp_path / "g.zarr")
    clean = shards(target)
    kept, damaged = (target / f"image/c/{i}/0/0/0" for i in range(2))
    data = bytearray(damaged.read_bytes())
    data[1000:1010] = bytes(10)  # of the same size, as after a power failure
    damaged.write_bytes(data)
    before = kept.stat().st_mtime_ns
    report = gz3d_zarr.build(simulated, target, client, shard_size=9, resume=True)
    assert shards(target) == clean
    assert kept.stat().st_mtime_ns == before
    assert (report.shards_built, report.subjects_built) == (1, 9)
    note = "damaged since an earlier run wrote it, and built again: shard 1"
    assert note in report.notes
    assert note not in gz3d_zarr.open_store(target).attrs["notes"]
    assert gz3d_zarr.verify(target, client=client).passed


def test_resume_without_damage_builds_nothing_again(
    simulated: Path, client: Client, tmp_path: Path
) -> None:
    target = stopped_build(simulated, client, tmp_path / "g.zarr")
    report = gz3d_zarr.build(simulated, target, client, shard_size=9, resume=True)
    assert (report.shards_built, report.ok) == (0, 18)
    assert not [note for note in report.notes if "damaged" in note]


RECEIPT_FAULTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no objects": lambda receipt: receipt.update(objects=[]),
    "one object less": lambda receipt: receipt["objects"].pop(),
    "too few subjects": lambda receipt: receipt["outcomes"].pop(),
    "no digest": lambda receipt: receipt["objects"][0].update(sha256=""),
    "another shard": lambda receipt: receipt.update(shard=1),
}


@pytest.mark.parametrize("fault", RECEIPT_FAULTS)
def test_receipt_that_does_not_say_what_it_must_does_not_count(
    simulated: Path, client: Client, tmp_path: Path, fault: str
) -> None:
    target = tmp_path / "g.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.build(simulated, target, client, shard_size=9, progress=stop_after(2))
    receipt = target / ".gz3d/receipts/000000.json"
    content = unseal(receipt.read_bytes())
    RECEIPT_FAULTS[fault](content)
    receipt.write_bytes(seal(content))
    before = shards(target)
    assert gz3d_zarr.open_store(target, incomplete=True).sizes["subject"] == 9
    report = gz3d_zarr.build(simulated, target, client, shard_size=9, resume=True)
    assert report.shards_built == 1
    assert shards(target) == before


@pytest.mark.parametrize("key", ["ra/c/0", "image/zarr.json", "receipts/", "zarr.json"])
@pytest.mark.parametrize("kept", [None, 10])
def test_small_object_that_a_server_did_not_keep_is_noticed(
    simulated: Path,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    kept: int | None,
) -> None:
    """A PUT that is confirmed, and stores nothing or only the first bytes."""
    target, put = tmp_path / "g.zarr", LocalStore._put

    def put_badly(self: LocalStore, name: str, data: bytes, content_type: str = "") -> None:
        if not name.startswith(key):
            put(self, name, data, content_type)
        elif kept is not None:
            put(self, name, data[:kept], content_type)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "_put", put_badly)
        with pytest.raises(StoreError, match=f"did not keep [13] of .*first {key}.*use --resume"):
            gz3d_zarr.build(simulated, target, client, limit=2, shard_size=2)
    gz3d_zarr.build(simulated, target, client, limit=2, shard_size=2, resume=True)
    assert gz3d_zarr.verify(target, client=client).passed


def lose(key: str) -> Callable[[Path], None]:
    return lambda store: (store / key).unlink()


def flip(key: str) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        data = bytearray((store / key).read_bytes())
        data[-1] ^= 1
        (store / key).write_bytes(data)

    return damage


def edit_root(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        root = json.loads((store / "zarr.json").read_text())
        change(root)
        (store / "zarr.json").write_text(json.dumps(root))

    return damage


SMALL_DAMAGE = {
    "lost array": lose("ra/c/0"),
    "changed array": flip("status/c/0"),
    "lost document": lose("image/zarr.json"),
    "changed attribute": edit_root(lambda root: root["attributes"].update(title="x")),
    "no parent": edit_root(lambda root: root["attributes"].pop("parent")),
    "no copy of the metadata": edit_root(lambda root: root.pop("consolidated_metadata")),
    "a lost shard": lose("image/c/1/0/0/0"),
}


ROWS = [1, 4, 5, 6, 9, 10]


@pytest.fixture(scope="module")
def sample(store: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "g.zarr"
    gz3d_zarr.subset(store, path, client, rows=ROWS)
    return path


@pytest.mark.parametrize("name", SMALL_DAMAGE)
def test_resume_repairs_what_is_not_in_a_shard(
    simulated: Path, store: Path, sample: Path, client: Client, tmp_path: Path, name: str
) -> None:
    target = Path(shutil.copytree(sample, tmp_path / "g.zarr"))
    opened = gz3d_zarr.open_store(sample)
    ids = {"ids": opened["zooniverse_subject_id"].values.tolist()}
    SMALL_DAMAGE[name](target)
    with pytest.raises(StoreError, match=r"has these subjects, and is damaged.*choose another"):
        gz3d_zarr.subset(store, target, client, rows=ROWS, resume=True)
    report = gz3d_zarr.build(simulated, target, client, resume=True, **ids)
    assert report.shards_built == (name == "a lost shard")
    assert find_light_damage(open_object_store(target)) == ""
    assert shards(target) == shards(sample)
    assert gz3d_zarr.open_store(target).attrs["parent"] == store.name
    xr.testing.assert_equal(
        opened.drop_vars([*BIG_ARRAYS]), gz3d_zarr.open_store(target).drop_vars([*BIG_ARRAYS])
    )
    again = gz3d_zarr.build(simulated, target, client, resume=True, **ids)
    assert not any("written again" in note for note in again.notes)


def test_verify_says_how_a_store_is_repaired(sample: Path, client: Client, tmp_path: Path) -> None:
    target = Path(shutil.copytree(sample, tmp_path / "g.zarr"))
    lose("ra/c/0")(target)
    text = gz3d_zarr.verify(target, client=client).to_text()
    assert "run build --resume with the same source and options (of a subset, " in text
    assert "repair" not in gz3d_zarr.verify(sample, client=client).to_text()
