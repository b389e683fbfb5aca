"""Verify: what is sound passes; every kind of damage is found and told apart."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from astropy.io import fits
from click.testing import CliRunner
from distributed import Client
from files import subject_files, with_cell
from stores import StopHereError, stop_after

import gz3d_zarr
from gz3d_zarr import SourceError, StoreError, UsageError
from gz3d_zarr.cli import main
from gz3d_zarr.datamodel.cluster_arrays import cluster_arrays
from gz3d_zarr.pipeline.light_checks import check_without_shards
from gz3d_zarr.pipeline.report import VerifyReport
from gz3d_zarr.storage.object_store import open_object_store


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    """A copy of the store that a test may damage."""
    return Path(shutil.copytree(store, tmp_path / "g.zarr"))


def failed(report: VerifyReport) -> set[tuple[str, str]]:
    """Without packs, which differ from any small array that was changed."""
    return {(check.test, check.target) for check in report.failures}


def found_without_shards(store: Path) -> dict[tuple[str, str], str]:
    """What is found where the shards are as they were written, by test and target."""
    light = check_without_shards(open_object_store(store))
    return {(c.test, c.target): c.detail for c in light.checks if not c.passed}


def flip(path: Path, offset: int, bit: int = 0x10) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= bit
    path.write_bytes(bytes(data))


def change(store: Path, name: str, row: int, value: Any) -> None:
    """Write one value by zarr, as a careless person would."""
    array = zarr.open_array(store, path=name, mode="r+")
    array[row] = value


def test_sound_store_passes(store: Path, simulated: Path, client: Client) -> None:
    report = gz3d_zarr.verify(store, client=client)
    assert (report.state, report.passed, report.compared) == ("sound", True, 0)
    assert len([check for check in report.checks if check.test == "shard"]) == 20
    report = gz3d_zarr.verify(store, simulated, client)
    assert (report.state, report.passed, report.compared) == ("sound", True, 18)


@pytest.mark.long
def test_reference_store_passes_with_its_source(
    reference: Path, client: Client, tmp_path: Path
) -> None:
    gz3d_zarr.build(reference, tmp_path / "g.zarr", client, shard_size=16)
    report = gz3d_zarr.verify(tmp_path / "g.zarr", reference, client)
    assert report.passed, report.to_text()
    assert report.compared == 64


@pytest.mark.long
@pytest.mark.parametrize("name", ["image", "segmentation"])
def test_flipped_byte_anywhere_in_a_shard_is_found(
    store: Path, tmp_path: Path, client: Client, name: str
) -> None:
    """By verify always; by reading wherever it could change a value."""
    good = np.asarray(gz3d_zarr.open_store(store)[name][4:8].values)
    size = (store / name / "c" / "1" / "0" / "0" / "0").stat().st_size
    rng = np.random.default_rng(7)
    offsets = [0, 1, 2, 3, 4, 5, 6, 8, size // 2, size - 1, size - 4, size - 5, size - 30]
    offsets += rng.integers(0, size, 12).tolist()
    copy = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    shard = copy / name / "c" / "1" / "0" / "0" / "0"
    whole = shard.read_bytes()
    silent = 0
    for i, offset in enumerate(offsets):
        flip(shard, offset, 1 << (i % 8))
        try:
            values = gz3d_zarr.open_store(copy)[name][4:8].values
        except StoreError:
            pass
        else:  # a bit of a frame's header that means nothing
            np.testing.assert_array_equal(values, good)
            silent += 1
        if i < 4 or i >= len(offsets) - 2:
            report = gz3d_zarr.verify(copy, client=client)
            assert failed(report) == {("shard", f"{name}/c/1/0/0/0")}
            assert report.state == "damaged"
        shard.write_bytes(whole)
    assert silent <= 2


def flip_first_chunk(store: Path, name: str) -> str:
    """Flip a bit amid the first object of an array; return its key."""
    chunk = min(path for path in (store / name / "c").rglob("*") if path.is_file())
    flip(chunk, chunk.stat().st_size // 2)
    return chunk.relative_to(store).as_posix()


def test_flipped_bytes_in_marks_and_thumbnails_are_found(copy: Path, client: Client) -> None:
    keys = {flip_first_chunk(copy, name) for name in ("marks/annotations", "thumbnail/image")}
    report = gz3d_zarr.verify(copy, client=client)
    assert failed(report) == {("shard", key) for key in keys}
    assert all(
        "not those that the build wrote" in check.detail or "damaged" in check.detail
        for check in report.failures
    )


def test_flipped_bytes_in_clusters_and_numbers_by_class_are_found(
    copy: Path, client: Client
) -> None:
    names = [
        *("classifications", "classifications_drawn", "max_count", "marked_pixels"),
        *("marked_pixels_above_3", "saturated"),
        *(f"clusters/{name}" for name in cluster_arrays([])),
    ]
    for name in names:
        flip_first_chunk(copy, name)
    report = gz3d_zarr.verify(copy, client=client)
    assert len(names) == 30
    damaged = {target.partition("/c/")[0] for test, target in failed(report) if test == "object"}
    assert damaged == {target for test, target in failed(report) if test == "values"} == {*names}


def test_lost_chunk_of_the_clusters_is_found(copy: Path, client: Client) -> None:
    (copy / "clusters/star_x/c/0").unlink()  # zarr takes it for fill values
    report = gz3d_zarr.verify(copy, client=client)
    assert failed(report) == {("object", "clusters/star_x/c/0"), ("values", "clusters/star_x")}


def test_moved_coordinate_is_found_without_the_source(copy: Path, client: Client) -> None:
    ra = float(gz3d_zarr.open_store(copy)["ra"][3])
    change(copy, "ra", 3, ra + 1e-7)
    report = gz3d_zarr.verify(copy, client=client)
    assert failed(report) == {("object", "ra/c/0"), ("values", "ra")}
    assert report.state == "damaged"
    detail = report.failures[1].detail
    assert f"first 3: {ra + 1e-7!r}, expected {ra!r}" in detail


@pytest.mark.parametrize(
    "name", ["nsa_id", "observed", "catalogue/iauname", "classifications", "clusters/center_x"]
)
def test_values_that_nothing_else_tells_are_found_by_the_receipts(copy: Path, name: str) -> None:
    values = zarr.open_array(copy, path=name, mode="r")[:]
    change(copy, name, 0, next(v for v in values if np.any(v != values[0])))
    found = found_without_shards(copy)
    assert "(first 0: " in found["values", name]


def test_lost_and_damaged_receipts_are_found(copy: Path, client: Client) -> None:
    (kept,) = (copy / "receipts").glob("*.json.gz")
    flip(kept, 200)
    report = gz3d_zarr.verify(copy, client=client)
    assert "is not as it was written (SHA-256)" in report.failures[0].detail
    kept.unlink()
    report = gz3d_zarr.verify(copy, client=client)
    assert failed(report) == {("open", "zarr.json")}
    assert "has no receipts" in report.failures[0].detail


@pytest.mark.parametrize(
    ("name", "value", "target"),
    [
        ("dec", 80.0, "healpix"),
        ("healpix", 5, "healpix"),
        ("ra", 400.0, "ra, dec"),
        ("bar_votes", 1000, "vote_fraction"),
        ("zooniverse_subject_id", 14000000, "zooniverse_subject_id"),
        ("subject", "1-1", "subject"),
        ("status", 3, "status"),
        ("catalogue/reason", "why not", "status"),
        ("catalogue/sample_name", "stripe82", "sample"),
        ("sample", 9, "sample"),
    ],
)
def test_values_that_contradict_each_other_are_found(
    copy: Path, name: str, value: Any, target: str
) -> None:
    change(copy, name, 3, value)
    assert ("coordinates", target) in found_without_shards(copy)


@pytest.mark.parametrize(
    ("name", "labels"),
    [("class", ["center", "star", "bar", "spiral"]), ("channel", ["blue", "green", "red"])],
)
def test_labels_in_another_order_are_found(copy: Path, name: str, labels: list[str]) -> None:
    """`open_store` does not read them; other programs do."""
    change(copy, name, slice(None), np.array(labels, object))
    found = found_without_shards(copy)
    assert found.keys() == {("object", f"{name}/c/0"), ("values", name)}
    assert "not as the receipts say (first " in found["values", name]


def test_other_meanings_of_the_samples_are_found(copy: Path) -> None:
    for key in ("zarr.json", "sample/zarr.json"):
        text = (copy / key).read_text()
        (copy / key).write_text(text.replace("other extra original", "other original extra"))
    found = found_without_shards(copy)
    assert found.keys() == {
        ("object", "sample/zarr.json"),
        ("metadata", "sample"),
        ("consolidated", "sample"),
        ("consolidated", "zarr.json"),
    }
    assert 'flag_meanings is "other original extra' in found["metadata", "sample"]


def test_other_size_of_a_file_is_found(archive: Path, client: Client, tmp_path: Path) -> None:
    bad = subject_files(archive)[1]
    bad.write_bytes(b"<html>")
    (archive / "manga_morphology_galaxyzoo3d_v4_0_0.sha1sum").unlink()
    target = tmp_path / "g.zarr"
    gz3d_zarr.build(archive, target, client, shard_size=4, order="name")
    change(target, "catalogue/source_size", slice(0, 2), 1)
    found = found_without_shards(target)
    assert "(first 0: 1, expected " in found["values", "catalogue/source_size"]


def test_damaged_and_lost_small_arrays_are_found(copy: Path, client: Client) -> None:
    flip(copy / "dec" / "c" / "0", 20)
    assert failed(gz3d_zarr.verify(copy, client=client)) == {
        ("object", "dec/c/0"),
        ("values", "dec"),
        ("open", "zarr.json"),
    }
    (copy / "dec" / "c" / "0").unlink()  # zarr takes it for fill values
    assert ("object", "dec/c/0") in failed(gz3d_zarr.verify(copy, client=client))


def test_lost_and_strange_objects_are_found(copy: Path, client: Client) -> None:
    shutil.copytree(copy / "image" / "c" / "0", copy / "image" / "c" / "9")
    assert failed(gz3d_zarr.verify(copy, client=client)) == {("object", "others")}
    shutil.rmtree(copy / "image" / "c" / "2")
    assert ("object", "image/c/2/0/0/0") in failed(gz3d_zarr.verify(copy, client=client))


def test_stale_metadata_is_told_apart(copy: Path, client: Client) -> None:
    document = json.loads((copy / "ra" / "zarr.json").read_text())
    document["attributes"]["units"] = "hourangle"
    (copy / "ra" / "zarr.json").write_text(json.dumps(document))
    found = found_without_shards(copy)
    assert found.keys() == {("metadata", "ra"), ("object", "ra/zarr.json")}
    assert found["metadata", "ra"] == 'attributes.units is "hourangle", expected "deg"'
    document["attributes"]["units"] = "deg"
    (copy / "ra" / "zarr.json").write_text(json.dumps(document, indent=2))
    root = json.loads((copy / "zarr.json").read_text())
    del root["consolidated_metadata"]
    (copy / "zarr.json").write_text(json.dumps(root))
    assert gz3d_zarr.verify(copy, client=client).state == "stale"


def test_wrong_structure_and_counts_are_found(copy: Path) -> None:
    root = json.loads((copy / "zarr.json").read_text())
    root["attributes"]["subjects_ok"] = 17
    consolidated = root["consolidated_metadata"]["metadata"]
    for document in (json.loads((copy / "nsa_id" / "zarr.json").read_text()),):
        document["data_type"] = "uint64"
        document["fill_value"] = 0
        consolidated["nsa_id"] = document
        (copy / "nsa_id" / "zarr.json").write_text(json.dumps(document))
    (copy / "zarr.json").write_text(json.dumps(root))
    found = found_without_shards(copy)
    assert found["metadata", "nsa_id"] == 'data_type is "uint64", expected "int64"'
    assert found["consolidated", "nsa_id"] == found["metadata", "nsa_id"]
    assert found["attributes", "subjects_ok"] == "it is 17, expected 18"


def test_source_that_differs_is_found(copy: Path, archive: Path, client: Client) -> None:
    gone, damaged, other = subject_files(archive)[:3]
    gone.unlink()
    damaged.write_bytes(b"")
    other.write_bytes(with_cell(other.read_bytes(), "GZ_bar_votes", 3))
    (archive / "manga_morphology_galaxyzoo3d_v4_0_0.sha1sum").unlink()
    report = gz3d_zarr.verify(copy, archive, client)
    details = {check.target: check.detail for check in report.failures}
    assert details[gone.name] == "it is not in the source"
    assert "corrupt now: " in details[damaged.name]
    assert "the store was built from" in details[other.name]
    assert len(details) == 3
    assert report.state == "differs"
    assert "is sound, but differs from its source: 18 subjects" in report.to_text()


def test_flagged_subjects_are_compared_too(
    archive: Path, simulated: Path, client: Client, tmp_path: Path
) -> None:
    bad = subject_files(archive)[0]
    bad.write_bytes(b"")
    target = tmp_path / "g.zarr"
    gz3d_zarr.build(archive, target, client, shard_size=4)
    assert gz3d_zarr.verify(target, archive, client).passed
    report = gz3d_zarr.verify(target, simulated, client)
    assert failed(report) == {("file", bad.name)}
    assert "ok now: use --retry-failed" in report.failures[0].detail


# Tasks of a stopped build still run, and Python's filters of warnings are not safe for threads.
@pytest.mark.filterwarnings("ignore:.*(Consolidated metadata is|is currently not part)")
def test_what_is_no_complete_store_is_told(
    simulated: Path, client: Client, tmp_path: Path, store: Path
) -> None:
    half = tmp_path / "half.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.build(simulated, half, client, shard_size=4, progress=stop_after(1))
    report = gz3d_zarr.verify(half, client=client)
    assert (report.state, report.passed) == ("incomplete", False)
    assert gz3d_zarr.verify(half, client=client, digest="0" * 64).state == "incomplete"
    with pytest.raises(StoreError, match="there is no store at"):
        gz3d_zarr.verify(tmp_path / "nowhere", client=client)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("mine")
    with pytest.raises(StoreError, match="not a Galaxy Zoo: 3D store"):
        gz3d_zarr.verify(tmp_path / "x", client=client)
    with pytest.raises(SourceError, match="there is no source"):
        gz3d_zarr.verify(store, tmp_path / "nowhere", client)


def test_command_tells_and_exits(copy: Path, simulated: Path, client: Client) -> None:
    runner = CliRunner()
    with client.as_current():
        good = runner.invoke(main, ["verify", str(copy), "--source", str(simulated)])
        alone = runner.invoke(main, ["verify", str(copy)])
        flip(copy / "image" / "c" / "1" / "0" / "0" / "0", 3000)
        bad = runner.invoke(main, ["verify", str(copy), "--json"])
    assert (good.exit_code, bad.exit_code) == (0, 1), good.output
    assert "is sound: 18 subjects, 0 failed, 18 compared with their files." in good.stdout
    assert "is sound: 18 subjects, 0 failed, none compared with their files." in alone.stdout
    summary = json.loads(bad.stdout)
    assert (summary["passed"], summary["state"]) == (False, "damaged")
    assert next(c for c in summary["checks"] if not c["passed"])["target"] == "image/c/1/0/0/0"


def test_digest_of_the_root_is_shown_and_checked(
    copy: Path, client: Client, tmp_path: Path
) -> None:
    runner = CliRunner()
    root = (copy / "zarr.json").read_bytes()
    digest = hashlib.sha256(root).hexdigest()
    shown = runner.invoke(main, ["info", str(copy)])
    assert f"\ndigest          {digest}\n" in shown.stdout
    assert json.loads(runner.invoke(main, ["info", str(copy), "--json"]).stdout)["digest"] == digest
    assert gz3d_zarr.verify(copy, client=client, digest=digest.upper()).passed
    assert gz3d_zarr.open_store(copy, digest=digest).sizes["subject"] == 18
    (copy / "zarr.json").write_bytes(root + b"\n")  # which changes nothing that is read
    message = f"has the digest [0-9a-f]{{64}}, expected {digest}: it is another version"
    with pytest.raises(StoreError, match=message):
        gz3d_zarr.verify(copy, client=client, digest=digest)
    with pytest.raises(StoreError, match=message):
        gz3d_zarr.open_store(copy, digest=digest)
    result = runner.invoke(main, ["verify", str(copy), "--digest", digest])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    with pytest.raises(StoreError, match="there is no Zarr 3 store"):
        gz3d_zarr.open_store(tmp_path / "nowhere", digest=digest)


def test_a_folder_of_subject_files_is_told_from_a_store(simulated: Path, tmp_path: Path) -> None:
    hint = "has subject files: gz3d-zarr build makes a store of them$"
    with pytest.raises(StoreError, match=f"there is no Zarr 3 store at .*, which {hint}"):
        gz3d_zarr.open_store(simulated)
    with pytest.raises(StoreError, match=f"is not a Galaxy Zoo: 3D store, which {hint}"):
        gz3d_zarr.verify(simulated)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError) as caught:
        gz3d_zarr.verify(tmp_path)
    assert str(caught.value).endswith("holds something that is not a Galaxy Zoo: 3D store")


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64, "0" * 65, f"0x{'0' * 62}"])
def test_malformed_digest_is_wrong_usage(copy: Path, digest: str) -> None:
    result = CliRunner().invoke(main, ["verify", str(copy), "--digest", digest])
    assert result.exit_code == 2
    assert "expected the 64 hexadecimal digits that gz3d-zarr info shows" in result.stderr
    with pytest.raises(UsageError):
        gz3d_zarr.open_store(copy, digest=digest)


def test_package_says_that_it_verifies() -> None:
    assert gz3d_zarr.verify.__module__ == "gz3d_zarr.pipeline.verify"
    assert "gz3d_zarr.verify" not in sys.modules


def test_store_without_any_star_is_sound(simulated: Path, client: Client, tmp_path: Path) -> None:
    """Arrays of the group ``clusters`` may have no rows."""
    with fits.open(simulated / "gz3d_metadata.fits") as hdus:
        rows = hdus[1].data
        without = rows["zooniverse_subject_id"][rows["number_foreground_stars"] == 0][:2]
    gz3d_zarr.build(simulated, tmp_path / "g.zarr", client, ids=without.tolist())
    report = gz3d_zarr.verify(tmp_path / "g.zarr", simulated, client)
    assert report.passed, report.to_text()
