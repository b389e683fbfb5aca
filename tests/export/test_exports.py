"""Exports, held against what astropy reads in the source files."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from astropy.io import fits
from astropy.wcs import WCS
from click.testing import CliRunner, Result
from distributed import Client
from files import opened, subject_files
from stores import remove_packs
from waiting import wait_until

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.cli import main
from gz3d_zarr.export.fits import export_fits
from gz3d_zarr.export.mmu import export_mmu
from gz3d_zarr.progress import Progress


def assert_same_hdus(ours: Path, source: Path) -> None:
    with opened(ours) as a, opened(source) as b:
        assert len(a) == len(b) == 11
        for mine, theirs in zip(a, b, strict=True):
            assert mine.data.dtype == theirs.data.dtype
            assert mine.data.shape == theirs.data.shape
            assert mine.data.tobytes() == theirs.data.tobytes()
            # Only newer releases of WCSLIB write MJDREF; the real files do not have it.
            cards = [
                [tuple(card) for card in hdu.header.cards if card.keyword != "MJDREF"]
                for hdu in (mine, theirs)
            ]
            assert cards[0] == cards[1]
        for mine, theirs in zip(a[5:], b[5:], strict=True):
            assert mine.columns.names == theirs.columns.names
            assert mine.columns.formats == theirs.columns.formats
            for name in theirs.columns.names:
                assert mine.data[name].tolist() == theirs.data[name].tolist()


def run(*args: object, input: str | None = None) -> Result:  # noqa: A002 - click's name
    return CliRunner().invoke(main, [str(arg) for arg in args], input=input)


@pytest.fixture
def here(client: Client) -> Iterator[Client]:
    """Run commands on the tests' client, as dask's current one."""
    with client.as_current():
        yield client


@pytest.mark.long
def test_every_reference_file_comes_back(reference: Path, client: Client, tmp_path: Path) -> None:
    gz3d_zarr.build(reference, tmp_path / "g.zarr", client, shard_size=16)
    states: list[Progress] = []
    report = export_fits(tmp_path / "g.zarr", tmp_path / "out", client, progress=states.append)
    assert (report.subjects, report.files, report.left_out) == (64, 64, 0)
    assert [states[0].done, states[-1].done, states[-1].total] == [0, 64, 64]
    assert len(states) == 5
    written = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in written] == [path.name for path in subject_files(reference)]
    assert report.stored_bytes == sum(path.stat().st_size for path in written)
    for path in written:
        assert_same_hdus(path, reference / path.name)
    shutil.rmtree(tmp_path / "g.zarr")
    shutil.rmtree(tmp_path / "out")


def test_every_simulated_file_comes_back(
    simulated: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    export_fits(store, tmp_path / "out", client)
    files = subject_files(simulated)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in files}
    for path in files:
        assert_same_hdus(tmp_path / "out" / path.name, path)


def test_a_selection_gets_its_own_clusters_and_marks(
    simulated: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    rows = [2, 3, 9, 17]
    export_fits(store, tmp_path / "out", client, rows=rows)
    names = gz3d_zarr.open_store(store)["zooniverse_subject_id"].values[rows].tolist()
    written = sorted((tmp_path / "out").iterdir())
    assert len(written) == 4
    for path in written:
        assert int(path.name.split("_")[3].partition(".")[0]) in names
        assert_same_hdus(path, simulated / path.name)


def test_damaged_clusters_and_marks(store: Path, client: Client, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "copy.zarr"))
    (copy / "marks/annotations/c/0").unlink()
    with pytest.raises(StoreError, match="shard 0 of marks/annotations in .* is missing"):
        export_fits(copy, tmp_path / "out", client, rows=[1])
    data = (store / "marks/annotations/c/0").read_bytes()
    (copy / "marks/annotations/c/0").write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(StoreError, match="marks/annotations/c/0 is damaged"):
        export_fits(copy, tmp_path / "out", client, rows=[1])
    os.truncate(copy / "marks/annotations/c/0", 2**28)  # no more of it is read than fits
    with pytest.raises(StoreError, match="marks/annotations/c/0 has more than 128 MiB"):
        export_fits(copy, tmp_path / "out", client, rows=[1])
    remove_packs(copy)
    zarr.open_array(copy, path="clusters/number_galaxy_centers", mode="r+")[:] = 7
    with pytest.raises(StoreError, match="not have as many center clusters as number_galaxy_"):
        export_fits(copy, tmp_path / "out", client, rows=[1])


def test_a_nan_tile_and_the_wcs_come_back(simulated: Path, client: Client, tmp_path: Path) -> None:
    from files import with_cell

    source = tmp_path / "source"
    source.mkdir()
    first, second, *_ = subject_files(simulated)
    data = with_cell(first.read_bytes(), "MANGA_TILEID", np.nan)
    (source / first.name).write_bytes(data)
    shutil.copy(second, source)
    gz3d_zarr.build(source, tmp_path / "g.zarr", client)
    export_fits(tmp_path / "g.zarr", tmp_path / "out", client)
    with opened(tmp_path / "out" / first.name) as hdus:
        assert np.isnan(hdus[5].data["MANGA_TILEID"][0])
        with fits.open(io.BytesIO(gzip.decompress(data))) as theirs:
            pixels = [[0, 300, 524], [0, 10, 524]]
            np.testing.assert_allclose(
                WCS(hdus[3].header).wcs_pix2world(*pixels, 0),
                WCS(theirs[3].header).wcs_pix2world(*pixels, 0),
                rtol=0,
                atol=1e-11,
            )
    assert_same_hdus(tmp_path / "out" / second.name, second)


def test_rows_not_ok_are_left_out_and_counted(archive: Path, here: Client, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    bad = subject_files(archive)[3]
    bad.write_bytes(b"<html>")
    gz3d_zarr.build(archive, tmp_path / "g.zarr", here, shard_size=4)
    for kind in ("fits", "mmu"):
        result = run("export", kind, tmp_path / "g.zarr", tmp_path / kind)
        assert result.exit_code == 0, result.output
        assert "Wrote 17 subjects" in result.stdout
        assert "1 subject whose status is not ok was left out" in result.stdout
    names = {path.name for path in (tmp_path / "fits").iterdir()}
    assert names == {path.name for path in subject_files(archive)} - {bad.name}


def test_selection_on_the_command_line(store: Path, here: Client, tmp_path: Path) -> None:
    result = run(
        "export", "fits", store, tmp_path / "a", "--ids", "-", "--json",
        input="1-600002 # two of them\n14000007\n",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["subjects"] == 3
    ids = {path.name.split("_")[3].partition(".")[0] for path in (tmp_path / "a").iterdir()}
    assert ids == {"14000002", "14000003", "14000007"}
    one = gz3d_zarr.open_store(store).isel(subject=6)
    cone = f"{one['ra'].item()},{one['dec'].item()},2"
    assert run("export", "fits", store, tmp_path / "b", "--cone", cone).exit_code == 0
    (only,) = (tmp_path / "b").iterdir()
    assert str(one["zooniverse_subject_id"].item()) in only.name
    for args, status, message in (
        (("--ids", "-"), 2, "no subject has the MaNGA id 'nobody'"),
        (("--cone", "0,0"), 2, "is not RA,DEC,RADIUS"),
        (("--cone", "10,-89,0.001"), 2, "no subject"),
    ):
        result = run("export", "mmu", store, tmp_path / "c", *args, input="nobody")
        assert result.exit_code == status
        assert message in result.stderr
    assert not (tmp_path / "c").exists()


def test_destinations_that_cannot_be_written_to(
    store: Path, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"already has 1 file;.*overwrite=True"):
        export_fits(store, tmp_path / "full", client)
    export_fits(store, tmp_path / "full", client, rows=[0], overwrite=True)
    export_fits(store, tmp_path / "full", client, rows=[0], overwrite=True)
    assert len(list((tmp_path / "full").iterdir())) == 2
    with pytest.raises(StoreError, match="is inside the store"):
        export_fits(store, store / "export", client, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written to"):
        export_fits(store, tmp_path / "file" / "out", client)
    with pytest.raises(StoreError, match="there is no Zarr 3 store"):
        export_fits(tmp_path / "nowhere", tmp_path / "out", client)
    copy = Path(shutil.copytree(store, tmp_path / "copy.zarr"))
    remove_packs(copy)
    shutil.rmtree(copy / "catalogue")
    with pytest.raises(StoreError, match="catalogue/.* is missing: the store is damaged"):
        export_fits(copy, tmp_path / "out", client)
    (copy / "segmentation/c/2/0/0/0").unlink()
    shutil.copytree(store / "catalogue", copy / "catalogue")
    with pytest.raises(StoreError, match="shard 2 of segmentation .* is missing"):
        export_fits(copy, tmp_path / "out", client)
    # Tasks of the other worker may still be at it.
    wait_until(lambda: not list((tmp_path / "out").glob(".*")))


def test_export_as_a_person_runs_it(store: Path, tmp_path: Path) -> None:
    """On a local cluster of its own."""
    result = run(
        "export", "fits", store, tmp_path / "out", "--ids", "-", "--workers", "1", input="14000001"
    )
    assert result.exit_code == 0, result.output
    assert "Wrote 1 subject into 1 file" in result.stdout


# The Multimodal Universe's columns, with the types that its script gives them.
MMU_TYPES = {
    "object_id": "S", "mangaid": "S", "iauname": "S", "explorer_link": "S", "sample": "S",
    "ra": "f4", "dec": "f4", "ifudesignsize": "f8", "manga_tileid": "f8", "nsa_id": "i8",
    "gz_total_classifications": "i2", "gz_bar_votes": "i2", "gz_spiral_votes": "i2",
    "healpix": "i8", "false_color": "u1", "center": "u1", "star": "u1", "spiral": "u1", "bar": "u1",
}  # fmt: skip


def test_multimodal_universe_files(
    simulated: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    h5py = pytest.importorskip("h5py")
    from astropy_healpix import HEALPix

    states: list[Progress] = []
    report = export_mmu(store, tmp_path / "a", client, progress=states.append)
    assert report.subjects == 18
    assert 3 < len(states) <= 6
    by_id = {}
    for path in subject_files(simulated):
        with opened(path) as hdus:
            row = hdus[5].data[0]
            by_id.setdefault(row["MANGAID"].encode(), []).append(
                (
                    {name.lower(): row[name] for name in hdus[5].columns.names},
                    [h.data for h in hdus[:5]],
                )
            )
    files = sorted((tmp_path / "a").glob("healpix=*/001-of-001.hdf5"))
    assert len(files) == report.files
    assert sum(path.stat().st_size for path in files) == report.stored_bytes
    seen = 0
    for path in files:
        with h5py.File(path) as data:
            assert {
                n: d.dtype.str.lstrip("<|")[: 1 if d.dtype.kind == "S" else 2]
                for n, d in data.items()
            } == MMU_TYPES
            ids = data["object_id"][:]
            assert ids.tolist() == sorted(ids.tolist())
            assert data["false_color"].shape == (len(ids), 525, 525, 3)
            for i, key in enumerate(ids):
                row, images = by_id[key].pop(0)  # of equal ids the smaller Zooniverse id first
                seen += 1
                pixel = HEALPix(16, "nested").lonlat_to_healpix(*deg(row["ra"], row["dec"]))
                assert path.parent.name == f"healpix={pixel}"
                assert data["healpix"][i] == pixel
                for name in set(MMU_TYPES) - {"object_id", "healpix", "false_color", *CLASSES}:
                    expected = row[name].encode() if isinstance(row[name], str) else row[name]
                    assert data[name][i] == expected, name
                np.testing.assert_array_equal(data["false_color"][i], images[0])
                for name, image in zip(CLASSES, images[1:], strict=True):
                    np.testing.assert_array_equal(data[name][i], image)
    assert seen == 18
    assert not any(by_id.values())


CLASSES = ("center", "star", "spiral", "bar")


def deg(*values: float) -> list[Any]:
    from astropy import units as u

    return [float(value) * u.deg for value in values]


def test_order_of_the_store_does_not_matter(
    simulated: Path, store: Path, client: Client, tmp_path: Path
) -> None:
    pytest.importorskip("h5py")
    gz3d_zarr.build(simulated, tmp_path / "n.zarr", client, shard_size=7, order="name", nside=2)
    by_name = gz3d_zarr.open_store(tmp_path / "n.zarr")
    keep = by_name["zooniverse_subject_id"].values[[1, 3, 4, 11, 17]]
    for name, target in (("a", store), ("b", tmp_path / "n.zarr")):
        select = gz3d_zarr.open_store(target)
        chosen = select.isel(subject=np.isin(select["zooniverse_subject_id"].values, keep))
        export_mmu(target, tmp_path / name, client, rows=chosen)
    ours = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in (tmp_path / "a").rglob("*.hdf5")}
    theirs = {
        p.relative_to(tmp_path / "b"): p.read_bytes() for p in (tmp_path / "b").rglob("*.hdf5")
    }
    assert ours == theirs
    assert ours


def test_without_h5py(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"needs h5py: python3 -m pip install 'gz3d-zarr\[mmu\]'"):
        export_mmu(store, tmp_path / "out")
