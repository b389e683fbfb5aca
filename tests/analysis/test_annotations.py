"""Clusters and marks: every value against the files, from however a store was opened."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from distributed import Client
from files import opened, subject_files
from stores import remove_packs

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.analysis.annotations import VolunteerMarks, parse_marks
from gz3d_zarr.datamodel.annotations import MarkTable
from gz3d_zarr.export.fits import export_fits

COLUMNS = ("x", "y", "var_x", "var_y", "var_x_y", "ra", "dec", "var_ra", "var_dec", "var_ra_dec")
MARKS = {
    "center": (8, "center_points"),
    "star": (8, "star_points"),
    "spiral": (9, "spiral_paths"),
    "bar": (10, "bar_paths"),
}


@pytest.fixture
def ds(store: Path) -> xr.Dataset:
    return gz3d_zarr.open_store(store)


def tables(folder: Path, subject_id: int) -> dict[int, Any]:
    """HDUs 6 to 10 of a subject, as astropy reads them."""
    (path,) = (p for p in subject_files(folder) if p.name.endswith(f"_{subject_id}.fits.gz"))
    with opened(path) as hdus:
        return {i: np.array(hdus[i].data) for i in range(6, 11)}


@pytest.mark.parametrize(("cls", "hdu"), [("center", 6), ("star", 7)])
def test_clusters_are_those_of_the_files(
    ds: xr.Dataset, simulated: Path, cls: str, hdu: int
) -> None:
    rows = ds.isel(subject=[7, 2, 3])
    table = rows.gz3d.clusters(cls)
    assert table["ra"].unit == u.deg
    assert table["var_x_y"].unit == u.pix**2
    assert all(table[name].info.description for name in table.colnames)
    assert len(ds.gz3d.clusters(cls)) > len(table)
    start = 0
    for name, number in zip(
        rows["subject"].values, rows["zooniverse_subject_id"].values, strict=True
    ):
        expected = tables(simulated, int(number))[hdu]
        part = table[start : start + len(expected)]
        start += len(expected)
        assert set(part["subject"]) <= {name}
        assert (part["zooniverse_subject_id"] == number).all()
        for column in COLUMNS:
            np.testing.assert_array_equal(part[column].value, expected[column])
        np.testing.assert_array_equal(part["count"], expected["count"])
    assert start == len(table) > 0


@pytest.mark.parametrize("cls", list(MARKS))
def test_marks_are_those_of_the_files(ds: xr.Dataset, simulated: Path, cls: str) -> None:
    hdu, column = MARKS[cls]
    drawn = ds["classifications_drawn"].sel({"class": cls}).values
    for i in (int(drawn.argmax()), int(drawn.argmin())):
        subject_id = int(ds["zooniverse_subject_id"][i])
        expected = tables(simulated, subject_id)[hdu]
        volunteers = ds.gz3d.marks(subject_id, cls)
        assert len(volunteers) == len(expected) == ds["classifications"][i].sel({"class": cls})
        for volunteer, row in zip(volunteers, expected, strict=True):
            assert volunteer.classification_id == row["classification_id"]
            assert volunteer.time_stamp == row["time_stamp"].decode().strip()
            marks = json.loads(row[column])
            if hdu == 8:
                assert volunteer.points.tolist() == marks
                assert volunteer.paths == ()
            else:
                assert [path.tolist() for path in volunteer.paths] == marks
                assert volunteer.points.shape == (0, 2)


def test_marks_become_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    none = np.zeros((0, 2))
    paths = (np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0]]))
    shapes = VolunteerMarks(1, "", none, paths).to_shapely()
    assert [shape.geom_type for shape in shapes.geoms] == ["LineString", "Point"]
    points = VolunteerMarks(1, "", paths[0], ()).to_shapely()
    assert [(p.x, p.y) for p in points.geoms] == [(1, 2), (3, 4)]
    assert VolunteerMarks(1, "", none, ()).to_shapely().is_empty
    monkeypatch.setitem(sys.modules, "shapely", None)
    with pytest.raises(UsageError, match="to_shapely needs shapely"):
        VolunteerMarks(1, "", none, ()).to_shapely()


def test_groups_are_found_from_any_dataset_of_the_store(store: Path, ds: xr.Dataset) -> None:
    subject_id = int(ds["zooniverse_subject_id"][5])
    expected = [m.classification_id for m in ds.gz3d.marks(subject_id, "center")]
    datasets = {
        "open_zarr": xr.open_zarr(store),
        "without chunks": gz3d_zarr.open_store(store, chunks=None),
        "masked": gz3d_zarr.open_store(store, masked=True),
        "assigned": ds.assign(other=ds["ra"] * 2).drop_vars("image"),
        "selected": ds.gz3d.sel(zooniverse_subject_id=subject_id),
        "one": ds.isel(subject=5),
        "loaded": ds.isel(subject=[3, 5])[["status"]].load(),
    }
    for name, dataset in datasets.items():
        found = dataset.gz3d.marks(subject_id, "center")
        assert [m.classification_id for m in found] == expected, name
    assert "object_store" not in repr(ds)


def test_files_give_what_the_store_gives(ds: xr.Dataset, simulated: Path) -> None:
    source = gz3d_zarr.open_source(simulated)
    rows = [7, 2, 3]
    chosen, expected = source.isel(subject=rows), ds.isel(subject=rows)
    number = int(expected["zooniverse_subject_id"][1])
    (path,) = (p for p in subject_files(simulated) if p.name.endswith(f"_{number}.fits.gz"))
    file = xr.open_dataset(path, engine="gz3d")
    for dataset, stored in ((chosen, expected), (file, ds.isel(subject=[2]))):
        for cls in ("center", "star"):
            found, table = dataset.gz3d.clusters(cls), stored.gz3d.clusters(cls)
            assert found.colnames == table.colnames
            assert all((found[name] == table[name]).all() for name in table.colnames)
            assert len(table)
        for cls in MARKS:
            assert [
                (
                    m.classification_id,
                    m.time_stamp,
                    m.points.tolist(),
                    [p.tolist() for p in m.paths],
                )
                for m in dataset.gz3d.marks(number, cls)
            ] == [
                (
                    m.classification_id,
                    m.time_stamp,
                    m.points.tolist(),
                    [p.tolist() for p in m.paths],
                )
                for m in stored.gz3d.marks(number, cls)
            ]
            drawn = dataset.gz3d.redraw(cls)
            assert drawn.chunks is not None
            np.testing.assert_array_equal(drawn, stored["segmentation"].sel({"class": cls}))


def test_files_are_read_when_needed_and_bad_ones_have_no_marks(archive: Path) -> None:
    bad, good = subject_files(archive)[:2]
    bad.write_bytes(b"")
    (archive / "manga_morphology_galaxyzoo3d_v4_0_0.sha1sum").unlink()
    source = gz3d_zarr.open_source(archive, order="name", limit=2)
    assert len(source.gz3d.clusters("center")) == len(
        source.isel(subject=1).gz3d.clusters("center")
    )
    assert source.gz3d.marks(int(source["zooniverse_subject_id"][0]), "center") == []
    assert not source.gz3d.redraw("spiral")[0].any()
    with pytest.raises(gz3d_zarr.SubjectError, match="it is empty"):
        xr.open_dataset(bad, engine="gz3d").gz3d.clusters("star")
    file = xr.open_dataset(good, engine="gz3d")
    good.write_bytes(b"")  # it has not been read yet
    with pytest.raises(gz3d_zarr.SubjectError, match="it is empty"):
        file.gz3d.marks(cls="star")


def test_what_has_no_store_says_so(ds: xr.Dataset, simulated: Path) -> None:
    source = gz3d_zarr.open_source(simulated, limit=2)
    for dataset in (source.drop_encoding(), ds.drop_encoding()):
        with pytest.raises(UsageError, match="does not say which store it was opened from"):
            dataset.gz3d.clusters("star")
    for dataset, where in ((ds, "the store"), (source, "the files")):
        other = dataset.isel(subject=[0]).assign_coords(zooniverse_subject_id=("subject", [5]))
        with pytest.raises(
            UsageError, match=f"1 subject of the Dataset, such as 5, not in {where}"
        ):
            other.gz3d.clusters("star")
    with pytest.raises(UsageError, match="no clusters of 'bar', expected one of center, star"):
        ds.gz3d.clusters("bar")
    with pytest.raises(UsageError, match="no class 'arm', expected one of center, star, spiral"):
        ds.isel(subject=0).gz3d.marks(cls="arm")


@pytest.mark.parametrize("chunk", ["clusters/star_var_x/c/0", "clusters/star_count/c/0"])
def test_lost_chunk_of_the_clusters_is_an_error(
    store: Path, client: Client, tmp_path: Path, chunk: str
) -> None:
    """Zarr would give zeros."""
    copy = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    remove_packs(copy)
    (copy / chunk).unlink()
    message = f"{chunk} of .* is missing: the store is damaged"
    ds = gz3d_zarr.open_store(copy)
    with pytest.raises(StoreError, match=message):
        ds.gz3d.clusters("star")
    with pytest.raises(StoreError, match=message):
        export_fits(copy, tmp_path / "files", client)
    assert not list((tmp_path / "files").glob("*.gz"))


def test_lost_shard_of_the_marks_is_an_error(store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    (copy / "marks/annotations/c/1").unlink()
    ds = gz3d_zarr.open_store(copy)
    assert ds.isel(subject=[0]).gz3d.marks(cls="center")
    for act in (
        lambda: ds.isel(subject=[5]).gz3d.marks(cls="center"),
        lambda: ds.gz3d.redraw("bar").isel(subject=5).compute(),
    ):
        with pytest.raises(StoreError, match="marks/annotations/c/1 of .* is missing"):
            act()


@pytest.mark.parametrize("text", ["oops", "[[NaN, 1]]", "[[1, 2, 3]]", "[null]", "7"])
def test_marks_that_cannot_be_used_name_their_volunteer(text: str) -> None:
    table = MarkTable((88,), ("",), {"star_points": (text,)})
    message = r"the star_points of classification 88 cannot be used: .* is not a list of points"
    with pytest.raises(StoreError, match=message):
        parse_marks(table, "star_points")
    table = MarkTable((88,), ("",), {"star_points": (" ",)})
    assert parse_marks(table, "star_points")[0].points.shape == (0, 2)
