"""Recipes: values against numpy, what is left out, and graphs at the size of the survey."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from files import subject_files

import gz3d_zarr
from gz3d_zarr import GZ3DError, LeftOutWarning, StoreError, UsageError
from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.datamodel.variables import LABELS
from gz3d_zarr.recipes import arms_against_bars, mean_mask, radial_profile

pytestmark = pytest.mark.filterwarnings("ignore:left out of .*, as volunteers were not asked")
SURVEY, SHARD = 29_813, 64
MOST_TASKS = {"all": 3000, "selected": 4500}
CLASSES = ("center", "star", "spiral", "bar")
RECIPES: dict[str, Callable[..., Any]] = {
    "the mean mask": mean_mask,
    "arms against bars": arms_against_bars,
    "the radial profile": radial_profile,
}


@pytest.fixture
def ds(store: Path) -> xr.Dataset:
    return gz3d_zarr.open_store(store)


@pytest.fixture(scope="module")
def counts(store: Path) -> np.ndarray:
    found: np.ndarray = gz3d_zarr.open_store(store, chunks=None)["segmentation"].values
    return found


@pytest.fixture(scope="module")
def flawed(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of seven subjects in shards of two, of which two are not ok."""
    folder = tmp_path_factory.mktemp("flawed")
    for i, path in enumerate(subject_files(simulated)[:7]):
        (folder / path.name).write_bytes(b"<html>" if i in (1, 4) else path.read_bytes())
    gz3d_zarr.build(folder, folder / "g.zarr", client, shard_size=2)
    return folder / "g.zarr"


@pytest.fixture
def volunteers(ds: xr.Dataset) -> np.ndarray:
    """How many were asked (subject, class)."""
    found: np.ndarray = ds["classifications"].values
    assert (found[:, 2] == 0).any()
    assert (found[:, 2] > 0).any()
    return found


def profile(
    counts: np.ndarray, volunteers: np.ndarray, arcsec: np.ndarray, edges: np.ndarray
) -> np.ndarray:
    """Mean profile (class, annulus), the long way: a subject and an annulus at a time."""
    y, x = np.mgrid[:525, :525]
    profiles = np.full((len(counts), 4, len(edges) - 1), np.nan)
    for i, scale in enumerate(arcsec):
        radius = np.hypot(y - 261.5, x - 261.5) * scale
        for j in range(len(edges) - 1):
            within = (radius >= edges[j]) & (radius < edges[j + 1])
            if within.any():
                asked = np.where(volunteers[i] > 0, volunteers[i], np.nan)
                profiles[i, :, j] = counts[i][:, within].mean(axis=1) / asked
    known = np.isfinite(profiles)
    total = np.where(known, profiles, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


@pytest.mark.usefixtures("_scheduler")
def test_mean_mask_is_the_share_of_subjects(
    ds: xr.Dataset, counts: np.ndarray, volunteers: np.ndarray
) -> None:
    asked = volunteers > 0
    mean = mean_mask(ds)
    assert mean.dims == ("y", "x")
    assert mean.dtype == np.float64
    assert mean.chunks is not None
    assert mean["class"].item() == "spiral"
    assert mean.attrs == {
        "long_name": "fraction of subjects marked by more than 3 volunteers",
        "units": "1",
        "subjects": asked[:, 2].sum(),
    }
    np.testing.assert_allclose(mean, (counts[asked[:, 2], 2] > 3).mean(axis=0))
    assert mean.max() > 0.2
    np.testing.assert_allclose(
        mean_mask(ds, "bar", threshold=7.5), (counts[asked[:, 3], 3] > 7.5).mean(axis=0)
    )
    every = mean_mask(ds, None, of="counts")
    assert every.dims == ("class", "y", "x")
    assert every["class"].values.tolist() == list(CLASSES)
    assert every.attrs["subjects"] == asked.any(axis=1).sum()
    assert every["asked_subjects"].values.tolist() == asked.sum(axis=0).tolist()
    for i in range(4):
        np.testing.assert_allclose(every[i], counts[asked[:, i], i].mean(axis=0))
    fractions = ds.gz3d.fraction("spiral").isel(subject=asked[:, 2]).mean("subject")
    found = mean_mask(ds, of="fractions")
    np.testing.assert_allclose(found, fractions, rtol=1e-5)
    assert found.max() > 0.2


def test_subjects_that_were_not_asked_are_left_out_and_counted(
    ds: xr.Dataset, volunteers: np.ndarray
) -> None:
    spiral, bar = (volunteers[:, 2:] == 0).sum(axis=0)
    for name, recipe in RECIPES.items():
        with pytest.warns(LeftOutWarning, match=f"left out of {name}, .*: .* for spiral") as caught:
            recipe(ds)
        assert [warning.filename for warning in caught] == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            recipe(ds.gz3d.asked("spiral"), **({"cls": "spiral"} if "arms" not in name else {}))
    with pytest.warns(LeftOutWarning, match=f": {spiral} subjects? for spiral, {bar} subjects? fo"):
        radial_profile(ds)
    rows = ds.isel(subject=np.flatnonzero(volunteers[:, 2] == 0))
    for recipe in (mean_mask, arms_against_bars, partial(radial_profile, cls="spiral")):
        with pytest.raises(UsageError, match="volunteers were not asked about spiral for any of t"):
            recipe(rows)
    assert np.isnan(mean_mask(rows, None).sel({"class": "spiral"})).all()


@pytest.mark.usefixtures("_scheduler")
def test_arm_area_stands_beside_votes(
    ds: xr.Dataset, counts: np.ndarray, volunteers: np.ndarray
) -> None:
    table = arms_against_bars(ds, bins=4)
    assert table["arm_area"].chunks is None
    asked = volunteers[:, 2] > 0
    ds, counts = ds.isel(subject=asked), counts[asked]
    area = (counts[:, 2] > 3).sum(axis=(1, 2)) * 0.099**2
    np.testing.assert_allclose(table["arm_area"], area, rtol=1e-9)
    assert table["arm_area"].attrs["units"] == "arcsec2"
    assert table["subject"].values.tolist() == ds["subject"].values.tolist()
    assert {"object_id", "zooniverse_subject_id", "ra", "dec"} <= set(table.coords)
    votes, total = ds["bar_votes"].values, ds["total_classifications"].values
    bar = np.where(total > 0, votes / np.maximum(total, 1), np.nan)
    np.testing.assert_allclose(table["bar_fraction"], bar, rtol=1e-6)
    np.testing.assert_allclose(
        table["spiral_fraction"].values[total > 0],
        (ds["spiral_votes"].values / np.maximum(total, 1))[total > 0],
        rtol=1e-6,
    )
    bin_number = np.where(np.isnan(bar), -1, np.minimum(np.nan_to_num(bar) * 4, 3).astype(int))
    np.testing.assert_array_equal(table["number"], [(bin_number == i).sum() for i in range(4)])
    expected = [
        np.median(area[bin_number == i]) if (bin_number == i).any() else np.nan for i in range(4)
    ]
    np.testing.assert_allclose(table["median_area"], expected, rtol=1e-9)
    assert table["bar_bin"].values.tolist() == [0.125, 0.375, 0.625, 0.875]
    assert len(table.drop_dims("bar_bin").to_dataframe()) == asked.sum()
    assert "number" not in arms_against_bars(ds)


def test_bins_have_their_lower_edge_and_the_last_both(ds: xr.Dataset) -> None:
    rows = ds.isel(subject=slice(6)).copy()
    share = np.array(rows["vote_fraction"].values)
    share[:, 3] = np.float32([0.2, 0.7, 0.9, -0.5, np.nan, 0.1])
    rows["vote_fraction"] = rows["vote_fraction"].copy(data=share)
    rows["classifications"] = rows["classifications"] * 0 + 15
    table = arms_against_bars(rows, bins=[0.2, 0.7, 0.9])
    assert table["number"].values.tolist() == [1, 2]
    assert arms_against_bars(rows, bins=[0.91, 1.0])["median_area"].isnull().all()


@pytest.mark.usefixtures("_scheduler")
def test_radial_profile_is_the_mean_over_circles(
    ds: xr.Dataset, counts: np.ndarray, volunteers: np.ndarray
) -> None:
    volunteers = np.where(volunteers > 0, volunteers - np.arange(18)[:, None] % 3, volunteers)
    ds = ds.assign(classifications=(("subject", "class"), volunteers))
    edges = np.array([0.0, 0.05, 0.5, 1, 2, 5, 10, 26, 50])  # no pixel within 0.07 arcsec
    found = radial_profile(ds, edges=edges)
    assert found.dims == ("class", "radius")
    assert found.chunks is not None
    assert found["radius"].attrs["units"] == "arcsec"
    arcsec = ds["scale"].values * 3600
    np.testing.assert_allclose(found, profile(counts, volunteers, arcsec, edges), rtol=1e-9)
    assert np.isnan(found.values[:, 0]).all()
    assert found.sel({"class": "center"}).values[1] > 0.2
    one = radial_profile(ds, "bar")
    assert one.dims == ("radius",)
    assert one["radius"].values[[0, -1]].tolist() == [0.25, 25.75]
    assert (one["radius_low"].values[0], one["radius_high"].values[-1]) == (0, 26)
    default = np.arange(0, 26.5, 0.5)
    np.testing.assert_allclose(one, profile(counts, volunteers, arcsec, default)[3], rtol=1e-9)


def test_each_subject_has_circles_of_its_own_scale(
    ds: xr.Dataset, counts: np.ndarray, volunteers: np.ndarray
) -> None:
    scale = ds["scale"].values * np.linspace(0.4, 1, 18)
    mixed = ds.assign_coords(scale=("subject", scale))
    edges = np.array([0, 3, 14, 16, 30, 36])  # some pictures do not reach the last
    found = radial_profile(mixed, edges=edges)
    np.testing.assert_allclose(found, profile(counts, volunteers, scale * 3600, edges), rtol=1e-9)


def test_selections_orders_and_single_rows(ds: xr.Dataset, counts: np.ndarray) -> None:
    asked = ds["classifications"].sel({"class": "spiral"}).values > 0
    chosen = ds.gz3d.asked("spiral")
    np.testing.assert_allclose(mean_mask(chosen), (counts[asked, 2] > 3).mean(axis=0))
    turned = ds.transpose("x", "class", "y", "subject", ...)
    np.testing.assert_allclose(mean_mask(turned), mean_mask(ds))
    np.testing.assert_allclose(radial_profile(turned), radial_profile(ds))
    row = ds.isel(subject=5)
    np.testing.assert_allclose(mean_mask(row, "center"), counts[5, 0] > 3)
    assert arms_against_bars(row).sizes == {"subject": 1}
    bar = ds.sel({"class": "bar"})
    np.testing.assert_allclose(radial_profile(bar, "bar"), radial_profile(ds, "bar"))
    loaded = ds[["segmentation", "status", "classifications"]].load()
    np.testing.assert_allclose(mean_mask(loaded), mean_mask(ds))


@pytest.mark.usefixtures("_scheduler")
def test_rows_that_are_not_ok_weigh_nothing(flawed: Path) -> None:
    ds = gz3d_zarr.open_store(flawed)
    ok = ds["status"].values == 0
    good = ds.isel(subject=np.flatnonzero(ok))
    counts = good.gz3d.asked("spiral")["segmentation"].values
    found = {}
    for name, recipe in RECIPES.items():
        with pytest.warns(LeftOutWarning, match=f"2 subjects left out of {name}: 2 corr") as caught:
            found[name] = recipe(ds)
        assert {warning.filename for warning in caught} == {__file__}
    np.testing.assert_allclose(found["the mean mask"], (counts[:, 2] > 3).mean(axis=0))
    assert found["the mean mask"].attrs["subjects"] == len(counts)
    np.testing.assert_allclose(found["the radial profile"], radial_profile(good))
    table = found["arms against bars"]
    ids = good.gz3d.asked("spiral")["zooniverse_subject_id"]
    assert table["zooniverse_subject_id"].equals(ids)
    assert table["arm_area"].notnull().all()


def test_files_give_what_their_store_gives(simulated: Path, ds: xr.Dataset, client: Client) -> None:
    source = gz3d_zarr.open_source(simulated, limit=4)
    same = ds.gz3d.sel(zooniverse_subject_id=source["zooniverse_subject_id"].values)
    with client.as_current():
        for recipe in RECIPES.values():
            xr.testing.assert_allclose(recipe(source), recipe(same))


def test_nothing_to_do_and_wrong_arguments_are_refused(ds: xr.Dataset, flawed: Path) -> None:
    rows = gz3d_zarr.open_store(flawed)
    bad = rows.isel(subject=np.flatnonzero(rows["status"].values != 0))
    for name, recipe in RECIPES.items():
        with pytest.raises(UsageError, match=f"no subject is left for {name}: 2 rows, 2 corrupt"):
            recipe(bad)
        with pytest.raises(UsageError, match=f"there is no subject for {name}"):
            recipe(ds.isel(subject=slice(0)))
        with pytest.raises(StoreError, match="not a Dataset of Galaxy Zoo: 3D"):
            recipe(xr.Dataset({"segmentation": ("x", [1])}))
        with pytest.raises(StoreError, match="lacks status"):
            recipe(ds.drop_vars("status"))
    cut = ds.isel(x=slice(100))
    cases: list[tuple[str, Callable[[], Any]]] = [
        (
            "of is 'votes', expected subjects, counts or fractions",
            lambda: mean_mask(ds, of="votes"),
        ),  # type: ignore[arg-type]
        ("threshold is 300, expected", lambda: mean_mask(ds, threshold=300)),
        ("threshold is 300, expected", lambda: arms_against_bars(ds, threshold=300)),
        ("no class 'arms'", lambda: mean_mask(ds, "arms")),
        ("no class 'arms'", lambda: radial_profile(ds, "arms")),
        ("no class 'bar'", lambda: arms_against_bars(ds.sel({"class": ["spiral"]}))),
        ("no class 'spiral'", lambda: arms_against_bars(ds.sel({"class": "bar"}))),
        ("has 100 pixels along x, not the 525", lambda: mean_mask(cut)),
        ("has 100 pixels along x, not the 525", lambda: radial_profile(cut)),
        ("bins is 0, expected 1 to 1000, or edges", lambda: arms_against_bars(ds, bins=0)),
        ("bins is True, expected 2 to", lambda: arms_against_bars(ds, bins=True)),
        ("bins is 'x', expected asc", lambda: arms_against_bars(ds, bins="x")),  # type: ignore[arg-type]
        ("bins .* from 0 to 1", lambda: arms_against_bars(ds, bins=[0.5, 1.5])),
        ("edges .* ascending", lambda: radial_profile(ds, edges=[3, 2])),
        ("edges .* ascending", lambda: radial_profile(ds, edges=[3])),
        ("edges .* numbers from 0$", lambda: radial_profile(ds, edges=[-1, 2])),
        ("edges .* ascending", lambda: radial_profile(ds, edges=[0, np.nan])),
    ]
    for message, action in cases:
        with pytest.raises(GZ3DError, match=message):
            action()


class NotComputedError(Exception):
    """Raised instead of computing."""


@pytest.fixture(scope="module")
def survey() -> xr.Dataset:
    """As large as the survey, in its chunks, with rows that are not ok."""
    array = BIG_ARRAYS["segmentation"]
    data = da.zeros((SURVEY, *array.shape), dtype=np.uint8, chunks=(SHARD, *array.shape))
    votes = np.random.default_rng(0).random((SURVEY, 4), np.float32)
    return xr.Dataset(
        {
            "segmentation": (array.dims, data),
            "vote_fraction": (("subject", "class"), votes),
            "classifications": (("subject", "class"), np.full((SURVEY, 4), 15, np.int16)),
            "status": ("subject", (np.arange(SURVEY) % 1000 == 7).astype(np.uint8)),
        },
        coords={
            "subject": [f"1-{i}" for i in range(SURVEY)],
            "zooniverse_subject_id": ("subject", np.arange(SURVEY)),
            "scale": ("subject", np.full(SURVEY, 0.099 / 3600)),
            "class": list(LABELS["class"]),
        },
    )


@pytest.mark.parametrize("rows", ["all", "selected"])
@pytest.mark.parametrize("recipe", [*RECIPES.values(), partial(mean_mask, cls=None)])
def test_the_whole_survey_is_a_small_graph(
    survey: xr.Dataset, recipe: Callable[..., Any], rows: str
) -> None:
    tasks = []

    def count(graph: Any, keys: Any, **_: Any) -> None:
        # Dask 2026 gives schedulers an expression.
        found = graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph
        tasks.append(len(found))
        raise NotComputedError

    def run(ds: xr.Dataset) -> None:
        result = recipe(ds)
        assert len(result.__dask_graph__()) < MOST_TASKS[rows]
        result.compute()

    ds = survey if rows == "all" else survey.gz3d.votes(spiral=0.2)
    with (
        dask.config.set(scheduler=count),
        pytest.warns(LeftOutWarning, match=r"\d+ subjects left out of"),
        pytest.raises(NotComputedError),
    ):
        run(ds)
    assert len(tasks) == 1  # one pass
    assert SURVEY / SHARD < tasks[0] < MOST_TASKS[rows]


def test_many_chunks_of_one_subject_are_reported(survey: xr.Dataset) -> None:
    shape = BIG_ARRAYS["segmentation"].shape
    data = da.zeros((5000, *shape), dtype=np.uint8, chunks=(1, *shape))
    fine = survey.isel(subject=slice(5000)).drop_vars("segmentation")
    fine["segmentation"] = (BIG_ARRAYS["segmentation"].dims, data)
    fine["status"] = fine["status"] * 0
    fine["segmentation"].encoding["shards"] = (SHARD, *shape)
    for action in (mean_mask, radial_profile, lambda ds: ds.gz3d.mask("bar")):
        with pytest.warns(da.PerformanceWarning, match=r"5000 dask.*open_store\(path\)") as caught:
            action(fine)
        assert len(caught) == 1
        assert action not in RECIPES.values() or caught[0].filename == __file__
        assert "of 1 subject, " in str(caught[0].message)
        assert 'xr.open_zarr(path, chunks={"subject": 64})' in str(caught[0].message)
    mean_mask(fine.isel(subject=slice(4000)))  # no warning: few, or whole shards
    mean_mask(survey.assign(status=survey["status"] * 0))
