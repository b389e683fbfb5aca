"""Pixels read straight from shards, and the rows that exports and loaders take."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client
from files import subject_files

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.backends.chunk_reader import ChunkReader
from gz3d_zarr.backends.generation import Generation
from gz3d_zarr.export.subset import RowRules, find_ids, select_rows
from gz3d_zarr.storage.object_store import open_object_store


@pytest.fixture
def damaged(store: Path, tmp_path: Path) -> Path:
    """A copy of the store that a test may damage."""
    return Path(shutil.copytree(store, tmp_path / "copy.zarr"))


def reader_of(store: Path | str) -> ChunkReader:
    opened = open_object_store(store, None)
    return ChunkReader(Generation.from_root(opened, opened.get("zarr.json") or b""))


def rows_of(shard: int, size: int = 4) -> np.ndarray[Any, Any]:
    return np.arange(shard * size, (shard + 1) * size)


def assert_equals_zarr(reader: ChunkReader, store: Path | str, size: int = 4) -> None:
    for name in ("image", "segmentation"):
        array = zarr.open_array(str(store), path=name, mode="r")
        for row in (0, 3, 9, 17):
            np.testing.assert_array_equal(reader.read(name, row), array[row])
            whole = reader.fetch(rows_of(row // size, size))
            np.testing.assert_array_equal(reader.read(name, row, whole), array[row])


def test_rows_are_as_zarr_reads_them(store: Path) -> None:
    reader = reader_of(store)
    assert_equals_zarr(reader, store)
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again.read("image", 5), reader.read("image", 5))
    assert len(pickle.dumps(reader)) < 1000


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not")
def test_the_compact_codec_and_url_stores(simulated: Path, client: Client, tmp_path: Path) -> None:
    gz3d_zarr.build(simulated, tmp_path / "c.zarr", client, codec="compact", shard_size=4)
    assert_equals_zarr(reader_of(tmp_path / "c.zarr"), tmp_path / "c.zarr")
    url = "memory://pixels/g.zarr"
    gz3d_zarr.build(simulated, url, client, shard_size=4)
    assert_equals_zarr(reader_of(url), url)


@pytest.mark.filterwarnings("ignore:.*currently not part in the Zarr")
def test_a_copy_of_another_layout_is_read_by_zarr(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    opened = gz3d_zarr.open_store(store).drop_encoding().drop_vars("object_id")
    opened.chunk(subject=5).to_zarr(copy, zarr_format=3, consolidated=True)
    reader = reader_of(copy)
    assert reader.fetch(rows_of(0)) == {}
    for row in (0, 17):
        expected = zarr.open_array(str(store), path="image", mode="r")[row]
        np.testing.assert_array_equal(reader.read("image", row), expected)


def test_damage_is_found(damaged: Path) -> None:
    shard = damaged / "image/c/1/0/0/0"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    reader = reader_of(damaged)
    for whole in (None, reader.fetch(rows_of(1))):
        with pytest.raises(StoreError, match=r"image of row 4 in .* cannot be read"):
            reader.read("image", 4, whole)
        assert reader.read("image", 5, whole).any()
    shard.write_bytes(data[:-1])
    with pytest.raises(StoreError, match="the index of its shard is damaged"):
        reader_of(damaged).read("image", 4)
    shard.write_bytes(b"")
    with pytest.raises(StoreError, match="the index of its shard is damaged"):
        reader_of(damaged).read("image", 4)
    shard.unlink()
    for action in (lambda r: r.read("image", 4), lambda r: r.fetch(rows_of(1))):
        with pytest.raises(StoreError, match="shard 1 of image .* is missing"):
            action(reader_of(damaged))


def test_rows_that_are_not_ok_are_left_out(archive: Path, client: Client, tmp_path: Path) -> None:
    bad = [subject_files(archive)[i] for i in (2, 9)]
    for path in bad:
        path.write_bytes(b"<html>")
    gz3d_zarr.build(archive, tmp_path / "g.zarr", client, shard_size=4, order="name")
    selection = select_rows(tmp_path / "g.zarr")
    assert selection.rows.tolist() == [i for i in range(18) if i not in (2, 9)]
    assert selection.left_out == 2
    assert selection.note == "2 subjects whose status is not ok are left out"
    assert [len(part) for part in selection.shards()] == [3, 4, 3, 4, 2]
    assert len(select_rows(tmp_path / "g.zarr", [9, 3, 3]).rows) == 1
    with pytest.raises(UsageError, match="none of the 2 subjects has the status ok"):
        select_rows(tmp_path / "g.zarr", [2, 9])


def test_rows_are_named_in_several_ways(store: Path) -> None:
    dataset = gz3d_zarr.open_store(store)
    some = dataset.isel(subject=[3, 12])
    assert select_rows(store, some).rows.tolist() == [3, 12]
    assert select_rows(store, np.array([12, 3])).rows.tolist() == [3, 12]
    np.testing.assert_array_equal(select_rows(store).table["ra"], dataset["ra"].values)
    # Subjects 2 and 3 of the simulation share a MaNGA id.
    shared = find_ids(dataset, ["1-600002"])
    assert sorted(dataset["zooniverse_subject_id"].values[shared]) == [14000002, 14000003]
    with pytest.raises(UsageError, match="the MaNGA id '1-60000'; near matches: 1-6000"):
        find_ids(dataset, ["1-60000"])
    for wrong, message in (([], "no subject"), ([18], "from 18 to 18"), ([0.5], "whole numbers")):
        with pytest.raises(UsageError, match=message):
            select_rows(store, wrong)  # type: ignore[arg-type]


def test_cones(store: Path) -> None:
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    dataset = gz3d_zarr.open_store(store)
    sky = SkyCoord(dataset["ra"].values, dataset["dec"].values, unit="deg")
    for ra, dec, radius in (
        (0.0, 20.0, 90000.0),
        (359.99, float(sky.dec[0].deg), 2e5),
        (9, 90, 2e5),
    ):
        expected = np.flatnonzero(
            sky.separation(SkyCoord(ra, dec, unit="deg")) <= radius * u.arcsec
        )
        rules = RowRules(cone=(ra, dec, radius))
        assert select_rows(store, rules).rows.tolist() == expected.tolist()
        assert len(expected) > 0
    one = dataset.isel(subject=4)
    cone = (float(one["ra"]), float(one["dec"]), 1.0)
    assert select_rows(store, RowRules(cone=cone)).rows.tolist() == [4]
    assert len(select_rows(store, RowRules())) == 18
    other = [str(dataset["zooniverse_subject_id"].values[5])]
    with pytest.raises(UsageError, match="none has one of the ids and is in the cone"):
        select_rows(store, RowRules(other, cone))
    for wrong in ((1, 2), "abcd", 5, "abc"):
        with pytest.raises(UsageError, match=r"(cone|ra) is .*expected"):
            select_rows(store, RowRules(cone=wrong))  # type: ignore[arg-type]
    assert select_rows(store, RowRules(cone=np.array(cone))).rows.tolist() == [4]  # type: ignore[arg-type]


def test_ids_may_be_one_or_an_array(store: Path) -> None:
    dataset = gz3d_zarr.open_store(store)
    numbers = dataset["zooniverse_subject_id"].values
    texts = [str(number) for number in numbers[[2, 5]]]
    for given in (numbers[[5, 2]], np.array(texts), (number for number in numbers[[2, 5]])):
        assert select_rows(store, RowRules(ids=given)).rows.tolist() == [2, 5]
    for one in (numbers[5], int(numbers[5]), texts[1]):
        assert select_rows(store, RowRules(ids=one)).rows.tolist() == [5]
    with pytest.raises(UsageError, match="an id is 1.5"):
        select_rows(store, RowRules(ids=1.5))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a Dataset without zooniverse_subject_id"):
        select_rows(store, dataset.drop_vars("zooniverse_subject_id"))


def test_votes_select_what_a_build_would(simulated: Path, store: Path) -> None:
    ids = gz3d_zarr.open_store(store)["zooniverse_subject_id"].values
    for least in (0.0, 0.2, 0.5):
        wanted = gz3d_zarr.open_source(simulated, min_vote_fraction=least)
        rows = RowRules(min_vote_fraction=least).find(gz3d_zarr.open_store(store))
        assert sorted(ids[rows]) == sorted(wanted["zooniverse_subject_id"].values)
    for wrong in (20, -0.1, float("nan"), "0.5"):
        with pytest.raises(UsageError, match="min_vote_fraction.* expected a number"):
            select_rows(store, RowRules(min_vote_fraction=wrong))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="none has a vote fraction of at least 1"):
        select_rows(store, RowRules(min_vote_fraction=1))


def test_a_survey_table_selects_with_other_rules(store: Path, tmp_path: Path) -> None:
    dataset = gz3d_zarr.open_store(store)
    labels = dataset["subject"].values
    table = tmp_path / "drpall.csv"
    lines = [f"9999-{i},{label}" for i, label in enumerate([*labels[[7, 3, 7]], "1-9"])]
    table.write_text("\n".join(["plateifu,mangaid", *lines]))
    expected = np.flatnonzero(np.isin(labels, labels[[3, 7]]))
    assert RowRules(table=table).find(dataset).tolist() == expected.tolist()
    ra, dec = (float(dataset[name].values[expected[0]]) for name in ("ra", "dec"))
    assert RowRules(table=table, cone=(ra, dec, 1)).find(dataset).tolist() == expected[:1].tolist()
    others = [str(label) for label in labels if label not in labels[[3, 7]]]
    with pytest.raises(UsageError, match="none has one of the ids and is in .*drpall.csv"):
        select_rows(store, RowRules(others, table=table))


def test_ids_may_be_plate_ifus_of_the_survey_table(store: Path, tmp_path: Path) -> None:
    dataset = gz3d_zarr.open_store(store)
    labels = dataset["subject"].values
    table = tmp_path / "drpall.csv"
    lines = [f"8000-190{i},{label}" for i, label in enumerate(labels[[7, 3, 7]])]
    table.write_text("\n".join(["PLATEIFU,mangaid", *lines]))
    for ids, label in ((["8000-1901"], labels[3]), (["8000-1900", "8000-1902"], labels[7])):
        rows = RowRules(ids, table=table).find(dataset)
        assert rows.tolist() == np.flatnonzero(labels == label).tolist()
    both = RowRules(["8000-1901", str(labels[7])], table=table).find(dataset)
    assert set(labels[both]) == set(labels[[3, 7]])
    with pytest.raises(UsageError, match="does not have the plate-IFU '8000-1909'.*'8000-1900'"):
        RowRules(["8000-1909"], table=table).find(dataset)
    with pytest.raises(UsageError, match="no subject has .* plate-IFUs need a table .*--table"):
        RowRules(["8000-1901"]).find(dataset)
    table.write_text(f"mangaid\n{labels[3]}\n")
    with pytest.raises(UsageError, match="the table has no column plateifu"):
        RowRules(["8000-1901"], table=table).find(dataset)


def test_a_changed_store_is_named(damaged: Path, tmp_path: Path) -> None:
    xr.Dataset().to_zarr(tmp_path / "other.zarr", zarr_format=3, consolidated=True)
    with pytest.raises(StoreError, match="not of Galaxy Zoo"):
        select_rows(tmp_path / "other.zarr")


def test_a_store_opened_without_dask(store: Path) -> None:
    quick, chunked = gz3d_zarr.open_store(store, chunks=None), gz3d_zarr.open_store(store)
    assert quick["image"].chunks is None
    assert quick["image"].encoding == chunked["image"].encoding
    for select in (
        {"subject": 5},
        {"subject": [7, 3, 7], "y": [5, 1], "x": slice(500, None, -200)},
        {"subject": slice(16, 2, -6), "y": 4},
        {"subject": slice(0, 0), "x": [1]},
        {"subject": np.arange(18) > 15, "x": -1},
    ):
        xr.testing.assert_identical(quick.isel(select).compute(), chunked.isel(select).compute())
    points = xr.DataArray([1, 4, 9], dims="point")
    for dataset in (quick, pickle.loads(pickle.dumps(quick))):
        np.testing.assert_array_equal(
            dataset["image"].isel(subject=points, y=points * 20, x=3),
            chunked["image"].compute().isel(subject=points, y=points * 20, x=3),
        )
    np.testing.assert_array_equal(
        quick["segmentation"].chunk(subject=4).sum(("y", "x")),
        chunked["segmentation"].sum(("y", "x")),
    )
    with pytest.raises(UsageError, match="chunks is 'auto'"):
        gz3d_zarr.open_store(store, chunks="auto")


def test_shard_that_is_cut_at_the_front_is_not_read_as_black(damaged: Path) -> None:
    """Its index, at the end, is sound; the chunks that it points to are not there."""
    path = damaged / "image/c/1/0/0/0"
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 2 :])
    reader = reader_of(damaged)
    quick = gz3d_zarr.open_store(damaged, chunks=None)
    for row in range(4, 8):
        for read in (
            lambda row=row: reader.read("image", row),
            lambda row=row: reader.read("image", row, reader.fetch(rows_of(1))),
            lambda row=row: quick["image"][row].values,
        ):
            with pytest.raises(StoreError):
                read()


def test_shard_that_an_update_replaces_under_an_open_dataset_is_read(
    archive: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "g.zarr"
    fixed: dict[str, Any] = {"shard_size": 4, "order": "name"}
    gz3d_zarr.build(archive, target, client, **fixed, limit=6)
    quick = gz3d_zarr.open_store(target, chunks=None)
    before = {row: quick["image"][row].values for row in (4, 5)}
    gz3d_zarr.build(archive, target, client, **fixed, limit=8, update=True)
    for row in (5, 4):
        np.testing.assert_array_equal(quick["image"][row].values, before[row])
    shard = target / "image/c/1/0/0/0"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="image of row 4 in .* cannot be read"):
        quick["image"][4].values  # noqa: B018
    np.testing.assert_array_equal(quick["image"][5].values, before[5])
