"""Read many subject files in order; those at URLs are fetched ahead over several connections."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from fsspec.core import url_to_fs

from gz3d_zarr.errors import CLIENT_ERRORS, SubjectError, access_errors
from gz3d_zarr.locations import is_http, is_url
from gz3d_zarr.sources.download import (
    FileBody,
    FileRequest,
    read_file,
    without_traceback,
)
from gz3d_zarr.sources.http import open_connection
from gz3d_zarr.sources.options import FetchOptions

PREFETCH_BYTES = 32 * 2**20
"""Compressed bytes that may wait for the reader before fetching pauses. A shard of real files has
fewer, so all its files are fetched ahead."""
ConnectionLimiter = Callable[[Callable[[], bool]], AbstractContextManager[bool]]
"""Makes a context in which one connection may be open. It yields True, or False once the given
function says that no connection is needed any more."""


@contextlib.contextmanager
def unlimited(_: Callable[[], bool]) -> Iterator[bool]:
    """A `ConnectionLimiter` without a limit."""
    yield True


def read_files(
    files: Sequence[tuple[str, str | None]],
    options: Mapping[str, Any] | None = None,
    rules: FetchOptions | None = None,
    limiter: ConnectionLimiter = unlimited,
) -> Generator[FileBody | SubjectError, None, None]:
    """Read subject files in order; those at URLs are fetched ahead over several connections.

    Memory holds at most `PREFETCH_BYTES`, one compressed file per connection, and one unpacked
    file: without a sha1, only unpacking can verify a file, and that waits until it is its turn.

    Parameters
    ----------
    files : sequence of (path, sha1 or None)
    options : mapping, optional
        Storage options for fsspec.
    rules : FetchOptions, optional
        How many connections, and which cache.
    limiter : callable
        A `ConnectionLimiter`; makes a context for every open connection, such as a lease of
        a semaphore.

    Yields
    ------
    FileBody or SubjectError
        For each file: what was read, or why it cannot be read.
    """
    chosen = rules or FetchOptions()
    if not any(_is_fetched_ahead(path, options) for path, _ in files):
        for path, sha1 in files:
            with limiter(lambda: True) if is_url(path) else nullcontext():
                body = _try_file(path, sha1, options, chosen.cache)
            yield body
        return
    requests = collections.deque(FileRequest(*file, options, chosen.cache) for file in files)
    queue = _PrefetchQueue(requests)
    over_http = any(is_http(path) for path, _ in files)

    def fetch_requests() -> None:
        try:
            with limiter(queue.is_needed) as is_open:
                if is_open:
                    http = open_connection(options, queue.stop) if over_http else nullcontext()
                    with http as connection:
                        while (request := queue.next_request()) is not None:
                            queue.put(request, request.fetch(connection))
        except Exception as error:
            queue.fail(error)

    def take(request: FileRequest) -> FileBody | SubjectError:
        while True:
            body = queue.take(request)
            if isinstance(body, SubjectError) or request.sha1 is not None:
                return body
            verified = request.verify(body)
            if verified is not None:
                return verified
            queue.put_back(request)
            executor.submit(fetch_requests)  # the other threads may have ended

    count = min(chosen.connections, len(requests))
    with ThreadPoolExecutor(count, "gz3d-fetch") as executor:
        for _ in range(count):
            executor.submit(fetch_requests)
        try:
            while requests:
                yield take(requests.popleft())
        finally:
            queue.close()


def _is_fetched_ahead(path: str, options: Mapping[str, Any] | None) -> bool:
    """Whether several threads may read at once: over a network, and not inside a zip or tar."""
    if is_http(path) or not is_url(path):
        return is_http(path)
    try:
        fs, _ = url_to_fs(path, **(options or {}))
    except access_errors(*CLIENT_ERRORS):
        return False  # reading it reports the error
    return bool(fs.async_impl)


class _PrefetchQueue:
    """Requests in order, and what was fetched for them; too many bytes pause the fetching."""

    def __init__(self, requests: Iterable[FileRequest]) -> None:
        self.stop = threading.Event()
        self._waiting = collections.deque(requests)
        self._again: collections.deque[FileRequest] = collections.deque()
        self._fetched: dict[FileRequest, FileBody | Exception] = {}
        self._held = 0
        self._changed = threading.Condition()

    def is_needed(self) -> bool:
        """Whether any file is still to be fetched."""
        return not self.stop.is_set() and bool(self._waiting or self._again)

    def next_request(self) -> FileRequest | None:
        """Wait until bytes may be fetched; None once nothing is needed any more.

        The reader never waits for a request that waits here: the bytes that fill the buffer
        precede it, and a repeated request does not wait.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._again or self._held < PREFETCH_BYTES or not self.is_needed()
            )
            return (self._again or self._waiting).popleft() if self.is_needed() else None

    def put(self, request: FileRequest, body: FileBody | Exception) -> None:
        """Keep what was fetched for the reader."""
        with self._changed:
            self._fetched[request] = body
            self._held += _compressed_size(body)
            self._changed.notify_all()

    def take(self, request: FileRequest) -> FileBody | SubjectError:
        """Wait for a request, and stop counting its bytes; raises what stopped the fetching."""
        with self._changed:
            self._changed.wait_for(lambda: request in self._fetched)
            body = self._fetched.pop(request)
            self._held -= _compressed_size(body)
            self._changed.notify_all()
        if isinstance(body, FileBody | SubjectError):
            return body
        raise body

    def put_back(self, request: FileRequest) -> None:
        """Fetch a request again, before all others: the reader waits for it."""
        with self._changed:
            self._again.append(request)
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Answer all requests that nobody has started with an error."""
        with self._changed:
            self._fetched |= dict.fromkeys((*self._again, *self._waiting), error)
            self._again.clear()
            self._waiting.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop fetching."""
        self.stop.set()
        with self._changed:
            self._changed.notify_all()


def _compressed_size(body: FileBody | Exception) -> int:
    return len(body.data) if isinstance(body, FileBody) else 0


def _try_file(
    path: str, sha1: str | None, options: Mapping[str, Any] | None, cache: str | None
) -> FileBody | SubjectError:
    try:
        return read_file(path, sha1, options, cache)
    except SubjectError as error:
        return without_traceback(error)
