"""A real Chromium, a server of page and store, and a page that is open."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Client
from page_server import Site, serve
from pages import FLAGS, SOURCES, STATIC, wait_for

import gz3d_zarr

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Opener = Callable[..., Any]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of a process; they skip where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("GZ3D_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def compact_store(
    simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The simulated archive in the other codec; never written to."""
    path = tmp_path_factory.mktemp("compact") / "gz3d.zarr"
    gz3d_zarr.build(simulated, path, client, shard_size=8, codec="compact")
    return path


@pytest.fixture(scope="session")
def reference_store(
    reference: Path, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The 64 reference files in one shard; never written to."""
    path = tmp_path_factory.mktemp("reference") / "gz3d.zarr"
    gz3d_zarr.build(reference, path, client)
    return path


@pytest.fixture
def site(store: Path) -> Iterator[Site]:
    """Page, sources and the simulated store, on one server."""
    with serve(Site({"page": STATIC, "src": SOURCES, "gz3d.zarr": store})) as site:
        yield site


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Opener]:
    """A function that opens the page at a site, and waits for an attribute of its root."""
    contexts = []

    def open_page(
        site: Site,
        fragment: str = "",
        *,
        store: str | None = "/gz3d.zarr",
        wait: str = "ready",
        **options: Any,
    ) -> Page:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.failures = []
        page.on("pageerror", lambda error: page.failures.append(str(error)))
        page.goto(f"{site.url}/page/index.html{f'?store={store}' if store else ''}{fragment}")
        wait_for(page, wait)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def module_page(browser: Browser, site: Site) -> Iterator[Page]:
    """A page without a CSP, in which the sources' modules may be imported by name."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{site.url}/page/LICENSES.txt")
    yield page
    context.close()
