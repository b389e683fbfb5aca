"""Stores on S3: the same objects as on disk, in few requests, through faults; refusals in a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import xarray as xr
from botocore.loaders import create_loader
from click.testing import CliRunner
from distributed import Client
from files import subject_files
from object_stores import (
    Fault,
    Faults,
    Proxy,
    S3Server,
    add_user,
    checked_credentials,
    close_sessions,
    free_ports,
    fresh_bucket,
    run_proxy,
    run_swift,
    silent_server,
)
from stores import StopHereError, stop_after

import gz3d_zarr
from gz3d_zarr import IncompleteStoreError, SourceError, StoreError, UsageError, locations
from gz3d_zarr.backends.store import read_store
from gz3d_zarr.backends.store_info import read_info
from gz3d_zarr.cli import main
from gz3d_zarr.export.fits import export_fits
from gz3d_zarr.export.subset import read_texts, select_rows
from gz3d_zarr.progress import Progress
from gz3d_zarr.sources import listing
from gz3d_zarr.storage import obstore_store as obstore_backend
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store

ROOT = "zarr.json"
BIG = ("image/c/", "segmentation/c/")
MASKS = ["image", "segmentation"]
FEW: dict[str, Any] = {"limit": 6, "shard_size": 2}
"""Most tests build so much: each of their 70 small objects costs moto some milliseconds."""


@pytest.fixture(scope="module")
def few(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that `Place.build` makes, on disk; never written to."""
    path = tmp_path_factory.mktemp("few") / "g.zarr"
    gz3d_zarr.build(simulated, path, client, **FEW)
    return path


@pytest.fixture(scope="module")
def swift() -> Iterator[S3Server]:
    python = os.environ.get("GZ3D_SWIFT")
    if not python:
        pytest.skip("GZ3D_SWIFT does not name a Python that has OpenStack Swift")
    with run_swift(python) as server:
        yield server


@pytest.fixture(scope="module", params=["moto", "swift"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(autouse=True, scope="module")
def _one_loader() -> Iterator[None]:
    """Botocore reads megabytes of JSON for every session; once will do."""
    shared = create_loader()
    with mock.patch("botocore.session.create_loader", return_value=shared):
        yield


@pytest.fixture(autouse=True)
def _closed_sessions() -> Iterator[None]:
    yield
    close_sessions()


@pytest.fixture
def bucket(server: S3Server) -> Iterator[S3Server]:
    """On both servers."""
    with fresh_bucket(server) as fresh:
        yield fresh


@pytest.fixture
def moto_bucket(moto: S3Server) -> Iterator[S3Server]:
    with fresh_bucket(moto) as fresh:
        yield fresh


@pytest.fixture
def proxy(moto_bucket: S3Server) -> Iterator[Proxy]:
    with run_proxy(moto_bucket) as running:
        yield running


@pytest.fixture
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again at once: botocore waits for seconds, as long as chance has it."""
    name = "botocore.retryhandler.delay_exponential"
    monkeypatch.setattr(name, lambda base, growth_factor, attempts: 0.001)


@dataclass(frozen=True)
class Place:
    """Somewhere to build to, and what a build of the simulated archive needs to know of it."""

    server: S3Server
    name: str = "g.zarr"

    @property
    def url(self) -> str:
        return f"{self.server.url}/{self.name}"

    def build(self, source: Path, client: Client, **options: Any) -> Any:
        chosen = {**FEW, "storage_options": self.server.storage_options, **options}
        return gz3d_zarr.build(source, self.url, client, **chosen)

    def open(self) -> xr.Dataset:
        return gz3d_zarr.open_store(self.url, storage_options=self.server.storage_options)

    def content(self) -> dict[str, Any]:
        """Digest of every object but the receipts, which S3 lists; of the root what it says."""
        root = says(self.server.get(f"{self.name}/{ROOT}"))
        return {**without_receipts(self.server.digests(self.name)), ROOT: root}


def on_disk(store: Path) -> dict[str, Any]:
    """What `Place.content` is to be."""
    files = {p.relative_to(store).as_posix(): p for p in store.rglob("*") if p.is_file()}
    digests = {key: md5(path.read_bytes()) for key, path in files.items()}
    return {**without_receipts(digests), ROOT: says(files[ROOT].read_bytes())}


def without_receipts(digests: dict[str, str]) -> dict[str, str]:
    """Receipts have the time of the build."""
    return {key: value for key, value in digests.items() if not key.startswith("receipts/")}


def says(root: bytes) -> dict[str, Any]:
    """The document, but for the time and generation of the build, and receipts that have them."""
    document: dict[str, Any] = json.loads(root)
    for name in ("created", "generation", "receipts_sha256"):
        del document["attributes"][name]
    return document


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def names(store: Path) -> list[str]:
    """Files of its subjects, in its order."""
    return [str(name) for name in read_store(open_object_store(str(store)))[1]["file_name"].values]


def is_shard(key: str) -> bool:
    return any(f"/{name}" in f"/{key}" for name in BIG)


def test_store_equals_the_one_on_disk(
    bucket: S3Server, simulated: Path, store: Path, client: Client
) -> None:
    place = Place(bucket)
    report = place.build(simulated, client, limit=None, shard_size=4)
    assert (report.store, report.subjects, report.ok) == (place.url, 18, 18)
    assert place.content() == on_disk(store)
    stored = bucket.objects("g.zarr")
    assert {key: md5(data) for key, data in stored.items()} == bucket.digests("g.zarr")
    xr.testing.assert_equal(place.open().compute(), gz3d_zarr.open_store(store).compute())
    plain = xr.open_zarr(place.url, storage_options=bucket.storage_options)
    np.testing.assert_array_equal(
        plain["image"][7].values, gz3d_zarr.open_store(store)["image"][7].values
    )


def test_stopped_build_resumes_to_the_same_objects(
    bucket: S3Server,
    simulated: Path,
    few: Path,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "gz3d_zarr.pipeline.dask_tasks.MAX_TASKS_IN_FLIGHT", 1
    )  # one shard after the other
    place = Place(bucket)
    with pytest.raises(StopHereError):
        place.build(simulated, client, progress=stop_after(1))
    with pytest.raises(IncompleteStoreError, match=r"is not complete, [12] of \d shards built"):
        place.open()
    with pytest.raises(FileNotFoundError):
        xr.open_zarr(place.url, storage_options=bucket.storage_options)
    with pytest.raises(StoreError, match="build that has not ended; use --overwrite .* --resume"):
        place.build(simulated, client)
    with pytest.raises(
        StoreError, match=r"built with another plan: shard_size is 3 \(existing: 2\)"
    ):
        place.build(simulated, client, resume=True, shard_size=3)
    report = place.build(simulated, client, resume=True)
    assert report.shards_built in {1, 2}  # a task that runs already is not stopped
    assert report.ok == 6
    assert place.content() == on_disk(few)
    checked = gz3d_zarr.verify(place.url, client=client, storage_options=bucket.storage_options)
    assert checked.passed


def test_bad_files_have_the_same_status_as_on_disk(
    moto_bucket: S3Server, archive: Path, few: Path, client: Client, tmp_path: Path
) -> None:
    first, second = (archive / name for name in names(few)[:2])
    first.write_bytes(b"<html>")
    second.write_bytes(second.read_bytes()[:-1000])
    place = Place(moto_bucket)
    report = place.build(archive, client)
    disk = gz3d_zarr.build(archive, tmp_path / "g.zarr", client, **FEW)
    assert {failure.file_name for failure in report.failures} == {first.name, second.name}
    assert report.failures == disk.failures
    assert place.content() == on_disk(tmp_path / "g.zarr")


def test_second_builder_is_refused(
    moto_bucket: S3Server, simulated: Path, few: Path, client: Client
) -> None:
    place = Place(moto_bucket)
    refused: list[str] = []

    def intrude(state: Progress) -> None:
        for option in ("resume", "overwrite"):
            with pytest.raises(StoreError, match=f"is being built by process {os.getpid()} on"):
                place.build(simulated, client, **{option: True})
            refused.append(option)

    place.build(simulated, client, progress=intrude)
    assert len(refused) >= 2
    assert place.content() == on_disk(few)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["overwrite", "update", "retry_failed"])
def test_store_that_is_gone_on_with_equals_the_one_on_disk(
    moto_bucket: S3Server, archive: Path, few: Path, client: Client, tmp_path: Path, mode: str
) -> None:
    place, disk = Place(moto_bucket), tmp_path / "g.zarr"
    bad = archive / names(few)[3]
    whole = bad.read_bytes()
    if mode == "retry_failed":
        bad.write_bytes(b"")
    before = {} if mode == "retry_failed" else {"limit": 3}
    first = place.build(archive, client, **before)
    gz3d_zarr.build(archive, disk, client, **{**FEW, **before})
    bad.write_bytes(whole)
    report = place.build(archive, client, **{mode: True})
    same = gz3d_zarr.build(archive, disk, client, **FEW, **{mode: True})
    assert first.ok < 6
    assert report.ok == 6
    assert report.shards_built == same.shards_built
    assert place.content() == on_disk(disk)
    assert place.open()["status"].values.sum() == 0
    if mode == "update":
        with pytest.raises(StoreError, match="holds a complete store; use --overwrite"):
            place.build(archive, client)


def test_shard_is_one_put_and_is_not_read_back(
    proxy: Proxy, simulated: Path, few: Path, client: Client
) -> None:
    Place(proxy.server).build(simulated, client)
    counts = {pair: number for pair, number in proxy.count().items() if is_shard(pair[1])}
    shards = {f"g.zarr/{key}" for key in on_disk(few) if is_shard(key)}
    assert len(shards) == 9  # image, masks and thumbnails
    assert counts == {("PUT", key): 1 for key in shards}
    published = proxy.requests.index(next(r for r in proxy.requests if r.key == f"g.zarr/{ROOT}" and r.method == "PUT"))  # fmt: skip
    later = {request.key for request in proxy.requests[published + 1 :] if request.method == "PUT"}
    assert later <= {"g.zarr/.gz3d/lease.json"}


def test_latency_is_added_to_every_request(proxy: Proxy) -> None:
    proxy.delay = 0.05
    began = time.monotonic()
    proxy.server.put("a", b"x" * 1000)
    assert proxy.server.objects() == {"a": b"x" * 1000}
    assert time.monotonic() - began >= 0.15
    assert [str(r).partition("?")[0] for r in proxy.requests] == ["PUT a", "GET ", "GET a"]


def first(times: int, fault: Fault, *methods: str) -> Faults:
    """The fault for the first so many requests of every key by these methods, the bucket's too."""
    return lambda method, key, asked: fault if method in methods and asked <= times else None


@pytest.mark.long
@pytest.mark.usefixtures("_no_backoff")
@pytest.mark.parametrize(
    ("faults", "least"),
    [
        (first(2, Fault.SLOW_DOWN, "PUT"), 3),
        (first(1, Fault.SLOW_DOWN, "PUT", "GET", "HEAD", "DELETE"), 2),
        (first(1, Fault.RESET, "PUT", "GET", "HEAD", "DELETE"), 2),
        (first(1, Fault.HALF_PUT, "PUT"), 2),
        (first(1, Fault.LOST_ANSWER, "PUT", "DELETE"), 2),
    ],
)
def test_build_through_faults_equals_the_one_on_disk(
    proxy: Proxy, simulated: Path, few: Path, client: Client, faults: Faults, least: int
) -> None:
    proxy.faults = faults
    place = Place(proxy.server)
    report = place.build(simulated, client)
    assert report.ok == 6
    counts = proxy.count()
    shards = {f"g.zarr/{key}" for key in on_disk(few) if is_shard(key)}
    assert {counts["PUT", key] for key in shards} == {least}
    proxy.faults = None
    assert place.content() == on_disk(few)


@pytest.mark.long
@pytest.mark.usefixtures("_no_backoff")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault.SLOW_DOWN, "cannot be written: Please reduce your request rate"),
        (Fault.HALF_PUT, "cannot be written: "),
    ],
)
def test_faults_without_end_publish_nothing_and_resume(
    proxy: Proxy, simulated: Path, few: Path, client: Client, fault: Fault, message: str
) -> None:
    place, broken = Place(proxy.server), "segmentation/c/1"

    def faults(method: str, key: str, asked: int) -> Fault | None:
        return fault if method == "PUT" and broken in key else None

    proxy.faults = faults
    with pytest.raises(StoreError, match=message):
        place.build(simulated, client)
    assert ROOT not in proxy.server.digests("g.zarr")
    with pytest.raises(IncompleteStoreError):
        place.open()
    proxy.faults = None
    place.build(simulated, client, resume=True)
    assert place.content() == on_disk(few)


@pytest.fixture(scope="module")
def public(moto: S3Server, simulated: Path, client: Client) -> Iterator[S3Server]:
    """A store, g.zarr, in a bucket that everybody may read; never written to."""
    with fresh_bucket(moto) as fresh:
        fresh.allow_everybody_to_read()
        Place(fresh).build(simulated, client)
        close_sessions()
        yield fresh


@dataclass(frozen=True)
class Link:
    """A store by way of a proxy that counts, and how it is named to a reader."""

    proxy: Proxy
    url: str
    storage_options: dict[str, Any] | None

    def open(self) -> xr.Dataset:
        return gz3d_zarr.open_store(self.url, storage_options=self.storage_options)

    def plain(self) -> xr.Dataset:
        return xr.open_zarr(self.url, storage_options=self.storage_options)

    def asked(self) -> list[str]:
        return [str(request) for request in self.proxy.requests]


@pytest.fixture
def signed(public: S3Server) -> Iterator[Link]:
    with run_proxy(public) as proxy:
        yield Link(proxy, f"{public.url}/g.zarr", proxy.server.storage_options)


@pytest.fixture(scope="module")
def swift_built(swift: S3Server, simulated: Path, client: Client) -> Iterator[S3Server]:
    with fresh_bucket(swift) as fresh:
        Place(fresh).build(simulated, client)
        close_sessions()
        yield fresh


@pytest.fixture
def on_swift(swift_built: S3Server) -> Iterator[Link]:
    with run_proxy(swift_built) as proxy:
        yield Link(proxy, f"{swift_built.url}/g.zarr", proxy.server.storage_options)


@pytest.fixture
def anonymous(public: S3Server) -> Iterator[Link]:
    with run_proxy(public) as proxy:
        options = {**proxy.server.storage_options, "anon": True}
        del options["key"], options["secret"]
        yield Link(proxy, f"{public.url}/g.zarr", options)


@pytest.fixture
def http(public: S3Server) -> Iterator[Link]:
    with run_proxy(public) as proxy:
        yield Link(proxy, f"{proxy.server.endpoint}/{public.bucket}/g.zarr", None)


@pytest.fixture(params=["signed", "anonymous", "http", "on_swift"])
def link(request: pytest.FixtureRequest) -> Link:
    found: Link = request.getfixturevalue(request.param)
    return found


def test_open_takes_two_requests(link: Link, few: Path) -> None:
    opened = link.open()
    asked = link.asked()
    xr.testing.assert_identical(opened["subject"], gz3d_zarr.open_store(few)["subject"])
    assert len(asked) <= 2, asked


def test_plain_xarray_opens_too(link: Link, few: Path) -> None:
    """Its requests are its own: format 2 is looked for, and s3fs asks HEAD before each GET."""
    opened = link.plain()
    np.testing.assert_array_equal(opened["subject"], gz3d_zarr.open_store(few)["subject"])
    assert len(link.asked()) <= 14


OPENERS: list[Callable[[Link], xr.Dataset]] = [Link.open, Link.plain]


@pytest.mark.parametrize("opener", OPENERS)
def test_picture_and_masks_of_one_subject_take_six_requests(
    link: Link, few: Path, opener: Callable[[Link], xr.Dataset]
) -> None:
    subject = opener(link).isel(subject=5)
    link.proxy.forget()
    found = {name: subject[name].values for name in MASKS}
    asked = link.asked()
    expected = gz3d_zarr.open_store(few).isel(subject=5)
    for name in MASKS:
        np.testing.assert_array_equal(found[name], expected[name].values)
    shards = [line for line in asked if is_shard(line)]
    assert len(shards) <= 4, asked
    # Ours looks once for each array whether the store is still the same.
    assert len(asked) <= len(shards) + (2 if opener is Link.open else 0), asked


@pytest.mark.parametrize("opener", OPENERS)
def test_one_subject_with_its_coordinates_takes_one_request_more_for_each(
    link: Link, few: Path, opener: Callable[[Link], xr.Dataset]
) -> None:
    subject = opener(link)[MASKS].isel(subject=5)
    link.proxy.forget()
    subject.load()
    asked = link.asked()
    expected = gz3d_zarr.open_store(few)[MASKS].isel(subject=5)
    np.testing.assert_array_equal(subject["image"], expected["image"])
    assert len([line for line in asked if is_shard(line)]) <= 4, asked
    assert len(asked) <= 4 + 2 * 7, asked  # plain xarray asks HEAD first


def test_marks_of_one_subject_take_three_requests(link: Link, few: Path) -> None:
    expected = gz3d_zarr.open_store(few).isel(subject=5)
    number = int(expected["zooniverse_subject_id"])
    opened = link.open()
    link.proxy.forget()
    found = opened.gz3d.marks(number, "center")
    asked = link.asked()
    assert [m.points.tolist() for m in found] == [
        m.points.tolist() for m in expected.gz3d.marks(cls="center")
    ]
    assert found
    assert len(asked) <= 3, asked


def test_marks_of_one_subject_take_one_request_by_plain_xarray(link: Link, few: Path) -> None:
    options = {"storage_options": link.storage_options, "group": "marks"}
    opened = xr.open_zarr(link.url, **options)
    link.proxy.forget()
    found = opened["annotations"].isel(subject=5).values.item()
    asked = link.asked()
    assert found == xr.open_zarr(few, group="marks")["annotations"].values[5]
    assert '"center_points"' in found
    assert len(asked) <= 2, asked  # with s3fs, HEAD before GET


@pytest.mark.usefixtures("_no_backoff")
@pytest.mark.parametrize("fault", [Fault.SLOW_DOWN, Fault.RESET, Fault.LOST_ANSWER])
def test_reading_goes_on_through_faults(anonymous: Link, few: Path, fault: Fault) -> None:
    anonymous.proxy.faults = first(1, fault, "GET", "HEAD")
    found, expected = anonymous.open(), gz3d_zarr.open_store(few)
    np.testing.assert_array_equal(found["image"][3].values, expected["image"][3].values)
    assert max(anonymous.proxy.count().values()) > 1


def test_store_at_hand_is_opened_by_zarr(signed: Link, http: Link, few: Path) -> None:
    expected = gz3d_zarr.open_store(few)["image"][3].values
    for url, options in (
        (few, None),
        *((link.url, link.storage_options) for link in (signed, http)),
    ):
        store = open_object_store(url, options).zarr_store()
        ds = xr.open_zarr(store, zarr_format=3, consolidated=True)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(ds))["image"][3].values, expected)
        assert store.read_only


def test_store_at_another_url_has_the_same_options() -> None:
    store = open_object_store("s3://gz3d/g.zarr", {"key": "k", "backend": "obstore"})
    other = store.with_url("s3://gz3d/h.zarr")
    assert type(other) is type(store)
    assert (other.url, other.storage_options) == ("s3://gz3d/h.zarr", store.storage_options)


def test_command_reads_from_s3_and_says_nothing_else(public: S3Server) -> None:
    names = {"AWS_ACCESS_KEY_ID": public.key, "AWS_SECRET_ACCESS_KEY": public.secret}
    result = subprocess.run(
        [
            sys.executable, "-W", "error", "-m", "gz3d_zarr", "info", f"{public.url}/g.zarr",
            "--endpoint-url", public.endpoint, "--json",
        ],
        env={**os.environ, **names}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["arrays"][0]["shape"][0] == 6


def test_exports_go_to_s3_from_a_disk(moto_bucket: S3Server, few: Path, client: Client) -> None:
    url, options = f"s3://{moto_bucket.bucket}/files", moto_bucket.storage_options
    export_fits(few, url, client, rows=[1, 3], storage_options=options)
    names = read_texts(select_rows(few, [1, 3]))["file_name"]
    assert set(moto_bucket.digests()) == {f"files/{name}" for name in names}
    nowhere = {**options, "endpoint_url": "http://127.0.0.1:9"}
    export_fits(
        few, url + "2", client, rows=[1], storage_options=nowhere, destination_options=options
    )
    arguments = ["export", "fits", str(few), url + "3", "--endpoint-url", moto_bucket.endpoint]
    arguments += ["--cone", "0,0,648000", "--storage-option", f"key={moto_bucket.key}"]
    arguments += ["--destination-option", f"secret={moto_bucket.secret}"]
    with client.as_current():
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert len(moto_bucket.digests()) == 3 + gz3d_zarr.open_store(few).sizes["subject"]


@pytest.fixture
def owner(moto: S3Server, simulated: Path, client: Client) -> Iterator[S3Server]:
    """A bucket on a server that checks who comes; a store, and something else, are in it."""
    with checked_credentials(moto) as owner:
        owner.put("other/file.txt", b"somebody's")
        yield owner


def nobody_there(server: S3Server) -> S3Server:
    return replace(server, endpoint=f"http://127.0.0.1:{free_ports(1)[0]}")


STRANGERS: dict[str, Callable[[S3Server], S3Server]] = {
    "wrong secret": lambda owner: replace(owner, secret="made-up-and-wrong"),
    "unknown key": lambda owner: replace(owner, key="AKIANOBODYHERE"),
    "missing bucket": lambda owner: replace(owner, bucket="gz3d-no-such-bucket"),
    "dead endpoint": nobody_there,
    "read only": lambda owner: add_user(owner, "reader", "s3:Get*", "s3:List*"),
}
CREDENTIALS = r"(?i)credential|secret|access key"


def assert_one_sentence(message: str, pattern: str, stranger: S3Server) -> None:
    assert stranger.secret not in message
    assert "\n" not in message
    assert re.search(pattern, message), message
    assert ".gz3d/" not in message, message  # what a build keeps there is no concern of theirs


@pytest.mark.parametrize(
    ("who", "pattern"),
    [
        ("wrong secret", CREDENTIALS),
        ("unknown key", CREDENTIALS),
        ("missing bucket", "bucket .*does not exist"),
        ("dead endpoint", "(?i)could not connect to the endpoint"),
        ("read only", "(?i)permission|may not|denied"),
    ],
)
def test_build_that_cannot_be_is_refused_in_a_sentence(
    owner: S3Server, simulated: Path, client: Client, who: str, pattern: str
) -> None:
    stranger = STRANGERS[who](owner)
    message = refusal(owner, lambda: Place(stranger).build(simulated, client))
    assert_one_sentence(message, pattern, stranger)


@pytest.mark.parametrize("who", ["wrong secret", "read only"])
def test_build_that_cannot_be_touches_nothing(
    owner: S3Server, simulated: Path, client: Client, who: str
) -> None:
    stranger = STRANGERS[who](owner)
    stored = Place(owner)
    if who == "read only":  # also where there is something to delete
        stored.build(simulated, client, limit=4)
    message = refusal(
        owner, lambda: Place(hasty(stranger)).build(simulated, client, overwrite=True)
    )
    assert stranger.secret not in message


@pytest.mark.parametrize(
    ("who", "pattern"),
    [
        ("wrong secret", CREDENTIALS),
        ("unknown key", CREDENTIALS),
        ("missing bucket", "(?i)bucket.*not exist"),
        ("dead endpoint", "(?i)could not connect to the endpoint"),
        ("read only", "there is no Zarr 3 store at s3://"),
    ],
)
def test_store_that_cannot_be_opened_is_told_in_a_sentence(
    owner: S3Server, who: str, pattern: str
) -> None:
    stranger = STRANGERS[who](owner)
    message = refusal(owner, Place(hasty(stranger)).open)
    assert_one_sentence(message, pattern, stranger)


@pytest.mark.parametrize("who", ["missing bucket", "dead endpoint"])
def test_obstore_is_told_in_a_sentence_too(
    owner: S3Server, simulated: Path, client: Client, who: str
) -> None:
    pytest.importorskip("obstore")
    stranger = STRANGERS[who](owner)
    options = {**stranger.storage_options, "backend": "obstore"}
    pattern = {"missing bucket": "bucket does not exist", "dead endpoint": "could not connect"}[who]
    with pytest.raises(StoreError) as caught:
        gz3d_zarr.build(simulated, f"{stranger.url}/g.zarr", client, storage_options=options)
    assert_one_sentence(str(caught.value), pattern, stranger)


def test_endpoint_that_is_no_url_is_refused(simulated: Path, client: Client) -> None:
    options = {"endpoint_url": "localhost:5601"}
    with pytest.raises(UsageError, match="the endpoint is no URL, expected one such"):
        gz3d_zarr.build(simulated, "s3://gz3d/g.zarr", client, storage_options=options)


SECRET = "open-sesame"


@pytest.mark.parametrize("backend", ["s3fs", "obstore"])
@pytest.mark.parametrize("given", ["http://me:{}@127.0.0.1:9", "http://{}@host", "me:{}@host"])
def test_endpoint_with_a_password_is_refused_unseen(
    simulated: Path, client: Client, backend: str, given: str
) -> None:
    options = {"endpoint_url": given.format(SECRET), "backend": backend}
    for chosen in (options, {"client_kwargs": options, "backend": backend}):
        with pytest.raises(UsageError, match="the endpoint's URL holds a password") as caught:
            gz3d_zarr.build(simulated, "s3://gz3d/g.zarr", client, storage_options=chosen)
        assert SECRET not in str(caught.value)


def test_obstore_shows_no_password_of_an_endpoint_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("obstore")
    url = f"http://me:{SECRET}@127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    options = {"key": "k", "secret": "s", "backend": "obstore"}
    folder = open_object_store("s3://gz3d/g.zarr", options)
    with pytest.raises(StoreError) as caught:
        folder.get("a")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("backend", ["s3fs", "obstore"])
@pytest.mark.parametrize("action", ["get", "sizes", "delete"])
def test_server_that_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch, backend: str, action: str
) -> None:
    if backend == "obstore":
        pytest.importorskip("obstore")
    monkeypatch.setattr(locations, "FIRST_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(obstore_backend, "FIRST_ANSWER_SECONDS", 1)
    monkeypatch.setattr(obstore_backend, "RETRY_SECONDS", 0)
    calls: dict[str, Callable[[ObjectStore], Any]] = {
        "get": lambda folder: folder.get("zarr.json"),
        "sizes": lambda folder: folder.list_sizes(),
        "delete": lambda folder: folder.delete(["zarr.json"]),
    }
    with silent_server() as endpoint:
        folder = open_object_store(
            "s3://gz3d/g.zarr",
            {"key": "k", "secret": "s", "endpoint_url": endpoint, "backend": backend},
        )
        began = time.monotonic()
        with pytest.raises(StoreError, match="nothing answers within|could not connect"):
            calls[action](folder)
        assert time.monotonic() - began < 10


def test_source_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "FIRST_ANSWER_SECONDS", 0.2)
    with silent_server() as endpoint:
        options = {"key": "k", "secret": "s", "endpoint_url": endpoint}
        began = time.monotonic()
        for place in ("s3://gz3d/files", "s3://gz3d/files/*.fits.gz"):
            with pytest.raises(SourceError, match="cannot be listed: nothing answers within"):
                listing.list_source(place, options)
        assert time.monotonic() - began < 10


def test_web_server_that_never_lists_what_is_beside_a_file_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listing, "LISTING_SECONDS", 0.2)
    with silent_server() as endpoint:
        began = time.monotonic()
        with pytest.raises(SourceError, match=r"cannot be listed in 0.2 seconds, to look for a"):
            listing.list_source(f"{endpoint}/gz3d_1-150000_91_14760000.fits.gz")
        assert time.monotonic() - began < 10


def test_server_that_has_answered_may_be_slow(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_object_store(proxy.server.url, proxy.server.storage_options)
    assert folder.get("a") is None
    monkeypatch.setattr(locations, "FIRST_ANSWER_SECONDS", 0.01)
    proxy.delay = 0.1
    assert folder.get("a") is None
    assert folder.list_sizes() == {}


@pytest.mark.parametrize("backend", ["s3fs", "obstore"])
def test_worker_is_patient_from_the_start(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Whoever sent it a place has had an answer; its own first request may be a large one."""
    if backend == "obstore":
        pytest.importorskip("obstore")
    monkeypatch.setattr(locations, "FIRST_ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(obstore_backend, "FIRST_ANSWER_SECONDS", 0.01)
    proxy.delay = 0.1
    folder = open_object_store(
        proxy.server.url, {**proxy.server.storage_options, "backend": backend}
    )
    sent = pickle.loads(pickle.dumps(folder))
    assert sent == folder
    assert sent.get("a") is None


@pytest.mark.parametrize("limit", ["connect_timeout", "read_timeout", "retries"])
def test_limits_of_the_user_are_his(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    value: Any = {"max_attempts": 0} if limit == "retries" else 20
    options = {**proxy.server.storage_options, "config_kwargs": {limit: value}}
    monkeypatch.setattr(locations, "FIRST_ANSWER_SECONDS", 0.01)
    proxy.delay = 0.1
    assert open_object_store(proxy.server.url, options).get("a") is None


def test_link_is_for_reading_only(
    http: Link, simulated: Path, client: Client, tmp_path: Path
) -> None:
    asked: list[Callable[[], Any]] = [
        lambda: read_info(http.url),
        lambda: gz3d_zarr.verify(http.url, client=client),
        lambda: gz3d_zarr.copy(http.url, tmp_path / "copy.zarr", client),
        lambda: gz3d_zarr.build(simulated, http.url, client, overwrite=True),
    ]
    for action in asked:
        with pytest.raises(StoreError, match="is a web link: a store can be opened and"):
            action()
    assert not (tmp_path / "copy.zarr").exists()


def test_files_on_s3_are_a_source(
    moto_bucket: S3Server, simulated: Path, few: Path, client: Client, tmp_path: Path
) -> None:
    for path in subject_files(simulated)[:6]:
        moto_bucket.put(f"files/{path.name}", path.read_bytes())
    source, options = f"{moto_bucket.url}/files", moto_bucket.storage_options
    report = gz3d_zarr.build(source, tmp_path / "g.zarr", client, source_options=options)
    assert report.ok == 6
    assert gz3d_zarr.verify(tmp_path / "g.zarr", source, client, source_options=options).passed


def hasty(server: S3Server) -> S3Server:
    """Where nobody answers, botocore waits for 5 to 12 seconds; here it need not."""
    return HastyServer(server.endpoint, server.key, server.secret, server.bucket)


@dataclass(frozen=True)
class HastyServer(S3Server):
    @property
    def storage_options(self) -> dict[str, Any]:
        return {**super().storage_options, "config_kwargs": {"retries": {"max_attempts": 0}}}


def refusal(owner: S3Server, action: Callable[[], Any]) -> str:
    """What is said, in less than 30 seconds; the bucket is as it was."""
    before, began = owner.digests(), time.monotonic()
    with pytest.raises(StoreError) as caught:
        action()
    assert time.monotonic() - began < 30
    assert owner.digests() == before
    return str(caught.value)


@pytest.mark.parametrize("name", ["other", "other/file.txt"])
def test_something_else_under_the_key_is_refused(
    moto_bucket: S3Server, simulated: Path, client: Client, name: str
) -> None:
    moto_bucket.put("other/file.txt", b"somebody's")
    place = Place(moto_bucket, name)
    for mode in ("", "resume", "overwrite", "update", "retry_failed"):
        options = {mode: True} if mode else {}
        message = refusal(moto_bucket, partial(place.build, simulated, client, **options))
        assert f"{place.url} holds something that is not a Galaxy Zoo: 3D" in message
        assert "nothing was changed" in message


def test_obstore_writes_the_same_objects(
    moto: S3Server, simulated: Path, few: Path, client: Client
) -> None:
    pytest.importorskip("obstore")
    with fresh_bucket(moto) as server:
        options = {**server.storage_options, "backend": "obstore"}
        url = f"{server.url}/deep/g.zarr"
        arguments = {"limit": 6, "shard_size": 4, "storage_options": options}
        report = gz3d_zarr.build(simulated, url, client, **arguments)
        assert report.ok == 6
        with pytest.raises(StoreError, match="holds a complete store"):
            gz3d_zarr.build(simulated, url, client, **arguments)
        assert gz3d_zarr.verify(url, simulated, client, storage_options=options).passed
        found = gz3d_zarr.open_store(url, storage_options=options).compute()
        expected = gz3d_zarr.open_source(simulated, limit=6).compute()
        xr.testing.assert_equal(found, expected)
        missing = {**arguments, "storage_options": options}
        with pytest.raises(StoreError, match="cannot be"):
            gz3d_zarr.build(simulated, "s3://gz3d-no-such-bucket/g.zarr", client, **missing)
        with pytest.raises(UsageError, match="1 storage option that obstore does not know"):
            gz3d_zarr.build(
                simulated, url, client, storage_options={"backend": "obstore", "profile": "me"}
            )
    with pytest.raises(UsageError, match="expected s3fs or obstore"):
        gz3d_zarr.build(simulated, url, client, storage_options={"backend": "boto"})
    with pytest.raises(UsageError, match="obstore is for s3:// URLs"):
        gz3d_zarr.build(simulated, "memory://x/g", client, storage_options={"backend": "obstore"})
