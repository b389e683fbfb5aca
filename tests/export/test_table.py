"""The subjects as a table in a file; and the way from a survey table to one and back."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr
from astropy.table import QTable, Table
from click.testing import CliRunner
from distributed import Client

import gz3d_zarr
from gz3d_zarr import LeftOutWarning, StoreError, UsageError
from gz3d_zarr.analysis.survey_table import read_survey_table
from gz3d_zarr.cli import main
from gz3d_zarr.export.table import FORMATS, export_table

BIG = 1237648720693755919
"""An objID of SDSS, which float64 has not."""


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(main, ["export", "table", *map(str, arguments)])


@pytest.fixture(scope="session")
def reference_store(
    reference: Path, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("reference") / "gz3d.zarr"
    gz3d_zarr.build(reference, path, client, shard_size=16)
    return path


def make_drpall(ds: xr.Dataset, path: Path) -> Table:
    """100 rows: 60 galaxies of the store, 25 of them once more, 10 unknown ids, 5 without an id."""
    rng = np.random.default_rng(14)
    own = np.array(ds["subject"].values.tolist())
    first = rng.choice(own, 60, replace=False)
    unknown = [f"99-{i}" for i in range(10)]
    names = np.concatenate([first, rng.choice(first, 25, replace=False), unknown, [""] * 5])
    order = rng.permutation(100)
    plates = [f"{7443 + i}-{12701 + i % 9}" for i in range(100)]
    table = Table(
        {
            "plateifu": np.array([f"{plate:<14}".encode() for plate in plates]),
            "mangaid": np.array([f"{name:<16}".encode() for name in names[order]]),
            "objra": rng.uniform(0, 360, 100),
            "nsa_nsaid": BIG + np.arange(100),
            "nsa_elpetro_flux": rng.uniform(0, 9, (100, 7)).astype(np.float32),
        }
    )
    table.write(path)
    return table


def test_from_a_survey_table_to_the_galaxies_and_back(
    reference_store: Path, reference: Path, client: Client, tmp_path: Path
) -> None:
    """Every row of a table of 100 is accounted for, in what each program reads back."""
    ds = gz3d_zarr.open_store(reference_store)
    drpall = make_drpall(ds, tmp_path / "drpall.fits")
    subjects = Counter(ds["subject"].values.tolist())
    drpall.convert_bytestring_to_unicode()
    wanted, plates = ([str(v).strip() for v in drpall[n]] for n in ("mangaid", "plateifu"))
    pairs = sum(subjects[name] for name in wanted)  # a repeated MaNGA id has two subjects
    absent = sum(name not in subjects for name in wanted)
    assert absent == 15
    with pytest.warns(LeftOutWarning, match="15 of 100 rows of the table have no subject"):
        sample = ds.gz3d.join(tmp_path / "drpall.fits", how="inner")
    assert sample.sizes["subject"] == pairs > 85
    files = {ending: tmp_path / f"sample{ending}" for ending in FORMATS}
    for path in files.values():
        export_table(sample, path)
    arrow = pq.read_table(files[".parquet"]).to_pylist()
    frames = [pd.read_parquet(files[".parquet"]), pd.read_csv(files[".csv"])]
    tables = [
        Table.read(files[".fits"]), Table.read(files[".parquet"]), Table.read(files[".ecsv"]),
        Table.read(files[".vot"], format="votable"), *map(read_survey_table, files.values()),
    ]  # fmt: skip
    every = [arrow, *(frame.to_dict("records") for frame in frames)]
    for table in tables:
        table.convert_bytestring_to_unicode()
        every.append([dict(zip(table.colnames, row, strict=True)) for row in table.iterrows()])
    for records in every:
        assert len(records) == pairs
        found = {int(record["table_row"]) for record in records}
        assert found == {row for row in range(100) if wanted[row] in subjects}
        for record in records:
            row = int(record["table_row"])
            assert record["subject"] == record["mangaid"] == wanted[row]
            assert record["plateifu"] == plates[row]
            assert int(record["nsa_nsaid"]) == BIG + row
            assert record["nsa_elpetro_flux_6"] == pytest.approx(drpall["nsa_elpetro_flux"][row, 6])
            assert f"_{record['zooniverse_subject_id']}." in record["file_name"]
    selected = run(reference_store, tmp_path / "s.parquet", "--table", tmp_path / "drpall.fits")
    assert selected.exit_code == 0, selected.output
    numbers = pd.read_parquet(tmp_path / "s.parquet")["zooniverse_subject_id"]
    assert numbers.tolist() == list(dict.fromkeys(sample["zooniverse_subject_id"].values.tolist()))
    saved = tmp_path / "sample.zarr"
    assert sample.gz3d.save(saved, client).subjects == len(numbers)
    verified = gz3d_zarr.verify(saved, reference, client)
    assert verified.passed
    assert verified.compared == len(numbers)
    with pytest.warns(LeftOutWarning, match="15 of 100 rows of the table have no subject"):
        again = gz3d_zarr.open_store(saved).gz3d.join(tmp_path / "drpall.fits", how="inner")
    for name in ("zooniverse_subject_id", "plateifu", "table_row"):
        assert again[name].values.tolist() == sample[name].values.tolist()
    np.testing.assert_array_equal(again["image"][7].values, sample["image"][7].values)


@pytest.mark.parametrize("ending", FORMATS)
def test_each_format_has_all_values(store: Path, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"Subjects{ending.upper()}"
    result = run(store, path, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    expected = gz3d_zarr.open_store(store).gz3d.table()
    assert (report["subjects"], report["columns"]) == (18, len(expected.colnames))
    assert report["stored_bytes"] == path.stat().st_size
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    read = read_survey_table(path)
    assert read.colnames == expected.colnames
    for name in expected.colnames:
        column = expected[name]
        values = np.asarray(getattr(column, "unmasked", column))
        mask = np.broadcast_to(getattr(column, "mask", False), 18)
        if values.dtype.kind == "U":
            assert ["" if text is np.ma.masked else text for text in read[name]] == values.tolist()
            continue
        kept = np.ma.asarray(read[name])[~mask]
        if ending == ".csv" and values.dtype == bool:
            kept = kept == "True"
        np.testing.assert_array_equal(np.asarray(kept).astype(values.dtype), values[~mask])
        if mask.any() and ending != ".fits":  # FITS has NaN for floats
            assert np.ma.getmaskarray(np.ma.asarray(read[name]))[mask].all()
    if ending != ".csv":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            form = FORMATS[ending]
            assert str(QTable.read(path, format=form)["ra"].unit) == "deg"


def test_rules_select_rows_and_a_dataset_is_taken_as_it_is(store: Path, tmp_path: Path) -> None:
    ds = gz3d_zarr.open_store(store)
    votes = ds["vote_fraction"].values.max(axis=1)
    assert run(store, tmp_path / "a.csv", "--min-vote-fraction", 0.4).exit_code == 0
    frame = pd.read_csv(tmp_path / "a.csv")
    assert len(frame) == (votes >= 0.4).sum() < 18
    numbers = ds["zooniverse_subject_id"].values[[7, 2]]
    (tmp_path / "ids.txt").write_text("\n".join(map(str, numbers)))
    assert run(store, tmp_path / "b.csv", "--ids", tmp_path / "ids.txt").exit_code == 0
    assert pd.read_csv(tmp_path / "b.csv")["zooniverse_subject_id"].tolist() == [
        numbers[1], numbers[0],
    ]  # fmt: skip
    given = ds.isel(subject=[7, 2, 7]).assign(k=("subject", [3, 4, 5]))
    report = export_table(given, tmp_path / "c.parquet", columns=["k", "subject"])
    assert (report.subjects, report.columns) == (3, 2)
    assert pd.read_parquet(tmp_path / "c.parquet")["k"].tolist() == [3, 4, 5]
    export_table(store, tmp_path / "d.csv", rows=[3, 1], columns="zooniverse_subject_id")
    both = ds["zooniverse_subject_id"].values[[1, 3]].tolist()
    assert pd.read_csv(tmp_path / "d.csv")["zooniverse_subject_id"].tolist() == both
    failed = ds.assign_coords(status=("subject", np.full(18, 2, np.uint8)))
    export_table(failed, tmp_path / "e.csv", columns="status")
    assert set(pd.read_csv(tmp_path / "e.csv")["status"]) == {"unreachable"}


def test_nulls_are_nulls_in_parquet(store: Path, tmp_path: Path) -> None:
    ds = gz3d_zarr.open_store(store)
    unknown = np.arange(18) == 3
    holes = ds.assign(nsa_id=("subject", np.where(unknown, -1, ds["nsa_id"].values)))
    export_table(holes, tmp_path / "t.parquet")
    read = pq.read_table(tmp_path / "t.parquet")
    assert read["nsa_id"].is_null().to_pylist() == unknown.tolist()
    assert str(read["nsa_id"].type) == "int64"
    assert read.schema.field("ra").metadata[b"unit"] == b"deg"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    yield folder
    folder.chmod(0o700)


def test_what_cannot_be_written_is_refused(store: Path, tmp_path: Path, read_only: Path) -> None:
    (tmp_path / "t.csv").write_text("mine")
    with pytest.raises(StoreError, match=r"t\.csv already exists; choose another name, or"):
        export_table(store, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "mine"
    export_table(store, tmp_path / "t.csv", overwrite=True)
    assert len(pd.read_csv(tmp_path / "t.csv")) == 18
    with pytest.raises(UsageError, match=r"names no format, expected \.parquet, \.fits, \.csv"):
        export_table(store, tmp_path / "t.xlsx")
    with pytest.raises(StoreError, match="is inside the store"):
        export_table(store, store / "t.csv")
    with pytest.raises(StoreError, match="is inside the store"):
        export_table(gz3d_zarr.open_store(store).isel(subject=[1]), store / "t.csv")
    with pytest.raises(UsageError, match="rows is for a store"):
        export_table(gz3d_zarr.open_store(store), tmp_path / "u.csv", rows=[1])
    with pytest.raises(UsageError, match="no subject is selected"):
        export_table(store, tmp_path / "u.csv", rows=[])
    if os.geteuid():
        with pytest.raises(StoreError, match="cannot be written"):
            export_table(store, read_only / "u.csv")
    named = gz3d_zarr.open_store(store).assign(name=("subject", ["\u03b1"] * 18))
    with pytest.raises(StoreError, match=r"u\.fits cannot be written: .*ascii"):
        export_table(named, tmp_path / "u.fits")
    result = run(store, tmp_path / "t.csv")
    assert result.exit_code == 1
    assert "already exists" in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["locked", "t.csv"]
