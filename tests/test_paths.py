"""Names of stores and sources that look like something else; links that lead elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import xarray as xr
from distributed import Client
from files import subject_files
from servers import serve
from zarr.storage import LocalStore

import gz3d_zarr
from gz3d_zarr import GZ3DError, SourceError, StoreError, UsageError
from gz3d_zarr.backends.store_info import read_info
from gz3d_zarr.sources.listing import list_source

ODD_NAMES = ["a#b", "a;b", "a*b", "a?b=c", "a[1]b", "new\nline", "a%20b", "~", "a.zarr/"]
NAME = "gz3d_1-1_19_1.fits.gz"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_store_of_an_odd_name(simulated: Path, client: Client, tmp_path: Path, name: str) -> None:
    store = f"{tmp_path}/{name}"
    gz3d_zarr.build(simulated, store, client, limit=1, shard_size=1)
    gz3d_zarr.build(simulated, store, client, limit=2, shard_size=1, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [name.rstrip("/")]
    image = gz3d_zarr.open_store(store)["image"].values
    assert image.any()
    # As a path, zarr 3.4 takes some of these names for URLs.
    assert (xr.open_zarr(LocalStore(store, read_only=True))["image"].values == image).all()
    assert read_info(store).status["ok"] == 2
    assert gz3d_zarr.verify(store, client=client).passed


@pytest.mark.parametrize("name", ODD_NAMES)
def test_source_of_an_odd_name(simulated: Path, tmp_path: Path, name: str) -> None:
    folder = Path(f"{tmp_path}/{name}")
    folder.mkdir()
    path = Path(shutil.copy(subject_files(simulated)[0], folder))
    for source in (f"{tmp_path}/{name}", folder, path, [path]):
        assert [file.path for file in list_source(source).files] == [str(path)]


@pytest.mark.parametrize("name", ["a::b", "a::b.zarr/c", "x/a::b"])
def test_name_with_two_colons_is_explained(simulated: Path, tmp_path: Path, name: str) -> None:
    for source, store in ((simulated, tmp_path / name), (tmp_path / name, tmp_path / "g.zarr")):
        with pytest.raises(UsageError, match="contains '::', which joins two URLs"):
            gz3d_zarr.plan(source, store, workers=1)
    assert not list(tmp_path.iterdir())


def test_places_that_are_no_folders_stay_as_they_are(
    simulated: Path, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere/at/all")
    for name in ("file", "file/g.zarr", "link", "link/g.zarr"):
        for overwrite in (False, True):
            with pytest.raises(StoreError, match=r"cannot be written|cannot be locked"):
                gz3d_zarr.build(simulated, tmp_path / name, client, limit=1, overwrite=overwrite)
        with pytest.raises(StoreError, match="there is no Zarr 3 store"):
            gz3d_zarr.open_store(tmp_path / name)
    with pytest.raises(StoreError, match="cannot be written"):
        gz3d_zarr.build(simulated, tmp_path / "dangling", client, limit=1)
    with pytest.raises(SourceError, match="there is no source"):
        gz3d_zarr.plan(tmp_path / "dangling", tmp_path / "g.zarr", workers=1)
    with pytest.raises(SourceError, match="has no subject files"):
        gz3d_zarr.plan(tmp_path / "file", tmp_path / "g.zarr", workers=1)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file", "link"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_read_only_parent_is_refused(simulated: Path, client: Client, tmp_path: Path) -> None:
    parent = tmp_path / "fixed"
    parent.mkdir(mode=0o555)
    assert "cannot be written to" in gz3d_zarr.plan(simulated, parent / "g", workers=1).refusal
    with pytest.raises(StoreError, match="cannot be written"):
        gz3d_zarr.build(simulated, parent / "g", client, limit=1)
    assert not list(parent.iterdir())


@pytest.mark.parametrize(
    "link",
    [
        f"file:///etc/{NAME}",
        f"file:{NAME}",
        f"javascript:{NAME}",
        f"data:text/html,{NAME}",
        f"../{NAME}",
        f"%2e%2e/{NAME}",
        f"..%2f{NAME}",
        f"%2e%2e%2f{NAME}",
        f"sub%2f..%2f..%2f{NAME}",
        f"//127.0.0.1:9/{NAME}",
        f"\\\\127.0.0.1\\{NAME}",
        f"/{NAME}",
        "javascript:void(0)",
        "file:///etc/passwd",
    ],
)
def test_index_with_only_a_strange_link(tmp_path: Path, link: str) -> None:
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as server:
        server.index = f'<html><a href="{link}">{NAME}</a></html>'
        with pytest.raises(GZ3DError, match=r"outside of the archive|has no subject files"):
            gz3d_zarr.plan(server.url, tmp_path / "g.zarr", workers=1)
        assert NAME not in server.requests


def test_secret_in_a_url_that_lacks_a_slash_is_not_repeated(simulated: Path) -> None:
    url = "https:/me:open-sesame@127.0.0.1/x"
    for source, store in ((url, "g.zarr"), (simulated, url)):
        with pytest.raises(UsageError, match="holds a password") as caught:
            gz3d_zarr.plan(source, store, workers=1)
        assert "sesame" not in str(caught.value)
