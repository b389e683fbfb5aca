"""Survey tables: read from files of each format, and matched with subjects by id."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from astropy import units
from astropy.io import fits
from astropy.table import MaskedColumn, Table

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.analysis.survey_table import match_subjects, read_survey_table
from gz3d_zarr.analysis.table_columns import read_columns
from gz3d_zarr.backends.pixel_source import PixelSource


@pytest.fixture
def ds(store: Path) -> xr.Dataset:
    return gz3d_zarr.open_store(store)


BIG = 1237648720693755919
"""An objID of SDSS, which float64 has not."""


def make_table() -> Table:
    return Table(
        {
            "mangaid": np.array([b"1-603114   ", b"1-22", b"12-4"]),
            "n": MaskedColumn([1, 2, 3], mask=[False, True, False]),
            "flux": np.array([1.0, np.nan, 2.0]) * units.Jy,
            "objid": BIG + np.arange(3),
        }
    )


FORMATS = {
    "fits": "fits",
    "fits.gz": "fits",
    "csv": "ascii.csv",
    "csv.gz": "ascii.csv",
    "ecsv": "ascii.ecsv",
    "vot": "votable",
    "parquet": "",
}


@pytest.mark.parametrize("ending", FORMATS)
def test_each_format_gives_the_same_table(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"Table.{ending.upper()}"
    table = make_table()
    if ending == "parquet":
        texts = ["1-603114", "1-22", "12-4"]
        numbers = pa.array([1, None, 3], pa.int32())
        pq.write_table(
            pa.table(
                {**{n: table[n].tolist() for n in ("flux", "objid")}, "n": numbers}
            ).add_column(0, "mangaid", pa.array(texts).dictionary_encode()),
            path,
        )
    else:
        if FORMATS[ending] != "fits":
            table.convert_bytestring_to_unicode()
        plain = tmp_path / "plain"
        table.write(plain, format=FORMATS[ending])
        data = plain.read_bytes()
        path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    read = read_survey_table(path)
    assert [str(text) for text in read["mangaid"]] == ["1-603114", "1-22", "12-4"]
    assert read["mangaid"].dtype.kind == "U"
    columns, left_out = read_columns(read)
    assert not left_out
    np.testing.assert_array_equal(columns["objid"].values, BIG + np.arange(3))
    np.testing.assert_array_equal(columns["n"].filled(), [1, np.nan, 3])
    np.testing.assert_array_equal(columns["flux"].filled(), [1, np.nan, 2])
    if FORMATS[ending] not in ("", "ascii.csv"):
        assert columns["flux"].attrs["units"] == "Jy"


def test_the_first_table_of_a_fits_file_and_its_arrays(tmp_path: Path) -> None:
    first = Table({"plateifu": [b"8623-12701"], "flux": np.arange(7.0)[None]})
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.zeros(2)), fits.table_to_hdu(first)]
    fits.HDUList([*hdus, fits.table_to_hdu(Table({"k": [1, 2]}))]).writeto(tmp_path / "drpall.fits")
    read = read_survey_table(tmp_path / "drpall.fits")
    assert read.colnames == ["plateifu", "flux"]
    assert read_columns(read)[0]["flux"].values.shape == (1, 7)
    lists = {"pair": [[1, 2], [3, 4]], "ragged": [[1], None], "b": [b"x", None], "k": [True, None]}
    pq.write_table(pa.table(lists), tmp_path / "lists.parquet")
    columns, left_out = read_columns(read_survey_table(tmp_path / "lists.parquet"))
    assert columns["pair"].values.tolist() == [[1, 2], [3, 4]]
    assert columns["b"].filled().tolist() == ["x", ""]
    np.testing.assert_array_equal(columns["k"].filled(), [1, np.nan])
    assert [*left_out] == ["ragged"]


def test_files_that_are_no_table_are_refused_in_one_sentence(tmp_path: Path) -> None:
    contents = {
        "a.fits": b"no",
        "b.csv": b"",
        "c.csv": b"a,b\n1,2,3\n",
        "d.vot": b"<x/>",
        "e.parquet": b"PAR1",
        "f.ecsv": b"# %ECSV 1.0\n",
        "g.fits.gz": b"no",
        "h.csv": b"\xff\xfe\x00",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=rf"the table .*{name} cannot be read: [^\n]+$"):
            read_survey_table(tmp_path / name)
    fits.PrimaryHDU(np.zeros(2)).writeto(tmp_path / "image.fits")
    with pytest.raises(UsageError, match="no HDU is a table"):
        read_survey_table(tmp_path / "image.fits")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UsageError, match=r"pipe\.csv cannot be read: it is a pipe"):
        read_survey_table(tmp_path / "pipe.csv")
    with pytest.raises(UsageError, match="No such file"):
        read_survey_table(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"'notes\.txt' has no known ending, expected \.fits"):
        read_survey_table("notes.txt")
    with pytest.raises(UsageError, match="is a URL, expected a local file"):
        read_survey_table("https://host/drpall.fits")
    with pytest.raises(UsageError) as caught:
        read_survey_table("https://me:hidden@host/drpall.fits")
    assert "hidden" not in str(caught.value)


def test_ids_match_as_people_expect(ds: xr.Dataset) -> None:
    names, numbers = ds["subject"].values.tolist(), ds["zooniverse_subject_id"].values
    padded = np.array([f"{names[3]}  ".encode(), b"9-9", b"", names[0].encode()])
    frame = pd.DataFrame({"MangaId": [f" {names[3]}", "9-9", None, names[0]]})
    records = np.array([(name,) for name in padded], [("mangaid", "S20")])
    for table in (Table({"MANGAID": padded}), frame, records):
        found = match_subjects(ds, table)
        assert found.table_rows.tolist() == [0, 3]
        assert found.subject_rows.tolist() == [3, 0]
        assert found.unmatched.tolist() == [1, 2]
        assert found.examples == ("9-9",)
        assert found.table_rows.dtype == found.subject_rows.dtype == np.int64
    assert match_subjects(ds, frame.set_index("MangaId")).subject_rows.tolist() == [3, 0]
    own = ds.isel(subject=[5, 2, 2])
    assert match_subjects(ds, own).subject_rows.tolist() == [5, 2, 2]
    for ids in (
        [numbers[2], 0],
        [float(numbers[2]), np.nan],
        [f"{numbers[2]} ", ""],
        MaskedColumn([numbers[2], numbers[3]], mask=[False, True]),
        pd.array([numbers[2], None], dtype="Int64"),
        np.array([numbers[2], None], dtype=object),
    ):
        frame = Table({"Zooniverse_Subject_ID": ids})
        if isinstance(ids, pd.api.extensions.ExtensionArray):
            frame = pd.DataFrame({"Zooniverse_Subject_ID": ids})
        found = match_subjects(ds, frame, "zooniverse_subject_id")
        assert (found.table_rows.tolist(), found.subject_rows.tolist()) == ([0], [2])
        assert found.unmatched.tolist() == [1]


def test_pixels_of_a_dataset_are_no_columns(
    ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PixelSource, "read_rows", None)
    columns, left_out = read_columns(ds)
    assert left_out == {"image": "pixels", "segmentation": "pixels"}
    assert columns["vote_fraction"].values.shape == (18, 4)
    assert columns["ra"].attrs["units"] == "deg"


def test_repeats_on_both_sides_give_all_pairs(ds: xr.Dataset) -> None:
    twice = ds.isel(subject=[0, 1, 0])
    name = str(ds["subject"].values[0])
    found = match_subjects(twice, Table({"mangaid": [name, "9-9", name]}))
    assert found.table_rows.tolist() == [0, 0, 2, 2]
    assert found.subject_rows.tolist() == [0, 2, 0, 2]
    assert match_subjects(ds.isel(subject=0), Table({"mangaid": [name]})).subject_rows.tolist() == [
        0
    ]


def test_plate_ifus_are_known_once_a_table_is_joined(ds: xr.Dataset) -> None:
    table = Table({"plateifu": ["8623-12701", "1-1"]})
    with pytest.raises(UsageError, match="has no plate-IFUs: join a table that has mangaid and"):
        match_subjects(ds, table, "plateifu")
    joined = ds.assign(PLATEIFU=("subject", ["", "8623-12701 ", *[""] * 16]))
    found = match_subjects(joined, table, "plateifu")
    assert (found.subject_rows.tolist(), found.unmatched.tolist()) == ([1], [1])


@pytest.mark.parametrize(
    ("columns", "on", "message"),
    [
        ({"name": ["a"], "z": [1.0]}, "mangaid", r"no column mangaid .* another; it has name, z$"),
        ({"mangaid": ["1-22", "14000007"]}, "mangaid", "different kinds, '1-22' and '14000007'"),
        ({"mangaid": [14000007]}, "mangaid", "has 14000007, expected MaNGA ids such as 1-603114"),
        ({"mangaid": ["14000007"]}, "mangaid", "has '14000007', expected MaNGA ids"),
        ({"mangaid": [["1-2", "1-3"]]}, "mangaid", "several values a row, expected one id"),
        ({"zooniverse_subject_id": [1.5]}, "zooniverse_subject_id", "has 1.5, expected Zooniverse"),
        (
            {"zooniverse_subject_id": ["14000007", "1-22"]},
            "zooniverse_subject_id",
            "different kinds, 14000007 and '1-22'",
        ),
        (
            {"zooniverse_subject_id": np.array([14000007, "1-22"], object)},
            "zooniverse_subject_id",
            "values of the types int and str, expected ids of one kind",
        ),
        (
            {"mangaid": ["9-9"]},
            "mangaid",
            "no row of the table has the mangaid of a subject.*'9-9'",
        ),
        ({"mangaid": [""]}, "mangaid", "column mangaid has 0 ids, the Dataset such as '1-60"),
        ({"MangaID": ["9-9"], "MANGAID": ["9-9"]}, "mangaid", "has MangaID and MANGAID: rename"),
        ({"mangaid": ["9-9"]}, "name", "on is 'name', expected one of mangaid, plateifu"),
    ],
)
def test_tables_that_cannot_be_joined_say_why(
    ds: xr.Dataset, columns: dict[str, Any], on: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        match_subjects(ds, Table(columns), on)


def test_what_is_no_table_is_refused(ds: xr.Dataset) -> None:
    for other in ([1], "1-22", np.zeros(3), None):
        with pytest.raises(UsageError, match="expected a table"):
            match_subjects(ds, other)
    with pytest.raises(StoreError, match="not a Dataset of Galaxy Zoo: 3D"):
        match_subjects(xr.Dataset(), Table({"mangaid": ["1-22"]}))
