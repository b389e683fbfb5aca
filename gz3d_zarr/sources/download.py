"""Bytes of subject files, from wherever they are: fetched ahead, cached, never unverified there."""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import hashlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from gz3d_zarr.datamodel.file_names import base_name
from gz3d_zarr.datamodel.fits_decoder import decode, unpack
from gz3d_zarr.datamodel.receipts import SubjectOutcome
from gz3d_zarr.datamodel.subject import Subject
from gz3d_zarr.errors import (
    SourceError,
    Status,
    SubjectError,
    access_errors,
    error_message,
)
from gz3d_zarr.locations import is_http, is_url, write_atomically
from gz3d_zarr.sources.http import Connection, fetch, open_connection
from gz3d_zarr.sources.options import FetchOptions


def find_mismatch(data: bytes, sha1: str | None) -> str | None:
    """Why these bytes are not the file: by sha1 where that is known, by gzip's CRC otherwise."""
    if sha1 is not None:
        found = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        return None if found == sha1 else f"its sha1 is {found}, the sha1 list says {sha1}"
    try:
        unpack(data)
    except SubjectError as error:
        return error.reason
    return None


MAX_FILE = 32 * 2**20
"""Bytes beyond which a file is not read at all; real ones have 0.2 to 0.6 MB."""
PREFETCH_BYTES = 32 * 2**20
"""Bytes that may wait for their reader before no other file is fetched; a shard of real files has
fewer, so that they are all fetched ahead."""
ConnectionLimiter = Callable[[Callable[[], bool]], AbstractContextManager[bool]]
"""Makes a context in which one connection may be open: True in it; False where, says the function
given, none is needed any more."""


@contextlib.contextmanager
def unlimited(_: Callable[[], bool]) -> Iterator[bool]:
    """Let everybody through."""
    yield True


def read_files(
    files: Sequence[tuple[str, str | None]],
    options: Mapping[str, Any] | None = None,
    rules: FetchOptions | None = None,
    gate: ConnectionLimiter = unlimited,
) -> Generator[bytes | SubjectError, None, None]:
    """Read subject files in order; those at URLs are fetched ahead, over several connections.

    No file is kept once it is given, and no other is fetched while `PREFETCH_BYTES` wait: what is
    held at the most is that, and one file for every connection.

    Parameters
    ----------
    files : sequence of (path, sha1 or None)
    options : mapping, optional
        Storage options for fsspec.
    rules : FetchOptions, optional
        How many connections, and which cache.
    gate : callable
        A `ConnectionLimiter`; makes a context for every open connection, such as a lease of
        a semaphore.

    Yields
    ------
    bytes or SubjectError
        For each file: its bytes, or why it cannot be had.
    """
    chosen = rules or FetchOptions()
    if not any(_is_fetched_ahead(path, options) for path, _ in files):
        for path, sha1 in files:
            with gate(lambda: True) if is_url(path) else nullcontext():
                body = _try_file(path, sha1, options, chosen.cache)
            yield body
        return
    orders = collections.deque(_FetchRequest(path, sha1) for path, sha1 in files)
    waiting: queue.SimpleQueue[_FetchRequest] = queue.SimpleQueue()
    for order in orders:
        waiting.put(order)
    stop = threading.Event()
    ahead = _PrefetchBuffer()
    over_http = any(is_http(path) for path, _ in files)

    def is_needed() -> bool:
        return not (stop.is_set() or waiting.empty())

    def work() -> None:
        try:
            with gate(is_needed) as is_open:
                if is_open:
                    http = open_connection(options, stop) if over_http else nullcontext()
                    with http as connection:
                        # Before an order is taken: the one that is read next always comes.
                        while ahead.wait(is_needed):
                            waiting.get_nowait().fill(connection, options, chosen.cache, ahead)
        except queue.Empty:
            return
        except Exception as error:
            with contextlib.suppress(queue.Empty):  # nobody may wait for what will not come
                while True:
                    waiting.get_nowait().body.set_exception(error)

    count = min(chosen.connections, len(orders))
    with ThreadPoolExecutor(count, "gz3d-fetch") as executor:
        for _ in range(count):
            executor.submit(work)
        try:
            while orders:
                yield ahead.take(orders.popleft().body.result())
        finally:
            stop.set()
            ahead.wake()


def _is_fetched_ahead(path: str, options: Mapping[str, Any] | None) -> bool:
    """Whether several threads may read at a time: over a network, and not inside a zip or tar."""
    if is_http(path) or not is_url(path):
        return is_http(path)
    try:
        fs, _ = url_to_fs(path, **(options or {}))
    except access_errors(ImportError, TypeError, ValueError):
        return False  # reading it will say why
    return bool(fs.async_impl)


class _PrefetchBuffer:
    """Bytes that are fetched and not yet given; while they are too many, fetching waits."""

    def __init__(self) -> None:
        self._held = 0
        self._changed = threading.Condition()

    def wait(self, is_needed: Callable[[], bool]) -> bool:
        """Wait for room; False where nothing is needed any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._held < PREFETCH_BYTES or not is_needed())
        return is_needed()

    def put(self, body: bytes | SubjectError) -> None:
        """Count what was fetched."""
        with self._changed:
            self._held += _size(body)
            self._changed.notify_all()  # it may have been the last

    def take(self, body: bytes | SubjectError) -> bytes | SubjectError:
        """Count it no more."""
        with self._changed:
            self._held -= _size(body)
            self._changed.notify_all()
        return body

    def wake(self) -> None:
        """Let those who wait ask again whether anything is needed."""
        with self._changed:
            self._changed.notify_all()


def _size(body: bytes | SubjectError) -> int:
    return 0 if isinstance(body, SubjectError) else len(body)


class _FetchRequest:
    """One file to be fetched, and the promise of its bytes."""

    def __init__(self, path: str, sha1: str | None) -> None:
        self.path, self.sha1 = path, sha1
        self.body: Future[bytes | SubjectError] = Future()

    def fill(
        self,
        connection: Connection | None,
        options: Mapping[str, Any] | None,
        cache: str | None,
        ahead: _PrefetchBuffer,
    ) -> None:
        """Keep the promise, whatever happens."""
        try:
            body = _try_file(self.path, self.sha1, options, cache, connection)
            ahead.put(body)
            self.body.set_result(body)
        except Exception as error:  # handed to whoever waits for the bytes
            self.body.set_exception(error)


def _try_file(
    path: str,
    sha1: str | None,
    options: Mapping[str, Any] | None,
    cache: str | None,
    connection: Connection | None = None,
) -> bytes | SubjectError:
    """As `read_file`; a subject's error is given, not raised."""
    try:
        return read_file(path, sha1, options, cache, connection)
    except SubjectError as error:
        # Another one: the frames of a traceback hold what was read until it was raised.
        return SubjectError(error.status, error.reason)


def read_file(
    path: str,
    sha1: str | None,
    options: Mapping[str, Any] | None = None,
    cache: str | None = None,
    connection: Connection | None = None,
) -> bytes:
    """Read one subject file, from the cache where it is there and sound.

    What is not the file, by its sha1 or gzip's CRC, is fetched once more: it may have been damaged
    on its way. What it is then, is for whoever decodes it to find.

    Raises
    ------
    SubjectError
        Missing, where there is no such file; unreachable, where it cannot be read; corrupt,
        where it is far too large.
    SourceError
        Where the cache cannot be written.
    """
    if not is_url(path):
        return read_local(path)
    if cache is not None:
        with contextlib.suppress(OSError):
            data = Path(cache, base_name(path)).read_bytes()
            if find_mismatch(data, sha1) is None:
                return data
    with contextlib.ExitStack() as stack:
        if is_http(path):
            chosen = connection or stack.enter_context(open_connection(options))
            read = functools.partial(fetch, chosen, path, MAX_FILE)
        else:
            read = functools.partial(_read_remote, path, options)
        data = read()
        if find_mismatch(data, sha1) is not None:
            data = read()
    if cache is not None and find_mismatch(data, sha1) is None:
        write_cached(Path(cache, base_name(path)), data)
    return data


def read_local(path: str) -> bytes:
    """Read one file on a local disk; SubjectError as `read_file`."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise _unread(error) from None
    return _bounded(data)


def write_cached(path: Path, data: bytes) -> None:
    """Store a file in the cache.

    Raises
    ------
    SourceError
        Where the cache cannot be written.
    """
    try:
        write_atomically(path, data)
    except OSError as error:
        raise SourceError(
            f"the cache {path.parent} cannot be written: {error_message(error)}"
        ) from error


def _read_remote(path: str, options: Mapping[str, Any] | None) -> bytes:
    try:
        fs, inner = url_to_fs(path, **(options or {}))
        try:
            data: bytes = fs.cat_file(inner, end=MAX_FILE + 1)
        except OSError as error:
            # S3 has no range of an empty object, and answers 416.
            if error.errno != errno.EINVAL or fs.size(inner) != 0:
                raise
            data = b""
    except access_errors(ImportError, TypeError, ValueError) as error:
        raise _unread(error) from None
    return _bounded(data)


def _unread(error: Exception) -> SubjectError:
    if isinstance(error, FileNotFoundError):
        return SubjectError(Status.MISSING, "there is no such file")
    return SubjectError(Status.UNREACHABLE, f"it cannot be read: {error_message(error)}")


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_FILE:
        raise SubjectError(
            Status.CORRUPT,
            f"it has more than {MAX_FILE // 2**20} MiB; real files have about 0.4",
        )
    return data


def decode_body(
    path: str, sha1: str | None, body: bytes | SubjectError
) -> tuple[Subject | None, SubjectOutcome]:
    """Decode what was read of one subject; a failure becomes its outcome."""
    digest, size = "", -1
    try:
        if isinstance(body, SubjectError):
            raise body
        digest, size = hashlib.sha1(body, usedforsecurity=False).hexdigest(), len(body)
        if sha1 is not None and digest != sha1:
            raise SubjectError(Status.CORRUPT, f"its sha1 is {digest}, the sha1 list says {sha1}")
        subject = decode(body)
    except SubjectError as error:
        return None, SubjectOutcome(base_name(path), error.status, error.reason, digest, size, None)
    return subject, SubjectOutcome(base_name(path), Status.OK, "", digest, size, subject.metadata)
