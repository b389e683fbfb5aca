"""Tables of the subjects, and joins with other people's tables by id."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr
from astropy import units
from astropy.table import MaskedColumn, QTable, Table

import gz3d_zarr
from gz3d_zarr import LeftOutWarning, UsageError
from gz3d_zarr.backends.pixel_source import PixelSource
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.datamodel.variables import CATALOGUE_TEXT

BIG = 1237648720693755919
"""An objID of SDSS, which float64 has not."""
OPENERS: dict[str, Callable[[Path], xr.Dataset]] = {
    "shards": gz3d_zarr.open_store,
    "chunks": lambda path: gz3d_zarr.open_store(path, chunks=3),
    "no chunks": lambda path: gz3d_zarr.open_store(path, chunks=None),
    "masked": lambda path: gz3d_zarr.open_store(path, masked=True),
    "plain": xr.open_zarr,
}


@pytest.fixture
def ds(store: Path) -> xr.Dataset:
    return gz3d_zarr.open_store(store)


def make_drpall(ds: xr.Dataset) -> Table:
    """A galaxy under two plate-IFUs, one that is not in the store, one alone; padded bytes."""
    names = ds["subject"].values.tolist()
    mangaid = [names[3], "9-9", names[3], names[7], ""]
    return Table(
        {
            "plateifu": np.array([b"8623-12701 ", b"8623-1901 ", b"9999-6101 ", b"7443-3701", b""]),
            "MANGAID": np.array([f"{name}  ".encode() for name in mangaid]),
            "Ra": np.arange(5.0),
            "nsa_sersic_mass": np.arange(5.0) * units.solMass,
            "objid": BIG + np.arange(5),
            "flux": np.arange(10.0).reshape(5, 2),
            "flux_1": MaskedColumn([1, 2, 3, 4, 5], mask=[True, False, False, False, False]),
        }
    )


@pytest.mark.parametrize("opener", OPENERS)
def test_a_join_keeps_every_row_and_reads_the_right_pixels(store: Path, opener: str) -> None:
    plain = zarr.open_group(store, mode="r")
    ds = OPENERS[opener](store)
    table = make_drpall(ds)
    with pytest.warns(LeftOutWarning, match=r"2 of 5 rows of the table have no subject, such as "
                      r"'9-9'; 16 subjects of the Dataset have no row of the table") as caught:  # fmt: skip
        left = ds.gz3d.join(table)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(LeftOutWarning, match="joined on mangaid: 2 of 5 rows .*'9-9'$"):
        inner = ds.gz3d.join(table, how="inner")
    assert left.sizes["subject"] == 19
    assert inner["table_row"].values.tolist() == [0, 2, 3]
    assert inner["plateifu"].values.tolist() == ["8623-12701", "9999-6101", "7443-3701"]
    assert inner["nsa_sersic_mass"].attrs["units"] == "solMass"
    np.testing.assert_array_equal(inner["objid"], BIG + np.array([0, 2, 3]))
    np.testing.assert_array_equal(inner["table_Ra"], [0, 2, 3])
    np.testing.assert_array_equal(inner["flux_1"], [np.nan, 3, 4])
    assert inner["flux"].shape == (3, 2)
    assert inner.encoding.keys() == ds.encoding.keys()
    rows = left["table_row"].values
    assert sorted(rows[rows >= 0].tolist()) == [0, 2, 3]
    assert left["plateifu"].values[rows < 0].tolist() == [""] * 16
    assert np.isnan(left["nsa_sersic_mass"].values[rows < 0]).all()
    np.testing.assert_array_equal(left["objid_masked"], rows < 0)
    own = ds["zooniverse_subject_id"].values.tolist()
    for joined in (left, inner):
        places = [own.index(number) for number in joined["zooniverse_subject_id"].values.tolist()]
        assert places == sorted(places)
        for name in BIG_ARRAYS:
            expected = np.asarray(plain[name])[places]
            np.testing.assert_array_equal(joined[name].values, expected)
        areas = ds.gz3d.area("spiral", threshold=5).values[places]
        np.testing.assert_array_equal(joined.gz3d.area("spiral", threshold=5), areas)
        chosen = joined.gz3d.sel(plateifu=["9999-6101", "7443-3701"])
        assert chosen["table_row"].values.tolist() == [2, 3]
        assert len(joined.gz3d.clusters("center")["subject"]) >= len(places)
        assert joined.gz3d.marks("9999-6101", "center")


def test_a_join_reads_no_pixels(ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("pixels are read")

    monkeypatch.setattr(PixelSource, "read_rows", refuse)
    with pytest.warns(LeftOutWarning):
        joined = ds.gz3d.join(make_drpall(ds))
    assert joined.gz3d.table(["plateifu", "ra"])["plateifu"].dtype.kind == "U"
    with pytest.raises(AssertionError, match="pixels are read"):
        joined["image"][0].compute(scheduler="synchronous")


def test_joins_of_frames_datasets_records_and_files(ds: xr.Dataset, tmp_path: Path) -> None:
    names, numbers = ds["subject"].values.tolist(), ds["zooniverse_subject_id"].values
    order = np.arange(18)[::-1]
    frame = pd.DataFrame(
        {"mangaid": [names[i] for i in order], "z": order * 0.1, "kind": ["a", None] * 9}
    )
    keep = [i for i in range(18) if names.count(names[i]) == 1]
    path = tmp_path / "sample.csv"
    frame.to_csv(path, index=False)
    records = Table.from_pandas(frame[["mangaid", "z"]]).as_array()
    for table in (frame, xr.Dataset.from_dataframe(frame), path, str(path), records):
        joined = ds.gz3d.join(table, how="inner").isel(subject=keep[:5])
        np.testing.assert_allclose(joined["z"], np.array(keep[:5]) * 0.1)
    joined = ds.gz3d.join(frame, how="inner")
    assert set(joined["kind"].values.tolist()) == {"a", ""}
    repeated = next(name for name in names if names.count(name) == 2)
    assert joined.gz3d.sel(repeated).sizes["subject"] == 4  # both rows with both subjects
    first = ds.gz3d.join(frame, repeats="first")
    assert first.sizes["subject"] == 18
    with pytest.raises(
        UsageError, match=rf"2 subjects with more than one row .* {repeated} \(\d+\)"
    ):
        ds.gz3d.join(frame, repeats="raise")
    by_number = pd.DataFrame({"zooniverse_subject_id": numbers[:18].astype(float), "k": order})
    joined = ds.gz3d.join(by_number, on="zooniverse_subject_id", repeats="raise")
    np.testing.assert_array_equal(joined["k"], order)
    assert joined["table_zooniverse_subject_id"].dtype == np.float64
    with pytest.warns(LeftOutWarning, match="17 subjects of the Dataset"):
        again = joined.gz3d.join(by_number[:1], on="zooniverse_subject_id")
    assert again["table_row"].values.tolist() == [0, *[-1] * 17]
    np.testing.assert_array_equal(again["k"], order)
    assert "table_k" in again


def test_columns_of_objects_keep_their_values(ds: xr.Dataset) -> None:
    """pandas keeps numbers beside None as objects."""
    cells: dict[str, list[Any]] = {
        "real": [1.5, None, 2],
        "whole": [2**60, None, 2],
        "flag": [True, None, False],
        "mixed": [1.5, None, 2**60],  # float64 would round it
        "other": [1.5, None, "a"],
    }
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in cells.items()})
    frame["zooniverse_subject_id"] = ds["zooniverse_subject_id"].values[:3]
    with pytest.warns(LeftOutWarning, match="2 columns of the table left out.*mixed .*other"):
        joined = ds.gz3d.join(frame, on="zooniverse_subject_id", how="inner")
    np.testing.assert_array_equal(joined["real"], [1.5, np.nan, 2])
    np.testing.assert_array_equal(joined["flag"], [1, np.nan, 0])
    assert joined["whole"].values.tolist() == [2**60, 0, 2]
    assert joined["whole_masked"].values.tolist() == [False, True, False]


def test_joins_that_cannot_be_say_why(ds: xr.Dataset) -> None:
    table = make_drpall(ds)
    with pytest.raises(
        UsageError, match="no column zooniverse_subject_id .*; it has plateifu, MANGAID, Ra"
    ):
        ds.gz3d.join(table, on="zooniverse_subject_id")
    with pytest.raises(UsageError, match="the table has no rows; its columns are mangaid, x"):
        ds.gz3d.join(pd.DataFrame({"mangaid": [], "x": []}))
    with pytest.raises(UsageError, match="how is 'outer', expected one of left, inner"):
        ds.gz3d.join(table, how="outer")
    with pytest.raises(UsageError, match="repeats is 'none'"):
        ds.gz3d.join(table, repeats="none")
    with pytest.raises(UsageError, match="prefix is '', expected text"):
        ds.gz3d.join(table, prefix="")
    with pytest.raises(UsageError, match="no row of the table has the mangaid of a subject"):
        ds.gz3d.join(table[[1, 4]])
    with pytest.raises(UsageError, match="has no plate-IFUs: join a table"):
        ds.gz3d.join(table, on="plateifu")


def test_all_kinds_of_ids_select(ds: xr.Dataset) -> None:
    names, numbers = ds["subject"].values.tolist(), ds["zooniverse_subject_id"].values.tolist()
    for wanted in (numbers[5], str(numbers[5]), f" {numbers[5]} ", np.int64(numbers[5])):
        assert ds.gz3d.sel(wanted)["zooniverse_subject_id"].values.tolist() == [numbers[5]]
    for plateifu in ("8623-12701", ["8623-12701"]):
        with pytest.raises(
            UsageError, match=r"plate-IFUs are known once .*ds\.gz3d\.join\(table\)"
        ):
            ds.gz3d.sel(plateifu)
    with pytest.raises(UsageError, match=r"1\.5 is no id, expected a MaNGA id such as '1-603114'"):
        ds.gz3d.sel(1.5)
    with pytest.raises(UsageError, match="'1-600003' is not a plate-IFU"):
        ds.gz3d.sel(plateifu="1-600003")
    with pytest.warns(LeftOutWarning):
        joined = ds.gz3d.join(make_drpall(ds))
    mixed = joined.gz3d.sel(["9999-6101", numbers[0], names[3], "8623-12701"])
    assert mixed["zooniverse_subject_id"].values.tolist() == [
        numbers[3], numbers[0], numbers[3],
    ]  # fmt: skip
    assert mixed["plateifu"].values.tolist() == ["9999-6101", "", "8623-12701"]
    assert joined.gz3d.sel(names[3], plateifu="9999-6101").sizes["subject"] == 1
    with pytest.raises(UsageError, match="no subject has both object_id='.*' and plateifu='9999-"):
        joined.gz3d.sel(names[0], plateifu="9999-6101")
    with pytest.raises(UsageError, match="or plate-IFU '9999-6102'; near matches: 9999-6101"):
        joined.gz3d.sel(plateifu="9999-6102")
    with pytest.raises(UsageError, match="give the plate-IFU of one: 8623-12701, 9999-6101"):
        joined.gz3d.wcs(names[3])
    joined.gz3d.wcs("9999-6101")


@pytest.mark.parametrize("opener", OPENERS)
def test_counts_and_the_picture_spare_a_dimension(store: Path, opener: str) -> None:
    ds = OPENERS[opener](store)
    counts = ds.gz3d.counts("spiral")
    assert counts.dims == ("subject", "y", "x")
    assert counts.dtype == np.uint8
    assert (counts.chunks is None) == (ds["segmentation"].chunks is None)
    np.testing.assert_array_equal(counts[4], ds["segmentation"][4, 2])
    assert ds.gz3d.counts().dims == ("subject", "class", "y", "x")
    with pytest.raises(UsageError, match="there is no class 'spirals'.*did you mean spiral"):
        ds.gz3d.counts("spirals")
    number = int(ds["zooniverse_subject_id"].values[4])
    picture = ds.gz3d.picture(number)
    assert picture.dims == ("y", "x", "channel")
    np.testing.assert_array_equal(picture, ds["image"][4])
    with pytest.raises(UsageError, match="the Dataset has 18 subjects: name one"):
        ds.gz3d.picture()


def test_a_subject_without_a_picture_says_so(ds: xr.Dataset) -> None:
    failed = ds.assign_coords(status=("subject", np.full(18, 4, np.uint8)))
    with pytest.raises(UsageError, match="has no picture: its status is invalid"):
        failed.isel(subject=0).gz3d.picture()


@pytest.mark.parametrize("opener", OPENERS)
def test_the_table_has_all_that_is_known_of_each_subject(store: Path, opener: str) -> None:
    ds = OPENERS[opener](store)
    group = zarr.open_group(store, mode="r")
    table = ds.gz3d.table()
    assert isinstance(table, QTable)
    assert len(table) == 18
    assert table["subject"].dtype.kind == "U"
    assert table["subject"].tolist() == ds["subject"].values.tolist()
    assert table["ra"].unit == units.deg
    np.testing.assert_array_equal(table["ra"].value, group["ra"][:])
    assert all(table[name].info.description for name in table.colnames)
    for k, name in enumerate(("center", "star", "spiral", "bar")):
        stored = group["classifications"][:, k]
        np.testing.assert_array_equal(np.asarray(table[f"{name}_classifications"]), stored)
    votes = group["vote_fraction"][:, 2]
    np.testing.assert_array_equal(table["spiral_vote_fraction"].mask, ~(votes >= 0))
    known = table["spiral_vote_fraction"].compressed()
    np.testing.assert_array_equal(known, votes[votes >= 0])
    assert {"center_vote_fraction", "object_id", "image"}.isdisjoint(table.colnames)
    assert set(table["status"]) == {"ok"}
    assert table["saturated"].dtype == bool
    assert "nside" in table["healpix"].info.description
    for name in CATALOGUE_TEXT:
        assert table[name].dtype.kind == "U"
        assert table[name].tolist() == group[f"catalogue/{name}"][:].tolist()


def test_the_table_follows_rows_and_columns(ds: xr.Dataset) -> None:
    table = ds.isel(subject=[5, 2, 5]).gz3d.table(["file_name", "vote_fraction", "subject"])
    assert table.colnames == [
        "file_name", "spiral_vote_fraction", "bar_vote_fraction", "subject",
    ]  # fmt: skip
    numbers = ds["zooniverse_subject_id"].values[[5, 2, 5]]
    assert [name.split("_")[3].partition(".")[0] for name in table["file_name"]] == [
        str(number) for number in numbers
    ]
    assert len(ds.isel(subject=0).gz3d.table("ra")) == 1
    one = ds.sel({"class": "spiral"}).gz3d.table()
    assert {"spiral_classifications", "spiral_vote_fraction"} < set(one.colnames)
    assert "bar_vote_fraction" not in one.colnames
    more = ds.assign(
        marked=ds.gz3d.area("spiral"),
        areas=ds.gz3d.area(),
        night=("subject", np.array(["2020-01-01"] * 17 + ["NaT"], "datetime64[D]")),
    )
    more["flux"] = (("subject", "band"), np.ones((18, 2)), {"units": "nanomaggy [h-2]"})
    table = more.gz3d.table()
    assert table["marked"].unit == units.arcsec**2
    np.testing.assert_array_equal(table["spiral_areas"].unmasked.value, more["areas"].values[:, 2])
    assert {"flux_0", "flux_1", "bar_areas"} < set(table.colnames)
    same = more.assign(flux_0=("subject", np.arange(18)), votes=more["areas"]).gz3d.table()
    assert {"flux_0", "flux_0_", "flux_1", "spiral_votes", "spiral_votes_"} < set(same.colnames)
    np.testing.assert_array_equal(same["flux_0"], np.arange(18))
    assert table["flux_0"].info.description == "(nanomaggy [h-2])"
    assert table["night"].tolist() == ["2020-01-01T00:00:00"] * 17 + [""]
    with pytest.raises(UsageError, match="no column 'spiral_vote_fracton'; near matches: spiral_v"):
        ds.gz3d.table("spiral_vote_fracton")
    with pytest.raises(UsageError, match="columns is empty"):
        ds.gz3d.table([])
    with pytest.raises(UsageError, match="columns is 3, expected names of columns"):
        ds.gz3d.table(3)


def test_tables_of_what_has_no_catalogue(store: Path, simulated: Path, ds: xr.Dataset) -> None:
    files = gz3d_zarr.open_source(simulated, limit=2)
    copied = ds.isel(subject=[1, 0]).copy()
    copied.encoding.clear()
    for dataset in (files, copied):
        table = dataset.gz3d.table()
        assert "file_name" not in table.colnames
        expected = dataset["nsa_id"].values.tolist()
        assert np.asarray(table["nsa_id"]).tolist() == expected
        with pytest.raises(UsageError, match="file_name is in the group catalogue of a store"):
            dataset.gz3d.table("file_name")


def test_unknown_values_are_masked_and_stay_so_in_every_format(
    ds: xr.Dataset, tmp_path: Path
) -> None:
    unknown = np.arange(18) == 3
    holes = ds.assign(
        nsa_id=("subject", np.where(unknown, -1, ds["nsa_id"].values)),
        observed=("subject", np.where(unknown, -1, 1).astype(np.int8)),
        objid=("subject", BIG + np.arange(18)),
    ).assign_coords(ra=("subject", np.where(unknown, np.nan, ds["ra"]), ds["ra"].attrs))
    table = holes.gz3d.table()
    for name in ("nsa_id", "observed", "ra"):
        np.testing.assert_array_equal(table[name].mask, unknown)
    frame = table.to_pandas()
    assert frame["nsa_id"].isna().tolist() == unknown.tolist()
    assert str(frame["observed"].dtype) == "Int16"
    assert frame["objid"].tolist() == (BIG + np.arange(18)).tolist()
    for name, form in {"t.fits": "fits", "t.ecsv": "ascii.ecsv", "t.vot": "votable",
                       "t.parquet": "parquet"}.items():  # fmt: skip
        table.write(tmp_path / name, format=form)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="ascii|.*masked")
            read = QTable.read(tmp_path / name, format=form)
        assert read.colnames == table.colnames, name
        read.convert_bytestring_to_unicode()
        for column in ("nsa_id", "observed", "ra"):
            np.testing.assert_array_equal(read[column].mask, unknown, err_msg=name)
        assert read["ra"].unit == units.deg
        assert read["objid"].tolist() == table["objid"].tolist()
        assert read["file_name"].tolist() == table["file_name"].tolist()
        assert read["saturated"].tolist() == table["saturated"].tolist()
        assert read["ra"].info.description == table["ra"].info.description
    assert pq.read_table(tmp_path / "t.parquet").num_rows == 18
