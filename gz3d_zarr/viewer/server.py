"""An HTTP server on loopback that gives the page, and the objects of one store, to a browser.

Other users of the machine do not know its secret path; pages of other origins, and names that
somebody else's DNS points to this machine, are refused by the headers of their requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import html
import logging
import re
import secrets
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

from gz3d_zarr.errors import GZ3DError, StoreError, UsageError, error_message
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.viewer.page_files import CONTENT_TYPES, INDEX, read_page

HOST = "127.0.0.1"
HTTP_PORT = 80
"""Browsers leave it out of their requests."""
STORE_PATH = "store/"
"""Where the objects of the store are, relative to the page."""
SHUTDOWN_SECONDS = 1.0
"""How long an open request may still take once the server is closed."""
_KEY = re.compile(r"(?:[A-Za-z0-9_]{1,64}/){0,8}(?:zarr\.json|[0-9]{1,9})")
_FRAME_ANCESTORS = f"http://{HOST}:* http://localhost:*"
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_LOGGER = logging.getLogger(__name__)
_LOGGER.addHandler(logging.NullHandler())
_LOGGER.propagate = False  # the command line prints what the package logs
"""What strangers send, such as a port scanner, is no message for the terminal or the notebook."""
_Running = tuple[asyncio.AbstractEventLoop, asyncio.Event, int]
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ViewServer:
    """A running server; its thread ends with the process, or when it is closed.

    In a notebook it shows the page below the cell.

    Parameters
    ----------
    store : ObjectStore
    port : int
        By default, a free one.
    fragment : str
        Part of the link after ``#``: what the page shows first.
    allows_frames : bool
        Whether another page of this machine, such as a notebook, may show the page in a frame.

    Attributes
    ----------
    link : str
        Address of the page, with its secret path.

    Raises
    ------
    UsageError
        The port cannot be used.
    """

    def __init__(
        self, store: ObjectStore, port: int = 0, fragment: str = "", *, allows_frames: bool = False
    ) -> None:
        self._store = store
        self._allows_frames = allows_frames
        self._token = secrets.token_urlsafe(18)
        self._files = read_page(STORE_PATH, source=store.url)
        self._sizes: dict[str, int] = {}
        started: Future[_Running] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(port, started), name="gz3d-view", daemon=True
        )
        self._thread.start()
        try:
            self._loop, self._closing, self._port = started.result()
        except OSError as error:
            # asyncio puts the address, and from 3.12 on the number of the error, into its words.
            reason = re.sub(r".*: |\[errno \d+\] ", "", error_message(error))
            raise UsageError(
                f"port {port} cannot be used ({reason}): choose another one, or none"
                if port
                else f"no server can be started on {HOST} ({reason})"
            ) from error
        self.link = f"http://{HOST}:{self._port}/{self._token}/{fragment and f'#{fragment}'}"

    def close(self) -> None:
        """End the server and its connections; the link no longer works."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()

    def wait(self) -> None:
        """Wait until the server is closed, or the process is interrupted."""
        while self._thread.is_alive():
            self._thread.join(0.2)  # not for ever: some systems cannot interrupt that

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return self.link

    def _repr_html_(self) -> str:
        link = html.escape(self.link)
        return (
            f'<iframe src="{link}" title="The galaxies of the store" allow="clipboard-write" '
            'style="width: 100%; height: 720px; border: 0"></iframe>'
            f'<p><a href="{link}" target="_blank" rel="noopener">Open in a tab</a></p>'
        )

    def _run(self, port: int, started: Future[_Running]) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve(port, started))
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)  # such as too many open files

    async def _serve(self, port: int, started: Future[_Running]) -> None:
        app = web.Application(middlewares=[self._check])
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(
            app, access_log=None, logger=_LOGGER, shutdown_timeout=SHUTDOWN_SECONDS
        )
        try:
            await runner.setup()
            site = web.TCPSite(runner, HOST, port)
            try:
                await site.start()
            except OverflowError as error:
                raise OSError(str(error)) from error
            closing = asyncio.Event()
            started.set_result((asyncio.get_running_loop(), closing, runner.addresses[0][1]))
            await closing.wait()
        finally:
            await runner.cleanup()

    @web.middleware
    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what no browser sends that was given the link."""
        _refuse_strangers(request, self._port, allows_frames=self._allows_frames)
        response = await handler(request)
        response.headers.update(_HEADERS)
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        # As it was sent: nothing is decoded, so that nothing encoded passes as a name.
        token, slash, name = request.rel_url.raw_path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self._token.encode()) or not slash:
            raise web.HTTPNotFound
        name = name or INDEX
        if name in CONTENT_TYPES:
            return self._answer_file(name)
        key = name.removeprefix(STORE_PATH)
        if key == name or _KEY.fullmatch(key) is None:
            raise web.HTTPNotFound
        try:
            return await self._answer_object(request, key)
        except GZ3DError as error:
            headers = {**_HEADERS, "X-GZ3D-Error": "1"}
            raise web.HTTPBadGateway(text=str(error), headers=headers) from error

    def _answer_file(self, name: str) -> web.Response:
        response = web.Response(body=self._files[name])
        response.headers["Content-Type"] = CONTENT_TYPES[name]
        if name == INDEX:
            ancestors = _FRAME_ANCESTORS if self._allows_frames else "'none'"
            response.headers["Content-Security-Policy"] = (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
                "connect-src 'self'; base-uri 'none'; form-action 'none'; "
                f"frame-ancestors {ancestors}"
            )
        return response

    async def _answer_object(self, request: web.Request, key: str) -> web.Response:
        """Answer with an object, or a range of it."""
        try:
            span = request.http_range
        except ValueError:
            raise web.HTTPRequestRangeNotSatisfiable from None
        is_whole = span.start is None and span.stop is None
        headers = {"Accept-Ranges": "bytes", "Content-Type": _content_type(key)}
        if is_whole and request.method == "GET":
            data = await _in_thread(self._store.get, key)
            if data is None:
                raise web.HTTPNotFound
            return web.Response(body=data, headers=headers)
        size = self._sizes.get(key)
        if size is None:
            size = await _in_thread(self._store.get_size, key)
            if size is None:
                raise web.HTTPNotFound
        if is_whole:
            return web.Response(headers={**headers, "Content-Length": str(size)})
        start, stop, _ = span.indices(size)
        if start >= stop:
            raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
        self._sizes.pop(key, None)  # until the answer shows that it is right
        data = await _in_thread(self._store.get_range, key, start, stop)
        if data is None or len(data) != stop - start:
            raise StoreError(
                f"{self._store.url}/{key} has changed, or its server ignores the range of a "
                "request: reload the page"
            )
        if not self._store.is_local:  # where asking takes as long as reading
            self._sizes[key] = size
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return web.Response(status=206, body=data, headers=headers)


def _refuse_strangers(request: web.Request, port: int, *, allows_frames: bool) -> None:
    """Raise HTTPForbidden for another name of this host, and for pages of another origin."""
    names = [f"{HOST}:{port}", f"localhost:{port}"]
    if port == HTTP_PORT:
        names += [HOST, "localhost"]
    if request.headers.get("Host", "").lower() not in names:
        raise web.HTTPForbidden(text="This server answers to its own name only.", headers=_HEADERS)
    # Who follows the link, in a notebook or a terminal that is a web page, opens a page that the
    # other one cannot read; which pages may frame it, the content security policy says.
    places = ("document", "iframe") if allows_frames else ("document",)
    is_visit = request.headers.get("Sec-Fetch-Mode") == "navigate"
    if is_visit and request.headers.get("Sec-Fetch-Dest") in places:
        return
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise web.HTTPForbidden(text="This server answers to its own page only.", headers=_HEADERS)


async def _in_thread(call: Callable[..., T], *args: Any) -> T:
    """Await a call in a thread of its own, which nobody waits for once the server is closed.

    The threads of asyncio would be waited for: a store that does not answer would hold up Ctrl-C.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[Any], None], value: Any) -> None:
        if not answer.done():
            set_it(value)

    def run() -> None:
        try:
            outcome: tuple[Callable[[Any], None], Any] = answer.set_result, call(*args)
        except BaseException as error:
            outcome = answer.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="gz3d-view-read", daemon=True).start()
    return await answer


def _content_type(name: str) -> str:
    return "application/json" if name.endswith(".json") else "application/octet-stream"
