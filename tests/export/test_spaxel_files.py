"""Spaxels of a survey table: files, and tables that cannot be used."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import Table, vstack
from astropy.wcs import WCS
from click.testing import CliRunner
from distributed import Client
from files import opened
from manga_files import drpall_rows, sky_cards, write_drpall

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.analysis.spaxels import SPAXEL_GRIDS
from gz3d_zarr.cli import main
from gz3d_zarr.export.observations import find_observations
from gz3d_zarr.export.spaxels import export_spaxels
from gz3d_zarr.export.subset import select_rows
from gz3d_zarr.progress import Progress


@pytest.fixture
def ds(store: Path) -> xr.Dataset:
    return gz3d_zarr.open_store(store)


def single_rows(ds: xr.Dataset) -> list[int]:
    """Rows whose MaNGA id no other row has."""
    labels = ds["subject"].values.tolist()
    return [i for i, label in enumerate(labels) if labels.count(label) == 1]


def name_of(plate_ifu: str) -> str:
    return f"manga-{plate_ifu}-gz3d.fits.gz"


def test_one_file_for_each_plate_ifu(
    ds: xr.Dataset, store: Path, client: Client, tmp_path: Path
) -> None:
    table = drpall_rows(ds)
    single = single_rows(ds)
    again = table[[single[2]]]  # observed twice
    again["plateifu"] = "9999-12705"
    unknown = table[[0]]
    unknown["mangaid"], unknown["plateifu"] = "1-1", "9998-1901"
    repeat = table[[single[4]]]
    path = write_drpall(tmp_path / "drpall.fits", vstack([table, again, unknown, repeat]))
    states: list[Progress] = []
    report = export_spaxels(store, tmp_path / "out", path, client, progress=states.append)
    names = {name_of(plate_ifu) for plate_ifu in [*table["plateifu"], "9999-12705"]}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    pairs = ds.sizes["subject"] - len(single)
    assert pairs > 1
    assert report.files == len(names)
    assert (report.unmatched, report.repeated, report.ambiguous, report.left_out) == (
        1,
        1,
        pairs,
        0,
    )
    assert states[-1].done == report.subjects
    assert report.stored_bytes == sum(f.stat().st_size for f in (tmp_path / "out").iterdir())
    text = report.to_text()
    assert "1 row of the table has no subject that is selected" in text
    assert "1 row of the table repeats a plate-IFU" in text
    assert f"{pairs} plate-IFUs with more than one subject" in text
    for i in (*single[1:4], single[2]):
        row, number = table[i], int(ds["zooniverse_subject_id"][i])
        with opened(tmp_path / "out" / name_of(row["plateifu"])) as hdus:
            hdus.verify("exception")
            check_file(hdus, ds.gz3d.sel(zooniverse_subject_id=number).isel(subject=0), row)


def check_file(hdus: fits.HDUList, subject: xr.Dataset, row: Any) -> None:
    assert [hdu.name for hdu in hdus] == ["PRIMARY", "COUNTS", "FRACTION", "MASK"]
    assert hdus[0].header["PLATEIFU"] == row["plateifu"]
    assert hdus[0].header["MANGAID"] == row["mangaid"] == subject["subject"].item()
    assert hdus[0].header["ZOOID"] == subject["zooniverse_subject_id"].item()
    side = SPAXEL_GRIDS[row["ifudesignsize"]]
    theirs = WCS(fits.Header(sky_cards(row["ifura"], row["ifudec"], side)))
    theirs.array_shape = (side, side)
    for hdu in hdus[1:]:
        ours = WCS(hdu.header).celestial
        assert ours.array_shape == (side, side)
        corners = np.array([[0, 0], [side - 1, 0], [3, side - 1]])
        np.testing.assert_allclose(
            ours.wcs_pix2world(corners, 0), theirs.wcs_pix2world(corners, 0), rtol=0, atol=1e-11
        )
        assert [hdu.header[f"C{i}"] for i in range(1, 5)] == ["center", "star", "spiral", "bar"]
    counts = subject.gz3d.to_spaxels(target=theirs)["segmentation"].values
    np.testing.assert_allclose(hdus["COUNTS"].data, counts, atol=1e-5)
    np.testing.assert_array_equal(hdus["MASK"].data, counts > 3)
    asked = subject["classifications"].values.astype(float)
    assert [hdus["COUNTS"].header[f"ASKED{i}"] for i in range(1, 5)] == asked.tolist()
    fraction = hdus["FRACTION"].data
    assert np.isnan(fraction[asked == 0]).all()
    known = asked > 0
    np.testing.assert_allclose(fraction[known], counts[known] / asked[known, None, None], atol=1e-6)


def test_of_two_subjects_of_a_galaxy_one_is_used(ds: xr.Dataset, store: Path) -> None:
    labels = ds["subject"].values.tolist()
    pair = next(
        [i for i, other in enumerate(labels) if other == label]
        for label in labels
        if labels.count(label) == 2
    )
    sizes = ds["ifu_design_size"].values[pair].tolist()
    assert sizes[0] != sizes[1]
    selection = select_rows(store, pair)
    table = drpall_rows(ds.isel(subject=pair), sizes[::-1])
    # Those that were simulated with the same MaNGA id are far from each other.
    found = find_observations(selection, table)
    assert {i: bundle.side for i, (bundle,) in found.bundles.items()} == {
        0: SPAXEL_GRIDS[sizes[1]],
        1: SPAXEL_GRIDS[sizes[0]],
    }
    for name, column in (("ra", "ifura"), ("dec", "ifudec")):
        selection.table[name][1] = selection.table[name][0]
        table[column][1] = table[column][0]
    found = find_observations(selection, table)
    assert {i: bundle.side for i, (bundle,) in found.bundles.items()} == {
        0: SPAXEL_GRIDS[sizes[0]],
        1: SPAXEL_GRIDS[sizes[1]],
    }
    assert found.ambiguous == 2
    other = {7, 19, 37} - set(sizes)
    found = find_observations(selection, drpall_rows(ds.isel(subject=pair[:1]), tuple(other)))
    assert list(found.bundles) == [0]


def test_marvins_method_and_another_threshold(
    ds: xr.Dataset, store: Path, client: Client, tmp_path: Path
) -> None:
    pytest.importorskip("scipy")
    table = drpall_rows(ds)[single_rows(ds)[:3]]
    export_spaxels(
        store, tmp_path / "out", table, client, rows=ds.gz3d.sel(table["mangaid"][1]),
        method="marvin", threshold=5.5,
    )  # fmt: skip
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == name_of(table["plateifu"][1])
    with opened(path) as hdus:
        header = hdus[0].header
        assert (header["METHOD"], header["THRESHLD"]) == ("marvin", 5.5)
        assert (header["OFFWEST"], header["OFFNORTH"]) == (0.349, 0.151)
        expected = ds.gz3d.to_spaxels(header["ZOOID"], 19, method="marvin")["segmentation"].values
        np.testing.assert_allclose(hdus["COUNTS"].data, expected, atol=1e-5)
        np.testing.assert_array_equal(hdus["MASK"].data, expected > 5.5)


def test_the_command(ds: xr.Dataset, store: Path, client: Client, tmp_path: Path) -> None:
    table = drpall_rows(ds)
    chosen = single_rows(ds)[:2]
    path = write_drpall(tmp_path / "drpall.fits", table)
    table.rename_columns(["mangaid", "ifura"], ["MANGAID", "IFURA"])
    table.write(tmp_path / "mine.csv")
    (tmp_path / "ids").write_text("\n".join(table["MANGAID"][chosen]))

    def run(*args: Any) -> Any:
        with client.as_current():
            words = ["export", "spaxels", store, tmp_path / "out", *args]
            return CliRunner().invoke(main, [str(word) for word in words])

    ids = ("--ids", tmp_path / "ids")
    result = run("--table", path, "--json", *ids)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["files"], summary["subjects"]) == (2, 2)
    assert summary["unmatched"] == len(table) - 2
    result = run("--table", tmp_path / "mine.csv", *ids)
    assert result.exit_code == 1
    assert "already has 2 files; choose an empty folder, or replace files" in result.output
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    result = run("--table", tmp_path / "mine.csv", "--overwrite", *ids)
    assert result.exit_code == 0
    assert "Wrote 2 subjects into 2 files" in result.output
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    (tmp_path / "ids").write_text(str(table["plateifu"][chosen[0]]))
    result = run("--table", tmp_path / "mine.csv", "--overwrite", *ids)
    assert result.exit_code == 0, result.output
    assert "Wrote 1 subject into 1 file" in result.output
    result = run("--table", tmp_path / "none.fits")
    assert result.exit_code == 2
    assert result.output.startswith(f"Error: the table {tmp_path / 'none.fits'} cannot be read")
    assert "Missing option '--table'" in run().output


def with_value(column: str, value: Any) -> Callable[[Table], Table]:
    def edit(table: Table) -> Table:
        values = table[column].tolist()
        values[1] = value
        table[column] = values
        return table

    return edit


BAD: dict[str, tuple[Callable[[Table], Table], str]] = {
    "no column": (
        lambda t: t[["mangaid", "ifudec"]],
        r"^the table has no columns plateifu, ifura \(in any case\), .*; it has mangaid, ifudec$",
    ),
    "no id": (lambda t: t[["plateifu", "ifura", "ifudec"]], "the table has no column mangaid"),
    "no subject": (
        lambda t: t[:0] if t.replace_column("mangaid", ["1-1"] * len(t)) else t,
        "no row of the table has the mangaid of a subject",
    ),
    "plate-IFU": (
        with_value("plateifu", "8623"),
        "plateifu in row 1 of the table is '8623', expected plate and IFU such as 8623-12701",
    ),
    "bundle": (with_value("plateifu", "8623-5001"), "there is no MaNGA bundle of 50 fibers"),
    "position": (
        with_value("ifura", -999.0),
        r"ifura, ifudec in the row 8001-1902 of the table are -999.0, .* a position in degrees$",
    ),
    "not a position": (with_value("ifudec", np.nan), "are .*, nan, expected a position"),
    "another galaxy": (
        with_value("ifura", 12.0),
        r"^the row 8001-1902 of the table is of another galaxy: its center is ra=1[12]\.\d+, dec=.*"
        r"and subject 1-6000\d\d \(140000\d\d\) is at ra=.*, dec=.*, .* from it$",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_tables_that_cannot_be_used(
    ds: xr.Dataset, store: Path, client: Client, tmp_path: Path, kind: str
) -> None:
    edit, message = BAD[kind]
    with pytest.raises(UsageError, match=message) as caught:
        export_spaxels(store, tmp_path / "out", edit(drpall_rows(ds)), client)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_options_that_cannot_be_used(
    ds: xr.Dataset, store: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = drpall_rows(ds)
    with pytest.raises(UsageError, match="threshold is -1, expected a number from 0 to 254"):
        export_spaxels(store, tmp_path / "out", table, client, threshold=-1)
    with pytest.raises(UsageError, match="method is 'cubic', expected one of exact, marvin"):
        export_spaxels(store, tmp_path / "out", table, client, method="cubic")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected a table: an astropy Table"):
        export_spaxels(store, tmp_path / "out", 3, client)
    with pytest.raises(StoreError, match="is inside the store"):
        export_spaxels(store, store / "spaxels", table, client)
    monkeypatch.setitem(sys.modules, "scipy.interpolate", None)
    with pytest.raises(UsageError, match="method='marvin' needs scipy"):
        export_spaxels(store, tmp_path / "out", table, client, method="marvin")
