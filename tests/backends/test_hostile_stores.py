"""Readers of stores that were changed to hurt them: errors in words, no hang, no huge memory."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from distributed import Client
from numcodecs import Zstd
from stores import StopHereError, remove_packs, stop_after

import gz3d_zarr
from gz3d_zarr import StoreError
from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.backends.mask_reader import MaskReader
from gz3d_zarr.backends.store import find_root, read_group, read_rows
from gz3d_zarr.datamodel.annotations import marks_from_json, parse_shapes
from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.root_claims import find_excess
from gz3d_zarr.errors import GZ3DError
from gz3d_zarr.export.annotations import read_clusters, read_marks
from gz3d_zarr.export.subset import select_rows
from gz3d_zarr.locations import open_regular
from gz3d_zarr.pipeline.verify import VerifyTask, verify_shard
from gz3d_zarr.storage.build_record import digest
from gz3d_zarr.storage.object_store import open_object_store
from gz3d_zarr.storage.packs import encode_packs, pack_key, read_packs
from gz3d_zarr.storage.published_receipts import published_key, read_published_receipts
from gz3d_zarr.storage.shards import (
    Sharding,
    array_documents,
    cut_chunk,
    decode_shard,
    parse_sharding,
    read_index,
    shard_key,
)
from gz3d_zarr.storage.zstd_frames import check_size, content_size, decode_into

IRREGULAR = "it is a pipe, a socket or a device"
HUGE = 2**45
SHARDS = {"image": "image/c/0/0/0/0", "segmentation": "segmentation/c/0/0/0/0"}
CHUNKS = {"image": 4, "segmentation": 1}
"""Chunks in a shard of the store."""


@pytest.fixture
def hostile(store: Path, tmp_path: Path) -> Path:
    """A copy of the store that a test may damage."""
    return Path(shutil.copytree(store, tmp_path / "g.zarr"))


def short_frame(_: bytes) -> bytes:
    """A good frame with less content than the chunk has."""
    return bytes(Zstd(level=1, checksum=True).encode(np.full(200, 7, np.uint8)))


def huge_frame(frame: bytes) -> bytes:
    """A frame whose header claims more content than there is memory."""
    is_single = bool(frame[4] & 0x20)
    start = 5 + (not is_single)
    length = (int(is_single), 2, 4, 8)[frame[4] >> 6]
    descriptor = bytes([frame[4] | 0xC0])
    claim = struct.pack("<Q", HUGE)
    return frame[:4] + descriptor + frame[5:start] + claim + frame[start + length :]


def change_chunk(path: Path, chunks: int, change: Callable[[bytes], bytes]) -> None:
    """Change the first chunk of a shard; its index stays right."""
    data = path.read_bytes()
    stored = [bytes(cut_chunk(data, entry)) for entry in read_index(data, chunks)]
    stored[0] = change(stored[0])
    ends = np.cumsum([len(chunk) for chunk in stored])
    entries = [(int(end) - len(chunk), len(chunk)) for end, chunk in zip(ends, stored, strict=True)]
    index = np.array(entries, "<u8").tobytes()
    crc = google_crc32c.value(index).to_bytes(4, "little")
    path.write_bytes(b"".join(stored) + index + crc)


def test_sizes_in_frames_are_read_as_zstd_writes_them() -> None:
    for size in (1, 255, 256, 65_791, 65_792, 10**6):
        values = np.arange(size).astype(np.uint8)
        frame = bytes(Zstd(level=1, checksum=True).encode(values))
        assert content_size(frame) == size
        out = np.empty(size, np.uint8)
        decode_into(frame, out)
        np.testing.assert_array_equal(out, values)
        with pytest.raises(ValueError, match=f"claims {size} bytes, expected {size + 1}"):
            decode_into(frame, np.empty(size + 1, np.uint8))
    raw = bytes(range(200))  # a frame that does not say how long it is: one raw block
    frame = b"\x28\xb5\x2f\xfd\x00\x58" + (1 | len(raw) << 3).to_bytes(3, "little") + raw
    assert content_size(frame) is None
    out = np.empty(200, np.uint8)
    decode_into(frame, out)
    assert out.tobytes() == raw
    for wrong in (100, 300):
        with pytest.raises(RuntimeError, match="Zstd"):
            decode_into(frame, np.empty(wrong, np.uint8))
    for bad in (b"", b"no zstd frame", b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd\xe0\x00"):
        with pytest.raises(ValueError, match="zstd frame"):
            check_size(bad, 3)


@pytest.mark.parametrize("change", [short_frame, huge_frame])
@pytest.mark.parametrize("name", SHARDS)
def test_a_chunk_that_claims_another_size_is_refused(
    hostile: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    change_chunk(hostile / SHARDS[name], CHUNKS[name], change)
    dataset, quick = gz3d_zarr.open_store(hostile), gz3d_zarr.open_store(hostile, chunks=None)
    opened = open_object_store(hostile)
    reader = ChunkReader(find_root(dataset, opened).generation)
    masks = MaskReader(find_root(dataset, opened).generation, Sharding(4, 4, compact=False))
    reads: dict[str, Callable[[], Any]] = {
        "row": lambda: reader.read(name, 0),
        "fetched": lambda: reader.read(name, 0, reader.fetch(np.arange(4))),
        "rows": lambda: quick[name][:3].values,
        "many rows": lambda: quick[name][:9].values,  # by zarr
        "shard": lambda: dataset[name][:4].values,
    }
    if name == "segmentation":
        reads["masks"] = lambda: list(masks.read(np.arange(4)))
    for read in reads.values():
        with pytest.raises(StoreError, match=r"claims \d+ bytes, expected"):
            read()
    assert reader.read(name, 4).any()  # of the next shard


@pytest.mark.parametrize("name", ["image", "segmentation", "thumbnail/image", "marks/annotations"])
def test_a_shard_is_decoded_within_bounds(store: Path, tmp_path: Path, name: str) -> None:
    documents = array_documents(Layout(18, 4))
    shard = Path(shutil.copy(store / shard_key(name, 0), tmp_path / "shard"))
    good = decode_shard(documents, name, 0, shard.read_bytes(), 3)
    assert len(good) == 3
    if name == "marks/annotations":
        data = huge_frame(shard.read_bytes())
    else:
        chunks = CHUNKS.get(name, 4)
        change_chunk(shard, chunks, huge_frame)
        data = shard.read_bytes()
    for bad in (data, b"", data[:40]):
        with pytest.raises(
            StoreError, match="/c/0.* is damaged: .*(claims|cut short|damaged|zstd)"
        ):
            decode_shard(documents, name, 0, bad, 3)


def test_verify_reads_and_decodes_no_shard_that_is_not_as_it_was_written(
    hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.truncate(hostile / SHARDS["image"], 2**40)  # a hole
    (hostile / SHARDS["segmentation"]).unlink()
    os.mkfifo(hostile / SHARDS["segmentation"])
    (hostile / "marks/annotations/c/0").write_bytes(b"x")
    opened = open_object_store(hostile)
    attrs = json.loads((hostile / "zarr.json").read_text())["attributes"]
    receipt = read_published_receipts(opened, attrs).receipts[0]
    decoded = []
    monkeypatch.setattr(
        "gz3d_zarr.pipeline.verify.decode_shard",
        lambda documents, name, *_: decoded.append(name) or np.zeros((4, 1), np.uint8),
    )
    _, checks = verify_shard(VerifyTask(receipt, array_documents(Layout(18, 4)), opened))
    details = {check.target: check.detail for check in checks if not check.passed}
    assert "has more than" in details[SHARDS["image"]]
    assert IRREGULAR in details[SHARDS["segmentation"]]
    assert "it has 1 bytes, expected" in details["marks/annotations/c/0"]
    assert decoded == ["thumbnail/image"]


def test_shards_of_an_unfinished_build_are_those_of_its_receipts(
    archive: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "unfinished.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.build(archive, target, client, shard_size=4, progress=stop_after(2))
    dataset = gz3d_zarr.open_store(target, incomplete=True)
    first = target / SHARDS["image"]
    good = first.read_bytes()
    assert dataset["image"][:4].values.any()
    # Pictures of other subjects, as another build would have written them; a damaged byte; a hole.
    for change in (
        lambda: shutil.copy(store / "image/c/1/0/0/0", first),
        lambda: first.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:]),
        lambda: os.truncate(first, 2**40),
    ):
        change()
        with pytest.raises(StoreError, match="not as its receipt says|has more than"):
            dataset["image"][:4].values  # noqa: B018 - it is read
        first.write_bytes(good)
    first.unlink()
    with pytest.raises(StoreError, match="no longer exists: open the store again"):
        dataset["image"][:4].values  # noqa: B018 - it is read


def test_the_own_documents_of_arrays_are_not_needed(store: Path, hostile: Path) -> None:
    """An update may be writing them, or another program: readers go by the root."""
    for name in ("image", "segmentation", "marks/annotations", "ra", "clusters/center_x"):
        for data in (b"{", b"[]", b'{"shape": 3}'):
            (hostile / name / "zarr.json").write_bytes(data)
            selection, same = select_rows(hostile), select_rows(store)
            reader, good = ChunkReader(selection.generation), ChunkReader(same.generation)
            row = int(selection.rows[1])
            for array in SHARDS:
                np.testing.assert_array_equal(reader.read(array, row), good.read(array, row))
    assert repr(read_marks(selection)) == repr(read_marks(same))
    assert repr(read_clusters(selection)) == repr(read_clusters(same))
    (hostile / "image/zarr.json").unlink()
    assert ChunkReader(selection.generation).read("image", 0).any()


def test_arrays_that_the_root_lacks_are_named(hostile: Path) -> None:
    selection = select_rows(hostile)
    root = json.loads((hostile / "zarr.json").read_text())
    members = root["consolidated_metadata"]["metadata"]
    members["marks/annotations"]["chunk_grid"] = {"name": "regular"}
    (hostile / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="marks/annotations .*is an array without chunks"):
        read_marks(selection)
    for edit in ("marks/annotations", "image"):
        members[edit] = {"node_type": "group", "zarr_format": 3}
    (hostile / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="has no array marks/annotations"):
        read_marks(selection)
    with pytest.raises(StoreError, match="has no array image"):
        ChunkReader(selection.generation).read("image", 0)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_pipes_in_place_of_objects_are_refused_after_opening(hostile: Path) -> None:
    remove_packs(hostile)
    quick, dataset = gz3d_zarr.open_store(hostile, chunks=None), gz3d_zarr.open_store(hostile)
    opened = open_object_store(hostile)
    root = find_root(dataset, opened)
    reader = ChunkReader(root.generation)
    masks = MaskReader(root.generation, Sharding(4, 4, compact=False))
    selection = select_rows(hostile)
    for key in (*SHARDS.values(), "marks/annotations/c/0", "ra/c/0", "clusters/center_x/c/0"):
        replace_by_pipe(hostile / key)
    reads: list[Callable[[], Any]] = [
        lambda: reader.read("image", 0),
        lambda: reader.fetch(np.arange(4)),
        lambda: quick["segmentation"][:3].values,
        lambda: quick["image"][:9].values,
        lambda: dataset["image"][:4].values,
        lambda: list(masks.read(np.arange(4))),
        lambda: read_rows(opened, "marks/annotations", np.arange(3), root),
        lambda: read_marks(selection),
        lambda: read_group(opened, "clusters"),
        lambda: gz3d_zarr.open_store(hostile),
    ]
    for read in reads:
        with pytest.raises(StoreError, match=IRREGULAR):
            read()
    replace_by_pipe(hostile / "zarr.json")
    for read in (reads[0], lambda: quick["image"][5].values, lambda: gz3d_zarr.open_store(hostile)):
        with pytest.raises(StoreError, match=IRREGULAR):
            read()
    with pytest.raises(OSError, match=IRREGULAR):
        open_regular(hostile / "zarr.json")


def wide(document: dict[str, Any]) -> None:
    document["shape"] = [18, 10**6]
    document["chunk_grid"]["configuration"]["chunk_shape"] = [18, 10**6]


def wide_chunks(document: dict[str, Any]) -> None:
    document["chunk_grid"]["configuration"]["chunk_shape"] = [2**20, 5]


def long_letters(document: dict[str, Any]) -> None:
    document["data_type"] = {
        "name": "fixed_length_utf32",
        "configuration": {"length_bytes": 4 * 10**9},
    }


def many_bits(document: dict[str, Any]) -> None:
    document["data_type"] = "r800000000"


def strange_type(document: dict[str, Any]) -> None:
    document["data_type"] = {"name": "struct", "configuration": {"fields": []}}


@pytest.mark.parametrize("edit", [wide, wide_chunks, long_letters, many_bits, strange_type])
def test_small_arrays_may_not_claim_what_only_pixels_have(
    store: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    root = json.loads((store / "zarr.json").read_text())
    assert find_excess(root) == ""
    document = root["consolidated_metadata"]["metadata"]["vote_fraction"]
    document["data_type"] = "float64"
    edit(document)
    assert find_excess(root).startswith("the array vote_fraction has ")


def test_all_small_arrays_have_a_bound(store: Path) -> None:
    root = json.loads((store / "zarr.json").read_text())
    members = root["consolidated_metadata"]["metadata"]
    for i in range(40):
        members[f"clusters/more{i}"] = {**members["clusters/center_x"], "shape": [2**20]}
    assert "its small arrays have" in find_excess(root)


def test_small_chunks_that_claim_too_much_are_refused(hostile: Path) -> None:
    remove_packs(hostile)
    for key in ("ra/c/0", "catalogue/reason/c/0", "marks/annotations/c/0"):
        path = hostile / key
        path.write_bytes(huge_frame(path.read_bytes()))
    for read in (
        lambda: gz3d_zarr.open_store(hostile),
        lambda: read_group(open_object_store(hostile), "catalogue"),
        lambda: read_rows(open_object_store(hostile), "marks/annotations"),
    ):
        with pytest.raises(StoreError, match=f"claims {HUGE} bytes"):
            read()


def test_a_store_without_packs_gives_no_fill_values(store: Path, hostile: Path) -> None:
    remove_packs(hostile)
    expected = gz3d_zarr.open_store(store)["vote_fraction"].values
    opened = gz3d_zarr.open_store(hostile)
    (hostile / "vote_fraction/c/0/0").unlink()
    np.testing.assert_array_equal(opened["vote_fraction"].values, expected)
    with pytest.raises(StoreError, match="vote_fraction/c/0/0 of .* is missing"):
        gz3d_zarr.open_store(hostile)


def test_a_pack_that_claims_more_than_it_has_is_refused(tmp_path: Path) -> None:
    (_, pack), *_ = encode_packs({"ra/c/0": bytes(300)}).values()
    central = pack.index(b"PK\x01\x02") + 20
    pack = pack[:central] + struct.pack("<II", 400, 400) + pack[central + 8 :]
    target = open_object_store(tmp_path / "g.zarr")
    target.put(pack_key(digest(pack)), pack)
    with pytest.raises(
        StoreError, match="the small arrays of .* cannot be read: (EOFError|Overlapped entries)"
    ):
        read_packs(target, {"small_arrays_sha256": digest(pack)})


@pytest.mark.parametrize("key", [{}, None, 3])
def test_receipts_whose_objects_have_no_names_are_refused(
    store: Path, hostile: Path, key: object
) -> None:
    attrs = json.loads((store / "zarr.json").read_text())["attributes"]
    target = open_object_store(hostile)
    before = target.get(published_key(attrs["receipts_sha256"])) or b""
    content = json.loads(gzip.decompress(before))
    content["objects"][1]["key"] = key
    data = gzip.compress(json.dumps(content).encode())
    target.put(published_key(digest(data)), data)
    with pytest.raises(StoreError, match="cannot be understood .*key has a wrong type"):
        read_published_receipts(target, {**attrs, "receipts_sha256": digest(data)})


def test_layouts_that_no_build_writes_are_left_to_zarr(store: Path) -> None:
    root = json.loads((store / "zarr.json").read_text())
    document = root["consolidated_metadata"]["metadata"]["image"]
    assert parse_sharding(document, "image") == Sharding(4, 1, compact=False)
    inner = document["codecs"][0]["configuration"]["chunk_shape"]
    for wrong in (0, -1, 0.5, True, None, "4", [4], 65):
        inner[0] = wrong
        assert parse_sharding(document, "image") is None
    for broken in ([], "x", None, {"codecs": [[]]}, {"chunk_grid": []}):
        assert parse_sharding(broken, "image") is None  # type: ignore[arg-type]


def test_marks_of_other_programs_are_refused_in_words() -> None:
    good = {"classification_id": [1], "time_stamp": ["t"], "spiral_paths": ["[]"]}
    assert marks_from_json(json.dumps({"spiral": good}))["spiral"].classification_id == (1,)
    for bad in (
        "x",
        "[]",
        "[" * 10**5,
        '{"spiral": []}',
        json.dumps({"spiral": {**good, "classification_id": [1, 2]}}),
        json.dumps({"spiral": {**good, "classification_id": ["1"]}}),
        json.dumps({"spiral": {**good, "spiral_paths": [3]}}),
    ):
        with pytest.raises(
            StoreError, match="the marks of a subject cannot be understood"
        ) as found:
            marks_from_json(bad)
        assert len(str(found.value)) < 400
    with pytest.raises(ValueError, match="not a list of points"):
        parse_shapes(f"[[1{'0' * 400}, 2]]", "star_points")


def test_clusters_that_do_not_fit_their_sizes_are_refused(hostile: Path) -> None:
    remove_packs(hostile)
    dataset = gz3d_zarr.open_store(hostile)
    sizes = zarr.open_array(hostile / "clusters/number_galaxy_centers", mode="r+")
    sizes[0] += 1
    with pytest.raises(GZ3DError, match="clusters"):
        dataset.gz3d.clusters("center")
