"""Loaders for PyTorch and Hugging Face: every subject once, in an order that can be had again."""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.context
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from distributed import Client
from files import subject_files, truth

import gz3d_zarr
from gz3d_zarr import LeftOutWarning, UsageError
from gz3d_zarr.backends import chunk_reader
from gz3d_zarr.export.subset import select_rows


@pytest.fixture
def loaders() -> Any:
    pytest.importorskip("torch")
    from gz3d_zarr.export import torch as loaders

    return loaders


@pytest.fixture(scope="session")
def forkserver() -> multiprocessing.context.BaseContext:
    """Starts workers that inherit nothing, as if spawned, but torch is imported for all at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gz3d_zarr.export.torch", "gz3d_zarr.export.huggingface"])
    return context


@pytest.fixture(scope="module")
def holed(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 18 subjects of which two are not ok, in shards of 4."""
    folder = tmp_path_factory.mktemp("holed")
    source = folder / "source"
    source.mkdir()
    for i, path in enumerate(subject_files(simulated)):
        (source / path.name).write_bytes(b"<html>" if i in (0, 10) else path.read_bytes())
    gz3d_zarr.build(source, folder / "g.zarr", client, shard_size=4)
    return folder / "g.zarr"


def warns_of_two() -> Any:
    """Expect the warning that the store `holed` is due."""
    return pytest.warns(LeftOutWarning, match="^2 subjects whose status is not ok are left out$")


def good_ids(store: Path) -> list[int]:
    dataset = gz3d_zarr.open_store(store)
    ids = dataset["zooniverse_subject_id"].values[dataset["status"].values == 0]
    return sorted(ids.tolist())


def ids_of(samples: Any) -> list[int]:
    return [sample["zooniverse_subject_id"] for sample in samples]


def test_samples_have_the_values_of_the_source(loaders: Any, simulated: Path, store: Path) -> None:
    import torch

    dataset = loaders.GZ3DDataset(store)
    assert len(dataset) == 18
    files = {int(p.name.split("_")[3].partition(".")[0]): p for p in subject_files(simulated)}
    for index in (0, 7, -1):
        sample = dataset[index]
        expected = truth(files[sample["zooniverse_subject_id"]])
        assert sample["image"].shape == (3, 525, 525)
        assert sample["image"].dtype == sample["segmentation"].dtype == torch.uint8
        np.testing.assert_array_equal(sample["image"].permute(1, 2, 0), expected["image"])
        np.testing.assert_array_equal(sample["segmentation"], expected["segmentation"])
        assert sample["object_id"] == expected["manga_id"]
        for name in ("ra", "dec", "total_classifications", "spiral_votes", "bar_votes"):
            assert sample[name] == expected[name], name
        if expected["total_classifications"]:
            share = expected["bar_votes"] / expected["total_classifications"]
            assert sample["vote_fraction"][3].item() == pytest.approx(share, rel=1e-6)
        assert sample["vote_fraction"][0].item() == -1
    with pytest.raises(IndexError):
        dataset[18]
    other = loaders.GZ3DDataset(
        store, rows=[4, 2], channels_first=False, transform=lambda s: s["image"]
    )
    assert [tuple(image.shape) for image in other] == [(525, 525, 3)] * 2


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (1, 3), (2, 2), (3, 2), (5, 4), (1, 7)])
def test_ranks_and_workers_share_out_every_subject_once(
    loaders: Any, holed: Path, monkeypatch: pytest.MonkeyPatch, ranks: int, workers: int
) -> None:
    from gz3d_zarr.export import epoch_counter

    monkeypatch.setattr(loaders._Samples, "read", read_nothing)
    for epoch in (0, 1):
        parts = []
        for rank in range(ranks):
            with warns_of_two():
                dataset = loaders.GZ3DIterableDataset(holed, rank=rank, world_size=ranks)
            dataset.set_epoch(epoch)
            assert dataset.left_out == 2
            for number in range(workers):
                info = SimpleNamespace(id=number, num_workers=workers, seed=epoch + number)
                for module in (loaders, epoch_counter):
                    monkeypatch.setattr(module, "get_worker_info", lambda info=info: info)
                parts.append(ids_of(dataset))
        assert sorted(i for part in parts for i in part) == good_ids(holed)
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1


def read_nothing(self: Any, position: int, shards: Any = None) -> dict[str, int]:
    return {"zooniverse_subject_id": int(self.selection.table["zooniverse_subject_id"][position])}


def test_the_order_changes_with_the_epoch_and_can_be_had_again(
    loaders: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders._Samples, "read", read_nothing)
    dataset = loaders.GZ3DIterableDataset(store, seed=3, window=2)
    first = ids_of(dataset)
    second, third = ids_of(dataset), ids_of(dataset)
    assert first != second != third != first
    dataset.set_epoch(0)
    assert [ids_of(dataset), ids_of(dataset)] == [first, second]
    dataset.set_epoch(2)
    assert ids_of(dataset) == third
    assert ids_of(loaders.GZ3DIterableDataset(store, seed=3, window=2)) == first
    assert ids_of(loaders.GZ3DIterableDataset(store, seed=4, window=2)) != first
    in_order = gz3d_zarr.open_store(store)["zooniverse_subject_id"].values.tolist()
    assert ids_of(loaders.GZ3DIterableDataset(store, shuffle=False)) == in_order
    assert first != in_order
    # Within a window of two shards subjects are mixed, and shards do not come in order.
    shard_of = {subject: i // 4 for i, subject in enumerate(in_order)}
    shards = [shard_of[subject] for subject in first]
    assert shards != sorted(shards)
    windows = [shards[:8], shards[8:16]] if 4 not in shards[:16] else [shards[:6]]
    assert all(len(set(window)) == 2 for window in windows)
    assert any(window != sorted(window) != window[::-1] for window in windows)


def test_an_epoch_fetches_shards_and_decodes_subjects_once(
    loaders: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: Counter[bytes] = Counter()
    fetched: Counter[int] = Counter()
    decode, fetch = chunk_reader.decode_chunk, chunk_reader.ChunkReader.fetch

    def counting_decode(chunk: Any, shape: Any, *, compact: bool) -> Any:
        decoded[bytes(chunk)] += 1
        return decode(chunk, shape, compact=compact)

    def counting_fetch(self: Any, rows: Any, names: Any) -> Any:
        fetched[int(rows[0]) // 4] += 1
        return fetch(self, rows, names)

    monkeypatch.setattr(chunk_reader, "decode_chunk", counting_decode)
    monkeypatch.setattr(chunk_reader.ChunkReader, "fetch", counting_fetch)
    samples = list(loaders.GZ3DIterableDataset(store))
    assert sorted(ids_of(samples)) == good_ids(store)
    assert fetched == dict.fromkeys(range(5), 1)
    assert decoded.total() == 18 + 5  # images, and chunks of four masks
    images = {sample["zooniverse_subject_id"]: sample["image"] for sample in samples}
    stored = gz3d_zarr.open_store(store).isel(subject=11)
    image = images[stored["zooniverse_subject_id"].item()]
    np.testing.assert_array_equal(image.permute(1, 2, 0), stored["image"])


def test_fresh_workers_that_stay_learn_of_the_next_epoch(
    loaders: Any, holed: Path, forkserver: multiprocessing.context.BaseContext
) -> None:
    from torch.utils.data import DataLoader

    with warns_of_two():
        dataset = loaders.GZ3DIterableDataset(holed, rank=0, world_size=1)
    loader = DataLoader(
        dataset,
        batch_size=3,
        num_workers=2,
        multiprocessing_context=forkserver,
        persistent_workers=True,
    )
    orders = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        batches = list(loader)
        assert batches[0]["image"].shape == (3, 3, 525, 525)
        orders.append([i for batch in batches for i in batch["zooniverse_subject_id"].tolist()])
    del loader  # ends its workers
    assert sorted(orders[0]) == sorted(orders[1]) == good_ids(holed)
    assert orders[0] == orders[2] != orders[1]


def test_map_style_goes_to_spawned_workers(loaders: Any, holed: Path) -> None:
    from torch.utils.data import DataLoader

    with warns_of_two():
        dataset = loaders.GZ3DDataset(holed)
    assert (len(dataset), dataset.left_out) == (16, 2)
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again[3]["image"], dataset[3]["image"])
    loader = DataLoader(dataset, batch_size=5, num_workers=1, multiprocessing_context="spawn")
    ids = [i for batch in loader for i in batch["zooniverse_subject_id"].tolist()]
    assert sorted(ids) == good_ids(holed)


def test_subjects_that_are_left_out_are_counted_once_and_where_it_was_asked_for(
    loaders: Any, holed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders._Samples, "read", read_nothing)
    for make in (loaders.GZ3DDataset, loaders.GZ3DIterableDataset):
        with warns_of_two() as caught:
            dataset = make(holed)
        assert [warning.filename for warning in caught] == [__file__]
        # Any more warnings are errors.
        assert len(ids_of(dataset)) == len(ids_of(pickle.loads(pickle.dumps(dataset)))) == 16
        make(holed, rows=[5])


def test_hugging_face_counts_subjects_that_are_left_out(holed: Path) -> None:
    pytest.importorskip("datasets")
    from gz3d_zarr.export.huggingface import iterable_dataset

    bad = int(np.flatnonzero(gz3d_zarr.open_store(holed)["status"].values)[0])
    with pytest.warns(LeftOutWarning, match="^1 subject whose status is not ok is") as caught:
        dataset = iterable_dataset(holed, rows=[5, bad])
    assert [warning.filename for warning in caught] == [__file__]
    assert len(list(dataset.select_columns("object_id"))) == 1


def test_rank_and_world_size_are_found_when_a_pass_starts(
    loaders: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(loaders._Samples, "read", read_nothing)
    dataset = loaders.GZ3DIterableDataset(store)
    given = loaders.GZ3DIterableDataset(store, rank=0, world_size=2)
    assert len(ids_of(dataset)) == 18
    monkeypatch.setenv("WORLD_SIZE", "6")  # without a rank it says nothing
    assert len(ids_of(dataset)) == 18
    monkeypatch.setenv("RANK", "5")
    assert len(ids_of(dataset)) == 3
    monkeypatch.setenv("RANK", "six")
    with pytest.raises(UsageError, match="RANK is 'six' and WORLD_SIZE '6'"):
        ids_of(dataset)
    monkeypatch.setenv("RANK", "6")
    with pytest.raises(UsageError, match="rank is 6 of 6"):
        ids_of(dataset)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 9)
    assert len(ids_of(dataset)) == 2
    assert len(ids_of(given)) == 9


RANKS = """
import multiprocessing
import operator
import sys

import torch

from gz3d_zarr.export.torch import GZ3DIterableDataset


def run(rank, store, meeting):
    take = operator.itemgetter("zooniverse_subject_id")
    dataset = GZ3DIterableDataset(store, rows=range(8), transform=take)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2
    )
    for start in ("main", "fork", "spawn")[: 2 + rank]:  # spawning takes seconds: one rank does
        how = {"num_workers": 1, "multiprocessing_context": start} if start != "main" else {}
        loader = torch.utils.data.DataLoader(dataset, batch_size=None, **how)
        dataset.set_epoch(0)
        with open(f"{meeting}-{rank}-{start}", "w") as output:
            print(*loader, file=output)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=run, args=(rank, *sys.argv[1:])) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
"""


def test_a_dataset_that_is_older_than_the_process_group(
    loaders: Any, store: Path, tmp_path: Path
) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    environment = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "GLOO_SOCKET_IFNAME": "lo",
        "RANK": "0",  # wrong: the process group goes before the environment
        "WORLD_SIZE": "1",
    }
    done = subprocess.run(
        [sys.executable, script, store, tmp_path / "meeting"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    ids_by_loader = {
        path.name: [int(i) for i in path.read_text().split()] for path in tmp_path.glob("meeting-*")
    }
    assert len(ids_by_loader) == 5, done.stderr
    assert ids_by_loader["meeting-0-fork"] == ids_by_loader["meeting-0-main"]
    assert (
        ids_by_loader["meeting-1-fork"]
        == ids_by_loader["meeting-1-spawn"]
        == ids_by_loader["meeting-1-main"]
    )
    ids = sorted(ids_by_loader["meeting-0-main"] + ids_by_loader["meeting-1-main"])
    dataset = gz3d_zarr.open_store(store)
    assert ids == sorted(dataset["zooniverse_subject_id"].values[:8].tolist())


def test_a_pickled_dataset_knows_the_process_group(
    loaders: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(loaders._Samples, "read", read_nothing)
    dataset = loaders.GZ3DIterableDataset(store)
    before = pickle.dumps(dataset)
    with monkeypatch.context() as group:
        group.setattr(torch.distributed, "is_initialized", lambda: True)
        group.setattr(torch.distributed, "get_rank", lambda: 1)
        group.setattr(torch.distributed, "get_world_size", lambda: 6)
        expected = ids_of(dataset)
        dataset.set_epoch(0)
        pickled = pickle.dumps(dataset)
        assert ids_of(pickle.loads(before)) == expected
    assert ids_of(pickle.loads(pickled)) == expected
    assert len(expected) == 3
    assert len(ids_of(pickle.loads(before))) == 18


@pytest.mark.parametrize(
    ("number", "message"),
    [(1, "the status of the subject is not ok"), (2, "none of the 2 subjects has the status ok")],
)
def test_rows_of_which_none_is_ok(holed: Path, number: int, message: str) -> None:
    bad = np.flatnonzero(gz3d_zarr.open_store(holed)["status"].values)
    with pytest.raises(
        UsageError, match=rf"no selected subject of .*g\.zarr can be used: {message}"
    ):
        select_rows(holed, bad[:number])


def test_loader_arguments_that_cannot_be(loaders: Any, store: Path, holed: Path) -> None:
    for wrong, message in (
        ({"window": 0}, "window is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"rank": 1}, "give both rank and world_size"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of 2"),
        ({"rows": []}, "no subject is selected"),
        ({"rows": [99]}, "rows range from 99"),
    ):
        with pytest.raises(UsageError, match=message):
            loaders.GZ3DIterableDataset(store, **wrong)
    with pytest.raises(UsageError, match="epoch is -1"):
        loaders.GZ3DIterableDataset(store).set_epoch(-1)
    with pytest.raises(UsageError, match="storage options"):
        loaders.GZ3DDataset(store, storage_options={"anon": True})


@pytest.mark.parametrize(
    ("module", "package"),
    [("torch", "torch"), ("huggingface", "datasets"), ("lightning", "lightning")],
)
def test_a_missing_extra_is_named(
    module: str, package: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module == "lightning":
        pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, package, None)
    name = f"gz3d_zarr.export.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(
        UsageError, match=rf"needs {package}: python3 -m pip install 'gz3d-zarr\[{module}\]'"
    ):
        importlib.import_module(name).iterable_dataset(store)


def test_hugging_face_examples(simulated: Path, holed: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from gz3d_zarr.export.huggingface import iterable_dataset

    with warns_of_two():
        dataset = iterable_dataset(holed)
    features = dataset.features
    assert {name: features[name].dtype for name in features if name != "segmentation"} == {
        "object_id": "string", "ra": "float64", "dec": "float64", "healpix": "int64",
        "scale": "float32", "total_classifications": "uint8", "image": "uint8",
        "zooniverse_subject_id": "int64", "spiral_votes": "int32", "bar_votes": "int32",
    }  # fmt: skip
    assert features["image"].shape == (525, 525, 3)
    segmentation = datasets.Features({"s": features["segmentation"]})["s"]
    assert set(segmentation) == {"class", "vote_fraction", "asked", "array"}
    assert "2 subjects whose status is not ok are left out" in dataset.info.description
    by_position = {}
    for path in subject_files(simulated):
        expected = truth(path)
        by_position[expected["ra"], expected["dec"]] = expected
    seen = 0
    for example in dataset:
        expected = by_position[example["ra"], example["dec"]]
        seen += 1
        assert example["object_id"] == expected["manga_id"]
        assert example["total_classifications"] == expected["total_classifications"]
        assert example["spiral_votes"] == expected["spiral_votes"]
        np.testing.assert_array_equal(example["image"], expected["image"])
        marks = example["segmentation"]
        assert marks["class"] == ["center", "star", "spiral", "bar"]
        np.testing.assert_array_equal(np.stack(marks["array"]), expected["segmentation"])
        assert marks["vote_fraction"][:2] == [-1.0, -1.0]
    assert seen == 16


def test_hugging_face_shares_out_shards(store: Path) -> None:
    pytest.importorskip("datasets")
    from datasets.distributed import split_dataset_by_node

    from gz3d_zarr.export.huggingface import iterable_dataset

    dataset = iterable_dataset(store)
    assert dataset.num_shards == 5
    for nodes in (2, 5):
        parts = [split_dataset_by_node(dataset, rank=i, world_size=nodes) for i in range(nodes)]
        positions = [example["ra"] for part in parts for example in part]
        assert sorted(positions) == sorted(gz3d_zarr.open_store(store)["ra"].values.tolist())
    shuffled = [example["ra"] for example in dataset.shuffle(seed=1, buffer_size=6)]
    assert sorted(shuffled) == sorted(positions)
    assert shuffled != positions


@pytest.mark.parametrize("ranks", [2, 3, 7, 20])
def test_hugging_face_ranks_decode_every_subject_once(
    store: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    pytest.importorskip("datasets")
    from gz3d_zarr.export.huggingface import iterable_dataset

    read = Counter[int]()

    def counting_read(self: Any, name: str, row: int, shards: Any = None) -> Any:
        read[row] += name == "image"
        return np.zeros((525, 525, 3) if name == "image" else (4, 525, 525), np.uint8)

    monkeypatch.setattr(chunk_reader.ChunkReader, "decode", counting_read)
    whole = iterable_dataset(store)
    parts = [iterable_dataset(store, rank=i, world_size=ranks) for i in range(ranks)]
    assert all(part.features == whole.features for part in parts)
    positions = [[example["ra"] for example in part.shuffle(seed=1)] for part in parts]
    expected = gz3d_zarr.open_store(store)["ra"].values.tolist()
    assert sorted(ra for part in positions for ra in part) == sorted(expected)
    assert {len(part) for part in positions} <= {18 // ranks, 18 // ranks + 1}
    assert read == dict.fromkeys(range(18), 1)


def test_hugging_face_ranks_that_cannot_be(store: Path) -> None:
    pytest.importorskip("datasets")
    from gz3d_zarr.export.huggingface import iterable_dataset

    for wrong, message in (
        ({"rank": 1}, "give both rank and world_size"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of 2"),
    ):
        with pytest.raises(UsageError, match=message):
            iterable_dataset(store, **wrong)


def test_hugging_face_takes_no_rank_that_it_was_not_given(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    from datasets.distributed import split_dataset_by_node

    from gz3d_zarr.export.huggingface import iterable_dataset

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    part = split_dataset_by_node(iterable_dataset(store), rank=1, world_size=2)
    assert len(list(part.select_columns("object_id"))) == 9


def test_hugging_face_in_the_workers_of_a_dataloader(
    store: Path, forkserver: multiprocessing.context.BaseContext
) -> None:
    pytest.importorskip("datasets")
    pytest.importorskip("torch")
    from torch.utils.data import DataLoader

    from gz3d_zarr.export.huggingface import iterable_dataset

    dataset = iterable_dataset(store, rows=range(8)).select_columns(["object_id", "ra"])
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=forkserver)
    positions = sorted(example["ra"] for example in loader)
    assert positions == sorted(gz3d_zarr.open_store(store)["ra"].values[:8].tolist())
