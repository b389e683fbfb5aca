"""GeoParquet of the raw marks, held against what astropy reads in the source files."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from astropy.wcs import WCS
from click.testing import CliRunner, Result
from files import opened, subject_files

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.cli import main
from gz3d_zarr.export import marks as marks_module
from gz3d_zarr.export.marks import export_marks
from gz3d_zarr.progress import Progress

pq = pytest.importorskip("pyarrow.parquet")
shapely = pytest.importorskip("shapely")
COLUMNS = {
    "center": (8, "center_points"),
    "star": (8, "star_points"),
    "spiral": (9, "spiral_paths"),
    "bar": (10, "bar_paths"),
}


def run(*args: object, input: str | None = None) -> Result:  # noqa: A002 - click's name
    return CliRunner().invoke(main, [str(arg) for arg in args], input=input)


def marks_of(path: Path, classes: tuple[str, ...] = tuple(COLUMNS)) -> list[tuple[Any, ...]]:
    """Every mark of a file: ids, class, time, points in pixels, and on the sky."""
    marks = []
    with opened(path) as hdus:
        wcs, subject = WCS(hdus[0].header, naxis=2), hdus[5].data["MANGAID"][0]
        number = int(path.name.split("_")[3].partition(".")[0])
        for cls in classes:
            hdu, column = COLUMNS[cls]
            for row in hdus[hdu].data:
                drawn = json.loads(row[column])
                for points in [[p] for p in drawn] if hdu == 8 else drawn:
                    ids = (subject, number, cls, int(row["classification_id"]), row["time_stamp"])
                    marks.append((*ids, points, wcs.wcs_pix2world(points, 0)))
    return marks


def assert_same_marks(table: Any, expected: list[tuple[Any, ...]]) -> None:
    names = ("subject", "zooniverse_subject_id", "class", "classification_id", "time_stamp")
    assert table.num_rows == len(expected)
    assert list(zip(*(table[name].to_pylist() for name in names), strict=True)) == [
        mark[:5] for mark in expected
    ]
    pixels = shapely.from_wkb(table["geometry"].to_pylist())
    sky = shapely.from_wkb(table["geometry_icrs"].to_pylist())
    for drawn, on_sky, mark in zip(pixels, sky, expected, strict=True):
        kind = "Point" if len(mark[5]) == 1 else "LineString"
        assert drawn.geom_type == on_sky.geom_type == kind
        assert shapely.get_coordinates(drawn).tolist() == mark[5]
        off = (shapely.get_coordinates(on_sky) - mark[6] + 180) % 360 - 180
        np.testing.assert_allclose(off, 0, atol=1e-10)


def files_in_order(simulated: Path, store: Path) -> list[Path]:
    by_id = {int(p.name.split("_")[3].partition(".")[0]): p for p in subject_files(simulated)}
    return [by_id[i] for i in gz3d_zarr.open_store(store)["zooniverse_subject_id"].values.tolist()]


def test_every_mark_of_the_simulated_archive(simulated: Path, store: Path, tmp_path: Path) -> None:
    states: list[Progress] = []
    report = export_marks(store, tmp_path / "new" / "m.parquet", progress=states.append)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.parquet"]
    assert [state.done for state in states] == [0, 4, 8, 12, 16, 18]
    expected = [mark for path in files_in_order(simulated, store) for mark in marks_of(path)]
    table = pq.read_table(tmp_path / "new" / "m.parquet")
    assert_same_marks(table, expected)
    assert {len(mark[5]) == 1 for mark in expected if mark[2] == "spiral"} == {True, False}
    assert (report.subjects, report.files, report.unreadable) == (18, 1, 0)
    assert report.marks == len(expected)
    assert report.stored_bytes == (tmp_path / "new" / "m.parquet").stat().st_size
    geo = json.loads(table.schema.metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    for name in ("geometry", "geometry_icrs"):
        column = geo["columns"][name]
        assert (column["encoding"], column["crs"]) == ("WKB", None)
        assert column["geometry_types"] == ["LineString", "Point"]


def test_selection_on_the_command_line(simulated: Path, store: Path, tmp_path: Path) -> None:
    dest = tmp_path / "m.parquet"
    args = ("export", "marks", store, dest, "--ids", "-", "--json")
    result = run(*args, "--class", "spiral", "--class", "star", input="1-600002\n")
    assert result.exit_code == 0, result.output
    chosen = [p for p in files_in_order(simulated, store) if "_1-600002_" in p.name]
    expected = [mark for path in chosen for mark in marks_of(path, ("star", "spiral"))]
    assert json.loads(result.stdout)["marks"] == len(expected) > 0
    assert json.loads(result.stdout)["destination"] == str(dest)
    assert_same_marks(pq.read_table(dest), expected)
    result = run(*args, input="1-600002\n")
    assert result.exit_code == 1
    assert "m.parquet already exists; choose another name" in result.stderr
    one = gz3d_zarr.open_store(store).isel(subject=6)
    cone = f"{one['ra'].item()},{one['dec'].item()},2"
    result = run("export", "marks", store, dest, "--cone", cone, "--overwrite")
    assert result.exit_code == 0, result.output
    expected = marks_of(files_in_order(simulated, store)[6])
    assert f"It has {len(expected)} rows, one per path or point" in result.stdout
    assert_same_marks(pq.read_table(dest), expected)
    assert run("export", "marks", store, dest, "--class", "arm").exit_code == 2
    with pytest.raises(UsageError, match="there is no class arm; expected some of center"):
        export_marks(store, dest, classes=["arm"])


def test_a_failure_leaves_nothing_behind(store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "copy.zarr"))
    (copy / "marks/annotations/c/2").unlink()
    out = tmp_path / "out"
    with pytest.raises(StoreError, match="shard 2 of marks/annotations in .* is missing"):
        export_marks(copy, out / "m.parquet")
    assert list(out.iterdir()) == []
    (out / "m.parquet").write_text("old")
    with pytest.raises(StoreError, match="shard 2"):
        export_marks(copy, out / "m.parquet", overwrite=True)
    assert [path.read_text() for path in out.iterdir()] == ["old"]
    for dest, message in (
        (out, "is a folder"),
        (store / "m.parquet", "is inside the store"),
        (out / "m.parquet" / "m.parquet", "cannot be written to"),
    ):
        with pytest.raises(StoreError, match=message):
            export_marks(store, dest, overwrite=True)


def test_a_cell_that_cannot_be_read_costs_that_cell(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = (
        "oops",
        "[1, 2]",
        "[null]",
        '[[1, "a"]]',
        "[[1, 2, 3]]",
        "[[NaN, 1]]",
        "[[1, 2], [3]]",
        "5",
    )

    def damage(selection: Any) -> list[Any]:
        (tables,) = read_marks(selection)
        table = tables["center_star"]
        points = (*texts, "", "[]", "[[1.5, 2.5], [3, 4]]", *["[]"] * len(table))[: len(table)]
        marks = {**table.marks, "center_points": points}
        return [{**tables, "center_star": replace(table, marks=marks)}]

    read_marks = marks_module.read_marks
    monkeypatch.setattr(marks_module, "read_marks", damage)
    report = export_marks(store, tmp_path / "m.parquet", rows=[5], classes=["center"])
    assert (report.marks, report.unreadable) == (2, len(texts))
    assert "8 cells with text that is not a list of points or paths" in report.to_text()
    geometry = shapely.from_wkb(pq.read_table(tmp_path / "m.parquet")["geometry"].to_pylist())
    assert shapely.get_coordinates(geometry).tolist() == [[1.5, 2.5], [3, 4]]


def test_to_a_url(store: Path, tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    url = f"memory://{tmp_path.name}-marks"
    try:
        report = export_marks(store, f"{url}/m.parquet", rows=[0, 1])
        assert report.destination == f"{url}/m.parquet"
        with pytest.raises(StoreError, match="already exists"):
            export_marks(store, f"{url}/m.parquet", rows=[0, 1])
        export_marks(store, tmp_path / "m.parquet", rows=[0, 1])
        assert files.cat(f"{url}/m.parquet") == (tmp_path / "m.parquet").read_bytes()
    finally:
        files.rm(url, recursive=True)


def test_without_pyarrow(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = r"export marks needs pyarrow: python3 -m pip install 'gz3d-zarr\[marks\]'"
    with pytest.raises(UsageError, match=message):
        export_marks(store, tmp_path / "m.parquet")
