"""Masks drawn again: equal to the published ones by default, and what each option changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client

import gz3d_zarr
from gz3d_zarr import UsageError
from gz3d_zarr.analysis.annotations import VolunteerMarks
from gz3d_zarr.analysis.redraw import PathRules, draw_ellipses, draw_paths
from gz3d_zarr.simulation.volunteers import Cluster, mark_mask, path_mask

CLASSES = ("center", "star", "spiral", "bar")
SQUARE = [[10.0, 20.0], [30.0, 20.0], [30.0, 40.0], [10.0, 40.0]]
CROSSED = [[100.0, 100.0], [140.0, 140.0], [140.0, 100.0], [100.0, 140.0]]
INNER = [[15.0, 25.0], [25.0, 25.0], [25.0, 35.0], [15.0, 35.0]]


def volunteers(*paths: list[list[list[float]]]) -> list[VolunteerMarks]:
    """One volunteer for each list of paths, with the ids 1, 2, ..."""
    none = np.zeros((0, 2))
    return [
        VolunteerMarks(i, "", none, tuple(np.array(path) for path in own))
        for i, own in enumerate(paths, 1)
    ]


@pytest.fixture(scope="module")
def reference_store(
    reference: Path, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("reference") / "g.zarr"
    gz3d_zarr.build(reference, path, client, shard_size=16)
    return path


@pytest.mark.parametrize("cls", CLASSES)
def test_published_rules_give_the_published_masks(store: Path, cls: str) -> None:
    ds = gz3d_zarr.open_store(store)
    drawn = ds.gz3d.redraw(cls)
    assert drawn.dims == ("subject", "y", "x")
    assert drawn.chunks is not None
    assert drawn.chunks[0] == ds["segmentation"].chunks[0]
    assert drawn.dtype == np.uint8
    published = ds["segmentation"].sel({"class": cls}).drop_vars("class")
    assert published.max() > 3
    np.testing.assert_array_equal(drawn, published)
    assert {"zooniverse_subject_id", "ra"} <= set(drawn.coords)


@pytest.mark.long
@pytest.mark.parametrize("cls", CLASSES)
def test_reference_masks_are_drawn_pixel_by_pixel(reference_store: Path, cls: str) -> None:
    ds = gz3d_zarr.open_store(reference_store)
    assert ds.sizes["subject"] == 64
    published = ds["segmentation"].sel({"class": cls}).values
    np.testing.assert_array_equal(ds.gz3d.redraw(cls).values, published)


def test_selections_are_drawn_in_their_order(store: Path) -> None:
    ds = gz3d_zarr.open_store(store)
    counts = ds["segmentation"].sel({"class": "spiral"}).values
    rows = ds.isel(subject=[9, 2, 5])
    np.testing.assert_array_equal(rows.gz3d.redraw("spiral"), counts[[9, 2, 5]])
    np.testing.assert_array_equal(
        rows.isel({"class": 0}).gz3d.redraw("bar"), rows["segmentation"].sel({"class": "bar"})
    )
    plain = xr.open_zarr(store).isel(subject=slice(3, 6))
    np.testing.assert_array_equal(plain.gz3d.redraw("spiral"), counts[3:6])
    assert ds.isel(subject=4).gz3d.redraw("star").sizes == {"subject": 1, "y": 525, "x": 525}


def test_paths_follow_the_rules_of_the_pipeline() -> None:
    outside = [[-5.0, 500.5], [20.0, 530.0], [3.5, 512.0]]
    own = [SQUARE, CROSSED, [[7.0, 7.0]], [[7.0, 7.0], [9.0, 9.0]], outside]
    expected = path_mask(own)
    np.testing.assert_array_equal(draw_paths(volunteers(own), PathRules()), expected)
    assert expected.sum() > 400


def test_ellipses_follow_the_rules_of_the_pipeline() -> None:
    table = np.array(
        [
            [100.3, 200.7, 30.0, 12.0, -8.0, 5.0],
            [104.0, 203.0, 9.0, 9.0, 0.0, 3.0],
            [2.0, 523.0, 40.0, 25.0, 3.0, 4.0],
            [300.0, 300.0, 4.0, 4.0, 4.0, 9.0],  # marks on a line
        ]
    )
    unknown = np.array([[np.nan, 9.0, 4.0, 4.0, 0.0, 9.0], [9.0, 9.0, 4.0, 4.0, 0.0, np.nan]])
    assert not draw_ellipses(unknown).any()
    clusters = [
        Cluster(row[:2], np.array([[row[2], row[4]], [row[4], row[3]]]), np.ones(int(row[5]), bool))
        for row in table
    ]
    expected = mark_mask(clusters)
    assert expected.max() == 8
    np.testing.assert_array_equal(draw_ellipses(table), expected)


def test_paths_that_cross_themselves_can_be_kept() -> None:
    drawn = volunteers([SQUARE, CROSSED])
    assert draw_paths(drawn, PathRules())[110:130, 100:141].sum() == 0
    kept = draw_paths(drawn, PathRules(simple_only=False))
    assert kept[105, 110:136].sum() == 0  # between the two triangles
    assert kept[120, 105] == 1
    assert kept[120, 138] == 1


def test_a_volunteer_can_count_once_and_have_a_weight() -> None:
    drawn = volunteers([SQUARE, INNER], [INNER])
    assert draw_paths(drawn, PathRules())[30, 20] == 3
    assert draw_paths(drawn, PathRules(once_per_volunteer=True))[30, 20] == 2
    assert draw_paths(drawn, PathRules(once_per_volunteer=True))[22, 12] == 1
    weighted = PathRules(weights={1: 0.25})
    assert draw_paths(drawn, weighted)[30, 20] == 1.5  # the second volunteer has the weight 1
    assert draw_paths(drawn, PathRules(weights={1: 0.25}, once_per_volunteer=True))[30, 20] == 1.25


def test_small_paths_can_be_left_out() -> None:
    drawn = volunteers([SQUARE, INNER])
    inner = int(draw_paths(volunteers([INNER]), PathRules()).sum())
    assert draw_paths(drawn, PathRules(minimum_area=inner))[30, 20] == 2
    assert draw_paths(drawn, PathRules(minimum_area=inner + 0.5))[30, 20] == 1


def test_options_reach_the_masks(store: Path) -> None:
    ds = gz3d_zarr.open_store(store).gz3d.asked("spiral")
    drawn = ds["classifications_drawn"].sel({"class": "spiral"}).values
    i = int(drawn.argmax())
    row = ds.isel(subject=[i])
    paths = row.gz3d.marks(cls="spiral")
    weights = {volunteer.classification_id: 0.5 for volunteer in paths}
    half = row.gz3d.redraw("spiral", weights=weights)
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, row.gz3d.redraw("spiral") * 0.5)
    once = row.gz3d.redraw("spiral", simple_only=False, once_per_volunteer=True)
    assert once.max() <= drawn[i]
    assert not row.gz3d.redraw("spiral", minimum_area=1e6).any()


def test_wrong_arguments_are_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = gz3d_zarr.open_store(store)
    cases: list[tuple[str, Callable[[], Any]]] = [
        ("no class 'arm', expected one of", lambda: ds.gz3d.redraw("arm")),
        ("of star is drawn from clusters", lambda: ds.gz3d.redraw("star", simple_only=False)),
        ("minimum_area is -1, expected", lambda: ds.gz3d.redraw("bar", minimum_area=-1)),
        ("weight of classification 7 is nan", lambda: ds.gz3d.redraw("bar", weights={7: np.nan})),
        ("weights has '7', expected a class", lambda: ds.gz3d.redraw("bar", weights={"7": 1.0})),
        ("7 is 'a', expected a number", lambda: ds.gz3d.redraw("bar", weights={7: "a"})),
        ("weights is not a mapping", lambda: ds.gz3d.redraw("bar", weights=[1.0])),
        ("does not say which store", lambda: ds.drop_encoding().gz3d.redraw("bar")),
    ]
    for message, action in cases:
        with pytest.raises(UsageError, match=message):
            action()
    monkeypatch.setitem(sys.modules, "shapely", None)
    with pytest.raises(UsageError, match=r"drawing masks again needs shapely: .*gz3d-zarr\[demo\]"):
        ds.gz3d.redraw("bar")
