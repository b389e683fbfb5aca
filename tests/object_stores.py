"""S3 servers on loopback: moto, OpenStack Swift, and a proxy that counts, delays and fails."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import getpass
import http.client
import json
import logging
import os
import select
import socket
import struct
import subprocess
import tempfile
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.implementations.http import HTTPFileSystem
from s3fs import S3FileSystem
from zarr.core.sync import _get_loop as zarr_loop

REGION = "us-east-1"
PIECE = 1 << 20
START_SECONDS = 30
SWIFT = Path(__file__).with_name("swift_server.py")


@functools.lru_cache(maxsize=16)
def _client(service: str, endpoint: str, key: str, secret: str) -> Any:
    """Make a client once: that costs more than what most tests do with it."""
    return boto3.session.Session().client(
        service,
        endpoint_url=endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name=REGION,
    )


@dataclass(frozen=True)
class S3Server:
    """An S3 server, who we are there, and a bucket that exists and is empty."""

    endpoint: str
    key: str
    secret: str = field(repr=False)
    bucket: str = "gz3d"

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def storage_options(self) -> dict[str, Any]:
        """For s3fs and whatever takes an fsspec URL."""
        return {
            "key": self.key,
            "secret": self.secret,
            "endpoint_url": self.endpoint,
            "client_kwargs": {"region_name": REGION},
        }

    @contextlib.contextmanager
    def client(self, service: str = "s3") -> Iterator[Any]:
        """A boto3 client: what a test does here does not pass through fsspec's caches."""
        client = _client(service, self.endpoint, self.key, self.secret)
        try:
            yield client
        finally:
            client.close()  # its connections: it opens others when it is used again

    def digests(self, folder: str = "") -> dict[str, str]:
        """MD5 of all objects of the bucket, or of a folder in it, by key below it.

        S3 lists them: the ETag of an object that came in one PUT.
        """
        prefix = f"{folder}/" if folder else ""
        with self.client() as s3:
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            listed = [item for page in pages for item in page.get("Contents", [])]
        return {item["Key"].removeprefix(prefix): item["ETag"].strip('"') for item in listed}

    def objects(self, folder: str = "") -> dict[str, bytes]:
        """The same with their bytes."""
        prefix = f"{folder}/" if folder else ""
        with self.client() as s3:
            return {
                key: s3.get_object(Bucket=self.bucket, Key=f"{prefix}{key}")["Body"].read()
                for key in self.digests(folder)
            }

    def get(self, key: str) -> bytes:
        with self.client() as s3:
            data: bytes = s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return data

    def put(self, key: str, data: bytes) -> None:
        with self.client() as s3:
            s3.put_object(Bucket=self.bucket, Key=key, Body=data)

    def allow_everybody_to_read(self) -> None:
        """As a public bucket does it: by policy, for its objects and its listing."""
        arn = f"arn:aws:s3:::{self.bucket}"
        allow = {"Effect": "Allow", "Principal": "*"}
        # Moto asks for s3:HeadObject where S3 is content with s3:GetObject.
        statements = [
            {**allow, "Action": ["s3:GetObject", "s3:HeadObject"], "Resource": f"{arn}/*"},
            {**allow, "Action": "s3:ListBucket", "Resource": arn},
        ]
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        with self.client() as s3:
            s3.put_bucket_policy(Bucket=self.bucket, Policy=policy)


@contextlib.contextmanager
def fresh_bucket(server: S3Server) -> Iterator[S3Server]:
    """The same server with a bucket of our own, which goes away with all that is in it."""
    fresh = replace(server, bucket=f"gz3d-{uuid.uuid4().hex[:12]}")
    with fresh.client() as s3:
        s3.create_bucket(Bucket=fresh.bucket)
        try:
            yield fresh
        finally:
            keys = [{"Key": key} for key in fresh.digests()]
            if keys:
                s3.delete_objects(Bucket=fresh.bucket, Delete={"Objects": keys, "Quiet": True})
            s3.delete_bucket(Bucket=fresh.bucket)


@contextlib.contextmanager
def run_moto() -> Iterator[S3Server]:
    """Moto in this process; it believes every key and secret."""
    from moto import backends  # a second to import
    from moto.server import ThreadedMotoServer

    # Moto lists its own folders at every request, which costs it more than the request.
    folders = mock.patch.object(
        backends, "list_of_moto_modules", return_value=list(backends.list_of_moto_modules())
    )
    # Moto may put made-up AWS credentials into the environment; its server logs every request.
    with folders, mock.patch.dict(os.environ), _quiet("werkzeug"):
        running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
        host, port = running.get_host_and_port()
        server = S3Server(f"http://{host}:{port}", "testing", "testing")
        try:
            with server.client() as s3:
                s3.create_bucket(Bucket=server.bucket)
            yield server
        finally:
            _post(f"{server.endpoint}/moto-api/reset")
            running.stop()
            running._server.server_close()


@contextlib.contextmanager
def checked_credentials(server: S3Server) -> Iterator[S3Server]:
    """Make moto check keys, secrets and policies for a while; what has them all, in a new bucket.

    What INITIAL_NO_AUTH_ACTION_COUNT=3 does for a server process that starts with it: the first
    three requests, which make the first user, are not checked.
    """
    reset = f"{server.endpoint}/moto-api/reset-auth"
    _post(reset, b"3")
    try:
        owner = add_user(server, "owner", "*")
        with fresh_bucket(owner) as fresh:
            yield fresh
    finally:
        _post(reset, b"inf")


def add_user(server: S3Server, name: str, *actions: str) -> S3Server:
    """The same bucket as a new user sees it, who may do only these (moto only)."""
    name = f"{name}-{uuid.uuid4().hex[:8]}"
    allowed = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    with server.client("iam") as iam:
        iam.create_user(UserName=name)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=policy)
    return replace(server, key=made["AccessKeyId"], secret=made["SecretAccessKey"])


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _post(url: str, data: bytes = b"") -> None:
    headers = {"Content-Type": "text/plain"}  # a form, which is the default, is taken apart
    request = urllib.request.Request(url, data, headers, method="POST")
    with urllib.request.urlopen(request, timeout=10):
        pass


_STORAGE = """
[DEFAULT]
{common}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""
_PROXY = """
[DEFAULT]
{common}
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck listing_formats s3api tempauth copy bulk slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_gz3d_owner = testing .admin
[filter:copy]
use = egg:swift#copy
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""
_COMMON = """
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
log_level = ERROR
keepalive_timeout = 30
"""


@contextlib.contextmanager
def run_swift(python: str | Path) -> Iterator[S3Server]:
    """OpenStack Swift with its S3 interface: four processes, one device, data in a folder of ours.

    Skips the test where it cannot start.
    """
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix="gz3d-swift-"))
        folder = Path(made)
        (folder / "devices" / "d1").mkdir(parents=True)
        try:  # Swift keeps the metadata of an object there
            os.setxattr(folder, "user.gz3d", b"x")
        except OSError as error:
            pytest.skip(f"Swift needs extended attributes, {folder} has none: {error}")
        names = ("account", "container", "object", "proxy")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        _configure(folder, ports)
        log = stack.enter_context((folder / "log").open("w+b"))
        rings = [str(ports[name]) for name in names[:3]]
        try:
            subprocess.run(
                [python, SWIFT, "rings", folder, *rings],
                check=True, stdout=log, stderr=log, timeout=START_SECONDS,
            )  # fmt: skip
            for name in names:
                stack.enter_context(_running([str(python), str(SWIFT), name, made], log))
            server = S3Server(f"http://127.0.0.1:{ports['proxy']}", "gz3d:owner", "testing")
            _wait_for_swift(server, ports)
        except (OSError, subprocess.SubprocessError) as error:
            said = (folder / "log").read_text(errors="replace").strip().splitlines()
            pytest.skip(f"Swift does not start: {error}; {' / '.join(said[-3:])}")
        yield server


def _configure(folder: Path, ports: dict[str, int]) -> None:
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = gz3d\n")
    for name, port in ports.items():
        common = _COMMON.format(port=port, user=getpass.getuser(), folder=folder)
        text = _PROXY if name == "proxy" else _STORAGE
        text = text.format(common=common, folder=folder, name=name)
        (folder / f"{name}.conf").write_text(text)


def free_ports(count: int) -> list[int]:
    """Ports that were free just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """Endpoint of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:  # the kernel takes them
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def _running(command: list[str], log: Any) -> Iterator[None]:
    """A process that ends with the context."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_swift(server: S3Server, ports: dict[str, int]) -> None:
    """Return when a bucket could be made; OSError where that takes too long."""
    deadline = time.monotonic() + START_SECONDS
    for port in ports.values():
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
    with server.client() as s3:
        try:
            s3.create_bucket(Bucket=server.bucket)
        except (BotoCoreError, ClientError) as error:
            raise OSError(f"it makes no bucket: {error}") from error


class Fault(StrEnum):
    """What the proxy does instead of passing a request on as it is."""

    SLOW_DOWN = "503 SlowDown, as S3 says it"
    RESET = "the connection is reset"
    HALF_PUT = "half of the body is read, then the connection is reset"
    SHORT_PUT = "200, and only half of the body is stored"
    LOST_PUT = "200, and nothing is stored"
    LOST_ANSWER = "the request is passed on, and the connection reset instead of an answer"
    NO_CONDITION = "the request is passed on without its condition, as an old server reads it"
    NOT_IMPLEMENTED = "501 NotImplemented to a request with a condition"


Faults = Callable[[str, str, int], Fault | None]
"""Of the method, the key, and how often it was asked for with this method, beginning with 1."""


@dataclass(frozen=True)
class Request:
    """A request as the proxy has seen it; no key is the bucket itself."""

    method: str
    key: str
    query: str = ""
    range: str = ""

    def __str__(self) -> str:
        where = self.key + (f"?{self.query}" if self.query else "")
        return f"{self.method} {where}{f' [{self.range}]' if self.range else ''}"


@dataclass
class Proxy:
    """What a test sees and sets of the proxy.

    Attributes
    ----------
    server : S3Server
        The upstream, by way of the proxy.
    delay : float
        Seconds before each answer.
    hold : callable, optional
        Of method and key: seconds before a request is passed on.
    faults : callable, optional
    requests : list of Request
        All of them so far, in order.
    """

    server: S3Server
    delay: float = 0.0
    hold: Callable[[str, str], float] | None = None
    faults: Faults | None = None
    requests: list[Request] = field(default_factory=list)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    conditions: threading.Lock = field(default_factory=threading.Lock)
    """Of conditional requests: moto looks first and writes then, where S3 does both at once."""

    def count(self) -> Counter[tuple[str, str]]:
        """How often each key was asked for with each method."""
        with self.lock:
            return Counter((request.method, request.key) for request in self.requests)

    def forget(self) -> None:
        with self.lock:
            self.requests.clear()
            self.asked.clear()

    def note(self, request: Request) -> int:
        with self.lock:
            self.requests.append(request)
            self.asked[request.method, request.key] += 1
            return self.asked[request.method, request.key]


_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>{}</Message></Error>'
)
_HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"}
_CHECKSUMS = ("content-md5", "x-amz-checksum", "x-amz-content-sha256")
_FRAMING = {"transfer-encoding", "expect"}  # made anew: "expect" is answered by this server


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client, and one of its own to the upstream."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rbufsize = 1 << 16
    proxy: Proxy
    upstream: tuple[str, int]

    def setup(self) -> None:
        super().setup()
        self.onward = http.client.HTTPConnection(*self.upstream, timeout=120)
        self.buffer = memoryview(bytearray(PIECE))

    def finish(self) -> None:
        self.onward.close()
        with contextlib.suppress(OSError):
            super().finish()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (OSError, http.client.HTTPException):  # one of the two has gone away
            self.close_connection = True

    def answer(self) -> None:
        where = urlsplit(self.path)
        key = unquote(where.path).lstrip("/").partition("/")[2]
        wanted = Request(self.command, key, where.query, self.headers.get("Range", ""))
        times = self.proxy.note(wanted)
        fault = self.proxy.faults and self.proxy.faults(self.command, key, times)
        length = int(self.headers.get("Content-Length", 0))
        if fault is Fault.RESET:
            self.reset()
        elif fault is Fault.HALF_PUT:
            for _ in self.pieces(length // 2):
                pass
            self.reset()
        elif fault is Fault.LOST_PUT:
            for _ in self.body(length):
                pass
            self.accept()
        elif fault is Fault.SLOW_DOWN:
            for _ in self.body(length):
                pass
            time.sleep(self.proxy.delay)
            self.refuse(503, "SlowDown", "Please reduce your request rate.")
        elif fault is Fault.NOT_IMPLEMENTED and self.headers.get("If-None-Match"):
            for _ in self.body(length):
                pass
            self.refuse(501, "NotImplemented", "A header implies what is not implemented.")
        else:
            if fault is Fault.NO_CONDITION:
                del self.headers["If-None-Match"]
            if self.proxy.hold:
                time.sleep(self.proxy.hold(self.command, key))
            with self.proxy.conditions if self.headers.get("If-None-Match") else nullcontext():
                self.pass_on(length, lost=fault is Fault.LOST_ANSWER, cut=fault is Fault.SHORT_PUT)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 - named by http.server

    def pass_on(self, length: int, *, lost: bool, cut: bool) -> None:
        onward = self.onward
        if onward.sock is not None and select.select([onward.sock], [], [], 0)[0]:
            onward.close()  # the upstream has closed it since
        # The client's Host goes on as it is: it is part of what was signed.
        onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if cut and name.lower() == "content-length":
                onward.putheader(name, str(length // 2))
            elif cut and name.lower().startswith(_CHECKSUMS):
                continue
            elif name.lower() not in _HOP_BY_HOP | _FRAMING:
                onward.putheader(name, value)
        chunked = self.is_chunked
        if chunked:
            onward.putheader("Transfer-Encoding", "chunked")
        onward.endheaders()
        pieces: Iterable[bytes | memoryview] = self.body(length)
        if cut:
            pieces = [b"".join(map(bytes, pieces))[: length // 2]]
        for piece in pieces:
            onward.send(b"%x\r\n" % len(piece) + bytes(piece) + b"\r\n" if chunked else piece)
        if chunked:
            onward.send(b"0\r\n\r\n")
        time.sleep(self.proxy.delay)
        with onward.getresponse() as answer:
            if lost:
                self.reset()
                onward.close()
            else:
                self.pass_back(answer)

    def pass_back(self, answer: http.client.HTTPResponse) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP | _FRAMING:
                self.send_header(name, value)
        bodiless = self.command == "HEAD" or answer.status in {204, 304}
        chunked = not bodiless and answer.getheader("Content-Length") is None
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if bodiless:
            return
        while size := answer.readinto(self.buffer):
            piece = self.buffer[:size]
            self.wfile.write(b"%x\r\n" % size + bytes(piece) + b"\r\n" if chunked else piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        elif answer.length:
            raise http.client.IncompleteRead(b"", answer.length)

    @property
    def is_chunked(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()

    def body(self, length: int) -> Iterator[memoryview]:
        """The body of the request in large pieces, without the framing of chunks."""
        if not self.is_chunked:
            yield from self.pieces(length)
            return
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield from self.pieces(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass

    def pieces(self, length: int) -> Iterator[memoryview]:
        while length:
            size = self.rfile.readinto1(self.buffer[: min(length, PIECE)])
            if not size:
                raise ConnectionError("the client has gone away")
            length -= size
            yield self.buffer[:size]

    def refuse(self, status: int, code: str, message: str) -> None:
        body = _ERROR.format(code, message).encode()
        self.send_response_only(status, code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def accept(self) -> None:
        self.send_response_only(200)
        self.send_header("ETag", '"d41d8cd98f00b204e9800998ecf8427e"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class _ProxyServer(ThreadingHTTPServer):
    daemon_threads = False  # so that all of them are joined
    request_queue_size = 128

    def __init__(self, handler: type[_Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.connections: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """Close without saying so first: a reset is then a reset."""
        self.connections.discard(request)
        self.close_request(request)

    def hang_up(self) -> None:
        """Clients keep connections open; end them, and their threads."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        pass  # clients that go away are the point


@contextlib.contextmanager
def run_proxy(upstream: S3Server) -> Iterator[Proxy]:
    """Put a proxy on loopback in front of a server."""
    where = urlsplit(upstream.endpoint)
    proxy = Proxy(upstream)
    bound = {"proxy": proxy, "upstream": (where.hostname, where.port)}
    with _ProxyServer(type("BoundHandler", (_Handler,), bound)) as listening:
        address = f"http://127.0.0.1:{listening.server_address[1]}"
        proxy.server = replace(upstream, endpoint=address)
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            listening.shutdown()
            thread.join()
            listening.hang_up()


def close_sessions() -> None:
    """Close what s3fs and fsspec's HTTP hold open, each in the event loop that it lives in.

    They keep every instance that was made; dropped with open sockets, one warns at some later time.
    """
    for kind in (S3FileSystem, HTTPFileSystem):
        for instance in list(kind._cache.values()):
            loop = zarr_loop() if instance.asynchronous else instance.loop
            if not isinstance(loop, asyncio.AbstractEventLoop):  # an odd option of a test
                continue
            asyncio.run_coroutine_threadsafe(_close(instance), loop).result(10)
        kind.clear_instance_cache()


async def _close(instance: Any) -> None:
    if getattr(instance, "_s3", None) is not None:
        await instance._s3creator.__aexit__(None, None, None)
    if getattr(instance, "_session", None) is not None:
        await instance._session.close()
