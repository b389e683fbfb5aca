"""An archive's HTTP server on loopback that misbehaves on purpose."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = Callable[["Handler", bytes, int], bool]
"""Answers a request for a file (its bytes, number of requests so far); False: answer normally."""


@dataclass
class ArchiveServer:
    """State of the server, for tests to set and check."""

    url: str = ""
    folder: Path = Path()
    faults: dict[str, list[Answer]] = field(default_factory=lambda: defaultdict(list))
    requests: Counter[str] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0
    busy_now: int = 0
    most_busy: int = 0
    most_allowed: int = 1000
    refused: int = 0
    index: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    archive: ArchiveServer
    is_busy = False
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        with self.archive.lock:
            self.archive.open_now += 1
            self.archive.most_open = max(self.archive.most_open, self.archive.open_now)

    def finish(self) -> None:
        with self.archive.lock:
            self.archive.open_now -= 1
        super().finish()

    def do_GET(self) -> None:
        with self.archive.lock:
            self.archive.busy_now += 1
            self.archive.most_busy = max(self.archive.most_busy, self.archive.busy_now)
            self.is_busy = True
        try:
            self.reply()
        finally:
            self.leave()

    def leave(self) -> None:
        """Count the request as over: its client may send the next one at any moment."""
        with self.archive.lock:
            self.archive.busy_now -= self.is_busy
            self.is_busy = False

    def reply(self) -> None:
        name = self.path.rpartition("/")[2]
        with self.archive.lock:
            self.archive.requests[name] += 1
            times = self.archive.requests[name]
            self.archive.headers.append(dict(self.headers))
            crowded = self.archive.open_now > self.archive.most_allowed
            self.archive.refused += crowded
        if crowded:
            self.answer(429, b"too many")
            return
        path = self.archive.folder / name
        body = path.read_bytes() if name and path.is_file() else b""
        for fault in self.archive.faults[name]:
            if fault(self, body, times):
                return
        if not name:
            if self.archive.index is None:
                self.answer(403, b"no listing")
            else:
                self.answer(200, self.archive.index.encode())
        elif path.is_file():
            self.answer(200, body)
        else:
            self.answer(404, b"not here")

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if body:
            self.end_headers()
            self.wfile.write(body[:-1])
            self.leave()  # before the last byte, so that no client sees it counted longer
            self.wfile.write(body[-1:])
        else:
            self.leave()
            self.end_headers()

    def reset(self) -> None:
        """Reset the connection."""
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass  # clients that go away are the point


@contextmanager
def serve(folder: Path, *, index: bool = True) -> Iterator[ArchiveServer]:
    """Serve a folder under /sas/gz3d/, with an Apache-style index page or without."""
    archive = ArchiveServer(folder=folder)
    if index:
        archive.index = apache_index(sorted(path.name for path in folder.iterdir()))
    handler = type("BoundHandler", (Handler,), {"archive": archive})
    with _Server(("127.0.0.1", 0), handler) as server:
        archive.url = f"http://127.0.0.1:{server.server_address[1]}/sas/gz3d/"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield archive
        finally:
            server.shutdown()
            thread.join()


def apache_index(names: list[str]) -> str:
    links = "".join(f'<tr><td><a href="{n}">{n}</a></td><td>343K</td></tr>\n' for n in names)
    return (
        '<html><h1>Index of /sas/gz3d</h1><table><a href="?C=N;O=D">Name</a>'
        f'<a href="/sas/">Parent Directory</a>{links}</table></html>'
    )


def only_first(fault: Answer, times: int = 1) -> Answer:
    """The fault on the first requests, and good answers afterwards."""
    return lambda handler, body, asked: asked <= times and fault(handler, body, asked)


def status(code: int, body: bytes = b"busy", **headers: str) -> Answer:
    def fault(handler: Handler, _: bytes, __: int) -> bool:
        handler.answer(code, body, **headers)
        return True

    return fault


def reset_in_mid_body(handler: Handler, body: bytes, _: int) -> bool:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.reset()
    return True


def short_body(handler: Handler, body: bytes, _: int) -> bool:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[:-1000])
    handler.close_connection = True
    return True


def short_without_length(handler: Handler, body: bytes, _: int) -> bool:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(body[:-1000])
    handler.close_connection = True
    return True


def flipped_byte(handler: Handler, body: bytes, _: int) -> bool:
    handler.answer(200, body[:5000] + bytes([body[5000] ^ 1]) + body[5001:])
    return True


def labeled_gzip(handler: Handler, body: bytes, _: int) -> bool:
    handler.answer(200, body, Content_Encoding="gzip")
    return True


def stall(seconds: float) -> Answer:
    def fault(_: Handler, __: bytes, ___: int) -> bool:
        time.sleep(seconds)
        return False

    return fault


def wait_for_others(count: int) -> Answer:
    """Delay the first answer for each file until `count` requests wait."""
    barrier = threading.Barrier(count)

    def fault(_: Handler, __: bytes, asked: int) -> bool:
        if asked == 1:
            barrier.wait(10)
        return False

    return fault


def redirected(handler: Handler, _: bytes, __: int) -> bool:
    if "/mirror/" in handler.path:
        return False
    handler.answer(302, b"", Location=handler.path.replace("/sas/gz3d/", "/mirror/"))
    return True


def redirected_forever(handler: Handler, _: bytes, __: int) -> bool:
    handler.answer(302, b"", Location=handler.path)
    return True
