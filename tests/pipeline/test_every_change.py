"""Without its source: every change to any object of a store is found, and what others add is not
taken for one."""

from __future__ import annotations

import itertools
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client
from zarr.buffer import cpu
from zarr.storage import MemoryStore as ZarrMemoryStore

import gz3d_zarr
from gz3d_zarr import StoreError
from gz3d_zarr.datamodel.receipts import StoredObject
from gz3d_zarr.pipeline import light_checks
from gz3d_zarr.pipeline.build_state import is_shard, read_attrs
from gz3d_zarr.pipeline.copy import CopyTask, copy_objects
from gz3d_zarr.pipeline.document_checks import check_documents, find_nodes
from gz3d_zarr.pipeline.light_checks import check_without_shards
from gz3d_zarr.pipeline.receipt_checks import check_values
from gz3d_zarr.pipeline.shard_runner import recheck_shard
from gz3d_zarr.pipeline.store_checks import check_objects, find_damage, sort_others
from gz3d_zarr.pipeline.verify import VerifyTask, verify_shard
from gz3d_zarr.storage.build_record import BuildRecord, put_record
from gz3d_zarr.storage.memory_store import MemoryStore
from gz3d_zarr.storage.object_store import open_object_store
from gz3d_zarr.storage.published_receipts import (
    PublishedReceipts,
    published_key,
    read_published_receipts,
)
from gz3d_zarr.storage.shards import array_documents
from gz3d_zarr.storage.small_arrays import encode_small_objects

ROOT = "zarr.json"
Edit = Callable[[dict[str, Any]], Any]


class Whole:
    """A complete store in memory, and what its checks need."""

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        self.objects = dict(objects)
        attrs = read_attrs(self.objects[ROOT])
        store = MemoryStore("memory", objects=self.objects)
        self.published: PublishedReceipts = read_published_receipts(store, attrs)
        self.receipts_key = published_key(attrs["receipts_sha256"])
        self.expected = encode_small_objects(
            self.published.records, self.published.layout, self.published.attributes
        )

    def changed_bytes(self, changes: Mapping[str, bytes | None]) -> list[str]:
        """Objects that are found to be damaged where some have other bytes, or are gone (None)."""
        objects = {**self.objects, **changes}
        found = {key: data for key, data in objects.items() if data is not None}
        sizes = {key: len(data) for key, data in found.items()}
        checks = [*check_objects(self.published, found, sizes)]
        wrong = [check.target for check in checks if not check.passed]
        digests: dict[str, StoredObject] = self.published.objects
        wrong += [
            key
            for key in changes
            if is_shard(key) and key in digests and find_damage(digests[key], found.get(key))
        ]
        strange, _ = sort_others(self.published, find_nodes(self.expected), sizes)
        return [*wrong, *strange]

    def changed_documents(self, changes: Mapping[str, bytes]) -> dict[tuple[str, str], str]:
        """What is found in metadata documents where some have other bytes."""
        checks = check_documents({**self.objects, **changes}, self.expected, self.published)
        return {(c.test, c.target): c.detail for c in checks if not c.passed}


@pytest.fixture(scope="module")
def whole(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    target = tmp_path_factory.mktemp("whole") / "g.zarr"
    gz3d_zarr.build(simulated, target, client, limit=8, shard_size=4, codec="compact")
    files = (path for path in target.rglob("*") if path.is_file())
    return Whole({path.relative_to(target).as_posix(): path.read_bytes() for path in files})


def damages(data: bytes) -> Iterator[bytes | None]:
    """Bits flipped at several places, cut short in several ways, lengthened, deleted."""
    for position in {0, 1, len(data) // 3, len(data) // 2, len(data) - 5, len(data) - 1}:
        if 0 <= position < len(data):
            yield data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]
    yield from (data[: len(data) // 2], data[:-1], data[1:], b"", data + b"\0", data + b" ", None)


def test_nothing_is_found_in_a_store_as_it_was_built(whole: Whole) -> None:
    assert whole.changed_bytes({}) == []
    assert whole.changed_documents({}) == {}
    light = check_without_shards(MemoryStore("memory", objects=whole.objects))
    assert [check for check in light.checks if not check.passed] == []
    assert light.additions == ()
    assert {*whole.published.objects} == {*whole.objects} - {ROOT, whole.receipts_key}


def test_every_damaged_object_is_found(whole: Whole) -> None:
    unseen = []
    for key in whole.published.objects:
        for i, data in enumerate(damages(whole.objects[key])):
            if data is None and key in whole.changed_bytes({key: None}):
                continue
            if data is None or key not in whole.changed_bytes({key: data}):
                unseen.append((key, i))
    assert unseen == []


def test_damaged_shard_is_found_by_the_task_of_its_worker(whole: Whole) -> None:
    documents = array_documents(whole.published.layout)
    receipt = whole.published.receipts[1]
    for stored in receipt.objects:
        data = whole.objects[stored.key]
        other = whole.objects[stored.key.replace("/c/1", "/c/0", 1)]
        for changed in (data[:-1] + bytes([data[-1] ^ 1]), other, None):
            objects = {**whole.objects, stored.key: changed or b""}
            if changed is None:
                del objects[stored.key]
            task = VerifyTask(receipt, documents, MemoryStore("memory", objects=objects))
            wrong = [check.target for check in verify_shard(task)[1] if not check.passed]
            assert stored.key in wrong


@dataclass(frozen=True)
class EndlessStore(MemoryStore):
    """A store in which one object never ends: reading it whole fails."""

    endless: str = ""

    def _get(self, key: str, limit: int | None) -> bytes:
        if key != self.endless:
            return super()._get(key, limit)
        if limit is None:
            raise MemoryError
        return super()._get(key, None) + b"\0" * 2**23

    def _list_sizes(self, prefix: str) -> dict[str, int]:
        return {**super()._list_sizes(prefix), self.endless: 10**12}


@pytest.mark.parametrize("is_unfinished", [False, True])
def test_endless_shard_is_never_read_whole(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, is_unfinished: bool
) -> None:
    monkeypatch.setattr(light_checks, "MAX_SHARD_SUBJECT", 2**20)
    receipt = whole.published.receipts[1]
    stored = receipt.objects[0]
    store = EndlessStore("memory", objects=whole.objects, endless=stored.key)
    if is_unfinished:  # an update may have written it, and no receipt says its size
        receipt = light_checks._without_digests(receipt)
    task = VerifyTask(receipt, array_documents(whole.published.layout), store)
    (wrong,) = [check for check in verify_shard(task)[1] if not check.passed]
    size = 4 * 2**20 if is_unfinished else stored.size
    assert (wrong.test, wrong.target) == ("shard", stored.key)
    assert f"it has more than {size} bytes" in wrong.detail
    if not is_unfinished:
        assert recheck_shard((store, receipt)) == (1, False)
        target = MemoryStore("other", objects={})
        put_record(target, BuildRecord("mine"))
        copied = CopyTask(store, target, "mine", (stored,), frozenset())
        with pytest.raises(StoreError, match="changed while it was copied"):
            copy_objects(copied)
        source = MemoryStore("memory", objects=whole.objects)
        cut = EndlessStore("other", objects={**whole.objects}, endless=stored.key)
        put_record(cut, BuildRecord("mine"))
        again = CopyTask(source, cut, "mine", (stored,), frozenset({stored.key}))
        assert copy_objects(again)[1] == 1  # what an earlier run left there is written again


def test_many_additions_are_sorted_in_a_moment(whole: Whole) -> None:
    sizes = {f"image/c/{9 + i}/0/0/0": 1 for i in range(20_000)}
    sizes |= {f"mine/{i}": 1 for i in range(20_000)}
    began = time.process_time()
    strange, added = sort_others(whole.published, find_nodes(whole.expected), sizes)
    assert (len(strange), len(added)) == (20_000, 20_000)
    assert time.process_time() - began < 2  # a quadratic search takes ten times as long


def test_any_two_objects_swapped_are_found(whole: Whole) -> None:
    unseen = []
    for a, b in itertools.combinations(sorted(whole.published.objects), 2):
        first, second = whole.objects[a], whole.objects[b]
        kinds = [key.rpartition("/c/")[1] + str(key.endswith(ROOT)) for key in (a, b)]
        if kinds[0] == kinds[1] and first != second:
            digests = whole.published.objects
            if not (find_damage(digests[a], second) and find_damage(digests[b], first)):
                unseen.append((a, b))
    assert unseen == []


def test_damaged_receipts_are_found(whole: Whole) -> None:
    for data in damages(whole.objects[whole.receipts_key]):
        objects = {**whole.objects, whole.receipts_key: data or b""}
        if data is None:
            del objects[whole.receipts_key]
        light = check_without_shards(MemoryStore("memory", objects=objects))
        assert [(c.test, c.target) for c in light.checks if not c.passed] == [("open", ROOT)]
        assert light.published is None


def test_any_byte_of_the_root_changed_is_found(whole: Whole) -> None:
    root = whole.objects[ROOT]
    flips = (
        root[:i] + bytes([root[i] ^ (1 << i % 8)]) + root[i + 1 :] for i in range(3, len(root), 991)
    )
    spaces = (root + b"\n", b" " + root, root.replace(b": ", b":  ", 1))
    for i, data in enumerate((*flips, *spaces)):
        assert whole.changed_documents({ROOT: data}), i


TRANSPOSE = {"name": "transpose", "configuration": {"order": [0, 2, 1, 3]}}
EDITS: Mapping[str, tuple[str, Edit]] = {
    "transposed": ("image", lambda d: inner(d).insert(0, TRANSPOSE)),
    "points in keys": (
        "image",
        lambda d: d["chunk_key_encoding"].update(configuration={"separator": "."}),
    ),
    "keys of Zarr 2": ("image", lambda d: d["chunk_key_encoding"].update(name="v2")),
    "gzip": ("image", lambda d: inner(d).append({"name": "gzip", "configuration": {"level": 1}})),
    "without a codec": ("segmentation", lambda d: inner(d).pop()),
    "index at the start": (
        "image",
        lambda d: d["codecs"][0]["configuration"].update(index_location="start"),
    ),
    "index without checksum": (
        "image",
        lambda d: d["codecs"][0]["configuration"]["index_codecs"].pop(),
    ),
    "white": ("image", lambda d: d.update(fill_value=255)),
    "fill value": ("ra", lambda d: d.update(fill_value=3.0)),
    "parsecs": ("ra", lambda d: d["attributes"].update(units="parsec")),
    "radians": ("ra", lambda d: d["attributes"].update(units="radian")),
    "flags in reverse": (
        "status",
        lambda d: d["attributes"].update(
            flag_meanings=" ".join(reversed(d["attributes"]["flag_meanings"].split()))
        ),
    ),
    "flag values": ("status", lambda d: d["attributes"]["flag_values"].reverse()),
    "scaled": ("segmentation", lambda d: d["attributes"].update(scale_factor=2.0)),
    "masked": ("image", lambda d: d["attributes"].update(_FillValue=0)),
    "without attributes": ("thumbnail/image", lambda d: d.pop("attributes")),
    "other axes": ("image", lambda d: d["dimension_names"].reverse()),
    "another type": ("nsa_id", lambda d: d.update(data_type="uint64")),
    "true for one": ("observed", lambda d: d["attributes"].update(flag_values=[False, True, -1])),
    "longer": ("image", lambda d: d["shape"].__setitem__(0, 10**12)),
    "smaller chunks": (
        "ra",
        lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[4]),
    ),
    "big-endian": ("ra", lambda d: d["codecs"][0]["configuration"].update(endian="big")),
    "another group": ("catalogue", lambda d: d["attributes"].update(name="mine")),
    "not an array": ("healpix", lambda d: d.update(node_type="group")),
    "marks in another encoding": ("marks/annotations", lambda d: d.update(data_type="bytes")),
    "unknown field": ("clusters/center_x", lambda d: d.update(extra={"must_understand": False})),
}


def inner(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Codecs inside the shards."""
    return list.__iadd__(document["codecs"][0]["configuration"]["codecs"], [])


@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_of_a_document_is_found(whole: Whole, edit: str) -> None:
    name, change = EDITS[edit]
    own = json.loads(whole.objects[f"{name}/{ROOT}"])
    root = json.loads(whole.objects[ROOT])
    change(own)
    change(root["consolidated_metadata"]["metadata"][name])
    changed = {f"{name}/{ROOT}": json.dumps(own).encode(), ROOT: json.dumps(root).encode()}
    found = whole.changed_documents(changed)
    assert {("metadata", name), ("consolidated", name)} <= found.keys()
    assert ("consolidated", name) in whole.changed_documents({ROOT: changed[ROOT]})
    assert f"{name}/{ROOT}" in whole.changed_bytes({f"{name}/{ROOT}": changed[f"{name}/{ROOT}"]})


def test_array_taken_out_of_the_root_is_found(whole: Whole) -> None:
    root = json.loads(whole.objects[ROOT])
    for name in [*root["consolidated_metadata"]["metadata"]]:
        fewer = json.loads(whole.objects[ROOT])
        del fewer["consolidated_metadata"]["metadata"][name]
        found = whole.changed_documents({ROOT: json.dumps(fewer).encode()})
        assert ("consolidated", name) in found


@pytest.mark.parametrize("value", ["x", None, 1.0, {"a": 1}])
def test_every_attribute_of_the_root_changed_is_found(whole: Whole, value: object) -> None:
    root = json.loads(whole.objects[ROOT])
    for name, before in root["attributes"].items():
        if type(before) is type(value) and before == value:
            continue
        attrs = {**root["attributes"], name: value}
        changed = json.dumps({**root, "attributes": attrs}).encode()
        found = whole.changed_documents({ROOT: changed})
        assert ("attributes", name) in found, name
        del attrs[name]
        changed = json.dumps({**root, "attributes": attrs}).encode()
        assert ("attributes", name) in whole.changed_documents({ROOT: changed}), name


@pytest.mark.parametrize("value", ["x", {"a": 1}])
def test_damaged_attributes_give_a_verdict_and_no_traceback(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    monkeypatch.setattr(light_checks, "encode_small_objects", lambda *_: whole.expected)
    root = json.loads(whole.objects[ROOT])
    for name in ("codec", "shard_size", "samples", "notes", "complete", "coordinates"):
        changed = {**root, "attributes": {**root["attributes"], name: value}}
        objects = {**whole.objects, ROOT: json.dumps(changed).encode()}
        light = check_without_shards(MemoryStore("memory", objects=objects))
        found = {(c.test, c.target) for c in light.checks if not c.passed}
        assert found & {("attributes", name), ("open", ROOT)}
        assert light.published is not None


def test_two_rows_of_any_small_array_swapped_are_found(whole: Whole) -> None:
    swapped = 0
    for name in sorted(find_nodes(whole.expected)):
        document = json.loads(whole.objects[f"{name}/{ROOT}"])
        if document["node_type"] != "array" or is_shard(f"{name}/c/0"):
            continue
        keys = [key for key in whole.objects if key.startswith(f"{name}/")]
        memory: dict[str, Any] = {
            key: cpu.Buffer.from_bytes(whole.objects[key]) for key in (*keys, ROOT)
        }
        array = zarr.open_array(ZarrMemoryStore(memory), path=name, mode="r+")
        values = array[...]
        other = (
            next((i for i in range(len(values)) if np.any(values[i] != values[0])), None)
            if len(values)
            else None
        )
        if other is None:
            continue  # all rows are the same
        values[[0, other]] = values[[other, 0]]
        array[...] = values
        changed = {key: memory[key].to_bytes() for key in keys}
        assert f"{name}/c/0" in whole.changed_bytes(changed)[0], name
        checks = check_values({**whole.objects, **changed}, whole.expected)
        wrong = {check.target: check.detail for check in checks if not check.passed}
        assert wrong.keys() == {name}
        assert "2 rows not as the receipts say (first 0: " in wrong[name]
        swapped += 1
    assert swapped > 30


@pytest.mark.parametrize(
    "key",
    [
        "image/c/9/0/0/0",
        "ra/c/1",
        "catalogue/file_name/c/1",
        ".zgroup",
        ".zmetadata",
        "image/.zarray",
        "marks/.zattrs",
    ],
)
def test_what_readers_may_take_for_a_part_of_the_store_is_damage(whole: Whole, key: str) -> None:
    assert whole.changed_bytes({key: b"{}"}) == [key]


def test_what_others_add_is_reported_and_is_no_damage(
    store: Path, client: Client, tmp_path: Path
) -> None:
    target = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    files = (".gitignore", "image/my.txt", "image/c/0/0/0/0.md5", "notes.txt", "receipts/bill.pdf")
    for key in files:
        (target / key).write_text("mine")
    group = zarr.open_group(target, mode="r+", use_consolidated=False)
    group.create_array("my_flags", shape=(18,), dtype="uint8", dimension_names=("subject",))
    group["my_flags"][:] = 7
    group.create_group("mine").create_array("z", shape=(3,), dtype="float32")
    group.attrs["my_note"] = "what I did"
    consolidate(target)
    report = gz3d_zarr.verify(target, client=client)
    assert (report.state, report.passed) == ("sound", True), report.to_text()
    arrays = ("mine/z/zarr.json", "mine/zarr.json", "my_flags/c/0", "my_flags/zarr.json")
    assert [*report.additions] == [
        *sorted((*files, *arrays)),
        "zarr.json: attribute my_note",
        *(f"zarr.json: {name}" for name in ("mine", "mine/z", "my_flags")),
    ]
    assert "Not part of the store, and not checked: .gitignore, image/c/0" in report.to_text()
    assert report.summary()["additions"] == report.additions
    gz3d_zarr.copy(target, tmp_path / "copy.zarr", client)  # the root lists them
    assert (gz3d_zarr.open_store(tmp_path / "copy.zarr")["my_flags"] == 7).all()
    assert not (tmp_path / "copy.zarr" / "notes.txt").exists()


def test_metadata_consolidated_again_are_as_they_were(store: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    consolidate(target)
    light = check_without_shards(open_object_store(target))
    assert [check for check in light.checks if not check.passed] == []


def consolidate(store: Path) -> None:
    """Write the metadata of all members into the root, as any program may do by zarr."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # files that are no arrays; not in the specification
        zarr.consolidate_metadata(store)
