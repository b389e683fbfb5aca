"""Fetch whole files over HTTP, with retries.

The HTTP file system of fsspec does not retry and accepts truncated bodies. Here urllib3 checks the
length of each body, and tenacity retries.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
import logging
import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import tenacity
import urllib3

from gz3d_zarr.errors import Status, SubjectError, UsageError, plural, shorten

ATTEMPTS = 7
"""Maximum number of tries; together they wait about half a minute."""
MIN_WAIT, MAX_WAIT = 0.5, 20.0
"""Seconds between tries: random, up to a limit that doubles from MIN_WAIT to MAX_WAIT."""
MIN_REPORTED_WAIT = 1.0
"""Shorter waits, in seconds, are not logged."""
MAX_RETRY_AFTER = 300.0
"""Longest ``Retry-After`` in seconds that is respected; longer ones are an error."""
CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
"""Timeouts for a connection, and for the next bytes of a body."""
MISSING, REFUSED = frozenset({404, 410}), frozenset({401, 403})
TRANSIENT = frozenset({408, 425, 429, *range(500, 600)}) - {501, 505}
"""Status codes that are retried. Proxies use 5xx of their own, such as 520 to 530. A server that
answers 501 or 505 does not support the request, so retrying is pointless."""
logger = logging.getLogger(__name__)
_PIECE = 2**18
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True)
class Connection:
    """One connection to a server, and the event that cancels its waits and retries."""

    pool: urllib3.PoolManager
    stop: threading.Event = field(default_factory=threading.Event)


class RefusedError(SubjectError):
    """The server refuses access: 401 or 403."""


class _TransientError(Exception):
    """Worth another try, after `wait` seconds if the server asks for that."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@contextlib.contextmanager
def open_connection(
    options: Mapping[str, Any] | None = None, stop: threading.Event | None = None
) -> Iterator[Connection]:
    """Open one connection, which is kept between requests and closed with the context.

    Parameters
    ----------
    options : mapping, optional
        Source options. HTTP takes ``headers`` only; they are not sent to redirect targets.
    stop : threading.Event, optional
        Cancels waits and retries when it is set.

    Raises
    ------
    UsageError
        An unknown option, or a header that cannot be sent.
    """
    headers = _headers(options or {})
    pool = urllib3.PoolManager(
        num_pools=1,
        maxsize=1,
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        retries=urllib3.Retry(
            None,
            connect=0,
            read=0,
            status=0,
            other=0,
            redirect=3,
            remove_headers_on_redirect=list(headers),
        ),
        headers={"User-Agent": "gz3d-zarr", **headers, "Accept-Encoding": "identity"},
    )
    try:
        yield Connection(pool, stop or threading.Event())
    finally:
        pool.clear()


def fetch(connection: Connection, url: str, limit: int) -> bytes:
    """Fetch a whole body, with retries, as `fetch_redirected` does."""
    return fetch_redirected(connection, url, limit)[0]


def fetch_redirected(connection: Connection, url: str, limit: int) -> tuple[bytes, str]:
    """Fetch a whole body, with retries; also the URL that it came from after redirects.

    Retries status codes in `TRANSIENT` (after the time in ``Retry-After``), resets, timeouts and
    truncated bodies; never 404.

    Parameters
    ----------
    connection : Connection
    url : str
    limit : int
        Largest body that is accepted, in bytes.

    Raises
    ------
    SubjectError
        Missing: there is no such file. Unreachable: network or server failed in all tries.
        Corrupt: the body is larger than `limit`.
    """
    try:
        for attempt in tenacity.Retrying(
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(ATTEMPTS), tenacity.stop_when_event_set(connection.stop)
            ),
            sleep=tenacity.sleep_using_event(connection.stop),
            wait=_wait,
            retry=tenacity.retry_if_exception_type(_TransientError),
            before_sleep=functools.partial(_log_wait, url),
            reraise=True,
        ):
            with attempt:
                return _get(connection.pool, url, limit)
    except _TransientError as error:
        raise SubjectError(
            Status.UNREACHABLE, f"{shorten(url)} cannot be fetched in {ATTEMPTS} tries: {error}"
        ) from None
    raise AssertionError("tenacity returns or raises")  # pragma: no cover


def probe(connection: Connection, url: str) -> int | None:
    """Ask once for a URL, without its body; the status code, or None if nothing answers."""
    try:
        with connection.pool.request("GET", url, preload_content=False) as response:
            return int(response.status)
    except (urllib3.exceptions.HTTPError, ValueError):
        return None


def _headers(options: Mapping[str, Any]) -> dict[str, str]:
    """Headers in the source options; messages never show a value, which may be a secret."""
    unknown = set(options) - {"headers"}
    if unknown:
        raise UsageError(
            f"{plural(len(unknown), 'unknown source option')} for HTTP, which takes only "
            "headers.NAME, such as headers.Authorization"
        )
    headers = options.get("headers", {})
    if not isinstance(headers, Mapping):
        raise UsageError("the source option headers needs a name: headers.NAME=VALUE")
    for number, (name, value) in enumerate(headers.items(), 1):
        if not (_NAME.fullmatch(str(name)) and _VALUE.fullmatch(str(value))):
            raise UsageError(
                f"header {number} cannot be sent: its name is invalid, or its value has a line "
                "break or characters beyond Latin-1"
            )
    return {str(name): str(value) for name, value in headers.items()}


def _get(pool: urllib3.PoolManager, url: str, limit: int) -> tuple[bytes, str]:
    """One try."""
    try:
        # Not decoded: some servers label .gz files with Content-Encoding.
        response = pool.request("GET", url, preload_content=False, decode_content=False)
        with response:
            _check_status(url, response)
            final = response.geturl() if response.retries and response.retries.history else None
            body = bytearray()
            while piece := response.read(_PIECE, decode_content=False):
                body += piece
                if len(body) > limit:
                    raise SubjectError(
                        Status.CORRUPT,
                        f"{shorten(url)} has more than {limit // 2**20} MiB; expected less",
                    )
    except urllib3.exceptions.HTTPError as error:
        cause = getattr(error, "reason", None) or error  # MaxRetryError wraps it
        if _is_lasting(cause):
            raise SubjectError(
                Status.UNREACHABLE, f"{shorten(url)} cannot be fetched: {shorten(cause)}"
            ) from None
        raise _TransientError(f"{type(cause).__name__}: {shorten(cause)}") from error
    except ValueError as error:  # invalid URL, of a redirect perhaps
        raise SubjectError(
            Status.UNREACHABLE, f"{shorten(url)} cannot be fetched: {shorten(error)}"
        ) from None
    return bytes(body), final or url


def _is_lasting(cause: object) -> bool:
    """Whether retrying is pointless: a redirect loop, a wrong certificate, an invalid URL."""
    if isinstance(cause, urllib3.exceptions.SSLError):
        return any(isinstance(part, ssl.SSLCertVerificationError) for part in cause.args)
    lasting = urllib3.exceptions.ResponseError, urllib3.exceptions.LocationValueError
    return isinstance(cause, lasting)


def _check_status(url: str, response: urllib3.BaseHTTPResponse) -> None:
    if response.status == 200:
        return
    answer = f"the server answers {response.status} {shorten(response.reason or '')}".rstrip()
    url = shorten(url)
    if response.status in MISSING:
        raise SubjectError(Status.MISSING, f"there is no file {url}: {answer}")
    wait = _retry_after(response.headers.get("Retry-After"))
    if response.status not in TRANSIENT:
        kind = RefusedError if response.status in REFUSED else SubjectError
        raise kind(Status.UNREACHABLE, f"{url} cannot be fetched: {answer}")
    if wait > MAX_RETRY_AFTER:
        raise SubjectError(
            Status.UNREACHABLE, f"{url}: {answer} and asks to wait {wait:.0f} s; try again then"
        )
    raise _TransientError(answer, wait)


def _retry_after(value: str | None) -> float:
    """Seconds in a ``Retry-After`` header: a number or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _log_wait(url: str, state: tenacity.RetryCallState) -> None:
    """Log long waits, so that a server that is down does not look like a hanging program."""
    error = state.outcome.exception() if state.outcome is not None else None
    seconds = state.next_action.sleep if state.next_action is not None else 0.0
    if seconds >= MIN_REPORTED_WAIT:
        logger.info("%s: %s; trying again in %.0f s", shorten(url), shorten(error), seconds)


def _wait(state: tenacity.RetryCallState) -> float:
    """Random exponential backoff, in addition to the wait that the server asks for."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.wait if isinstance(error, _TransientError) else 0.0
    backoff = tenacity.wait_random_exponential(multiplier=MIN_WAIT, max=MAX_WAIT)
    return asked + float(backoff(state))
