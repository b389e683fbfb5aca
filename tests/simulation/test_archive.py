"""Simulated archives: the producer's layout, the published rules, the real edge cases."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from files import opened, subject_files

from gz3d_zarr import SourceError
from gz3d_zarr.datamodel.fits_decoder import decode
from gz3d_zarr.datamodel.subject import SIDE
from gz3d_zarr.progress import Progress
from gz3d_zarr.simulation.archive import CYCLE, EdgeCase, simulate_archive, simulate_subject
from gz3d_zarr.simulation.volunteers import cluster_marks, mark_mask, path_mask


def cards(header: fits.Header) -> list[tuple[str, object, str]]:
    """All cards, without the values that differ from subject to subject.

    The real files have no MJDREF; the reference files do, since a newer WCSLIB wrote them.
    """
    free = ("CRVAL", "LATPOLE", "NAXIS1", "NAXIS2")
    return [
        (c.keyword, None if c.keyword.startswith(free) else c.value, c.comment)
        for c in header.cards
        if c.keyword != "MJDREF"
    ]


def open_subject(index: int) -> fits.HDUList:
    return fits.open(io.BytesIO(gzip.decompress(simulate_subject(index).data)))


def test_headers_and_columns_are_those_of_the_producer(simulated: Path, reference: Path) -> None:
    ours, theirs = opened(subject_files(simulated)[0]), opened(subject_files(reference)[0])
    with ours, theirs:
        assert len(ours) == len(theirs) == 11
        for i in range(5):
            header = ours[i].header
            assert cards(header) == cards(theirs[i].header)
            assert len(header) == 23
            assert "MJDREF" not in header
            assert (header["LONPOLE"], header["LATPOLE"]) == (180, header["CRVAL2"])
            assert (ours[i].data.dtype, ours[i].data.shape) == (
                theirs[i].data.dtype,
                theirs[i].data.shape,
            )
        assert ours[5].columns.formats == theirs[5].columns.formats
        for i in range(5, 11):
            assert ours[i].columns.names == theirs[i].columns.names
        assert ours[6].columns.formats == theirs[6].columns.formats
    with (
        fits.open(simulated / "gz3d_metadata.fits") as mine,
        fits.open(reference / "gz3d_metadata.fits") as real,
    ):
        assert mine[1].columns.names == real[1].columns.names
        letters = [[form[-1] for form in hdus[1].columns.formats] for hdus in (mine, real)]
        assert letters[0] == letters[1]


def test_edge_cases_repeat(simulated: Path) -> None:
    files = {
        int(path.name.split("_")[3].split(".")[0]) - 14_000_000: path
        for path in subject_files(simulated)
    }
    subjects = {i: decode(path.read_bytes()) for i, path in files.items()}
    near = subjects[EdgeCase.RA_NEAR_0].metadata.ra, subjects[EdgeCase.RA_NEAR_360].metadata.ra
    assert 0 < near[0] < 0.001
    assert 359.999 < near[1] < 360
    twins = [subjects[i].metadata for i in (EdgeCase.REPEATED_MANGA_ID, EdgeCase.RA_NEAR_360)]
    assert twins[0].manga_id == twins[1].manga_id
    assert twins[0].ifu_design_size != twins[1].ifu_design_size
    assert subjects[EdgeCase.NO_CLASSIFICATIONS].metadata.total_classifications == 0
    assert subjects[EdgeCase.COUNTS_ABOVE_15].segmentation[0].max() > 15
    assert subjects[EdgeCase.OVERLAPPING_PATHS].segmentation[2].max() > 16
    assert (
        subjects[EdgeCase.RA_NEAR_0 + CYCLE].metadata.ra == subjects[EdgeCase.RA_NEAR_0].metadata.ra
    )
    empty = []
    for path in files.values():
        with opened(path) as hdus:
            m = hdus[5].data[0]
            asked = m["GZ_total_classifications"] and (
                m["GZ_spiral_votes"] / m["GZ_total_classifications"] >= 0.2
            )
            without_votes = path == files[EdgeCase.ASKED_WITHOUT_VOTES]
            assert bool(len(hdus[9].data)) == bool(asked or without_votes)
            if len(hdus[9].data) == 0:
                empty.append(path)
                assert hdus[9].columns.formats == ["D", "D", "D"]
            if len(hdus[7].data) == 0:
                assert set(hdus[7].columns.formats) == {"D"}
    assert empty


def test_volunteers_who_drew_nothing_have_an_empty_list() -> None:
    with open_subject(EdgeCase.ASKED_WITHOUT_VOTES) as hdus:
        row = hdus[5].data[0]
        assert row["GZ_total_classifications"] > 0
        assert (row["GZ_spiral_votes"], row["GZ_bar_votes"]) == (0, 0)
        for hdu, column in ((9, "spiral_paths"), (10, "bar_paths")):
            assert len(hdus[hdu].data) >= 12
            assert set(hdus[hdu].data[column]) == {"[]"}
        assert not hdus[3].data.any()
    with open_subject(EdgeCase.COUNTS_ABOVE_15) as hdus:
        for hdu, column in ((8, "center_points"), (9, "spiral_paths"), (10, "bar_paths")):
            nothing = (hdus[hdu].data[column] == "[]").sum()
            assert 0 < nothing < 20


def test_samples_are_lists_and_often_empty(simulated: Path) -> None:
    with fits.open(simulated / "gz3d_metadata.fits") as hdus:
        samples = hdus[1].data["sample"].tolist()
    assert 2 < samples.count("") < 10
    assert "sdss_lost_set,original" in samples
    assert "stripe82,stripe82" in samples


def test_masks_follow_from_the_marks_in_the_file(simulated: Path) -> None:
    for path in subject_files(simulated)[:8]:
        with opened(path) as hdus:
            for hdu, column, mask in ((9, "spiral_paths", 3), (10, "bar_paths", 4)):
                paths = (
                    [p for row in hdus[hdu].data[column] for p in json.loads(row)]
                    if len(hdus[hdu].data)
                    else []
                )
                np.testing.assert_array_equal(path_mask(paths), hdus[mask].data)
            for column, table, mask in (("center_points", 6, 1), ("star_points", 7, 2)):
                points = [p for row in hdus[8].data[column] for p in json.loads(row)]
                clusters = cluster_marks(np.array(points, float).reshape(-1, 2))
                assert [c.count for c in clusters] == list(hdus[table].data["count"])
                np.testing.assert_array_equal(mark_mask(clusters), hdus[mask].data)


def test_rules_on_marks_worked_by_hand() -> None:
    square = [[10.5, 10.5], [12.5, 10.5], [12.5, 12.5], [10.5, 12.5]]
    bowtie = [[20.0, 20.0], [30.0, 30.0], [30.0, 20.0], [20.0, 30.0]]
    mask = path_mask([square, square, bowtie, [[5.0, 5.0]]])
    assert mask.shape == (SIDE, SIDE)
    assert mask.sum() == 2 * 4
    assert (mask[11:13, 11:13] == 2).all()
    near = np.array([[100.0, 100], [102, 100], [100, 103], [200, 200], [201, 200], [400, 3]])
    (cluster,) = cluster_marks(near)  # two marks are too few, and one is alone
    assert cluster.count == 3
    np.testing.assert_allclose(cluster.mean, [302 / 3, 101])
    inside = mark_mask([cluster])
    assert inside[101, 101] == 3
    assert inside[101, 110] == 0
    on_a_line = cluster_marks(np.array([[1.0, 1], [2, 1], [3, 1]]))
    assert mark_mask(on_a_line).sum() == 0


def test_files_are_plausible_and_repeatable(simulated: Path, tmp_path: Path) -> None:
    sizes = [path.stat().st_size for path in subject_files(simulated)]
    assert 180_000 < min(sizes)  # reference files: 180 to 481 KB, on average 357 KB
    assert max(sizes) < 481_000
    assert 330_000 < np.mean(sizes) < 390_000
    files = simulate_archive(3, tmp_path / "again")
    for path in files:
        assert path.read_bytes() == (simulated / path.name).read_bytes()
    assert simulate_subject(0, seed=1).data != simulate_subject(0).data
    lines = (simulated / "manga_morphology_galaxyzoo3d_v4_0_0.sha1sum").read_text().splitlines()
    assert len(lines) == 18
    digest, name = lines[5].split()
    assert hashlib.sha1((simulated / name).read_bytes()).hexdigest() == digest


def test_archive_does_not_overwrite_a_larger_one(tmp_path: Path) -> None:
    simulate_archive(2, tmp_path)
    simulate_archive(2, tmp_path)
    with pytest.raises(SourceError, match="simulated one of 1 subject .*14000001.fits.gz"):
        simulate_archive(1, tmp_path)


def test_archive_that_was_stopped_is_resumed(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_archive(2, tmp_path, progress=stop)
    assert len(subject_files(tmp_path)) == 1
    assert len(simulate_archive(2, tmp_path)) == 2
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *(path.name for path in subject_files(tmp_path)),
        "gz3d_metadata.fits",
        "manga_morphology_galaxyzoo3d_v4_0_0.sha1sum",
    }


def test_real_archive_is_not_overwritten(archive: Path) -> None:
    before = {path.name: path.read_bytes() for path in archive.iterdir()}
    with fits.open(archive / "gz3d_metadata.fits", mode="update") as hdus:
        del hdus[0].header["SIMULATE"]
    with pytest.raises(SourceError, match="not a simulated one of 18 subjects"):
        simulate_archive(18, archive)
    (archive / "gz3d_metadata.fits").unlink()
    with pytest.raises(SourceError, match="not a simulated one"):
        simulate_archive(18, archive)
    for path in archive.iterdir():
        assert path.read_bytes() == before[path.name]


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceError, match=r"no archive can be written to .*/file/a"):
        simulate_archive(1, tmp_path / "file" / "a")
