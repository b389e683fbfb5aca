"""Selections: by id, on the sky, by pixel, by votes; and matches with other catalogues."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from astropy import units
from astropy.coordinates import Galactic, SkyCoord
from astropy.table import MaskedColumn, Table
from astropy.time import Time
from astropy_healpix import HEALPix
from zarr.storage import LocalStore, WrapperStore

import gz3d_zarr
from gz3d_zarr import LeftOutWarning, UsageError
from gz3d_zarr.analysis.selection import select_any


@pytest.fixture
def ds(store: Path) -> xr.Dataset:
    return gz3d_zarr.open_store(store)


class Counting(WrapperStore[LocalStore]):
    """A store that keeps the keys of what is read."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store)
        self.keys: set[str] = set()

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self.keys.add(key)
        return await super().get(key, *args, **kwargs)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        wanted = list(key_ranges)
        self.keys.update(key for key, _ in wanted)
        return await super().get_partial_values(prototype, wanted)

    def shards(self, name: str) -> set[int]:
        head = f"{name}/c/"
        return {int(key.removeprefix(head).split("/")[0]) for key in self.keys if head in key}


@pytest.fixture
def counted(store: Path) -> tuple[xr.Dataset, Counting]:
    """The store in dask chunks of its shards of 4, and what is read from it."""
    counting = Counting(LocalStore(store, read_only=True))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        dataset = xr.open_zarr(counting, chunks=None)  # type: ignore[arg-type]
    for name in ("image", "segmentation"):
        dataset[name] = dataset[name].chunk(subject=4)
    return dataset, counting


def many(ra: Any, dec: Any) -> xr.Dataset:
    """A Dataset of positions alone."""
    number = len(ra)
    return xr.Dataset(
        coords={
            "subject": [f"1-{i}" for i in range(number)],
            "zooniverse_subject_id": ("subject", np.arange(number)),
            "ra": ("subject", np.asarray(ra, float)),
            "dec": ("subject", np.asarray(dec, float)),
        }
    )


def simulated_sky() -> tuple[Any, Any]:
    """10,000 positions: all over the sky, and crowded at ra 0, at both poles, at one spot."""
    rng = np.random.default_rng(6)
    ra = rng.uniform(0, 360, 10_000)
    dec = np.degrees(np.arcsin(rng.uniform(-1, 1, 10_000)))
    ra[:2000] = rng.normal(0, 10.0 ** rng.uniform(-5, 0, 2000)) % 360
    dec[:2000] = rng.normal(0, 10.0 ** rng.uniform(-5, 0, 2000))
    dec[2000:3000] = 90 - 10.0 ** rng.uniform(-5, 0, 1000)
    dec[3000:4000] = -90 + 10.0 ** rng.uniform(-5, 0, 1000)
    ra[4000:5000] = 187.5 + rng.normal(0, 10.0 ** rng.uniform(-5, 0, 1000))
    dec[4000:5000] = 45 + rng.normal(0, 10.0 ** rng.uniform(-5, 0, 1000))
    dec[5000] = 90
    return ra, dec


def test_cones_equal_astropys_separations() -> None:
    ra, dec = simulated_sky()
    dataset, sky = many(ra, dec), SkyCoord(ra, dec, unit="deg")
    found = 0
    for center in [(0.0, 0.0), (359.99999, 1e-5), (12.0, 90.0), (200.0, -90.0), (77.0, 89.9999),
                   (187.5, 45.0), (float(ra[9999]), float(dec[9999]))]:  # fmt: skip
        separation = SkyCoord(*center, unit="deg").separation(sky).arcsec
        for radius in (1.0, 5.0, 60.0, 3600.0, 10 * 3600.0, 60 * 3600.0):
            expected = np.flatnonzero(separation <= radius)
            if not len(expected):
                with pytest.raises(UsageError, match="no subject within"):
                    dataset.gz3d.cone(*center, radius)
                continue
            cone = dataset.gz3d.cone(*center, radius)
            np.testing.assert_array_equal(cone["zooniverse_subject_id"], expected)
            found += len(expected)
    assert found > 40_000


def test_cones_take_quantities_and_coordinates() -> None:
    dataset = many([10.0, 10.0, 200.0], [20.0, 20.0 + 4 / 3600, -5.0])
    here = SkyCoord(10, 20, unit="deg")
    cones = [
        dataset.gz3d.cone(10, 20, 5),
        dataset.gz3d.cone(370 - 360, 20 * units.deg, 5 * units.arcsec),
        dataset.gz3d.cone(600 * units.arcmin, 1200 * units.arcmin, (5 / 60) * units.arcmin),
        dataset.gz3d.cone(here, radius=5),
        dataset.gz3d.cone(here.transform_to(Galactic()), radius=5 * units.arcsec),
        dataset.gz3d.cone(here, 5 * units.arcsec),
    ]
    for cone in cones:
        assert cone["subject"].values.tolist() == ["1-0", "1-1"]
    assert dataset.gz3d.cone(-160, -5, 1)["subject"].item() == "1-2"
    assert dataset.gz3d.cone(10, 20, 3)["subject"].item() == "1-0"


def test_cones_that_cannot_be_say_why() -> None:
    dataset = many([10.0, np.nan], [20.0, np.nan])
    with pytest.raises(UsageError, match=r"within 5 arcsec of ra=10\.0+, dec=20\.01.*1-0, is 36 a"):
        dataset.gz3d.cone(10, 20.01, 5)
    with pytest.raises(UsageError, match="1-0, is 30 deg away"):
        dataset.gz3d.cone(10, 50, 5)
    with pytest.raises(UsageError, match="no position is known"):
        many([np.nan], [np.nan]).gz3d.cone(1, 2, 3)
    for bad in [(10, 91, 1), (np.nan, 0, 1), (10, 20, -1), (10, 20), (10,), ("a", 20, 1),
                (10, 20, 3 * units.kg), (SkyCoord([1, 2], [3, 4], unit="deg"), 3),
                (SkyCoord(1, 2, unit="deg"), 1, 1)]:  # fmt: skip
        with pytest.raises(UsageError, match=r"is|takes"):
            dataset.gz3d.cone(*bad)


def test_a_cone_touches_its_own_shards_only(counted: tuple[xr.Dataset, Counting]) -> None:
    dataset, counting = counted
    ra, dec = dataset["ra"].values, dataset["dec"].values
    sky = SkyCoord(ra, dec, unit="deg")
    radius = 40 * 3600.0
    rows = np.flatnonzero(sky[7].separation(sky).arcsec <= radius)
    expected = set((rows // 4).tolist())
    assert 0 < len(expected) < 5
    cone = dataset.gz3d.cone(sky[7], radius=radius)
    assert counting.shards("image") == counting.shards("segmentation") == set()
    marks = cone["segmentation"].sum().values
    assert counting.shards("segmentation") == expected
    assert counting.shards("image") == set()
    assert marks == zarr.open_array(counting, path="segmentation")[:][rows].sum()


def test_ids_give_rows_in_the_order_asked_for(ds: xr.Dataset) -> None:
    labels, ids = ds["subject"].values.tolist(), ds["zooniverse_subject_id"].values.tolist()
    repeated = next(label for label in labels if labels.count(label) == 2)
    one = ds.gz3d.sel(object_id=labels[0])
    assert one.sizes["subject"] == labels.count(labels[0])
    both = ds.gz3d.sel(object_id=repeated)
    rows = [i for i, label in enumerate(labels) if label == repeated]
    assert both["zooniverse_subject_id"].values.tolist() == [ids[i] for i in rows]
    some = [ids[9], ids[2], ids[9], ids[3]]
    assert ds.gz3d.sel(zooniverse_subject_id=some)["zooniverse_subject_id"].values.tolist() == [
        ids[9], ids[2], ids[3],
    ]  # fmt: skip
    assert ds.gz3d.sel(zooniverse_subject_id=np.array(some[:2])).sizes["subject"] == 2
    assert ds.gz3d.sel(object_id=ds["subject"][:5]).sizes["subject"] >= 5
    assert ds.gz3d.sel(object_id=repeated, zooniverse_subject_id=ids[rows[1]])[
        "zooniverse_subject_id"
    ].values.tolist() == [ids[rows[1]]]
    np.testing.assert_array_equal(
        ds.gz3d.sel(zooniverse_subject_id=ids[9])["image"].values[0], ds["image"][9].values
    )


def test_many_ids_walk_each_coordinate_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = many(np.zeros(300), np.zeros(300))
    asked: list[Any] = []
    getitem = xr.Dataset.__getitem__

    def counted(self: xr.Dataset, key: Any) -> Any:
        asked.append(key)
        return getitem(self, key)

    monkeypatch.setattr(xr.Dataset, "__getitem__", counted)
    mixed = [f"1-{i}" if i % 3 else i for i in (*range(250, 50, -1), 60)]
    chosen = select_any(dataset, mixed)
    assert asked.count("subject") == asked.count("zooniverse_subject_id") == 1
    monkeypatch.undo()
    assert chosen["zooniverse_subject_id"].values.tolist() == list(range(250, 50, -1))
    assert select_any(dataset, [7, "1-7", "1-3", "2"])["zooniverse_subject_id"].values.tolist() == [
        7, 3, 2,
    ]  # fmt: skip


def test_unknown_ids_are_reported_with_near_matches(ds: xr.Dataset) -> None:
    with pytest.raises(UsageError, match=r"MaNGA id '1-60001'; near matches: 1-6000\d\d, "):
        ds.gz3d.sel(object_id="1-60001")
    with pytest.raises(UsageError, match="subject id 140000, 3; near matches: 14000"):
        ds.gz3d.sel(zooniverse_subject_id=[140000, 14000001, 3])
    with pytest.raises(UsageError, match="no id is similar; expected one such as 1-6000"):
        ds.gz3d.sel(object_id="NGC 628")
    with pytest.raises(UsageError, match="no subject has both"):
        ds.gz3d.sel(object_id=ds["subject"].values[0], zooniverse_subject_id=14000003)
    for bad in [{}, {"object_id": []}, {"object_id": 3}, {"zooniverse_subject_id": True},
                {"zooniverse_subject_id": 1.5}, {"object_id": object()}]:  # fmt: skip
        with pytest.raises(UsageError):
            ds.gz3d.sel(**bad)


@pytest.mark.parametrize("nside", [None, 1, 2, 8, 16, 64, 4096])
def test_healpix_pixels_of_any_nside(ds: xr.Dataset, nside: int | None) -> None:
    grid = HEALPix(nside or 16, order="nested", frame="icrs")
    own = grid.skycoord_to_healpix(SkyCoord(ds["ra"].values, ds["dec"].values, unit="deg"))
    for pixels in (own[5], own[[1, 7, 12]]):
        chosen = ds.gz3d.healpix(pixels, nside)
        expected = ds["zooniverse_subject_id"].values[np.isin(own, pixels)]
        np.testing.assert_array_equal(chosen["zooniverse_subject_id"], expected)


def test_healpix_pixels_that_are_none(ds: xr.Dataset) -> None:
    empty = next(i for i in range(3072) if i not in ds["healpix"].values)
    with pytest.raises(UsageError, match=f"no subject in the HEALPix pixels {empty} of nside 16"):
        ds.gz3d.healpix(empty)
    for pixels, nside in [(3072, None), (-1, None), (1, 3), (1, 0), (1.5, None), ([], None),
                          ("a", None), (1, 2.0), (1, True)]:  # fmt: skip
        with pytest.raises(UsageError, match=r"expected|from 0 to"):
            ds.gz3d.healpix(pixels, nside)


def test_votes_reach_fractions_and_flags_never_do(ds: xr.Dataset) -> None:
    total = ds["total_classifications"].values
    with np.errstate(invalid="ignore"):
        spiral, bar = ds["spiral_votes"].values / total, ds["bar_votes"].values / total
    ids = ds["zooniverse_subject_id"]
    assert (total == 0).any()
    for least in (0, 0.2, 0.5):
        chosen = ds.gz3d.votes(spiral=least)["zooniverse_subject_id"]
        np.testing.assert_array_equal(chosen, ids[spiral >= least])
    both = ds.gz3d.votes(spiral=0.2, bar=0.2)["zooniverse_subject_id"]
    np.testing.assert_array_equal(both, ids[(spiral >= 0.2) & (bar >= 0.2)])
    exact = float(bar[np.nanargmax(bar)])
    assert ds.gz3d.votes(bar=exact).sizes["subject"] >= 1
    unknown = ds.copy()
    unknown["vote_fraction"] = ds["vote_fraction"] * np.nan
    with pytest.raises(UsageError, match="no subject reaches the vote fraction of spiral 0"):
        unknown.gz3d.votes(spiral=0)
    with pytest.raises(UsageError, match="no subject reaches the vote fraction of spiral 0.2"):
        ds.isel(subject=[]).gz3d.votes(spiral=0.2)
    for bad in [{}, {"spiral": -1}, {"bar": 1.1}, {"bar": "much"}]:
        with pytest.raises(UsageError, match=r"expected|needs"):
            ds.gz3d.votes(**bad)


def test_crossmatch_is_the_nearest_as_astropy_has_it() -> None:
    rng = np.random.default_rng(3)
    ra, dec = simulated_sky()
    dataset = many(ra[:6000:10], dec[:6000:10])
    pick = rng.integers(0, 600, 900)
    other = SkyCoord(
        dataset["ra"].values[pick] + rng.normal(0, 2, 900) / 3600,
        np.clip(dataset["dec"].values[pick] + rng.normal(0, 2, 900) / 3600, -90, 90),
        unit="deg",
    )
    table = Table({"RA": other.ra.deg, "Dec": other.dec.deg, "mass": rng.normal(10, 1, 900)})
    here = SkyCoord(dataset["ra"].values, dataset["dec"].values, unit="deg")
    apart = here[:, None].separation(other[None, :]).arcsec
    expected = np.flatnonzero(apart.min(axis=1) <= 3)
    assert 300 < len(expected) < 600
    for given in (table, table.to_pandas(), other):
        matched = dataset.gz3d.crossmatch(given, 3, repeats="first")
        np.testing.assert_array_equal(matched["zooniverse_subject_id"], expected)
        np.testing.assert_array_equal(matched["table_row"], apart.argmin(axis=1)[expected])
        np.testing.assert_allclose(matched["separation"], apart.min(axis=1)[expected], atol=1e-7)
        assert matched["separation"].attrs["units"] == "arcsec"
    matched = dataset.gz3d.crossmatch(table, (3 / 60) * units.arcmin, repeats="first")
    np.testing.assert_array_equal(matched["mass"], table["mass"][matched["table_row"].values])
    assert matched["mass"].dims == ("subject",)


def test_crossmatch_keeps_every_row_in_the_radius_as_astropy_has_it() -> None:
    rng = np.random.default_rng(4)
    ra, dec = simulated_sky()
    dataset = many(ra[:6000:100], dec[:6000:100])
    pick = rng.integers(0, 60, 200)
    positions = {
        "ifura": np.full(200, -999.0),
        "IFUDEC": np.full(200, -999.0),
        "objra": dataset["ra"].values[pick] + rng.normal(0, 2, 200) / 3600,
        "ObjDec": np.clip(dataset["dec"].values[pick] + rng.normal(0, 2, 200) / 3600, -90, 90),
    }
    matched = dataset.gz3d.crossmatch(Table(positions), 3)
    here = SkyCoord(dataset["ra"].values, dataset["dec"].values, unit="deg")
    there = SkyCoord(positions["objra"], positions["ObjDec"], unit="deg")
    apart = here[:, None].separation(there[None, :]).arcsec
    pairs = sorted((i, apart[i, k], k) for i, k in np.argwhere(apart <= 3).tolist())
    assert len(pairs) > len({i for i, _, _ in pairs}) > 30
    assert matched["zooniverse_subject_id"].values.tolist() == [i for i, _, _ in pairs]
    assert matched["table_row"].values.tolist() == [k for _, _, k in pairs]
    np.testing.assert_allclose(matched["separation"], [d for _, d, _ in pairs], atol=1e-7)
    with pytest.raises(UsageError, match="subjects with more than one row of the table, such as "):
        dataset.gz3d.crossmatch(Table(positions), 3, repeats="raise")


def test_crossmatch_keeps_columns_of_every_kind(ds: xr.Dataset) -> None:
    ra, dec = ds["ra"].values, ds["dec"].values
    table = Table(
        {
            "objra": ra / 15 * units.hourangle,
            "OBJDEC": dec,
            "status": np.arange(18),
            "name": np.array([b"galaxy"] * 18),
            "bands": np.arange(36.0).reshape(18, 2),
            "flux": MaskedColumn(np.arange(18), mask=np.arange(18) == 4),
        }
    )
    matched = ds.gz3d.crossmatch(table, 0.01, ra="OBJRA", dec="objdec")
    assert matched.sizes["subject"] == 18
    rows = matched["table_row"].values
    np.testing.assert_array_equal(matched["table_status"], rows)
    assert matched["status"].attrs == ds["status"].attrs
    assert matched["name"].values.tolist() == ["galaxy"] * 18
    np.testing.assert_array_equal(matched["bands"], table["bands"][rows])
    assert matched["bands"].dims == ("subject", "bands_1")
    assert np.isnan(matched["flux"].values[rows == 4]).all()
    assert np.isfinite(matched["flux"].values[rows != 4]).all()
    assert matched["objra"].attrs["units"] == "hourangle"
    assert matched["image"].chunks is not None
    frame = pd.DataFrame(
        {
            "ra": ra,
            "dec": dec,
            "n": pd.array([1, None, *[3] * 16], dtype="Int64"),
            "m": pd.array([2] * 18, dtype="Int64"),
            "text": ["a"] * 18,
        }
    )
    matched = ds.gz3d.crossmatch(frame, 1)
    assert matched["m"].dtype == np.int64
    assert np.isnan(matched["n"].values).sum() == (matched["table_row"].values == 1).sum()
    np.testing.assert_array_equal(matched["table_ra"], ra[matched["table_row"].values])
    with_sky = Table({"place": SkyCoord(ra, dec, unit="deg").galactic, "k": np.arange(18)})
    assert ds.gz3d.crossmatch(with_sky, 1)["k"].dims == ("subject",)


def test_crossmatch_refuses_what_cannot_match(ds: xr.Dataset) -> None:
    far = Table({"ra": [10.0], "dec": [-80.0]})
    with pytest.raises(
        UsageError, match="none of the 1 rows of the table is within 2 arcsec of a subject"
    ):
        ds.gz3d.crossmatch(far, 2)
    with pytest.raises(
        UsageError,
        match="has no columns ra and dec nor objra and objdec nor .*; it has name, cenra$",
    ):
        ds.gz3d.crossmatch(pd.DataFrame({"name": ["a"], "cenra": [1.0]}), 2)
    with pytest.raises(
        UsageError, match="has no columns RA and DEJ2000; name those with .*; it has ra, dec"
    ):
        ds.gz3d.crossmatch(far, 2, ra="RA", dec="DEJ2000")
    with pytest.raises(UsageError, match="repeats is 'some', expected one of all, first, raise"):
        ds.gz3d.crossmatch(far, 2, repeats="some")
    with pytest.raises(UsageError, match="column ra of the table is in kg"):
        ds.gz3d.crossmatch(Table({"ra": [1.0] * units.kg, "dec": [2.0]}), 2)
    with pytest.raises(UsageError, match="column ra of the table is <U1"):
        ds.gz3d.crossmatch(Table({"ra": ["a"], "dec": [2.0]}), 2)
    with pytest.raises(UsageError, match="not list"):
        ds.gz3d.crossmatch([1, 2], 2)
    with pytest.raises(UsageError, match="radius is -1"):
        ds.gz3d.crossmatch(far, -1)
    with pytest.raises(UsageError, match="prefix is '', expected text"):
        ds.gz3d.crossmatch(far, 2, prefix="")
    frame = pd.DataFrame({"ra": [1.0], "dec": [2.0], "k": [3], 1: [4]})
    for twice in (pd.concat([frame, frame[["k"]]], axis=1), frame.assign(**{"1": 5, "k": 6})):
        with pytest.raises(UsageError, match="more than one column [k1]; rename or drop"):
            ds.gz3d.crossmatch(twice, 2)


BIG = 1237648720693755919
"""An objID of SDSS, which float64 has not."""


def test_crossmatch_keeps_long_ids(ds: xr.Dataset) -> None:
    ra, dec = ds["ra"].values, ds["dec"].values
    ids, masked = BIG + np.arange(18), np.arange(18) == 4
    table = Table({"ra": ra, "dec": dec, "objid": MaskedColumn(ids, mask=masked)})
    frame = pd.DataFrame({"ra": ra, "dec": dec, "objid": pd.array(ids, dtype="Int64")})
    frame.loc[4, "objid"] = pd.NA
    assert frame["objid"].dtype == "Int64"
    far = np.where(masked, -89.0, dec)
    for given in (table, frame):
        matched = ds.gz3d.crossmatch(given, 0.01)
        rows = matched["table_row"].values
        assert masked[rows].any()
        assert matched["objid"].dtype == np.int64
        np.testing.assert_array_equal(matched["objid"], np.where(masked, 0, ids)[rows])
        np.testing.assert_array_equal(matched["objid_masked"], masked[rows])
        assert matched["objid_masked"].dims == ("subject",)
        given["dec"] = far  # the masked row is not matched
        matched = ds.gz3d.crossmatch(given, 0.01)
        assert "objid_masked" not in matched
        assert matched["objid"].dtype == np.int64
        np.testing.assert_array_equal(matched["objid"], ids[matched["table_row"]])


def test_crossmatch_leaves_out_what_cannot_be_joined(ds: xr.Dataset) -> None:
    ra, dec = ds["ra"].values, ds["dec"].values
    table = Table({"place": SkyCoord(ra, dec, unit="deg"), "n": np.arange(18)})
    table["when"] = Time(np.full(18, 2451545.0), format="jd")
    table["pair"] = np.zeros(18, [("a", int), ("b", float)])
    message = r"2 columns of the table left out.*: when \(Time\), pair \(Column\)"
    with pytest.warns(LeftOutWarning, match=message) as caught:
        matched = ds.gz3d.crossmatch(table, 1)
    assert [warning.filename for warning in caught] == [__file__]
    np.testing.assert_array_equal(matched["n"], matched["table_row"])
    assert not {"when", "pair", "place"} & set(matched.variables)
    table = Table({"ra": ra, "dec": dec, "a": table["place"], "b": table["place"]})
    with pytest.warns(LeftOutWarning, match=r"a \(SkyCoord\), b \(SkyCoord\)"):
        ds.gz3d.crossmatch(table, 1)
