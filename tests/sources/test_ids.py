"""Ids that select subjects: unknown ones, and plate-IFUs by a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from astropy.table import Table

from gz3d_zarr import UsageError
from gz3d_zarr.sources.ids_table import read_plate_ifus
from gz3d_zarr.sources.listing import list_source
from gz3d_zarr.sources.options import SelectionOptions
from gz3d_zarr.sources.select_subjects import make_manifest


def test_unknown_ids_are_an_error_or_a_note(simulated: Path) -> None:
    listing = list_source(simulated)
    ids = ["1-600000", "1-1", "14000001", 7]
    with pytest.raises(UsageError, match=r"no subject has the MaNGA id '1-1'.*--missing-ids warn"):
        make_manifest(listing, ids=ids)
    manifest = make_manifest(listing, ids=ids, missing_ids="warn")
    found = {entry.file.zooniverse_subject_id for entry in manifest.entries}
    assert found == {14000000, 14000001}
    assert "no subject has 2 ids of the list (first 1-1, 7)" in manifest.notes
    with pytest.raises(UsageError, match="no subject has"):
        make_manifest(listing, ids=["1-1"], missing_ids="warn")
    with pytest.raises(UsageError, match="missing_ids is 'ignore', expected one of error, warn"):
        SelectionOptions(missing_ids="ignore")


@pytest.mark.parametrize("name", ["drpall.fits", "drpall.csv"])
def test_plate_ifus_are_found_by_a_table(simulated: Path, tmp_path: Path, name: str) -> None:
    table = Table({"PLATEIFU": ["8623-12701", "8623-1901"], "MangaID": ["1-600000", "1-600001"]})
    table.write(tmp_path / name)
    listing = list_source(simulated)
    manifest = make_manifest(listing, ids=["8623-1901", 14000000], ids_table=tmp_path / name)
    found = {entry.file.zooniverse_subject_id for entry in manifest.entries}
    assert found == {14000000, 14000001}
    for ids_table in (None, tmp_path / name):
        with pytest.raises(
            UsageError,
            match=r"id '9999-127'.*plate-IFUs need a table that has them: ids_table \(--table\)",
        ):
            make_manifest(listing, ids=["9999-127"], ids_table=ids_table)


def test_unusable_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--table. .*none.fits cannot be read"):
        read_plate_ifus(tmp_path / "none.fits")
    (tmp_path / "t.csv").write_text("mangaid,x\n1-1,2\n")
    with pytest.raises(UsageError, match=r"t\.csv has no column plateifu"):
        read_plate_ifus(tmp_path / "t.csv")
    with pytest.raises(UsageError, match="--table"):
        SelectionOptions(ids_table="t.csv")
