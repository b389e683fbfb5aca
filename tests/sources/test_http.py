"""The archive over HTTP, on a server that misbehaves: the right bytes, or a named reason."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import gzip
import hashlib
import re
import shutil
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.table import Table
from click.testing import CliRunner
from distributed import Client
from files import subject_files, truth
from servers import (
    Answer,
    ArchiveServer,
    apache_index,
    flipped_byte,
    labeled_gzip,
    only_first,
    redirected,
    redirected_forever,
    reset_in_mid_body,
    serve,
    short_body,
    short_without_length,
    stall,
    status,
    wait_for_others,
)
from waiting import wait_until

import gz3d_zarr
from gz3d_zarr import BuildError, SourceError, Status, SubjectError, UsageError
from gz3d_zarr.cli import main
from gz3d_zarr.datamodel import fits_decoder
from gz3d_zarr.sources import download, http, prefetch
from gz3d_zarr.sources.archive import RELEASES, list_archive
from gz3d_zarr.sources.download import FileBody, decode_body, read_file
from gz3d_zarr.sources.options import FetchOptions
from gz3d_zarr.sources.prefetch import read_files


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait little between tries, and for silent servers."""
    monkeypatch.setattr(http, "MIN_WAIT", 0.01)
    monkeypatch.setattr(http, "MAX_WAIT", 0.05)
    monkeypatch.setattr(http, "READ_SECONDS", 0.5)
    monkeypatch.setattr(http, "ATTEMPTS", 4)


@pytest.fixture
def server(archive: Path) -> Iterator[ArchiveServer]:
    with serve(archive) as running:
        yield running


def names(server: ArchiveServer) -> list[str]:
    return [path.name for path in subject_files(server.folder)]


def get(server: ArchiveServer, sha1: str | None = None, **options: Any) -> FileBody:
    return read_file(server.url + names(server)[0], sha1, **options)


PASSING: dict[str, tuple[Answer, int]] = {
    "503 with Retry-After": (status(503, Retry_After="0"), 2),
    "429": (status(429), 2),
    "500": (status(500), 2),
    "502": (status(502), 2),
    "520, a proxy's": (status(520), 2),
    "599": (status(599), 2),
    "reset in mid-body": (reset_in_mid_body, 2),
    "short under a full length": (short_body, 2),
    "short without a length": (short_without_length, 2),
    "flipped byte": (flipped_byte, 2),
    "a web page": (status(200, b"<html>busy</html>"), 2),
    "gzip of a web page": (status(200, gzip.compress(b"<html>")), 2),
    "a stall": (stall(0.9), 2),
    "Content-Encoding: gzip": (labeled_gzip, 1),
    "a redirect": (redirected, 2),
}


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("known", [True, False])
def test_passing_fault_ends_in_the_right_bytes(
    server: ArchiveServer, kind: str, known: bool
) -> None:
    fault, requests = PASSING[kind]
    path = subject_files(server.folder)[0]
    server.faults[path.name] = [fault if fault is redirected else only_first(fault)]
    expected = path.read_bytes()
    sha1 = hashlib.sha1(expected).hexdigest() if known else None
    if kind == "gzip of a web page" and not known:
        requests = 1  # sound gzip, and nothing that tells: decoding finds it
        expected = gzip.compress(b"<html>")
        assert get(server).data[:2] == expected[:2]
        return
    assert get(server, sha1).data == expected
    assert server.requests[path.name] == requests


LASTING: dict[str, tuple[Answer, Status, str, int]] = {
    "404": (status(404), Status.MISSING, "404 Not Found", 1),
    "410": (status(410), Status.MISSING, "410 Gone", 1),
    "403": (status(403), Status.UNREACHABLE, "403 Forbidden", 1),
    "501": (status(501), Status.UNREACHABLE, "501 Not Implemented", 1),
    "505": (status(505), Status.UNREACHABLE, "answers 505", 1),
    "503": (status(503), Status.UNREACHABLE, "in 4 tries: the server answers 503", 4),
    "reset": (reset_in_mid_body, Status.UNREACHABLE, "in 4 tries: ProtocolError", 4),
    "short": (short_body, Status.UNREACHABLE, "in 4 tries: .*IncompleteRead", 4),
    "stall": (stall(0.9), Status.UNREACHABLE, "in 4 tries: ReadTimeoutError", 4),
    "a loop": (redirected_forever, Status.UNREACHABLE, "too many redirects", 4),
    "asks for an hour": (status(503, Retry_After="3600"), Status.UNREACHABLE, "wait 3600 s", 1),
}


@pytest.mark.parametrize("kind", LASTING)
def test_lasting_fault_is_named_after_the_right_number_of_tries(
    server: ArchiveServer, kind: str
) -> None:
    fault, expected, reason, requests = LASTING[kind]
    server.faults[names(server)[0]] = [fault]
    with pytest.raises(SubjectError, match=reason) as caught:
        get(server)
    assert caught.value.status is expected
    assert server.requests[names(server)[0]] == requests


@pytest.mark.parametrize(
    ("fault", "sha1", "reason"),
    [
        (status(200, b"<html>"), None, r"\(a web page\?\)"),
        (flipped_byte, None, "gzip is damaged"),
        (flipped_byte, "0" * 40, "its sha1 is .*, the sha1 list says 000"),
    ],
)
def test_wrong_body_is_fetched_twice_and_named_with_its_digest(
    server: ArchiveServer, fault: Answer, sha1: str | None, reason: str
) -> None:
    name = names(server)[0]
    server.faults[name] = [fault]
    body = get(server, sha1)
    assert server.requests[name] == 2
    subject, outcome = decode_body(name, sha1, body)
    assert subject is None
    assert outcome.status is Status.CORRUPT
    assert re.search(reason, outcome.reason)
    assert (outcome.sha1, outcome.size) == (hashlib.sha1(body.data).hexdigest(), len(body.data))


def test_huge_body_is_refused(server: ArchiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gz3d_zarr.sources.download.MAX_FILE", 2**16)
    with pytest.raises(SubjectError, match="more than 0 MiB"):
        get(server)


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_obeyed(server: ArchiveServer, as_date: bool) -> None:
    asked: list[float] = []

    def busy(handler: Any, _: bytes, __: int) -> bool:
        asked.append(time.time())
        if len(asked) == 1:
            wait = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
            handler.answer(503, b"", Retry_After=wait)
        return len(asked) == 1

    server.faults[names(server)[0]] = [busy]
    get(server)
    assert asked[1] - asked[0] >= 0.95


def test_unreachable_server_is_named() -> None:
    with pytest.raises(SubjectError, match="in 4 tries: .*refused") as caught:
        read_file("http://127.0.0.1:9/gz3d_1-1_19_1.fits.gz", None)
    assert caught.value.status is Status.UNREACHABLE
    with pytest.raises(SourceError, match="in 4 tries"):
        list_archive("http://127.0.0.1:9/")


def test_files_arrive_in_order_over_a_few_connections(server: ArchiveServer) -> None:
    files = [(server.url + name, None) for name in names(server)]
    together = wait_for_others(3)
    for name in names(server)[:3]:
        server.faults[name].append(together)
    server.faults[names(server)[0]].append(stall(0.1))  # the first comes last
    bodies = list(read_files(files, rules=FetchOptions(connections=3)))
    expected = [path.read_bytes() for path in subject_files(server.folder)]
    assert [body.data for body in bodies if isinstance(body, FileBody)] == expected
    assert server.most_open == server.most_busy == 3
    assert all(h["Accept-Encoding"] == "identity" for h in server.headers)


def test_reading_stops_with_its_reader(server: ArchiveServer) -> None:
    files = [(server.url + name, None) for name in names(server)]
    for name in names(server):
        server.faults[name] = [stall(0.05)]
    bodies = read_files(files, rules=FetchOptions(connections=2))
    next(bodies)
    bodies.close()
    assert sum(server.requests.values()) < len(files)


class Mark:
    """Lives as long as the body that has it: bytes cannot be weakly referenced."""


class MarkedBytes(bytes):
    mark: Mark


Fetched = list[weakref.ref[Mark]]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    """What `read_files` fetches, in place of a network; every seventh file is missing."""
    bodies: Fetched = []

    def fetch_one(_: Any, url: str, __: int) -> tuple[bytes, str]:
        body = MarkedBytes(url.encode())
        body.mark = Mark()
        bodies.append(weakref.ref(body.mark))
        if int(url.rpartition("/")[2]) % 7 == 3:
            raise SubjectError(Status.MISSING, "there is no file")
        return body, url

    monkeypatch.setattr(download, "fetch_redirected", fetch_one)
    monkeypatch.setattr(download, "unpack", lambda data: data)
    monkeypatch.setattr(prefetch, "PREFETCH_BYTES", 100)  # four files may wait, and another begin
    return bodies


MANY = [(f"http://127.0.0.1:9/{i:03}", None) for i in range(100)]


def test_no_more_is_fetched_ahead_than_fits(fetched: Fetched) -> None:
    bodies = read_files(MANY, rules=FetchOptions(connections=4))
    given = 0
    for i, body in enumerate(bodies):
        if i == 10:  # of a hundred
            time.sleep(0.05)  # more would be fetched now, were nothing in the way
        given += 1
        alive = sum(ref() is not None for ref in fetched)
        # Those that wait, one of each connection, and what is missing among so many.
        assert len(fetched) <= given + 4 + 4 + 3
        assert alive <= 1 + 4 + 4 + 4  # the one here; threads let go of theirs a little later
        assert isinstance(body, SubjectError) == (i % 7 == 3)
        assert isinstance(body, SubjectError) or body.data == MANY[i][0].encode()
    assert given == len(MANY)


@pytest.mark.parametrize("after", [1, 4, 50])
def test_reader_that_leaves_waits_for_nobody(fetched: Fetched, after: int) -> None:
    bodies = read_files(MANY, rules=FetchOptions(connections=4))
    for _ in range(after):
        next(bodies)
    bodies.close()
    assert len(fetched) < len(MANY)
    assert not [t for t in threading.enumerate() if t.name.startswith("gz3d-fetch")]


def one_at_a_time() -> prefetch.ConnectionLimiter:
    """One connection for all threads, as a semaphore of the cluster gives it."""
    only = threading.Semaphore(1)

    @contextlib.contextmanager
    def limiter(is_needed: Callable[[], bool]) -> Iterator[bool]:
        held = False
        while not held and is_needed():
            held = only.acquire(timeout=0.01)
        try:
            yield held
        finally:
            if held:
                only.release()

    return limiter


def test_one_connection_for_all_is_enough(fetched: Fetched) -> None:
    rules = FetchOptions(connections=4)
    assert len(list(read_files(MANY, rules=rules, limiter=one_at_a_time()))) == len(MANY)


def test_limiter_that_fails_ends_the_reading(server: ArchiveServer) -> None:
    def limiter(_: Any) -> Any:
        raise RuntimeError("no scheduler")

    with pytest.raises(RuntimeError, match="no scheduler"):
        list(read_files([(server.url + names(server)[0], None)], limiter=limiter))


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often bodies are hashed and unpacked."""
    found: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            found[name] += 1
            return function(*args, **options)

        return counted

    monkeypatch.setattr(hashlib, "sha1", counting("hashed", hashlib.sha1))
    unpack = counting("unpacked", fits_decoder.unpack)
    monkeypatch.setattr(download, "unpack", unpack)
    monkeypatch.setattr(fits_decoder, "unpack", unpack)
    return found


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_body_is_hashed_once_and_unpacked_once(
    server: ArchiveServer, counts: Counter[str], tmp_path: Path, known: bool, cached: bool
) -> None:
    paths = subject_files(server.folder)
    digests = [hashlib.sha1(path.read_bytes()).hexdigest() for path in paths]
    counts.clear()
    files = [
        (server.url + p.name, d if known else None) for p, d in zip(paths, digests, strict=True)
    ]
    rules = FetchOptions(connections=3, cache=str(tmp_path / "cache") if cached else None)
    for _ in range(2):  # the second time from the cache
        for (name, sha1), digest, body in zip(
            files, digests, read_files(files, rules=rules), strict=True
        ):
            _, outcome = decode_body(name, sha1, body)
            assert (outcome.status, outcome.sha1) == (Status.OK, digest)
    assert counts == {"hashed": 2 * len(files), "unpacked": 2 * len(files)}
    assert sum(server.requests.values()) == len(files) * (1 if cached else 2)
    counts.clear()
    decode_body(*files[0], read_file(*files[0]))
    assert counts == {"hashed": 1, "unpacked": 1}


def test_unpacked_bodies_do_not_wait(server: ArchiveServer, counts: Counter[str]) -> None:
    bodies = read_files([(server.url + name, None) for name in names(server)])
    assert isinstance(next(bodies), FileBody)
    wait_until(lambda: sum(server.requests.values()) == len(names(server)))
    assert counts["unpacked"] == 1
    bodies.close()


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("buffered", [1, 2**25])
def test_damaged_bodies_are_fetched_again_in_their_turn(
    server: ArchiveServer,
    counts: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    connections: int,
    buffered: int,
) -> None:
    """With one connection for all, a full buffer or an empty one, and a damaged cache."""
    monkeypatch.setattr(prefetch, "PREFETCH_BYTES", buffered)
    files = [(server.url + name, None) for name in names(server)]
    cache = tmp_path / "cache"
    cache.mkdir()
    for i, path in enumerate(subject_files(server.folder)):
        if i % 3 == 0 or i == len(files) - 1:
            server.faults[path.name] = [only_first(flipped_byte)]
        if i % 4 == 0:
            (cache / path.name).write_bytes(path.read_bytes()[:-1000])
    server.faults[names(server)[1]] = [flipped_byte]
    rules = FetchOptions(cache=str(cache), connections=connections)
    bodies = list(read_files(files, rules=rules, limiter=one_at_a_time()))
    for i, (path, body) in enumerate(zip(subject_files(server.folder), bodies, strict=True)):
        assert isinstance(body, FileBody)
        assert (body.data == path.read_bytes()) == (i != 1)
        assert (cache / path.name).exists() == (i != 1)
        is_damaged = i % 3 == 0 or i in (1, len(files) - 1)
        assert server.requests[path.name] == 1 + is_damaged
    reads = sum(server.requests.values()) + len(files[::4])
    assert counts == {"hashed": reads, "unpacked": reads}


def test_cache_keeps_only_sound_files_and_is_asked_first(
    server: ArchiveServer, tmp_path: Path
) -> None:
    name, cache = names(server)[0], tmp_path / "cache"
    expected = (server.folder / name).read_bytes()
    for _ in range(2):
        assert get(server, cache=str(cache)).data == expected
    assert server.requests[name] == 1
    (cache / name).write_bytes(expected[:-1000])  # as a filled disk leaves it
    assert get(server, cache=str(cache)).data == expected
    assert server.requests[name] == 2
    assert (cache / name).read_bytes() == expected
    server.faults[name] = [status(200, b"<html>")]
    (cache / name).unlink()
    assert get(server, cache=str(cache)).data == b"<html>"
    assert list(cache.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceError, match="the cache .*file/c cannot be written"):
        read_file(server.url + names(server)[1], None, cache=str(tmp_path / "file" / "c"))


def damaged_server(server: ArchiveServer, stalled: float = 0.1) -> dict[str, str]:
    """Faults of every kind, on half of the files; returns the files that cannot be read."""
    files = names(server)
    for i, name in enumerate(files):
        if i % 2:
            server.faults[name].append(only_first(stall(stalled)))
        kinds = [status(503, Retry_After="0"), reset_in_mid_body, short_body, None]
        fault = kinds[i % len(kinds)]
        if fault is not None:
            server.faults[name].append(only_first(fault))
    server.most_allowed = 16
    (server.folder / files[3]).unlink()
    server.faults[files[6]] = [status(200, b"<html>404</html>")]
    sha1_list = server.folder / RELEASES["dr17"].sha1_list
    lines = sha1_list.read_text().splitlines()
    lines = ["0" * 40 + line[40:] if files[9] in line else line for line in lines]
    sha1_list.write_text("\n".join(lines) + "\n")
    return {files[3]: "missing", files[6]: "corrupt", files[9]: "corrupt"}


def test_build_over_a_bad_network_is_whole(
    server: ArchiveServer, store: Path, client: Client, tmp_path: Path
) -> None:
    bad = damaged_server(server)
    target = tmp_path / "g.zarr"
    report = gz3d_zarr.build(server.url, target, client, shard_size=4, connections=3)
    assert {f.file_name: f.status for f in report.failures} == bad
    assert all(f.reason for f in report.failures)
    assert report.ok == 18 - 3
    # A handler may end only after its client has begun its next request.
    assert 1 < server.most_busy <= 4
    good = gz3d_zarr.open_store(store).compute()
    ds = gz3d_zarr.open_store(target).compute()
    ok = ds["status"].values == 0
    xr.testing.assert_equal(ds.isel(subject=ok), good.isel(subject=ok))
    assert ds.attrs["source"] == server.url
    lost = xr.open_zarr(target, group="catalogue").compute()
    assert sorted(lost["file_name"].values[~ok]) == sorted(bad)
    assert not list(tmp_path.glob("**/*.fits.gz.*"))


def test_second_build_from_the_cache_asks_for_no_file(
    server: ArchiveServer, store: Path, client: Client, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    options = {"shard_size": 4, "cache": cache}
    gz3d_zarr.build(server.url, tmp_path / "a.zarr", client, **options)
    once = dict.fromkeys(names(server), 1)
    assert {name: server.requests[name] for name in once} == once
    gz3d_zarr.build(server.url, tmp_path / "b.zarr", client, **options)
    assert {name: server.requests[name] for name in once} == once
    gz3d_zarr.build(cache, tmp_path / "c.zarr", client, shard_size=4)  # an archive by itself
    for name in "abc":
        xr.testing.assert_equal(
            gz3d_zarr.open_store(tmp_path / f"{name}.zarr"), gz3d_zarr.open_store(store)
        )


def test_only_selected_files_are_fetched(
    server: ArchiveServer, client: Client, tmp_path: Path
) -> None:
    gz3d_zarr.build(server.url, tmp_path / "g.zarr", client, ids=["1-600002", 14000000])
    fetched = {name for name in server.requests if name in names(server)}
    assert fetched == {n for n in names(server) if "_1-600002_" in n or "_14000000." in n}
    assert len(fetched) == 3
    source = gz3d_zarr.open_source(server.url, min_vote_fraction=0.5)
    assert {name for name in server.requests if name in names(server)} == fetched
    assert source.isel(subject=0)["image"].values.any()


def test_archive_is_listed_by_catalogue_and_index(server: ArchiveServer) -> None:
    listing = list_archive(server.url)
    assert [file.name for file in listing.files] == names(server)
    assert listing.catalogue == server.url + "gz3d_metadata.fits"
    assert listing.sha1_lists == (server.url + RELEASES["dr17"].sha1_list,)
    assert listing.notes == ()
    assert sum(server.requests.values()) == 3  # index, catalogue, sha1 list
    server.index = None
    listing = list_archive(server.url.rstrip("/"))
    assert [file.name for file in listing.files] == names(server)
    assert "no index page" in listing.notes[0]


def test_archive_without_a_catalogue_is_listed_by_its_index(server: ArchiveServer) -> None:
    server.index = apache_index(names(server))
    listing = list_archive(server.url)  # an index need not name what stands beside the files
    assert listing.catalogue is not None
    assert len(listing.sha1_lists) == 1
    (server.folder / "gz3d_metadata.fits").unlink()
    (server.folder / RELEASES["dr17"].sha1_list).unlink()
    listing = list_archive(server.url)
    assert [file.name for file in listing.files] == names(server)
    assert (listing.catalogue, listing.sha1_lists) == (None, ())
    notes = " ".join(gz3d_zarr.plan(server.url, "g.zarr", workers=1).notes)
    assert "there is no gz3d_metadata.fits" in notes
    assert "there is no sha1 list" in notes
    server.index = None
    with pytest.raises(SourceError, match="has no subject files"):
        list_archive(server.url)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (status(503), "cannot be read .*in 4 tries: the server answers 503"),
        (status(501), "cannot be read .*the server answers 501"),
        (status(200, b"<![nonsense[ </html>"), "cannot be understood"),
    ],
)
def test_index_that_fails_is_noted_where_there_is_a_catalogue(
    server: ArchiveServer, fault: Answer, reason: str
) -> None:
    server.faults[""] = [fault]
    listing = list_archive(server.url)
    assert [file.name for file in listing.files] == names(server)
    (note,) = listing.notes
    assert re.search(f"the index page {reason}.*: subjects are those of the catalogue", note)
    (server.folder / "gz3d_metadata.fits").unlink()
    with pytest.raises(SourceError, match=f"{reason}.*has no gz3d_metadata.fits"):
        list_archive(server.url)


def test_index_that_fails_for_a_moment_is_read(server: ArchiveServer) -> None:
    server.index = apache_index([*names(server), "http://[nonsense"])
    server.faults[""] = [only_first(status(520), server.requests[""] + 1)]
    assert list_archive(server.url).notes == ()
    server.faults[""] = [status(200, b"<html>Welcome</html>")]
    assert len(list_archive(server.url).files) == 18


def cut_index(handler: Any, _: bytes, __: int) -> bool:
    """Half of the index page, without a length that would reveal it."""
    page = handler.archive.index.encode()
    return short_without_length(handler, page[: len(page) // 2 + 1000], 1)


def test_index_that_is_cut_short_is_noted(server: ArchiveServer) -> None:
    server.faults[""] = [only_first(cut_index)]
    assert list_archive(server.url).notes == ()
    assert server.requests[""] == 2
    server.faults[""] = [cut_index]
    listing = list_archive(server.url)
    assert len(listing.files) == 18  # by the catalogue
    assert "the index page seems to be cut short (it has no </html>)" in listing.notes[0]
    (server.folder / "gz3d_metadata.fits").unlink()
    with pytest.raises(SourceError, match="cut short .*, and without a gz3d_metadata.fits"):
        list_archive(server.url)


def test_plan_fills_no_cache(server: ArchiveServer, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert gz3d_zarr.plan(
        server.url, tmp_path / "g.zarr", workers=1, cache=cache
    ).manifest.catalogue
    assert not cache.exists()
    gz3d_zarr.open_source(server.url, cache=cache)
    assert (cache / "gz3d_metadata.fits").is_file()


def test_catalogue_is_verified_and_fetched_once_more(server: ArchiveServer, tmp_path: Path) -> None:
    server.faults["gz3d_metadata.fits"] = [only_first(status(200, b"<html>"))]
    list_archive(server.url, cache=str(tmp_path / "cache"))
    kept = (tmp_path / "cache" / "gz3d_metadata.fits").read_bytes()
    assert kept == (server.folder / "gz3d_metadata.fits").read_bytes()
    with (server.folder / RELEASES["dr17"].sha1_list).open("a") as listed:
        listed.write(f"{'0' * 40}  gz3d_metadata.fits\n")
    with pytest.raises(SourceError, match="is damaged: its sha1 is .* says 000"):
        list_archive(server.url, cache=str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_spelling_of_the_address_does_not_matter(server: ArchiveServer) -> None:
    for address in ("a/../", "my%20place/../", ""):
        assert len(list_archive(server.url + address).files) == 18


def test_differences_of_index_and_catalogue_are_noted_and_kept(server: ArchiveServer) -> None:
    listed = [*names(server)[1:], "gz3d_9-9_19_9.fits.gz", "gz3d_metadata.fits"]
    server.index = apache_index(listed)
    plan = gz3d_zarr.plan(server.url, "g.zarr", workers=1)
    assert plan.layout.subjects == 19
    notes = " ".join(plan.notes)
    assert f"does not list 1 file of the catalogue (first {names(server)[0]})" in notes
    assert "the catalogue has no row for 1 file (first gz3d_9-9_19_9.fits.gz)" in notes
    assert not [name for name in server.requests if name.endswith(".fits.gz")]


@pytest.mark.parametrize(
    "link",
    [
        "../gz3d_1-1_19_1.fits.gz",
        "/etc/gz3d_1-1_19_1.fits.gz",
        "http://127.0.0.2/sas/gz3d/gz3d_1-1_19_1.fits.gz",
        "//127.0.0.2/sas/gz3d/gz3d_1-1_19_1.fits.gz",
        "%2e%2e%2fgz3d_1-1_19_1.fits.gz",
        "sub/gz3d_1-1_19_1.fits.gz",
        "file:///etc/gz3d_1-1_19_1.fits.gz",
        "https://127.0.0.1/x/gz3d_metadata.fits",
    ],
)
def test_link_that_leads_outside_is_refused(server: ArchiveServer, link: str) -> None:
    server.index = apache_index([*names(server), link])
    with pytest.raises(SourceError, match="outside of the archive") as caught:
        list_archive(server.url)
    assert link in str(caught.value)


@pytest.mark.parametrize("name", ["../../1-1_19_1.fits", "/tmp/1-1_19_1.fits", "a\\1-1_19_1.fits"])
def test_catalogue_name_that_leads_outside_is_left_out(server: ArchiveServer, name: str) -> None:
    path = server.folder / "gz3d_metadata.fits"
    table = Table.read(path)
    table["file_name"][4] = name
    table.write(path, overwrite=True)
    server.index = None
    assert [file.name for file in list_archive(server.url).files] == names(server)[:4] + names(
        server
    )[5:]
    (note,) = [n for n in gz3d_zarr.plan(server.folder, "g.zarr", workers=1).notes if "row 4" in n]
    assert f"(first row 4, {str(table['file_name'][4])!r})" in note


def test_named_release_is_served_from_its_url(
    server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = RELEASES["dr17"]
    assert release.url.startswith("https://data.sdss.org/sas/dr17/")
    assert release.url.endswith(f"/{release.version}/")
    here = dataclasses.replace(release, url=server.url)
    monkeypatch.setitem(RELEASES, "dr17", here)  # type: ignore[arg-type]
    plan = gz3d_zarr.plan("dr17", "g.zarr", workers=1)
    assert plan.layout.subjects == 18
    assert plan.manifest.release == "SDSS DR17 v4_0_0"
    with pytest.raises(UsageError, match="connections is 0"):
        gz3d_zarr.plan("dr17", "g.zarr", workers=1, connections=0)


def test_large_catalogue_is_read_in_seconds(server: ArchiveServer) -> None:
    path = server.folder / "gz3d_metadata.fits"
    rows = Table.read(path)
    many = rows[[i % len(rows) for i in range(29_813)]]
    many["zooniverse_subject_id"] = range(29_813)
    many["file_name"] = [f"1-{i}_19_{i}.fits" for i in range(29_813)]
    many.write(path, overwrite=True)
    server.index = apache_index(
        [*(f"gz3d_1-{i}_19_{i}.fits.gz" for i in range(29_813)), "gz3d_metadata.fits"]
    )
    plan = gz3d_zarr.plan(server.url, "g.zarr", workers=1)
    assert plan.layout.subjects == 29_813
    assert plan.layout.shards == 466
    assert plan.objects < 2_000


def test_zip_of_files_is_a_source(simulated: Path, client: Client, tmp_path: Path) -> None:
    packed = shutil.make_archive(str(tmp_path / "all"), "zip", simulated)
    report = gz3d_zarr.build(f"zip://*.gz::{packed}", tmp_path / "g.zarr", client, shard_size=4)
    assert report.ok == 18
    expected = gz3d_zarr.open_source(simulated, catalogue="none")
    stored = gz3d_zarr.open_store(tmp_path / "g.zarr")
    xr.testing.assert_equal(stored.compute(), expected.compute())


@pytest.mark.long
def test_reference_files_over_a_bad_network(
    reference: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the archive's issue demands, to the letter, on the producer's own files."""
    monkeypatch.setattr(http, "READ_SECONDS", 5.0)
    folder = Path(shutil.copytree(reference, tmp_path / "archive"))
    with serve(folder) as server:
        bad = damaged_server(server, stalled=1.0)
        target = tmp_path / "g.zarr"
        report = gz3d_zarr.build(server.url, target, client, shard_size=16)
        assert {f.file_name: f.status for f in report.failures} == bad
        assert (report.ok, report.subjects) == (61, 64)
        assert 4 < server.most_busy <= 8
        assert server.refused == 0
    stored = gz3d_zarr.open_store(target).compute()
    files = xr.open_zarr(target, group="catalogue")["file_name"].values
    for i in (stored["status"].values == 0).nonzero()[0]:
        row, expected = stored.isel(subject=int(i)), truth(reference / files[i])
        np.testing.assert_array_equal(row["image"], expected["image"])
        np.testing.assert_array_equal(row["segmentation"], expected["segmentation"])
        for name in ("ra", "dec", "scale", "total_classifications", "spiral_votes", "bar_votes"):
            assert row[name].item() == expected[name]


def test_command_over_a_bad_network_exits_3_and_names_each(
    server: ArchiveServer, client: Client, tmp_path: Path
) -> None:
    bad = damaged_server(server)
    arguments = ["build", server.url, str(tmp_path / "g.zarr"), "--shard-size", "9"]
    with client.as_current():
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 3, result.output
    for name, label in bad.items():
        assert f"  {label:<11} {name}  " in result.stdout


def test_headers_reach_the_server_and_no_other_host(
    server: ArchiveServer, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(server.folder) as mirror:
        moved = names(server)[0]
        server.faults[moved] = [status(302, b"", Location=mirror.url + moved)]
        options = {"headers": {"X-Token": "open-sesame"}}
        store = tmp_path / "g.zarr"
        report = gz3d_zarr.build(server.url, store, client, limit=2, ids=None,
                                 order="name", source_options=options)  # fmt: skip
        assert report.ok == 2
        assert all(headers.get("X-Token") == "open-sesame" for headers in server.headers)
        assert [headers.get("X-Token") for headers in mirror.headers] == [None]
    for path in store.rglob("*"):
        assert not path.is_file() or b"open-sesame" not in path.read_bytes()
    with pytest.raises(UsageError, match="1 unknown source option for HTTP"):
        gz3d_zarr.plan(server.url, store, workers=1, source_options={"anon": True})
    with pytest.raises(UsageError, match="headers.NAME=VALUE"):
        gz3d_zarr.plan(server.url, store, workers=1, source_options={"headers": "x"})


@pytest.mark.parametrize(
    "url",
    [
        "http://me:open-sesame@127.0.0.1/a/",
        "https://open-sesame@127.0.0.1/a/",
        "https://127.0.0.1/a/?sig=open-sesame",
        "ftp://me:open-sesame@127.0.0.1/a",
        "zip://*::https://me:open-sesame@127.0.0.1/a.zip",
        "https://me:open/sesame@127.0.0.1/a/",
        "https://127.0.0.1/a/#open-sesame",
        "https://127.0.0.1/a;key=open-sesame/b/",
        "s3://bucket/a#open-sesame",
        "s3://me:open/sesame@bucket/a",
        "s3://bucket/a;open-sesame",
        "zip://a::s3://bucket/b.zip#open-sesame",
    ],
)
def test_url_with_a_secret_is_refused_and_not_shown(
    url: str, simulated: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(url + "\n")
    for source, store, more in (
        (url, "g.zarr", {}),
        ([url], "g.zarr", {}),
        (listed, "g.zarr", {}),
        (simulated, url, {}),
        (simulated, "g.zarr", {"catalogue": url}),
    ):
        with pytest.raises(UsageError, match="password, a token or a query") as caught:
            gz3d_zarr.plan(source, store, workers=1, **more)
        assert "sesame" not in str(caught.value)


def test_store_names_its_source(
    server: ArchiveServer, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = dataclasses.replace(RELEASES["dr17"], url=server.url)
    monkeypatch.setitem(RELEASES, "dr17", release)  # type: ignore[arg-type]
    target = tmp_path / "g.zarr"
    gz3d_zarr.build("dr17", target, client, limit=4)
    ds, table = gz3d_zarr.open_store(target), xr.open_zarr(target, group="catalogue")
    assert ds.attrs["source"] == server.url
    assert ds.attrs["source_catalogue"] == server.url + "gz3d_metadata.fits"
    assert ds.attrs["release"] == "SDSS DR17 v4_0_0"
    plan = gz3d_zarr.plan("dr17", tmp_path / "h.zarr", workers=1, limit=4)
    assert ds.attrs["manifest_digest"] == plan.manifest.digest
    for name, sha1, size in zip(
        *(table[name].values for name in ("file_name", "source_sha1", "source_size")), strict=True
    ):
        data = (server.folder / name).read_bytes()
        assert (sha1, size) == (hashlib.sha1(data).hexdigest(), len(data))


def test_headers_are_for_one_host(server: ArchiveServer, tmp_path: Path) -> None:
    options = {"headers": {"Authorization": "Bearer open-sesame"}}
    with serve(server.folder) as other:
        listed = tmp_path / "list.txt"
        listed.write_text(f"{server.url}{names(server)[0]}\n{other.url}{names(server)[1]}\n")
        with pytest.raises(
            UsageError, match="headers would be sent to http://127.0.0.1:.* and http"
        ):
            gz3d_zarr.plan(listed, "g.zarr", workers=1, source_options=options)
        assert not other.headers
        gz3d_zarr.plan(
            server.url,
            "g.zarr",
            workers=1,
            catalogue=other.url + "gz3d_metadata.fits",
            source_options=options,
        )
        assert other.headers
        assert not [h for h in other.headers if "Authorization" in h]
    for value in ("Bearer open-sesame\n", "\u2603 open-sesame"):
        with pytest.raises(UsageError, match="header 1 cannot be sent") as caught:
            options = {"headers": {"Authorization": value}}
            gz3d_zarr.plan(server.url, "g.zarr", workers=1, source_options=options)
        assert "sesame" not in str(caught.value)


def test_list_on_a_server_names_files_of_that_server_only(server: ArchiveServer) -> None:
    first = names(server)[0]
    for line in ("file:///etc/" + first, "../" + first, "http://127.0.0.2/" + first):
        server.faults["list.txt"] = [status(200, line.encode())]
        with pytest.raises(SourceError, match="which is outside of its folder"):
            gz3d_zarr.plan(server.url + "list.txt", "g.zarr", workers=1)
    server.faults["list.txt"] = [status(200, f"{first}\n{server.url}{names(server)[1]}".encode())]
    for source, subjects in ((server.url + "list.txt", 2), (server.url + first, 1)):
        assert gz3d_zarr.plan(source, "g.zarr", workers=1).layout.subjects == subjects


def test_stopping_does_not_wait_for_a_busy_server(server: ArchiveServer) -> None:
    files = [(server.url + name, None) for name in names(server)[:2]]
    server.faults[names(server)[0]] = [status(404)]
    server.faults[names(server)[1]] = [status(503, Retry_After="60")]
    bodies = read_files(files, rules=FetchOptions(connections=2))
    assert isinstance(next(bodies), SubjectError)
    began = time.monotonic()
    bodies.close()
    assert time.monotonic() - began < 20


def test_connections_of_a_build_that_was_stopped_count_for_the_next(
    server: ArchiveServer, client: Client, tmp_path: Path
) -> None:
    for name in names(server):
        server.faults[name] = [stall(0.2)]
    server.faults[names(server)[0]] = [status(404)]
    options = {"shard_size": 4, "connections": 3, "order": "name"}
    with pytest.raises(BuildError, match="missing"):
        gz3d_zarr.build(server.url, tmp_path / "g.zarr", client, on_error="raise", **options)
    gz3d_zarr.build(server.url, tmp_path / "h.zarr", client, **options)
    assert server.most_busy <= 3 + 1  # one asks for the index while the others end


def test_handshake_that_breaks_off_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    came = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            while len(came) < 4:
                connection, _ = listening.accept()
                came.append(connection)
                connection.recv(10)
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/gz3d_1-1_19_1.fits.gz"
        with pytest.raises(SubjectError, match="in 4 tries") as caught:
            read_file(url, None)
        thread.join(10)
    assert caught.value.status is Status.UNREACHABLE
    assert len(came) == 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("target", ["{other}", "blob%20of%20bytes"])
def test_body_of_another_name_needs_a_sha1_or_trust(
    server: ArchiveServer, tmp_path: Path, target: str
) -> None:
    (name, other, *_), cache = names(server), tmp_path / "cache"
    (server.folder / "blob%20of%20bytes").write_bytes((server.folder / name).read_bytes())
    server.faults[name] = [status(302, b"", Location=target.format(other=other))]
    body = get(server, cache=str(cache))
    assert not cache.exists()  # it would be taken for the right one the next time
    reason = f"a redirect led to another file ({target.format(other=other).replace('%20', ' ')})"
    _, outcome = decode_body(name, None, body)
    assert outcome.status is Status.INVALID
    assert outcome.reason.startswith(reason)
    assert decode_body(name, None, body, trust_names=True)[1].status is Status.OK
    if target != "{other}":
        sha1 = hashlib.sha1((server.folder / name).read_bytes()).hexdigest()
        body = get(server, sha1, cache=str(cache))
        assert decode_body(name, sha1, body)[1].status is Status.OK
        assert [path.name for path in cache.iterdir()] == [name]


def test_redirect_to_nonsense_is_one_bad_subject(server: ArchiveServer) -> None:
    server.faults[names(server)[0]] = [status(302, b"", Location="http://[bad/")]
    with pytest.raises(SubjectError, match="cannot be fetched") as caught:
        get(server)
    assert caught.value.status is Status.UNREACHABLE
    gc.collect()  # urllib3 leaves the socket of such an answer to the collector


def test_notes_come_before_anything_is_fetched(
    server: ArchiveServer, client: Client, tmp_path: Path
) -> None:
    (server.folder / RELEASES["dr17"].sha1_list).unlink()
    notes: list[str] = []

    def announce(plan: Any) -> None:
        notes.extend(plan.manifest.notes)
        assert not [name for name in server.requests if name in names(server)]

    gz3d_zarr.build(server.url, tmp_path / "g.zarr", client, limit=2, announce=announce)
    assert "there is no sha1 list" in " ".join(notes)
    with client.as_current():
        result = CliRunner().invoke(main, ["build", server.url, str(tmp_path / "h"), "--tiny"])
    assert "Note: there is no sha1 list" in result.stderr
    assert "Note" not in result.stdout
