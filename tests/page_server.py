"""A loopback server of page and stores that records its requests, and misbehaves where told to."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".txt": "text/plain",
}


@dataclass
class Site:
    """What a server has and how it behaves.

    Attributes
    ----------
    folders : mapping of str to Path
        First part of a path to the folder that it stands for.
    edits : mapping of str to callable
        Path to what is made of its bytes; None for 404.
    """

    folders: Mapping[str, Path]
    edits: dict[str, Callable[[bytes], bytes | None]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    """Path to the status of an error."""
    ranges: bool = True
    cors: bool = False
    delay: float = 0.0
    log: list[tuple[str, str, int]] = field(default_factory=list)
    """Path, range and bytes of each answer."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def read(self, path: str) -> bytes | None:
        first, _, rest = path.lstrip("/").partition("/")
        folder = self.folders.get(first)
        file = folder / rest if folder is not None else None
        if file is None or ".." in rest or not file.is_file():
            return None
        data: bytes | None = file.read_bytes()
        edit = self.edits.get(path.lstrip("/"))
        return edit(data) if edit is not None and data is not None else data


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        time.sleep(self.site.delay)
        other = self.site.redirects.get(path.lstrip("/"))
        if other is not None:
            self._answer(302, b"", path, {"Location": other})
            return
        data = self.site.read(path)
        status = self.site.statuses.get(path.lstrip("/"), 404 if data is None else 200)
        if status != 200 or data is None:
            self._answer(status, b"", path, {})
            return
        wanted = self.headers.get("Range")
        # As buckets do: a browser takes an object this old as fresh for a long time.
        headers = {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        headers |= {"Content-Type": TYPES.get(Path(path).suffix, "application/octet-stream")}
        if wanted is None or not self.site.ranges:
            self._answer(200, data, path, headers)
            return
        low, _, high = wanted.removeprefix("bytes=").partition("-")
        start = int(low) if low else max(len(data) - int(high), 0)
        stop = min(int(high) + 1, len(data)) if low and high else len(data)
        if start >= stop:
            self._answer(416, b"", path, {"Content-Range": f"bytes */{len(data)}"})
            return
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self._answer(206, data[start:stop], path, headers)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_OPTIONS(self) -> None:
        self._answer(204, b"", self.path, {"Access-Control-Allow-Headers": "Range"})

    def _answer(self, status: int, data: bytes, path: str, headers: dict[str, str]) -> None:
        self.site.log.append((path.lstrip("/"), self.headers.get("Range", ""), len(data)))
        with contextlib.suppress(ConnectionError):  # a browser may have left
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if self.site.cors:
                self.send_header("Access-Control-Allow-Origin", "*")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Nothing is printed."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


@contextlib.contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serve a site on a free port of loopback."""
    handler = type("Handler", (_Handler,), {"site": site})
    server = _Server(("127.0.0.1", 0), handler)
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
