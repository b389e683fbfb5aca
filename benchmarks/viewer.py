"""Measure the page in a headless Chromium, on a store as long as the survey.

    python benchmarks/viewer.py [--source DIR] [--rounds 5] [--store STORE]

The server is the tests' on loopback: once as it is, and once with 50 ms more for each request.
Reports the best and the median of the rounds: milliseconds since navigation until the first galaxy
is drawn and until the list and its filters are there, milliseconds of the next galaxies, requests
and bytes, and the longest task of the page (0 if none takes 50 ms) while filters move and pages
turn. Prints Markdown. Needs chromium and playwright; the stores are those of `full_length.py`, or
the one of ``--store``.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from full_length import make_full_length_store
from measuring import describe_machine, find_originals
from playwright.sync_api import Browser, Page, sync_playwright

import gz3d_zarr

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "viewer")]
from page_server import Site, serve  # noqa: E402
from pages import FLAGS, STATIC, wait_for  # noqa: E402

DELAY = 0.05
"""Seconds added to each request in the second part."""
OBSERVE = """() => {
    window.tasks = [];
    new PerformanceObserver(list => tasks.push(...list.getEntries().map(e => e.duration)))
        .observe({ type: "longtask" });
}"""
SLIDE = """value => {
    const slider = document.querySelector("#spiral");
    slider.value = value;
    slider.dispatchEvent(new Event("input"));
}"""
FIRST = """() => {
    const drawn = performance.getEntriesByName("galaxy")[0].startTime;
    const entries = performance.getEntriesByType("resource").filter(e => e.startTime < drawn);
    const bytes = entries.reduce((sum, entry) => sum + entry.encodedBodySize, 0);
    const page = performance.getEntriesByType("navigation")[0].encodedBodySize;
    return [drawn, entries.length + 1, bytes + page];
}"""
READY = "performance.getEntriesByName('ready')[0].startTime"
Figures = dict[str, float]


def main() -> None:
    """Make a store, run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--source", type=Path, help="a folder of at least 64 subject files")
    parser.add_argument("--store", type=Path, help="a store of at least 400 subjects, instead")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{describe_machine()}\n")
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gz3d-benchmark-")))
        stores = {"the store": options.store} if options.store else make_stores(options, scratch)
        playwright = stack.enter_context(sync_playwright())
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        for name, store in stores.items():
            for delay in (0.0, DELAY):
                rounds = [measure(browser, store, delay) for _ in range(options.rounds)]
                report(f"{name}{f', +{1000 * delay:.0f} ms a request' if delay else ''}", rounds)
        browser.close()


def make_stores(options: argparse.Namespace, scratch: Path) -> dict[str, Path]:
    """Make a store as long as the survey in each codec."""
    files = [str(path) for path in find_originals(options.source, scratch)]
    stores = {}
    for codec in ("portable", "compact"):
        gz3d_zarr.build(files, scratch / f"few-{codec}.zarr", workers=2, codec=codec)
        stores[codec] = scratch / f"{codec}.zarr"
        make_full_length_store(scratch / f"few-{codec}.zarr", stores[codec])
    return stores


@contextlib.contextmanager
def opened(browser: Browser, site: Site) -> Iterator[Page]:
    """Open the page, with nothing in the browser's cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(f"{site.url}/page/index.html?store=/gz3d.zarr")
    wait_for(page, "ready")
    wait_for(page, "grid")
    yield page
    context.close()


def measure(browser: Browser, store: Path, delay: float) -> Figures:
    """Figures of one visit."""
    with (
        serve(Site({"page": STATIC, "gz3d.zarr": store}, delay=delay)) as site,
        opened(browser, site) as page,
    ):
        drawn, requests, size = page.evaluate(FIRST)
        figures = {
            "first galaxy, ms": drawn,
            "requests until then": requests,
            "kB until then": size / 1000,
            "all listed, ms": page.evaluate("performance.getEntriesByName('ready')[0].startTime"),
        }
        page.evaluate(OBSERVE)
        for value in range(0, 100, 4):
            page.evaluate(SLIDE, value)
            page.wait_for_timeout(40)
        page.evaluate(SLIDE, 0)
        wait_for(page, "grid")
        for _ in range(5):
            page.keyboard.press("PageDown")
            wait_for(page, "grid")
        figures["longest task while filtering and paging, ms"] = max(
            page.evaluate("tasks"), default=0
        )
        before = len(site.log)
        page.keyboard.press("PageDown")
        wait_for(page, "grid")
        figures["requests of a page"] = count(site, before)
        for name, row in {"another shard": 300, "the same shard": 301}.items():
            before = len(site.log)
            start = page.evaluate("performance.now()")
            page.evaluate("row => location.hash = `row=${row}`", row)
            wait_for(page, f'galaxy="{row}"')
            stop = page.evaluate("performance.getEntriesByName('galaxy').at(-1).startTime")
            figures[f"galaxy of {name}, ms"] = stop - start
            keys = [key for key, _, _ in site.log[before:]]
            figures[f"requests of a galaxy of {name}"] = sum(
                key.startswith(("gz3d.zarr/image", "gz3d.zarr/segmentation")) for key in keys
            )
    return figures


def count(site: Site, before: int) -> int:
    """Requests of the store since `before`."""
    return sum(key.startswith("gz3d.zarr") for key, _, _ in site.log[before:])


def report(title: str, rounds: list[Figures]) -> None:
    """Print the table of one setting."""
    print(f"**{title}**\n\n| what | best | median |\n| --- | --- | --- |")
    for name in rounds[0]:
        values: list[Any] = [figures[name] for figures in rounds]
        print(f"| {name} | {min(values):.0f} | {statistics.median(values):.0f} |", flush=True)
    print()


if __name__ == "__main__":
    main()
