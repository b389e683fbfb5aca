"""Bytes of subject files, from wherever they are: fetched ahead, cached, never unverified there."""

from __future__ import annotations

import contextlib
import queue
import threading
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from gz3d_zarr.errors import SourceError, Status, SubjectError, access_errors, describe
from gz3d_zarr.fetch import (
    Connection,
    FetchRules,
    fetch_verified,
    find_mismatch,
    is_http,
    open_connection,
)
from gz3d_zarr.source import base_name, is_url

MAX_FILE = 32 * 2**20
"""Bytes beyond which a file is not read at all; real ones have 0.2 to 0.6 MB."""

Gate = Callable[[Callable[[], bool]], AbstractContextManager[bool]]
"""Makes a context in which one connection may be open: True in it; False where, says the function
given, none is needed any more."""


@contextlib.contextmanager
def open_gate(_: Callable[[], bool]) -> Iterator[bool]:
    """Let everybody through."""
    yield True


def read_files(
    files: Sequence[tuple[str, str | None]],
    options: Mapping[str, Any] | None = None,
    rules: FetchRules | None = None,
    gate: Gate = open_gate,
) -> Generator[bytes | SubjectError, None, None]:
    """Read subject files in order; those at URLs are fetched ahead, over several connections.

    Parameters
    ----------
    files : sequence of (path, sha1 or None)
    options : mapping, optional
        Storage options for fsspec.
    rules : FetchRules, optional
        How many connections, and which cache.
    gate : callable
        A `Gate`; makes a context for every open connection, such as a lease of a semaphore.

    Yields
    ------
    bytes or SubjectError
        For each file: its bytes, or why it cannot be had.
    """
    chosen = rules or FetchRules()
    if not any(_is_fetched_ahead(path, options) for path, _ in files):
        for path, sha1 in files:
            with gate(lambda: True) if is_url(path) else nullcontext():
                body = _try_file(path, sha1, options, chosen.cache)
            yield body
        return
    orders = [_Order(path, sha1) for path, sha1 in files]
    waiting: queue.SimpleQueue[_Order] = queue.SimpleQueue()
    for order in orders:
        waiting.put(order)
    stop = threading.Event()
    over_http = any(is_http(path) for path, _ in files)

    def work() -> None:
        try:
            with gate(lambda: not (stop.is_set() or waiting.empty())) as is_open:
                if is_open:
                    http = open_connection(options, stop) if over_http else nullcontext()
                    with http as connection:
                        while not stop.is_set():
                            waiting.get_nowait().fill(connection, options, chosen.cache)
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
            for order in orders:
                yield order.body.result()
        finally:
            stop.set()


def _is_fetched_ahead(path: str, options: Mapping[str, Any] | None) -> bool:
    """Whether several threads may read at a time: over a network, and not inside a zip or tar."""
    if is_http(path) or not is_url(path):
        return is_http(path)
    try:
        fs, _ = url_to_fs(path, **(options or {}))
    except access_errors(ImportError, TypeError, ValueError):
        return False  # reading it will say why
    return bool(fs.async_impl)


class _Order:
    """One file to be fetched, and the promise of its bytes."""

    def __init__(self, path: str, sha1: str | None) -> None:
        self.path, self.sha1 = path, sha1
        self.body: Future[bytes | SubjectError] = Future()

    def fill(
        self, connection: Connection | None, options: Mapping[str, Any] | None, cache: str | None
    ) -> None:
        """Keep the promise, whatever happens."""
        try:
            self.body.set_result(_try_file(self.path, self.sha1, options, cache, connection))
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
        return error


def read_file(
    path: str,
    sha1: str | None,
    options: Mapping[str, Any] | None = None,
    cache: str | None = None,
    connection: Connection | None = None,
) -> bytes:
    """Read one subject file, from the cache where it is there and sound.

    Where it is twice fetched and is not the file, that is for whoever decodes it to find.

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
            data = fetch_verified(chosen, path, sha1, MAX_FILE)
        else:
            data = _read_remote(path, options)
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
    """Keep a file in the cache: under a name of its own, then renamed.

    Raises
    ------
    SourceError
        Where the cache cannot be written.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise SourceError(
            f"the cache {path.parent} cannot be written: {describe(error)}"
        ) from error


def _read_remote(path: str, options: Mapping[str, Any] | None) -> bytes:
    try:
        fs, inner = url_to_fs(path, **(options or {}))
        data: bytes = fs.cat_file(inner, end=MAX_FILE + 1)
    except access_errors(ImportError, TypeError, ValueError) as error:
        raise _unread(error) from None
    return _bounded(data)


def _unread(error: Exception) -> SubjectError:
    if isinstance(error, FileNotFoundError):
        return SubjectError(Status.MISSING, "there is no such file")
    return SubjectError(Status.UNREACHABLE, f"it cannot be read: {describe(error)}")


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_FILE:
        raise SubjectError(
            Status.CORRUPT,
            f"it has more than {MAX_FILE // 2**20} MiB; real files have about 0.4",
        )
    return data
