"""Datasets of a store that is replaced, retried or updated under them; small arrays of one root."""

from __future__ import annotations

import hashlib
import itertools
import json
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from distributed import Client
from files import subject_files
from object_stores import close_sessions, fresh_bucket

import gz3d_zarr
from gz3d_zarr import StoreError
from gz3d_zarr.backends import root as backends_root
from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.backends.generation import Generation
from gz3d_zarr.backends.store import read_store
from gz3d_zarr.cli import main
from gz3d_zarr.export import subset
from gz3d_zarr.export.annotations import read_clusters, read_marks
from gz3d_zarr.export.runner import read_subjects
from gz3d_zarr.export.subset import read_texts, select_rows
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store

CHANGED = "was replaced or changed after it was opened: open it again"
FIXED: dict[str, Any] = {"shard_size": 2, "order": "name"}
COUNT = 4
BAD = 2
"""Row of the subject whose file is bad."""
_numbers = itertools.count()


@pytest.fixture(scope="module")
def sources(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two sets of four subjects without a common one."""
    folder = tmp_path_factory.mktemp("sources")
    files = subject_files(simulated)
    for name, some in (("a", files[:COUNT]), ("b", files[COUNT : 2 * COUNT])):
        (folder / name).mkdir()
        for path in some:
            shutil.copy(path, folder / name)
    return folder / "a", folder / "b"


@pytest.fixture(scope="module")
def first(
    sources: tuple[Path, Path], client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store of the first set; never written to."""
    path = tmp_path_factory.mktemp("first") / "g.zarr"
    gz3d_zarr.build(sources[0], path, client, **FIXED)
    return path


@dataclass(frozen=True)
class Place:
    """Where a store is, and how to reach it."""

    url: str
    options: dict[str, Any] | None = field(default=None, repr=False)

    def open(self, chunks: str | None = "shards") -> xr.Dataset:
        return gz3d_zarr.open_store(self.url, chunks=chunks, storage_options=self.options)

    def build(self, source: Path, client: Client, **options: Any) -> None:
        given = {**FIXED, "storage_options": self.options, **options}
        gz3d_zarr.build(source, self.url, client, **given)

    def lay(self, store: Path) -> None:
        """Put the objects of a local store there."""
        target = open_object_store(self.url, self.options)
        files = [path for path in store.rglob("*") if path.is_file()]
        target.put_all({path.relative_to(store).as_posix(): path.read_bytes() for path in files})


@pytest.fixture(params=["swap", "link", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Somewhere to lay a store; behind a ``link``, an overwrite builds in place."""
    if request.param == "memory":
        url = f"memory://generation-{next(_numbers)}/g.zarr"
        yield Place(url)
        fsspec.filesystem("memory").rm(url.removeprefix("memory:/"), recursive=True)
    elif request.param == "s3":
        with fresh_bucket(request.getfixturevalue("moto")) as bucket:
            yield Place(f"{bucket.url}/g.zarr", bucket.storage_options)
            close_sessions()
    else:
        (tmp_path / "there").mkdir()
        if request.param == "link":
            (tmp_path / "g.zarr").symlink_to(tmp_path / "there")
        else:
            (tmp_path / "there").rename(tmp_path / "g.zarr")
        yield Place(str(tmp_path / "g.zarr"))


Read = Callable[[], Any]


def readers(place: Place) -> dict[str, Read]:
    """Every way to read a store, each opened now."""
    chunked, quick = place.open(), place.open(None)
    selection = select_rows(place.url, storage_options=place.options)
    reader = ChunkReader(selection.generation)
    sent = pickle.loads(pickle.dumps((quick, chunked)))
    subject = int(quick["zooniverse_subject_id"][2])
    return {
        "shards": lambda: chunked["image"][:COUNT].values,
        "one subject": lambda: chunked["image"][2].values,
        "outer": lambda: chunked["segmentation"].isel(subject=[3, 0], y=[3, 1]).values,
        "no dask": lambda: quick["image"][1].values,
        "no dask, rows": lambda: quick["segmentation"][[1, 3]].values,
        "sent": lambda: [some["image"][3].values for some in sent],
        "reader": lambda: [reader.read("segmentation", row) for row in (1, 2)],
        "whole shard": lambda: reader.fetch(np.arange(2, 4)),
        "export": lambda: list(read_subjects(reader, selection)),
        "export of one": lambda: list(read_subjects(reader, selection.take(np.array([1])))),
        "texts": lambda: read_texts(selection),
        "clusters of an export": lambda: read_clusters(selection),
        "marks of an export": lambda: read_marks(selection),
        "marks": lambda: quick.gz3d.marks(subject),
        "clusters": lambda: chunked.isel(subject=slice(COUNT)).gz3d.clusters("center").as_array(),
        "redrawn": lambda: chunked.isel(subject=[2]).gz3d.redraw("spiral", simple_only=False),
    }


def compute(read: Read) -> Any:
    with np.errstate(invalid="ignore"):
        value = read()
    return value.values if isinstance(value, xr.DataArray) else value


def assert_same(found: Any, expected: Any) -> None:
    assert pickle.dumps(found) == pickle.dumps(expected) or repr(found) == repr(expected)


def small_values(dataset: xr.Dataset) -> dict[str, Any]:
    names = [str(name) for name in dataset.variables if name not in ("image", "segmentation")]
    return {name: dataset[name].values.tolist() for name in names}


def test_old_readers_raise_after_an_overwrite(
    place: Place, first: Path, sources: tuple[Path, Path], client: Client
) -> None:
    place.lay(first)
    old = readers(place)
    before = small_values(place.open())
    held = place.open()
    for read in old.values():  # what they keep in memory is no excuse
        compute(read)
    place.build(sources[1], client, overwrite=True, allow_loss=True)
    for name, read in old.items():
        with pytest.raises(StoreError, match=CHANGED):
            pytest.fail(f"{name} gave {compute(read)!r}")
    assert repr(small_values(held)) == repr(before)
    new = place.open()
    assert set(new["subject"].values.tolist()).isdisjoint(before["subject"])
    for read in readers(place).values():
        compute(read)


@pytest.mark.parametrize("place", ["link", "memory"], indirect=True)
def test_old_readers_raise_while_an_overwrite_builds_in_place(
    place: Place, first: Path, sources: tuple[Path, Path], client: Client
) -> None:
    place.lay(first)
    old = readers(place)
    messages: list[str] = []

    def read_all(_: Any) -> None:
        for read in old.values():
            with pytest.raises(StoreError) as raised:
                compute(read)
            messages.append(str(raised.value))

    place.build(sources[1], client, overwrite=True, allow_loss=True, progress=read_all)
    # What opens the root again says that the store is not complete.
    assert {m for m in messages if CHANGED not in m and "is not complete" not in m} == set()
    assert sum(CHANGED in message for message in messages) > len(messages) / 2


@pytest.fixture
def holed(
    sources: tuple[Path, Path], client: Client, tmp_path: Path
) -> tuple[Path, Path, dict[str, Any]]:
    """A source that is whole, a store of it from when one file was bad, and its small values."""
    source, store = tmp_path / "source", tmp_path / "holed.zarr"
    shutil.copytree(sources[0], source)
    bad = subject_files(source)[BAD]
    good = bad.read_bytes()
    bad.write_bytes(b"")
    gz3d_zarr.build(source, store, client, **FIXED)
    bad.write_bytes(good)
    return source, store, small_values(gz3d_zarr.open_store(store))


@pytest.mark.parametrize("place", ["swap", "memory"], indirect=True)
def test_old_readers_raise_after_a_retry(
    place: Place, holed: tuple[Path, Path, dict[str, Any]], client: Client
) -> None:
    source, store, before = holed
    place.lay(store)
    held, old = place.open(), readers(place)
    place.build(source, client, retry_failed=True)
    for name, read in old.items():
        with pytest.raises(StoreError, match=CHANGED):
            pytest.fail(f"{name} gave {compute(read)!r}")
    assert repr(small_values(held)) == repr(before)
    assert place.open()["status"].values.tolist() == [0] * COUNT


@pytest.mark.parametrize("place", ["swap", "s3"], indirect=True)
def test_old_readers_go_on_after_an_update(
    place: Place, first: Path, sources: tuple[Path, Path], client: Client, tmp_path: Path
) -> None:
    both = tmp_path / "both"
    for source in sources:
        shutil.copytree(source, both, dirs_exist_ok=True)
    if place.options is None:  # the last shard, of which a part is there, is written again
        place.build(sources[0], client, limit=3, shard_size=4)
        rows = 3
    else:
        place.lay(first)
        rows = COUNT
    chunked, quick = place.open(), place.open(None)
    values = {name: ds["image"].values for name, ds in (("a", chunked), ("b", quick))}
    marks = quick.gz3d.marks(int(quick["zooniverse_subject_id"][1]))
    selection = select_rows(place.url, storage_options=place.options)
    texts = read_texts(selection)
    reader = ChunkReader(selection.generation)
    masks = reader.read("segmentation", rows - 1)
    place.build(both, client, update=True, shard_size=4 if rows < COUNT else 2)
    new = place.open()
    assert new.sizes["subject"] == 2 * COUNT
    assert new.attrs["generation"] == chunked.attrs["generation"]
    np.testing.assert_array_equal(chunked["image"].values, values["a"])
    np.testing.assert_array_equal(quick["image"].values, values["b"])
    np.testing.assert_array_equal(reader.read("segmentation", rows - 1), masks)
    assert repr(quick.gz3d.marks(int(quick["zooniverse_subject_id"][1]))) == repr(marks)
    assert repr(read_texts(selection)) == repr(texts)
    assert len(read_clusters(selection)) == len(read_marks(selection)) == rows
    np.testing.assert_array_equal(new["image"][:rows].values, values["a"])


def test_loaders_of_an_old_store_raise(
    first: Path, sources: tuple[Path, Path], client: Client, tmp_path: Path
) -> None:
    torch_data = pytest.importorskip("torch.utils.data")
    from gz3d_zarr.export.torch import GZ3DDataset, GZ3DIterableDataset

    place = Place(str(tmp_path / "g.zarr"))
    place.lay(first)
    single, whole = GZ3DDataset(place.url), GZ3DIterableDataset(place.url, shuffle=False)
    forked = torch_data.DataLoader(
        GZ3DDataset(place.url), batch_size=2, num_workers=1, multiprocessing_context="fork"
    )
    epoch = iter(whole)
    assert next(epoch)["object_id"] == single[0]["object_id"]
    place.build(sources[1], client, overwrite=True, allow_loss=True)
    for read in (lambda: single[0], lambda: list(whole), lambda: next(iter(forked))):
        with pytest.raises(StoreError, match=CHANGED):
            read()
    # The first window of the epoch was fetched before; what it gives is of the old store.
    assert next(epoch)["object_id"] == single._samples.selection.table["subject"][1]


def test_an_export_finds_ids_in_the_store_that_it_reads(
    first: Path,
    sources: tuple[Path, Path],
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, other = Path(shutil.copytree(first, tmp_path / "g.zarr")), tmp_path / "other.zarr"
    gz3d_zarr.build(sources[1], other, client, **FIXED)
    wanted = str(gz3d_zarr.open_store(store)["zooniverse_subject_id"].values[1])
    open_dataset = subset.open_dataset

    def open_then_replace(opened: ObjectStore) -> xr.Dataset:
        dataset = open_dataset(opened)
        shutil.rmtree(store)
        shutil.copytree(other, store)
        return dataset

    monkeypatch.setattr(subset, "open_dataset", open_then_replace)
    arguments = ["export", "marks", str(store), str(tmp_path / "marks.parquet"), "--ids", "-"]
    result = CliRunner().invoke(main, arguments, input=wanted)
    assert result.exit_code == 1
    assert CHANGED in result.output


@contextmanager
def watched(see: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look after every third object of the root group that is put, and after each deleted one."""
    put, delete = ObjectStore.put, ObjectStore.delete
    lock = threading.Lock()
    calls = itertools.count()

    def seen_put(self: ObjectStore, key: str, data: bytes) -> None:
        put(self, key, data)
        if key == "zarr.json" or key.startswith("receipts/") or key.count("/") == 2:
            with lock:
                if key == "zarr.json" or next(calls) % 3 == 0:
                    see()

    def seen_delete(self: ObjectStore, keys: Any) -> None:
        for key in list(keys):
            delete(self, [key])
            with lock:
                see()

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", seen_put)
        patch.setattr(ObjectStore, "delete", seen_delete)
        yield


@pytest.mark.parametrize("place", ["swap", "memory"], indirect=True)
def test_a_retry_is_seen_whole_or_not_at_all(
    place: Place,
    holed: tuple[Path, Path, dict[str, Any]],
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, store, before = holed
    place.lay(store)
    held = place.open()
    good = [row for row in range(COUNT) if row != BAD]
    images = held["image"][good].values
    seen: list[str] = []

    def see() -> None:
        dataset, catalogue = read_store(open_object_store(place.url, place.options))
        seen.append(repr((small_values(dataset), dataset.attrs["subjects_ok"])))
        assert (catalogue["reason"].values[BAD] == "") == (dataset["status"].values[BAD] == 0)
        if seen[-1] == seen[0]:
            np.testing.assert_array_equal(held["image"][good].values, images)

    with watched(see, monkeypatch):
        place.build(source, client, retry_failed=True)
    after = repr((small_values(place.open()), COUNT))
    assert {*seen} == {repr((before, COUNT - 1)), after}
    assert seen == sorted(seen, key=[seen[0], after].index)
    assert len(seen) > 12


def test_packs_of_a_root_that_was_just_replaced_are_not_missed(
    holed: tuple[Path, Path, dict[str, Any]], client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, store, _ = holed
    read_packs, calls = backends_root.read_packs, []

    def late(*args: Any) -> Any:
        if not calls:
            calls.append("retried")
            gz3d_zarr.build(source, store, client, retry_failed=True)
        return read_packs(*args)

    monkeypatch.setattr(backends_root, "read_packs", late)
    dataset = gz3d_zarr.open_store(store)
    assert calls
    assert dataset["status"].values.tolist() == [0] * COUNT
    assert dataset.attrs["subjects_ok"] == COUNT


def test_lost_or_changed_packs_are_found(first: Path, client: Client, tmp_path: Path) -> None:
    store = Path(shutil.copytree(first, tmp_path / "g.zarr"))
    expected = small_values(gz3d_zarr.open_store(store))
    key = gz3d_zarr.open_store(store).attrs["small_arrays_sha256"]
    pack = store / "receipts" / f"{key}.zip"
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)
    with pytest.raises(StoreError, match=r"zip is not as it was written \(SHA-256\)"):
        gz3d_zarr.open_store(store)

    def failed() -> set[tuple[str, str]]:
        found = gz3d_zarr.verify(store, client=client)
        return {(check.test, check.target) for check in found.checks if not check.passed}

    assert failed() == {("object", f"receipts/{pack.name}")}
    pack.unlink()
    with pytest.raises(StoreError, match="lacks a pack of small arrays, for which the digest"):
        gz3d_zarr.open_store(
            store, digest=hashlib.sha256((store / "zarr.json").read_bytes()).hexdigest()
        )
    assert repr(small_values(gz3d_zarr.open_store(store))) == repr(expected)  # one by one
    assert failed() == {("object", f"receipts/{pack.name}")}
    shutil.copy(first / "receipts" / pack.name, pack)
    assert failed() == set()
    shutil.copy(store / "dec/c/0", store / "ra/c/0")
    assert repr(small_values(gz3d_zarr.open_store(store))) == repr(expected)
    assert ("object", "ra/c/0") in failed()


def test_root_that_another_program_wrote_anew(first: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(first, tmp_path / "g.zarr"))
    quick = gz3d_zarr.open_store(store, chunks=None)
    root = store / "zarr.json"
    document = json.loads(root.read_bytes())
    root.write_text(json.dumps(document, sort_keys=True))
    quick["image"][0].load()
    opened = open_object_store(store)
    assert Generation.from_root(opened, root.read_bytes()).start == b""
    gz3d_zarr.open_store(store)["image"][0].load()
    document["attributes"]["generation"] = "another"
    root.write_text(json.dumps(document))
    for damage in (None, b"", b"{", b"[]", b'{"attributes": {"generation": 3}}'):
        if damage is not None:
            root.write_bytes(damage)
        with pytest.raises(StoreError, match=CHANGED):
            quick["image"][1].load()
    root.unlink()
    with pytest.raises(StoreError, match=CHANGED):
        quick["image"][1].load()
