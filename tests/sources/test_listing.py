"""Listing, catalogue and manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy_healpix import healpy
from files import subject_files

from gz3d_zarr import SourceError, Status, SubjectError, UsageError
from gz3d_zarr.datamodel.file_names import parse_name
from gz3d_zarr.sources.catalogue import read_catalogue, read_sha1_list
from gz3d_zarr.sources.download import MAX_FILE, read_local
from gz3d_zarr.sources.listing import list_source
from gz3d_zarr.sources.select_subjects import make_manifest


def test_names_are_read_in_both_spellings() -> None:
    for name in ("gz3d_1-150000_91_14760000.fits.gz", "1-150000_91_14760000.fits.gz"):
        file = parse_name(f"/some/where/{name}")
        assert file is not None
        assert (file.manga_id, file.ifu_design_size, file.zooniverse_subject_id) == (
            "1-150000",
            91,
            14760000,
        )
    for name in ("gz3d_metadata.fits", "1-15_9.fits.gz", "gz3d_1-1_x_2.fits.gz", "a.fits.gz.part"):
        assert parse_name(name) is None


def test_folder_glob_list_and_text_file_list_the_same(simulated: Path, tmp_path: Path) -> None:
    names = [path.name for path in subject_files(simulated)]
    text = tmp_path / "files.txt"
    text.write_text("# chosen\n" + "\n".join(str(path) for path in subject_files(simulated)))
    for source in (
        simulated,
        f"{simulated}/*.fits.gz",
        subject_files(simulated),
        text,
        f"file://{simulated}",
    ):
        listing = list_source(source)
        assert [file.name for file in listing.files] == names
        assert listing.catalogue is not None
        assert listing.catalogue.endswith("/gz3d_metadata.fits")
        assert len(listing.sha1_lists) == 1
    one = list_source(subject_files(simulated)[3])
    assert [file.name for file in one.files] == names[3:4]
    assert one.catalogue == str(simulated / "gz3d_metadata.fits")


def test_folder_named_like_a_file_is_listed(archive: Path) -> None:
    (archive / "gz3d_1-1_19_1.fits.gz").mkdir()
    assert "gz3d_1-1_19_1.fits.gz" in [file.name for file in list_source(archive).files]


def test_unusable_sources_are_named(tmp_path: Path, simulated: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no source .*/nowhere"):
        list_source(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=f"{tmp_path} has no subject files: no file is named"):
        list_source(tmp_path)
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(SourceError, match="none of its 1 file is named"):
        list_source(tmp_path)
    with pytest.raises(SourceError, match="cannot be listed"):
        list_source("nosuchprotocol://bucket/folder")
    with pytest.raises(SourceError, match="list of subject files is empty"):
        list_source([])
    twin = tmp_path / subject_files(simulated)[0].name.replace("gz3d_1-", "gz3d_2-")
    shutil.copy(subject_files(simulated)[0], twin)
    with pytest.raises(SourceError, match="must be unique"):
        list_source([twin, *subject_files(simulated)])


def test_other_files_are_left_out_with_a_note(archive: Path) -> None:
    (archive / "gz3d_1-1_19_1.fits").write_text("not packed")
    (note,) = list_source(archive).notes
    assert "left out 1 file without the name of a subject file" in note
    assert "gz3d_1-1_19_1.fits" in note


def test_unreadable_files_have_a_status(tmp_path: Path) -> None:
    with pytest.raises(SubjectError) as missing:
        read_local(str(tmp_path / "gz3d_1-1_19_1.fits.gz"))
    assert missing.value.status is Status.MISSING
    with pytest.raises(SubjectError, match="it cannot be read") as unreachable:
        read_local(str(tmp_path))
    assert unreachable.value.status is Status.UNREACHABLE
    huge = tmp_path / "gz3d_1-1_19_2.fits.gz"
    with huge.open("wb") as file:
        file.truncate(MAX_FILE + 1)
    with pytest.raises(SubjectError, match="more than 32 MiB") as corrupt:
        read_local(str(huge))
    assert corrupt.value.status is Status.CORRUPT


def test_catalogue_and_digests_are_matched(simulated: Path) -> None:
    manifest = make_manifest(list_source(simulated))
    with fits.open(simulated / "gz3d_metadata.fits") as hdus:
        rows = {int(row["zooniverse_subject_id"]): row for row in hdus[1].data}
        for entry in manifest.entries:
            row = rows[entry.file.zooniverse_subject_id]
            assert entry.row is not None
            assert entry.row.metadata.manga_id == row["MANGAID"]
            assert entry.row.metadata.spiral_votes == row["GZ_spiral_votes"]
            assert entry.row.observed == row["observed"]
            assert entry.sha1 is not None
    assert manifest.notes == ()
    assert manifest.samples == tuple(sorted(set(manifest.samples)))


def test_order_follows_the_sky_where_positions_are_known(simulated: Path) -> None:
    listing = list_source(simulated)
    manifest = make_manifest(listing)
    assert manifest.order == "healpix"
    rows = [entry.row.metadata for entry in manifest.entries if entry.row is not None]
    pixels = healpy.ang2pix(
        2**29, [m.ra for m in rows], [m.dec for m in rows], nest=True, lonlat=True
    )
    assert len(pixels) == len(manifest.entries)
    assert (np.diff(pixels) >= 0).all()
    assert sorted(manifest.entries, key=lambda e: e.file.name) != list(manifest.entries)
    named = make_manifest(listing, order="name")
    assert [e.file for e in named.entries] == list(listing.files)
    without = make_manifest(listing, use_catalogue=False)
    assert without.order == "name"
    assert "observed" in without.notes[0]
    with pytest.raises(UsageError, match="needs positions"):
        make_manifest(listing, use_catalogue=False, order="healpix")


def test_files_without_a_row_come_last_and_are_noted(archive: Path) -> None:
    extra = archive / "gz3d_0-1_19_7.fits.gz"
    shutil.copy(subject_files(archive)[0], extra)
    subject_files(archive)[3].unlink()
    manifest = make_manifest(list_source(archive))
    assert manifest.entries[-1].file.name == extra.name
    assert manifest.entries[-1].row is None
    notes = " ".join(manifest.notes)
    assert f"the catalogue has no row for 1 file (first {extra.name})" in notes
    assert "the source has no file for 1 of 18 rows of the catalogue" in notes
    assert "the sha1 list has no digest for 1 file" in notes


def test_selections(simulated: Path) -> None:
    listing = list_source(simulated)
    everything = make_manifest(listing)
    first = make_manifest(listing, limit=3)
    assert [e.file for e in first.entries] == [e.file for e in everything.entries[:3]]
    repeated = make_manifest(listing, ids=["1-600002", 14000000])
    assert {e.file.zooniverse_subject_id for e in repeated.entries} == {
        14000000,
        14000002,
        14000003,
    }
    voted = make_manifest(listing, min_vote_fraction=0.5)
    expected = set()
    for entry in everything.entries:
        assert entry.row is not None
        m = entry.row.metadata
        if m.total_classifications and max(m.spiral_votes, m.bar_votes) >= (
            m.total_classifications / 2
        ):
            expected.add(entry.file.name)
    assert 0 < len(expected) < len(everything.entries)
    assert {entry.file.name for entry in voted.entries} == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "ra"}, "order is 'ra', expected one of healpix, name"),
        ({"limit": 0}, "limit is 0"),
        ({"ids": []}, "list of ids is empty"),
        (
            {"ids": ["1-1", "9"]},
            "no subject has the MaNGA id '1-1' or the Zooniverse subject id 9; no id is similar; expected one such as 1-6000",
        ),
        ({"min_vote_fraction": 1.5}, "--min-vote-fraction. is 1.5"),
        ({"min_vote_fraction": 0.5, "use_catalogue": False}, "needs the votes"),
        ({"min_vote_fraction": 1.0}, "no subject is selected"),
    ],
)
def test_impossible_selections_are_refused(simulated: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_manifest(list_source(simulated), **options)


def test_digest_tells_manifests_apart(archive: Path) -> None:
    first = make_manifest(list_source(archive))
    assert make_manifest(list_source(str(archive))).digest == first.digest
    assert make_manifest(list_source(archive), order="name").digest != first.digest
    sha1_list = Path(list_source(archive).sha1_lists[0])
    sha1_list.write_text(sha1_list.read_text().replace("a", "b"))
    assert make_manifest(list_source(archive)).digest != first.digest


def test_unreadable_catalogue_and_sha1_list_are_named(archive: Path) -> None:
    catalogue = archive / "gz3d_metadata.fits"
    catalogue.write_bytes(b"not FITS")
    with pytest.raises(SourceError, match=r"gz3d_metadata\.fits cannot be read"):
        read_catalogue(str(catalogue), catalogue.read_bytes())
    with pytest.raises(SourceError, match="cannot be read"):
        make_manifest(list_source(archive), catalogue=str(archive / "none.fits"))
    columns = [fits.Column("file_name", "9A", array=np.array(["x"]))]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(
        catalogue, overwrite=True
    )
    with pytest.raises(SourceError, match="has no column ra, dec$"):
        read_catalogue(str(catalogue), catalogue.read_bytes())
    listed = archive / "x.sha1sum"
    listed.write_text("0" * 40 + "  a.fits.gz\nhello\n")
    with pytest.raises(SourceError, match="line 2 of .* is 'hello'"):
        read_sha1_list(str(listed), listed.read_bytes())
