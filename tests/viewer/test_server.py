"""The server on loopback: what it gives to its own page, and to nobody else."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import psutil
import pytest
from click.testing import CliRunner
from object_stores import S3Server, fresh_bucket
from servers import serve
from waiting import ending, wait_until

import gz3d_zarr
from gz3d_zarr.cli import main
from gz3d_zarr.errors import StoreError, UsageError
from gz3d_zarr.storage.memory_store import MemoryStore
from gz3d_zarr.storage.object_store import open_object_store
from gz3d_zarr.viewer.page_files import CONTENT_TYPES
from gz3d_zarr.viewer.server import ViewServer

SHARD = "store/image/c/0/0/0/0"


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[ViewServer]:
    with gz3d_zarr.view(store) as running:
        yield running


def ask(
    link: str, path: str = "", method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send a path as it is, below the secret path unless it begins with a slash."""
    parts = urlsplit(link)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    target = path if path.startswith("/") else parts.path + path
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(method, target, skip_host="Host" in fields)
    for name, value in fields.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def test_page_and_objects_are_given_whole_and_in_ranges(store: Path, server: ViewServer) -> None:
    status, headers, body = ask(server.link)
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert '<meta name="gz3d-store" content="store/">' in body.decode()
    assert f'<meta name="gz3d-source" content="{store}">' in body.decode()
    assert "connect-src 'self';" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    for name, kind in CONTENT_TYPES.items():
        status, headers, _ = ask(server.link, name)
        assert (status, headers["Content-Type"]) == (200, kind)
    root = (store / "zarr.json").read_bytes()
    assert ask(server.link, "store/zarr.json")[2] == root
    data = (store / "image/c/0/0/0/0").read_bytes()
    for asked, expected in (
        ("bytes=5-99", data[5:100]),
        ("bytes=-1028", data[-1028:]),
        (f"bytes={len(data) - 3}-", data[-3:]),
        (f"bytes=4-{len(data) + 9}", data[4:]),
    ):
        status, headers, body = ask(server.link, SHARD, Range=asked)
        assert status == 206
        assert body == expected
        start = len(data) - len(expected) if asked != "bytes=5-99" else 5
        assert headers["Content-Range"].startswith(f"bytes {start}-")
        assert headers["Content-Range"].endswith(f"/{len(data)}")
    assert ask(server.link, SHARD, Range=f"bytes={len(data)}-")[0] == 416
    status, headers, body = ask(server.link, SHARD, "HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(data)), b"")
    assert "Access-Control-Allow-Origin" not in headers
    assert ask(server.link, "store/image/c/99/0/0/0")[0] == 404
    assert ask(server.link, SHARD, "PUT")[0] == 405


def test_strangers_and_other_paths_are_refused(store: Path, server: ViewServer) -> None:
    secret = store.parent / "secret.txt"
    secret.write_text("secret")
    (store / "notes.txt").write_text("a person's own")
    port = urlsplit(server.link).port
    try:
        assert ask(server.link, Host=f"127.0.0.1:{port}")[0] == 200
        assert ask(server.link, Host=f"localhost:{port}")[0] == 200
        for host in ("example.org", f"example.org:{port}", "127.0.0.1:1", ""):
            assert ask(server.link, Host=host)[0] == 403
        for site in ("cross-site", "same-site"):
            assert ask(server.link, Sec_Fetch_Site=site)[0] == 403
            for kind in ("iframe", "script", "image", "object", "empty"):
                mode = "no-cors" if kind in ("script", "image") else "cors"
                fields = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": mode, "Sec_Fetch_Dest": kind}
                assert ask(server.link, **fields)[0] == 403
            assert ask(server.link, "store/zarr.json", Sec_Fetch_Site=site)[0] == 403
        assert ask(server.link, "store/zarr.json", Sec_Fetch_Site="same-origin")[0] == 200
        for path in (
            "/", "/zarr.json", "/x/store/zarr.json", "/store/zarr.json",
            "../secret.txt", "store/../../secret.txt", "store/..%2f..%2fsecret.txt",
            "store/%2e%2e/%2e%2e/secret.txt", "store%2fzarr.json", "store/zarr%2ejson",
            "store//zarr.json", "store/", "store/notes.txt", "store/receipts/1.zip",
            f"store/{'9' * 300}", f"store/{'9' * 5000}", f"store/{'a/' * 200}0",
            "store/\\..\\secret.txt", f"store/{secret}", "store/image/c/0/0/0/0%00", "store/zarr.json%0a",
        ):  # fmt: skip
            status, _, body = ask(server.link, path)
            assert status == 404, path
            assert b"secret" not in body
    finally:
        (store / "notes.txt").unlink()


def test_the_port_of_http_is_left_out_by_browsers(
    server: ViewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(server.link, Host="127.0.0.1")[0] == 403
    monkeypatch.setattr(server, "_port", 80)
    for host, status in {"127.0.0.1": 200, "localhost:80": 200, "example.org": 403}.items():
        assert ask(server.link, Host=host)[0] == status


def test_only_a_server_for_notebooks_may_be_framed(store: Path) -> None:
    frame = {
        "Sec_Fetch_Site": "cross-site",
        "Sec_Fetch_Dest": "iframe",
        "Sec_Fetch_Mode": "navigate",
    }
    for allowed in (True, False):
        with ViewServer(open_object_store(store), allows_frames=allowed) as server:
            assert ask(server.link, **frame)[0] == (200 if allowed else 403)
            policy = ask(server.link)[1]["Content-Security-Policy"]
            assert ("frame-ancestors 'none'" in policy) is not allowed


def test_links_are_followed_and_frames_are_not(store: Path) -> None:
    """A link in a notebook, or in a terminal that is a web page, is of another site."""
    visit = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    for allowed in (True, False):
        with ViewServer(open_object_store(store), allows_frames=allowed) as server:
            status, headers, _ = ask(server.link, **visit, Sec_Fetch_Dest="document")
            assert status == 200
            assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert ask(server.link, **visit, Sec_Fetch_Dest="object")[0] == 403


def test_only_objects_of_the_store_are_read(store: Path, tmp_path: Path) -> None:
    """No pipe, which opening waits for; no folder; no packed copy that a web server made."""
    own = tmp_path / "own"
    (own / "x" / "c" / "1").mkdir(parents=True)
    os.mkfifo(own / "x" / "c" / "0")
    (own / "zarr.json").write_text("{}")
    (own / "zarr.json.gz").write_bytes(gzip.compress(b"old"))
    with ViewServer(open_object_store(own)) as running:
        for name in ("x/c/0", "x/c/1"):
            for fields in ({}, {"Range": "bytes=0-9"}):
                status, _, body = ask(running.link, f"store/{name}", **fields)
                assert status in (416, 502), (name, fields)
                assert len(body) < 400
        for fields in ({}, {"Range": "bytes=0-9"}):
            packed = ask(running.link, "store/zarr.json", Accept_Encoding="gzip, br", **fields)
            assert packed[2] == b"{}"
            assert "Content-Encoding" not in packed[1]
            assert packed[1]["Content-Type"] == "application/json"


def test_strangers_print_nothing(
    server: ViewServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Who scans ports, or asks by https, must not fill the notebook with tracebacks."""
    parts = urlsplit(server.link)
    assert logging.getLogger("gz3d_zarr.viewer.server").handlers  # else Python prints by itself
    for data in (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n", b"A" * 9000):
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
            connection.sendall(data + b"\r\n\r\n")
            assert b" 400 " in connection.recv(4096)
    for length in (30, 4000):
        assert ask(server.link, SHARD, Range=f"bytes=0-{'9' * length}")[0] == 206
    for text in ("bytes=0-1,4-5", "bytes=-", "bytes=5-2", "bytes=a-b", "0-1"):
        assert ask(server.link, SHARD, Range=text)[0] == 416
    assert {record.name for record in caplog.records} <= {"gz3d_zarr.viewer.server"}
    assert capfd.readouterr() == ("", "")


class StalledStore(MemoryStore):
    """A store whose server does not answer, until it is let go."""

    free: ClassVar[threading.Event] = threading.Event()

    def _get(self, key: str, limit: int | None) -> bytes:
        self.free.wait(30)
        return super()._get(key, limit)


def test_a_store_that_does_not_answer_holds_up_nothing() -> None:
    server = ViewServer(StalledStore("memory://stalled"))
    parts = urlsplit(server.link)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        request = f"GET {parts.path}store/zarr.json HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n"
        connection.sendall(request.encode())
        wait_until(lambda: "gz3d-view-read" in [thread.name for thread in threading.enumerate()])
        assert ask(server.link)[0] == 200  # others are answered
        start = time.monotonic()
        server.close()
        assert time.monotonic() - start < 10
    StalledStore.free.set()
    for thread in threading.enumerate():
        if thread.name == "gz3d-view-read":
            assert thread.daemon
            thread.join(20)


def test_accessor_gives_the_link_of_a_subject(store: Path) -> None:
    dataset = gz3d_zarr.open_store(store, chunks=None).isel(subject=slice(2, 5))
    subject = int(dataset["zooniverse_subject_id"][1])
    server = dataset.gz3d.view(subject)
    try:
        assert repr(server) == server.link
        assert server.link.partition("#")[2] == f"id={subject}"
        assert server.link.replace("&", "&amp;") in server._repr_html_().replace("&", "&amp;")
        assert ask(server.link.partition("#")[0])[0] == 200
    finally:
        server.close()
    with pytest.raises(OSError, match="refused"):
        ask(server.link.partition("#")[0])
    bare = dataset.copy()
    bare.encoding = {}
    with pytest.raises(UsageError, match="the page shows a store, and this Dataset"):
        bare.gz3d.view()


def test_a_port_in_use_and_no_store_are_one_sentence(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [t for t in threading.enumerate() if t.name == "gz3d-view"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UsageError, match=f"port {port} cannot be used .address already in use.: cho"
        ):
            gz3d_zarr.view(store, port=port)
    with pytest.raises(UsageError, match="port is 70000, expected 1 to 65535"):
        gz3d_zarr.view(store, port=70000)
    with pytest.raises(StoreError, match="there is no Zarr 3 store at"):
        gz3d_zarr.view(tmp_path)

    def fail() -> None:
        raise OSError("Too many open files")

    monkeypatch.setattr(asyncio.events, "new_event_loop", fail)
    with pytest.raises(UsageError, match="no server can be started on 127.0.0.1 .Too many open"):
        gz3d_zarr.view(store)  # it waited for ever
    assert {t for t in threading.enumerate() if t.name == "gz3d-view"} <= {*before}


@pytest.mark.parametrize("backend", ["s3fs", "obstore"])
def test_store_on_s3_is_read_with_its_credentials(
    store: Path, moto: S3Server, backend: str
) -> None:
    if backend == "obstore":
        pytest.importorskip("obstore")
    with fresh_bucket(moto) as bucket:
        options = {**bucket.storage_options, "backend": backend}
        target = open_object_store(f"{bucket.url}/g.zarr", options)
        objects = {
            path.relative_to(store).as_posix(): path.read_bytes()
            for path in store.rglob("*")
            if path.is_file()
        }
        target.put_all(objects)
        data = objects["image/c/0/0/0/0"]
        with gz3d_zarr.view(f"{bucket.url}/g.zarr", storage_options=options) as server:
            assert ask(server.link, "store/zarr.json")[2] == objects["zarr.json"]
            status, headers, body = ask(server.link, SHARD, Range="bytes=-1028")
            assert (status, body) == (206, data[-1028:])
            assert (
                headers["Content-Range"] == f"bytes {len(data) - 1028}-{len(data) - 1}/{len(data)}"
            )
            assert ask(server.link, SHARD, Range="bytes=7-9")[2] == data[7:10]
            assert ask(server.link, SHARD, "HEAD")[1]["Content-Length"] == str(len(data))
            assert ask(server.link, SHARD, Range=f"bytes={len(data)}-")[0] == 416
            assert ask(server.link, "store/image/c/99/0/0/0", Range="bytes=-4")[0] == 404
            target.put("image/c/0/0/0/0", data[:50])
            status, _, body = ask(server.link, SHARD, Range="bytes=-1028")
            assert status == 502
            assert b"image/c/0/0/0/0 cannot be read: " in body
            assert ask(server.link, SHARD, Range="bytes=-20")[2] == data[30:50]  # asked anew
            for part in bucket.key, bucket.secret:
                assert part.encode() not in body


def test_a_web_server_without_ranges_is_told(store: Path, tmp_path: Path) -> None:
    with serve(store) as web:
        page = ViewServer(open_object_store(web.url.rstrip("/")))
        with page as server:
            status, _, body = ask(server.link, "store/zarr.json")
            assert (status, body) == (200, (store / "zarr.json").read_bytes())
            status, _, body = ask(server.link, "store/zarr.json", Range="bytes=5-9")
            assert status == 502
            assert b"ignores the range" in body


@pytest.mark.parametrize(
    ("at_start", "number"),
    [("default_int_handler", signal.SIGINT), ("SIG_IGN", signal.SIGTERM)],
    ids=["Ctrl-C", "a background job's end"],
)
def test_command_ends_cleanly(store: Path, at_start: str, number: signal.Signals) -> None:
    # The tests may themselves run in the background, where shells have SIGINT ignored.
    code = f"import signal; signal.signal(signal.SIGINT, signal.{at_start}); "
    code += "from gz3d_zarr.cli import main; main()"
    command = [sys.executable, "-W", "error", "-c", code, "view", str(store), "--no-browser"]
    pipe = subprocess.PIPE
    with ending(
        subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    ) as process:
        assert process.stdout is not None
        link = process.stdout.readline().strip()
        assert link.startswith("http://127.0.0.1:")
        assert ask(link)[0] == 200
        idle = http.client.HTTPConnection(urlsplit(link).netloc, timeout=20)  # kept alive
        idle.request("GET", urlsplit(link).path + "app.js")
        idle.getresponse().read()
        assert not [
            f.path for f in psutil.Process(process.pid).open_files() if "gz3d.zarr" in f.path
        ]
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        idle.close()
    assert process.returncode == 0
    assert "Closed." in errors
    assert "Traceback" not in errors
    with socket.create_server(("127.0.0.1", urlsplit(link).port or 0)):
        pass


def test_ctrl_c_while_the_browser_opens_ends_cleanly(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(link: str) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("webbrowser.open", interrupt)
    result = CliRunner().invoke(main, ["view", str(store)])
    assert result.exit_code == 0, result.output
    assert result.stderr.endswith("Closed.\n")


def test_root_is_the_one_that_is_served(store: Path, server: ViewServer) -> None:
    attributes = json.loads(ask(server.link, "store/zarr.json")[2])["attributes"]
    assert attributes["subjects"] == gz3d_zarr.open_store(store).sizes["subject"]
