"""The page in a folder or a bucket, beside a store or in it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from distributed import Client
from object_stores import S3Server, fresh_bucket

import gz3d_zarr
from gz3d_zarr.backends.store_info import read_info
from gz3d_zarr.cli import main
from gz3d_zarr.errors import StoreError, UsageError
from gz3d_zarr.storage.object_store import open_object_store
from gz3d_zarr.viewer.page_files import CONTENT_TYPES


def store_in(index: bytes | str) -> str:
    text = index if isinstance(index, str) else index.decode()
    return text.partition('<meta name="gz3d-store" content="')[2].partition('"')[0]


@pytest.fixture
def own(store: Path, tmp_path: Path) -> Path:
    """A copy of the store that a test may add to."""
    return Path(shutil.copytree(store, tmp_path / "my store.zarr", copy_function=os.link))


def test_page_in_its_store_confuses_nobody(
    own: Path, simulated: Path, tmp_path: Path, client: Client
) -> None:
    before = read_info(own)
    report = gz3d_zarr.page(own)
    assert report.to_text() == f"{own}/index.html opens the store ./"
    assert (
        {*report.files}
        == {*CONTENT_TYPES}
        == {p.name for p in own.iterdir() if p.is_file()} - {"zarr.json"}
    )
    assert store_in((own / "index.html").read_text()) == "./"
    assert read_info(own) == before
    checked = gz3d_zarr.verify(own, client=client)
    assert checked.passed
    gz3d_zarr.page(own)  # again: its own files may be replaced
    copied = gz3d_zarr.copy(own, tmp_path / "copy.zarr", client)
    assert copied.left_behind == len(CONTENT_TYPES)
    assert not (tmp_path / "copy.zarr" / "index.html").exists()
    gz3d_zarr.build(simulated, own, client, shard_size=4, overwrite=True)
    assert gz3d_zarr.verify(own, client=client).passed
    assert store_in((own / "index.html").read_text()) == "./"


def test_page_beside_a_store_finds_it(own: Path, tmp_path: Path) -> None:
    report = gz3d_zarr.page(tmp_path / "site", own)
    assert report.store == "../my%20store.zarr/"
    text = (tmp_path / "site" / "index.html").read_text()
    assert store_in(text) == "../my%20store.zarr/"
    assert "connect-src 'self';" in text
    above = gz3d_zarr.page(tmp_path, own)
    assert above.store == "my%20store.zarr/"
    away = gz3d_zarr.page(tmp_path / "away", "https://host.example/data/gz3d.zarr")
    text = (tmp_path / "away" / "index.html").read_text()
    assert away.store == store_in(text) == "https://host.example/data/gz3d.zarr/"
    assert "connect-src 'self' https://host.example;" in text
    asks = gz3d_zarr.page(tmp_path / "any")
    assert asks.store == ""
    assert "asks for a store's address" in asks.to_text()
    text = (tmp_path / "any" / "index.html").read_text()
    assert store_in(text) == ""
    assert "connect-src 'self' https: http://127.0.0.1:* http://localhost:*;" in text


def test_what_a_browser_cannot_read_is_refused(own: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a page in .* cannot read s3://bucket/g.zarr: give"):
        gz3d_zarr.page(tmp_path / "site", "s3://bucket/g.zarr")
    with pytest.raises(StoreError, match="no complete store of Galaxy Zoo: 3D at"):
        gz3d_zarr.page(tmp_path / "site", tmp_path / "nothing")
    with pytest.raises(UsageError, match="holds a password"):
        gz3d_zarr.page(tmp_path / "site", "https://host.example/g.zarr?sig=abc")
    assert not (tmp_path / "site").exists()
    (tmp_path / "index.html").write_text("<title>Mine</title>")
    with pytest.raises(StoreError, match=r"has another file index.html, which the page would"):
        gz3d_zarr.page(tmp_path, own)
    assert (tmp_path / "index.html").read_text() == "<title>Mine</title>"


@pytest.mark.parametrize(
    "address",
    [
        'https://h"onload="x/', "https://h 'unsafe-inline'/x", "https://höst.example/x", "https://",
        "https:///x", "https://*/x", "https://h,https://evil/x", "https://[::1]/x", "https://h/a b",
        "https://h/\n<script>", "https://h\\@evil/x",
    ],
)  # fmt: skip
def test_no_host_gets_into_the_policy_that_is_none(address: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no web address for a browser|holds a password"):
        gz3d_zarr.page(tmp_path / "site", address)
    assert not (tmp_path / "site").exists()


def test_hostile_address_stays_text(tmp_path: Path) -> None:
    gz3d_zarr.page(tmp_path / "site", 'https://host.example/"><script>alert(1)</script>')
    assert "<script>alert" not in (tmp_path / "site" / "index.html").read_text()


def test_copy_brings_the_page(own: Path, tmp_path: Path, client: Client) -> None:
    with client.as_current():
        result = CliRunner().invoke(
            main, ["copy", str(own), str(tmp_path / "copy.zarr"), "--page", "--json"]
        )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["left_behind"] == 0
    assert store_in((tmp_path / "copy.zarr" / "index.html").read_text()) == "./"


@pytest.mark.parametrize("backend", ["s3fs", "obstore"])
def test_page_in_a_bucket_has_its_types(own: Path, moto: S3Server, backend: str) -> None:
    if backend == "obstore":
        pytest.importorskip("obstore")
    with fresh_bucket(moto) as bucket:
        options = {**bucket.storage_options, "backend": backend}
        store = f"{bucket.url}/a/g.zarr"
        target = open_object_store(store, options)
        target.put("zarr.json", (own / "zarr.json").read_bytes())
        assert gz3d_zarr.page(store, storage_options=options).store == "./"
        beside = gz3d_zarr.page(f"{bucket.url}/b", store, storage_options=options)
        assert beside.store == "../a/g.zarr/"
        with bucket.client() as client:
            for name, kind in CONTENT_TYPES.items():
                for folder in ("a/g.zarr", "b"):
                    head = client.head_object(Bucket=bucket.bucket, Key=f"{folder}/{name}")
                    assert head["ContentType"] == kind
        with pytest.raises(UsageError, match="give the store's web address"):
            gz3d_zarr.page(f"{bucket.url}/b", "s3://other/g.zarr", storage_options=options)
