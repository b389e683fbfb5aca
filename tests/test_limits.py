"""Nothing hangs, nothing grows: pipes and devices, files and stores that claim too much."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from distributed import Client
from files import subject_files
from waiting import LIMIT_SECONDS

import gz3d_zarr
from gz3d_zarr import GZ3DError, SourceError, Status, StoreError, SubjectError, UsageError
from gz3d_zarr.backends.store import read_store
from gz3d_zarr.backends.store_info import read_info
from gz3d_zarr.cli import main
from gz3d_zarr.datamodel import limits
from gz3d_zarr.datamodel.ids import find_rows, parse_id
from gz3d_zarr.datamodel.root_claims import find_excess
from gz3d_zarr.errors import MAX_QUOTED, error_message, quote, shorten
from gz3d_zarr.pipeline.document_checks import check_documents
from gz3d_zarr.sources import http
from gz3d_zarr.sources.catalogue import read_catalogue, read_sha1_list
from gz3d_zarr.sources.download import read_file
from gz3d_zarr.sources.ids_table import read_plate_ifus
from gz3d_zarr.sources.listing import list_source, read_small_file
from gz3d_zarr.storage import packs
from gz3d_zarr.storage.build_record import digest
from gz3d_zarr.storage.memory_store import MemoryStore
from gz3d_zarr.storage.object_store import open_object_store
from gz3d_zarr.storage.published_receipts import (
    find_published_receipts,
    published_key,
    read_published_receipts,
)

HUGE = 10**12
IRREGULAR = "it is a pipe, a socket or a device, expected a regular file"


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS = [make_pipe, make_socket, make_device]


@pytest.mark.parametrize("make", KINDS)
def test_irregular_subject_file_is_unreachable(
    archive: Path, client: Client, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    bad = subject_files(archive)[0]
    bad.unlink()
    make(bad)
    for location in (str(bad), f"file://{bad}", f"zip://{bad.name}::{bad}"):
        with pytest.raises(SubjectError, match=IRREGULAR) as caught:
            read_file(location, None)
        assert caught.value.status is Status.UNREACHABLE
    report = gz3d_zarr.build(archive, tmp_path / "g.zarr", client, limit=2, order="name")
    assert report.failures[0].reason == f"it cannot be read: {IRREGULAR}"
    assert report.ok == 1
    with pytest.raises(SourceError, match=IRREGULAR):
        list_source(bad)


@pytest.mark.parametrize("make", KINDS)
def test_irregular_lists_are_refused(
    archive: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    for name in ("gz3d_metadata.fits", "more.sha1sum"):
        shutil.copytree(archive, tmp_path / name)
        (tmp_path / name / name).unlink(missing_ok=True)
        make(tmp_path / name / name)
        with pytest.raises(SourceError, match=f"{name} cannot be read: {IRREGULAR}"):
            gz3d_zarr.open_source(tmp_path / name)
    for name in ("list.txt", "table.csv"):
        make(tmp_path / name)
    with pytest.raises(SourceError, match=f"list.txt cannot be read: {IRREGULAR}"):
        list_source(tmp_path / "list.txt")
    with pytest.raises(SourceError, match=IRREGULAR):
        read_small_file(f"file://{tmp_path}/list.txt")
    with pytest.raises(UsageError, match=f"table.csv cannot be read: {IRREGULAR}"):
        read_plate_ifus(tmp_path / "table.csv")
    ids = ["build", str(archive), str(tmp_path / "g"), "--ids", str(tmp_path / "list.txt")]
    result = CliRunner().invoke(main, ids)
    assert result.exit_code == 2
    assert f"{IRREGULAR}; use - for standard input" in result.stderr


def test_irregular_object_of_a_store_is_refused(tmp_path: Path) -> None:
    make_pipe(tmp_path / "zarr.json")
    with pytest.raises(StoreError, match=f"zarr.json cannot be read: {IRREGULAR}"):
        gz3d_zarr.open_store(tmp_path)


def claim(store: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the metadata of every array, its own and the root's."""
    root = json.loads((store / "zarr.json").read_text())
    for name, document in root["consolidated_metadata"]["metadata"].items():
        if document["node_type"] == "array":
            edit(document)
            (store / name / "zarr.json").write_text(json.dumps(document))
    (store / "zarr.json").write_text(json.dumps(root))


def claim_subjects(document: dict[str, Any]) -> None:
    if document["dimension_names"][0] == "subject":
        document["shape"][0] = HUGE


def claim_clusters(document: dict[str, Any]) -> None:
    if document["dimension_names"][0] == "foreground_star":
        document["shape"][0] = HUGE


def claim_chunks(document: dict[str, Any]) -> None:
    document["chunk_grid"]["configuration"]["chunk_shape"][0] = HUGE


def claim_rows(document: dict[str, Any]) -> None:
    document["shape"][1:] = [HUGE] * len(document["shape"][1:])


def claim_width(document: dict[str, Any]) -> None:
    """Rows that only pixels have."""
    if document["dimension_names"] == ["subject", "class"]:
        document["shape"] = [limits.MAX_SUBJECTS, limits.MAX_ROW_VALUES]
        document["chunk_grid"]["configuration"]["chunk_shape"] = document["shape"]


@pytest.mark.parametrize("edit", [claim_subjects, claim_clusters, claim_chunks, claim_rows])
def test_store_that_claims_too_much_is_refused_everywhere(
    archive: Path,
    store: Path,
    client: Client,
    tmp_path: Path,
    edit: Callable[[dict[str, Any]], None],
) -> None:
    target = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    claim(target, edit)
    calls: dict[str, Callable[[], Any]] = {
        "open": lambda: gz3d_zarr.open_store(target),
        "open without dask": lambda: gz3d_zarr.open_store(target, chunks=None),
        "export": lambda: read_store(open_object_store(target)),
        "info": lambda: read_info(target),
        "copy": lambda: gz3d_zarr.copy(target, tmp_path / "copy.zarr", client),
        "resume": lambda: gz3d_zarr.build(archive, target, client, resume=True),
        "update": lambda: gz3d_zarr.build(archive, target, client, update=True),
        "retry": lambda: gz3d_zarr.build(archive, target, client, retry_failed=True),
    }
    for name, call in calls.items():
        with pytest.raises(StoreError) as caught:
            call()
        assert "claims more than a store can hold" in str(caught.value), name
        assert len(str(caught.value)) < 200 + 2 * len(str(target))
    report = gz3d_zarr.verify(target, client=client)
    assert report.state == "damaged"
    assert "claims more than a store can hold" in report.checks[0].detail
    anew = {"overwrite": True, "allow_loss": True, "limit": 2}
    assert gz3d_zarr.build(archive, target, client, **anew).ok == 2


NO_MEMORY = """
import resource, sys
import gz3d_zarr
from gz3d_zarr.backends.store_info import read_info

for name in ("open_store", "verify", "copy", "build"):
    getattr(gz3d_zarr, name)  # imported
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 10**6,) * 2)
assert gz3d_zarr.verify(sys.argv[1]).state == "damaged"
for call in (gz3d_zarr.open_store, read_info):
    try:
        call(sys.argv[1])
    except gz3d_zarr.StoreError as error:
        assert "claims more than a store can hold" in str(error), error
    else:
        raise SystemExit("opened")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux says what is used")
@pytest.mark.parametrize("edit", [claim_subjects, claim_width])
def test_store_that_claims_too_much_takes_no_memory(
    store: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    target = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    claim(target, edit)
    done = subprocess.run(
        [sys.executable, "-c", NO_MEMORY, str(target)],
        capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_chunks_are_not_counted_out_where_objects_are_few(store: Path, tmp_path: Path) -> None:
    """A claim within the bounds of any store, but not of this one."""
    target = Path(shutil.copytree(store, tmp_path / "g.zarr"))

    def edit(document: dict[str, Any]) -> None:
        if document["dimension_names"][0] == "subject":
            document["shape"][0] = limits.MAX_SUBJECTS

    claim(target, edit)
    report = gz3d_zarr.verify(target)
    details = [check.detail for check in report.checks if not check.passed]
    assert any("shape" in detail for detail in details)
    assert len(report.checks) < 1000
    with pytest.raises(StoreError, match="is damaged, and is not copied"):
        gz3d_zarr.copy(target, tmp_path / "copy.zarr")


def test_receipts_that_unpack_to_far_more_are_refused(store: Path, tmp_path: Path) -> None:
    """Zeros unpack to a thousand times as much; then they would be parsed."""
    data = gzip.compress(b"[" + b" " * 50 * 2**20 + b"]", 6, mtime=0)
    sha256 = hashlib.sha256(data).hexdigest()
    target = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    (target / f"receipts/{sha256}.json.gz").write_bytes(data)
    root = json.loads((target / "zarr.json").read_text())
    root["attributes"] |= {"receipts_sha256": sha256, "subjects": limits.MAX_SUBJECTS}
    with pytest.raises(StoreError, match="unpacks to more than") as caught:
        read_published_receipts(open_object_store(target), root["attributes"])
    assert len(data) < 60_000
    assert len(str(caught.value)) < 600
    kept = find_published_receipts(open_object_store(target))  # the others are still found
    assert [len(receipts.records) for receipts in kept] == [18]


def end_of_zip(data: bytes, name: str) -> bytes:
    """A zip archive with an end that zipfile accepts, and no build writes."""
    if name == "comment":
        return data[:-2] + b"\1\0x"
    if name == "zip64":
        return data[:-22] + b"PK\6\7" + bytes(16) + data[-22:]
    return data[:-22] if name == "none" else b""


@pytest.mark.parametrize("name", ["many", "comment", "zip64", "none", "empty"])
def test_pack_with_members_without_number_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = {f"{i:06}/c/0": b"" for i in range(20_000 if name == "many" else 3)}
    ((_, data), _) = packs.encode_packs(objects).values()
    if name != "many":
        data = end_of_zip(data, name)
    sha256 = hashlib.sha256(data).hexdigest()
    pack = MemoryStore("memory", objects={packs.pack_key(sha256): data})
    monkeypatch.setattr(zipfile, "ZipFile", None)  # it would read all of them
    with pytest.raises(StoreError, match="the small arrays of memory cannot be read: ") as caught:
        packs.read_packs(pack, {"small_arrays_sha256": sha256})
    assert "NoneType" not in str(caught.value)


def test_messages_repeat_little_of_what_was_read(caplog: pytest.LogCaptureFixture) -> None:
    long = "n" * 5000
    assert len(find_excess({"attributes": {"subjects": 10**4000}})) < 300
    wanted = json.dumps({"consolidated_metadata": {"metadata": {}}}).encode()
    added = json.dumps({long: {long: 1}, "consolidated_metadata": {"metadata": {}}}).encode()
    published = SimpleNamespace(attributes={long: long}, is_root=lambda _: True)
    checks = check_documents({"zarr.json": added}, {"zarr.json": wanted}, published)  # type: ignore[arg-type]
    wrong = [check for check in checks if not check.passed]
    assert len(wrong) == 2
    assert max(len(check.target + check.detail) for check in wrong) < 500
    with caplog.at_level("INFO", "gz3d_zarr.sources.http"):
        state: Any = SimpleNamespace(
            outcome=SimpleNamespace(exception=lambda: ValueError(long)),
            next_action=SimpleNamespace(sleep=3.0),
        )
        http._log_wait(f"http://host/{long}", state)
    assert len(caplog.messages[0]) < 450


def test_arrays_that_a_person_added_are_not_bounded(store: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    root = json.loads((target / "zarr.json").read_text())
    members = root["consolidated_metadata"]["metadata"]
    mine = json.loads(json.dumps(members["ra"]))
    mine |= {"shape": [HUGE, 2], "dimension_names": ["time", "pair"]}
    mine["chunk_grid"]["configuration"]["chunk_shape"] = [HUGE, 2]
    members["mine"] = mine
    (target / "zarr.json").write_text(json.dumps(root))
    assert gz3d_zarr.open_store(target)["mine"].shape == (HUGE, 2)
    mine["dimension_names"][0] = "mine"  # an index, which opening would read
    mine["dimension_names"].pop()
    mine["shape"].pop()
    (target / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="the array mine has shape"):
        gz3d_zarr.open_store(target)


def test_attributes_that_claim_too_much_are_refused(store: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    root = json.loads((target / "zarr.json").read_text())
    root["attributes"]["subjects"] = HUGE
    (target / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match=f"{HUGE} subjects, expected at most {2**18}"):
        gz3d_zarr.open_store(target)


def test_documents_of_a_store_are_read_within_bounds(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (store / "zarr.json").stat().st_size
    monkeypatch.setattr(limits, "MAX_DOCUMENT", size)
    gz3d_zarr.open_store(store)
    monkeypatch.setattr(limits, "MAX_DOCUMENT", size - 1)
    with pytest.raises(
        StoreError, match=r"zarr.json has more than 0\.\d+ MiB: it was not written by"
    ):
        gz3d_zarr.open_store(store)


def test_receipts_that_unpack_without_end_are_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = open_object_store(tmp_path / "g.zarr")
    bomb = gzip.compress(bytes(2**24))
    attrs = {"schema_version": 2, "receipts_sha256": digest(bomb), "subjects": 18}
    target.put(published_key(digest(bomb)), bomb)
    with pytest.raises(StoreError, match="unpacks to more than 9568256 bytes"):
        read_published_receipts(target, attrs)
    with pytest.raises(ValueError, match="cut short"):
        limits.gunzip(bomb[:-9], 2**25)
    with pytest.raises(ValueError, match="damaged"):
        limits.gunzip(b"no gzip", 10)


def test_receipts_that_an_update_replaced_are_not_called_lost(store: Path, tmp_path: Path) -> None:
    target = open_object_store(Path(shutil.copytree(store, tmp_path / "g.zarr")))
    before = json.loads((store / "zarr.json").read_text())["attributes"]
    before["receipts_sha256"] = "0" * 64  # as they were when the root was read
    with pytest.raises(StoreError, match="was updated while it was read: try again"):
        read_published_receipts(target, before)


def test_lists_are_read_within_bounds(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha1_list = archive / "more.sha1sum"
    sha1_list.write_text("a" * 10_000)
    with pytest.raises(SourceError, match="expected 'sha1  name'") as caught:
        gz3d_zarr.open_source(archive)
    assert len(str(caught.value)) < len(str(sha1_list)) + 300
    with sha1_list.open("wb") as file:
        file.truncate(limits.MAX_LIST + 1)
    for location in (str(sha1_list), f"file://{sha1_list}"):
        with pytest.raises(SourceError, match="has more than 32 MiB"):
            read_small_file(location)
    sha1_list.unlink()
    monkeypatch.setattr("gz3d_zarr.sources.listing.MAX_SUBJECTS", 10)
    with pytest.raises(SourceError, match="has 20 files, and a store may have 10 subjects"):
        list_source(archive)
    many = tmp_path / "many.txt"
    many.write_text("x\n" * 11)
    with pytest.raises(SourceError, match="has 11 files, and a store may have 10 subjects"):
        list_source(many)


def test_list_of_long_or_impossible_names_is_refused(tmp_path: Path) -> None:
    listed = tmp_path / "wrong.txt"
    listed.write_text("x" * 300 + "\n" + "a\0b\n" + "y" * 10_000)
    with pytest.raises(SourceError, match="names .*, which cannot be a path of a file") as caught:
        list_source(listed)
    assert len(str(caught.value)) < len(str(listed)) + 200
    long = tmp_path / f"gz3d_{'1' * 60}_19_7.fits.gz"
    listed.write_text(f"{'z' * 300}/{long.name}\n{long}")
    assert [file.size for file in list_source([long]).files] == [None]
    with pytest.raises(SourceError, match="must be unique") as caught:
        list_source(listed)
    assert len(str(caught.value)) < 600


def test_catalogue_of_too_many_rows_is_refused(
    simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (simulated / "gz3d_metadata.fits").read_bytes()
    with fits.open(simulated / "gz3d_metadata.fits") as hdus:
        count = hdus[1].header["NAXIS2"]
    before, after = (f"NAXIS2  = {number:>20}".encode() for number in (count, 10**9))
    assert data.count(before) == 1
    with pytest.raises(SourceError, match=r"the catalogue c.fits cannot be read: .*truncated"):
        read_catalogue("c.fits", data.replace(before, after))
    monkeypatch.setattr("gz3d_zarr.sources.catalogue.MAX_SUBJECTS", count - 1)
    with pytest.raises(SourceError, match=f"it has {count} rows, more than {count - 1}"):
        read_catalogue("c.fits", data)


def test_tables_of_ids_are_read_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "t.csv.gz"
    table.write_bytes(gzip.compress(b"mangaid,plateifu\n" + b"1-2,8000-1901\n" * 1000))
    assert read_plate_ifus(table) == {"8000-1901": "1-2"}
    monkeypatch.setattr("gz3d_zarr.sources.ids_table.MAX_TABLE", 1000)
    with pytest.raises(UsageError, match="unpacks to more than 1000 bytes"):
        read_plate_ifus(table)


def test_ids_of_any_length_are_refused_in_one_sentence() -> None:
    with pytest.raises(UsageError, match="no subject has the MaNGA id") as caught:
        find_rows([parse_id("1" * 10_000), "x" * 10_000], ["1-1"], [1])
    assert len(str(caught.value)) < 600


def test_an_endless_id_is_compared_with_no_array() -> None:
    class Label(str):  # NumPy makes an array of what it compares text with: half a minute of 10 MB
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            assert len(str(other)) < 100
            return str.__eq__(self, other)

    labels = np.array([Label("1-1"), Label("1-2")], object)
    assert find_rows(["1-2"], labels, [1, 2]) == [1]
    with pytest.raises(UsageError, match="no subject has the MaNGA id"):
        find_rows(["x" * 1000], labels, [1, 2])


def test_list_of_a_build_that_is_not_text_does_not_matter(
    archive: Path, client: Client, tmp_path: Path
) -> None:
    from stores import StopHereError, stop_after

    target = tmp_path / "g.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.build(archive, target, client, shard_size=9, progress=stop_after(1))
    (target / ".gz3d/files.txt").write_bytes(b"\xff\xfe")
    # The second shard may have been written while the build was stopped.
    assert gz3d_zarr.open_store(target, incomplete=True).sizes["subject"] in (9, 18)


def test_messages_cut_what_they_quote() -> None:
    assert shorten("short") == "short"
    assert quote("it's") == '"it\'s"'
    long = "begin" + "x" * 10**6 + "end"
    for text in (shorten(long), quote(long), quote(long.encode()), error_message(ValueError(long))):
        assert "begin" in text
        assert len(text) <= MAX_QUOTED
    assert shorten(long).endswith("end")
    ours = GZ3DError(long)
    assert error_message(ours) == long
    with pytest.raises(SourceError) as caught:
        read_sha1_list("l", long.encode())
    assert len(str(caught.value)) < MAX_QUOTED + 100
