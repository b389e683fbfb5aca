"""A good store is never replaced by a worse one, nor by half a one."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from distributed import Client
from files import subject_files
from stores import StopHereError, objects, stop_after
from waiting import LIMIT_SECONDS

import gz3d_zarr
from gz3d_zarr import BuildError, SourceError, StoreError, UsageError
from gz3d_zarr.pipeline.build_state import is_ours, is_shard
from gz3d_zarr.pipeline.losses import read_ok_subjects
from gz3d_zarr.progress import Progress
from gz3d_zarr.storage.build_record import BUILDING_SUFFIX, REPLACED_SUFFIX
from gz3d_zarr.storage.object_store import open_object_store

OPTIONS: dict[str, Any] = {"shard_size": 2, "catalogue": "none"}
SUBJECTS = 6


@pytest.fixture(scope="module")
def first(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of six subjects; never written to."""
    path = tmp_path_factory.mktemp("first") / "first.zarr"
    gz3d_zarr.build(subject_files(simulated)[:SUBJECTS], path, client, **OPTIONS)
    return path


@pytest.fixture
def target(first: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may overwrite, in a folder of its own."""
    return Path(shutil.copytree(first, tmp_path / "stores" / "g.zarr"))


@pytest.fixture
def files(simulated: Path, tmp_path: Path) -> Path:
    """The folder of its subject files, which a test may take away."""
    folder = tmp_path / "files"
    folder.mkdir()
    for path in subject_files(simulated)[:SUBJECTS]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One shard after the other, so that a test can act between two."""
    monkeypatch.setattr("gz3d_zarr.pipeline.dask_tasks.MAX_TASKS_IN_FLIGHT", 1)


@pytest.fixture
def memory(first: Path) -> Iterator[str]:
    """A copy of the store where an overwrite deletes first; its URL."""
    fs, name = fsspec.filesystem("memory"), f"overwritten-{os.getpid()}"
    for key in objects(first):
        fs.pipe_file(f"/{name}/{key}", (first / key).read_bytes())
    yield f"memory://{name}"
    fs.rm(f"/{name}", recursive=True)


def after_one_shard(act: Callable[[], object]) -> Callable[[Progress], None]:
    def progress(state: Progress) -> None:
        if state.new and not acted:
            acted.append(True)
            act()

    acted: list[bool] = []
    return progress


def left_beside(target: Path) -> list[str]:
    return [path.name for path in target.parent.iterdir() if path != target]


@pytest.mark.usefixtures("one_by_one")
def test_source_that_goes_away_stops_the_build(
    files: Path, target: Path, client: Client, tmp_path: Path
) -> None:
    before, away = objects(target), tmp_path / "unmounted"
    with pytest.raises(SourceError, match=r"went away .* cannot be read: No such file .*--resume"):
        gz3d_zarr.build(
            files,
            target,
            client,
            overwrite=True,
            progress=after_one_shard(lambda: files.rename(away)),
            **OPTIONS,
        )
    assert objects(target) == before
    away.rename(files)
    report = gz3d_zarr.build(files, target, client, resume=True, **OPTIONS)
    assert (report.ok, report.failures) == (SUBJECTS, ())
    assert report.shards_built < 3
    assert not left_beside(target)


@pytest.mark.usefixtures("one_by_one")
def test_store_with_good_subjects_that_failed_now_stays(
    files: Path, target: Path, client: Client, tmp_path: Path
) -> None:
    before = objects(target)
    lost, cut = subject_files(files)[4:]
    whole = lost.read_bytes(), cut.read_bytes()

    def damage() -> None:
        lost.unlink()
        cut.write_bytes(whole[1][:100])

    with pytest.raises(BuildError) as caught:
        gz3d_zarr.build(
            files,
            target,
            client,
            overwrite=True,
            progress=after_one_shard(damage),
            **OPTIONS,
        )
    message = str(caught.value)
    assert f"holds 2 good subjects ({lost.name}: missing, {cut.name}: corrupt)" in message
    assert f"kept at {target}{BUILDING_SUFFIX}" in message
    assert objects(target) == before
    cut.write_bytes(whole[1])
    lost.write_bytes(whole[0])
    report = gz3d_zarr.build(files, target, client, retry_failed=True, **OPTIONS)  # as it says
    assert (report.ok, report.subjects_built) == (SUBJECTS, 2)
    assert not left_beside(target)


@pytest.mark.usefixtures("one_by_one")
def test_store_is_replaced_all_the_same_on_purpose(
    files: Path, target: Path, client: Client
) -> None:
    lost = subject_files(files)[5]
    with pytest.raises(BuildError, match="--resume --allow-loss"):
        gz3d_zarr.build(
            files, target, client, overwrite=True, progress=after_one_shard(lost.unlink), **OPTIONS
        )
    lost.write_bytes(b"no longer good")  # the plan is the same
    with pytest.raises(BuildError, match="1 good subject .*: missing"):
        gz3d_zarr.build(files, target, client, resume=True, **OPTIONS)
    report = gz3d_zarr.build(files, target, client, resume=True, allow_loss=True, **OPTIONS)
    assert (report.ok, report.shards_built) == (SUBJECTS - 1, 0)
    assert not left_beside(target)
    assert gz3d_zarr.open_store(target).attrs["subjects_failed"] == 1


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_store_with_subjects_that_are_left_out_stays(
    files: Path, target: Path, memory: str, client: Client, place: str
) -> None:
    name = memory if place == "memory" else str(target)
    store = open_object_store(name)
    before = store.list_sizes()
    gone = subject_files(files)[0]
    listed = [str(path) for path in subject_files(files)]
    gone.unlink()
    for source, options, count in (
        (files, {"limit": 3}, 3),  # narrowed on purpose
        (files, {}, 1),  # no longer in the source
        (listed, {}, 1),  # on the list, but not there
    ):
        arguments = {"overwrite": True, **OPTIONS, **options}
        with pytest.raises(StoreError, match=f"holds {count} good subject.*add --allow-loss"):
            gz3d_zarr.build(source, name, client, **arguments)
        refusal = gz3d_zarr.plan(source, name, client=client, **arguments).refusal
        assert "--allow-loss" in refusal
    assert store.list_sizes() == before
    options = {"overwrite": True, "allow_loss": True, "limit": 3, **OPTIONS}
    assert gz3d_zarr.plan(files, name, client=client, **options).refusal == ""
    gz3d_zarr.build(files, name, client, **options)
    assert gz3d_zarr.open_store(name).sizes["subject"] == 3


def test_nothing_is_deleted_before_the_record_says_whose_it_is(
    files: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "g.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.build(files, target, client, progress=stop_after(2), **OPTIONS)

    def stop(*_: object) -> None:
        raise StopHereError

    with monkeypatch.context() as patch, pytest.raises(StopHereError):
        patch.setattr("gz3d_zarr.pipeline.publish.write_build_record", stop)
        gz3d_zarr.build(files, target, client, overwrite=True, limit=2, **OPTIONS)
    report = gz3d_zarr.build(files, target, client, resume=True, **OPTIONS)
    assert report.ok == SUBJECTS
    assert report.shards_built <= 1  # a task may have ended after the build was stopped


def test_subjects_that_were_bad_before_may_be_left_out(
    files: Path, client: Client, tmp_path: Path
) -> None:
    target, bad = tmp_path / "g.zarr", subject_files(files)[0]
    bad.write_bytes(b"")
    gz3d_zarr.build(files, target, client, **OPTIONS)
    bad.unlink()
    report = gz3d_zarr.build(files, target, client, overwrite=True, **OPTIONS)
    assert report.ok == SUBJECTS - 1


def test_store_without_receipts_is_compared_by_its_arrays(
    files: Path, target: Path, client: Client
) -> None:
    shutil.rmtree(target / "receipts")
    subject_files(files)[0].unlink()
    with pytest.raises(StoreError, match=r"holds 1 good subject \(subject \d+\)"):
        gz3d_zarr.build(files, target, client, overwrite=True, **OPTIONS)


@pytest.mark.parametrize(
    ("place", "damage"),
    [("disk", "cut"), ("memory", "gone"), ("memory", "foreign"), ("disk", "other receipts")],
)
def test_store_whose_root_is_damaged_is_compared_by_the_receipts_that_it_keeps(
    files: Path, target: Path, memory: str, client: Client, place: str, damage: str
) -> None:
    name = memory if place == "memory" else str(target)
    store = open_object_store(name)
    root = store.get("zarr.json") or b""
    sha256 = json.loads(root)["attributes"]["receipts_sha256"]
    roots = {
        "cut": root[:1000],
        "gone": b"",
        "foreign": b"{}",
        "other receipts": root.replace(sha256.encode(), b"0" * 64),
    }
    store.delete(["zarr.json"])
    if roots[damage]:
        store.put("zarr.json", roots[damage])
    gone = subject_files(files)[0]
    gone.unlink()
    with pytest.raises(StoreError, match=f"1 good subject .{gone.name}.*add --allow-loss"):
        gz3d_zarr.build(files, name, client, overwrite=True, **OPTIONS)
    shards = [key for key in store.list_sizes() if is_shard(key)]
    store.delete(key for key in shards if "/c/0" in key)  # nobody has the pictures any more
    lost = {int(path.name.split("_")[3].partition(".")[0]) for path in subject_files(files)[:1]}
    assert len(read_ok_subjects(store)) == SUBJECTS - 2
    assert not lost & {*read_ok_subjects(store)}
    report = gz3d_zarr.build(files, name, client, overwrite=True, **OPTIONS)
    assert report.ok == SUBJECTS - 1


def test_damaged_receipts_and_arrays_of_odd_shapes_tell_nothing(target: Path) -> None:
    store = open_object_store(target)
    for path in (target / "receipts").glob("*.json.gz"):
        path.write_bytes(path.read_bytes()[:-1])
    whole = json.loads((target / "zarr.json").read_text())
    assert len(read_ok_subjects(store)) == SUBJECTS
    for name, shape in (("status", [SUBJECTS + 1]), ("zooniverse_subject_id", [SUBJECTS - 1])):
        root = json.loads(json.dumps(whole))
        root["consolidated_metadata"]["metadata"][name]["shape"] = shape
        (target / "zarr.json").write_text(json.dumps(root))
        assert read_ok_subjects(store) == {}
    root = json.loads(json.dumps(whole))
    members = root["consolidated_metadata"]["metadata"]
    members["zooniverse_subject_id"] = members["subject"]
    (target / "zarr.json").write_text(json.dumps(root))
    assert read_ok_subjects(store) == {}


@pytest.mark.parametrize("options", [{}, {"update": True}])
def test_loss_is_allowed_only_where_a_store_is_replaced(
    files: Path, target: Path, client: Client, options: dict[str, bool]
) -> None:
    with pytest.raises(UsageError, match=r"allow_loss \(--allow-loss\) is for overwrite"):
        gz3d_zarr.build(files, target, client, allow_loss=True, **options, **OPTIONS)


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("image/c/0/0/0/0", True),
        ("image/c/0/0/0/.0.0a1b.partial", True),
        (".zarr.json.0a1b.partial", True),
        ("clusters/center_x/c/0", True),
        ("catalogue/zarr.json", True),
        (".gz3d/receipts/000001.json", True),
        ("zarr.json", False),  # it may be of any Zarr store
        ("image/my.txt", False),
        ("image/c/my.txt", False),
        ("image/c/0/0/0/0.orig", False),
        ("catalogue/mine/zarr.json", False),
        ("mine/c/0", False),
        ("image/.my.txt.0a1b.partial", False),
    ],
)
def test_keys_of_a_store_are_told_from_a_persons(key: str, ours: bool) -> None:
    assert is_ours(key) == ours


def test_files_of_a_person_stay(files: Path, target: Path, memory: str, client: Client) -> None:
    mine = ("notes.txt", "image/my.txt", "image/c/0/my.txt", "catalogue/mine/zarr.json")
    fs = fsspec.filesystem("memory")
    for key in mine:
        (target / key).parent.mkdir(exist_ok=True)
        (target / key).write_text(key)
        fs.pipe_file(f"{memory.removeprefix('memory:/')}/{key}", key.encode())
    (target / "link").symlink_to(files)
    (target / "empty").mkdir()
    before = {*objects(target)}
    for name in (str(target), memory):
        gz3d_zarr.build(files, name, client, overwrite=True, **OPTIONS)
        store = open_object_store(name)
        assert [store.get(key) for key in mine] == [key.encode() for key in mine]
    assert (target / "link").readlink() == files
    assert (target / "empty").is_dir()
    receipts = {key for key in before ^ {*objects(target)} if not key.startswith("receipts/")}
    assert not receipts
    assert not left_beside(target)
    assert gz3d_zarr.open_store(target).sizes["subject"] == SUBJECTS


@pytest.fixture
def between(files: Path, target: Path, client: Client) -> Path:
    """As an overwrite leaves it that is killed between its two renames."""
    (target / "notes.txt").write_text("mine")
    new = Path(f"{target}{BUILDING_SUFFIX}")
    gz3d_zarr.build(files, new, client, **{**OPTIONS, "shard_size": 3})
    dead = '{"build_id": "x", "pid": 0, "host": "gone", "machine": "", "renewals": 1}'
    for folder in (target, new):
        (folder / ".gz3d").mkdir()
        (folder / ".gz3d" / "lease.json").write_text(dead)
    target.rename(f"{target}{REPLACED_SUFFIX}")
    return target


@pytest.mark.parametrize("mode", ["", "resume", "overwrite", "update", "retry_failed"])
def test_killed_between_the_renames_leaves_nothing(
    files: Path, between: Path, client: Client, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr("gz3d_zarr.storage.lease.LAPSE_SECONDS", 0.1)
    both = f"at {between}{BUILDING_SUFFIX} and {between}{REPLACED_SUFFIX}: .* --resume"
    with pytest.raises(StoreError, match=both):
        gz3d_zarr.open_store(between)
    options = {**OPTIONS, "shard_size": 3, **({mode: True} if mode else {})}
    if mode:
        assert gz3d_zarr.build(files, between, client, **options).ok == SUBJECTS
    else:
        with pytest.raises(StoreError, match="holds a complete store; use --overwrite"):
            gz3d_zarr.build(files, between, client, **options)
    assert not left_beside(between)
    assert not (between / ".gz3d").exists()
    assert (between / "notes.txt").read_text() == "mine"
    assert gz3d_zarr.open_store(between).attrs["shard_size"] == 3


def test_old_store_comes_back_where_the_new_one_was_deleted(
    files: Path, between: Path, first: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gz3d_zarr.storage.lease.LAPSE_SECONDS", 0.1)
    shutil.rmtree(f"{between}{BUILDING_SUFFIX}")
    report = gz3d_zarr.build(files, between, client, resume=True, **OPTIONS)
    assert report.shards_built == 0
    assert {*objects(between)} == {*objects(first), "notes.txt"}
    assert not left_beside(between)


def test_second_builder_between_the_renames_is_refused(
    files: Path, target: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, refused = Path.rename, []

    def build_again() -> None:
        with pytest.raises(StoreError, match=f"is being built by process {os.getpid()} on"):
            gz3d_zarr.build(files, target, client, overwrite=True, **OPTIONS)
        refused.append(True)

    def interrupted(self: Path, to: Any) -> Any:
        if self.name.endswith(BUILDING_SUFFIX) and not refused:
            thread = threading.Thread(target=build_again, daemon=True)
            thread.start()
            thread.join(LIMIT_SECONDS)
            target.mkdir(exist_ok=True)  # what a builder that is killed then leaves
            (target / ".gz3d").mkdir()
            (target / ".gz3d" / "lease.json").write_text("{}")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    report = gz3d_zarr.build(files, target, client, overwrite=True, **OPTIONS)
    assert (refused, report.ok) == ([True], SUBJECTS)
    assert not left_beside(target)
    assert not (target / ".gz3d").exists()


def test_folder_of_a_person_that_is_named_like_ours_stays(
    simulated: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    """A backup, for instance; only a folder with the lease of its builder is a leftover."""
    target = tmp_path / "g.zarr"
    mine = Path(shutil.copytree(store, f"{target}{REPLACED_SUFFIX}"))
    before = objects(mine)
    gz3d_zarr.build(simulated, target, client, shard_size=4, limit=4)
    gz3d_zarr.build(simulated, target, client, shard_size=4, update=True)
    with pytest.raises(StoreError, match="cannot be renamed to .*; solve that and use --resume"):
        gz3d_zarr.build(simulated, target, client, shard_size=4, overwrite=True)
    assert objects(mine) == before
    assert (
        gz3d_zarr.open_store(target).sizes["subject"] == gz3d_zarr.open_store(mine).sizes["subject"]
    )
