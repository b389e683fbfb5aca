"""The page for people who use a keyboard, a screen reader, a phone, bright light, or a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_server import Site, serve
from pages import wait_for

import gz3d_zarr

pytestmark = pytest.mark.long

UNREADABLE = """() => {
    const parse = text => text.match(/[\\d.]+/g).map(Number);
    const light = color => color.slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const back = element => {
        for (let e = element; e; e = e.parentElement) {
            const color = parse(getComputedStyle(e).backgroundColor);
            if ((color[3] ?? 1) > 0.5) return color;
        }
    };
    const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    const found = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
        if (element.closest(":disabled")) continue;
        const value = ratio(parse(getComputedStyle(element).color), back(element));
        if (value < 4.5) found.push(`${texts.currentNode.data.trim()}: ${value}`);
    }
    for (const element of document.querySelectorAll("select, button, input:not([type])")) {
        if (!element.checkVisibility() || element.disabled) continue;
        const value = ratio(parse(getComputedStyle(element).borderColor), back(element.parentElement));
        if (value < 3) found.push(`edge of ${element.id}: ${value}`);
    }
    return found;
}"""
NAMELESS = """() => [...document.querySelectorAll("input, select, button, a, [tabindex]")]
    .filter(e => e.checkVisibility() && !(e.getAttribute("aria-label") || e.labels?.length || e.innerText.trim()))
    .map(e => e.outerHTML)"""
FOCUS = """() => {
    const e = document.activeElement, style = getComputedStyle(e);
    if (e === document.body) return ["", "", 0];
    if (e.type === "radio") return ["mode", style.outlineStyle, parseFloat(style.outlineWidth)];
    return [e.id || e.dataset.row || e.textContent.trim(), style.outlineStyle, parseFloat(style.outlineWidth)];
}"""


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_texts_and_edges_can_be_seen(scheme: str, site: Site, open_page: Any) -> None:
    page = open_page(site, color_scheme=scheme)
    wait_for(page, "grid")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(UNREADABLE) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_all_is_reached_by_keyboard_and_has_a_name(store: Path, site: Site, open_page: Any) -> None:
    page = open_page(site)
    wait_for(page, "grid")
    assert page.evaluate(NAMELESS) == []
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name, style, width = page.evaluate(FOCUS)
        if not name:
            break
        reached.append(name)
        assert (style, width >= 2) == ("solid", True), name
    expected = (
        "query previous next stage show-center show-bar threshold show-paths show-rings show-bundle "
        "png copy-link copy-python python sky spiral bar bundle observed asked marks status reset 0 17"
    )
    assert [name for name in reached if name in expected.split()] == expected.split()
    page.focus('#grid button[data-row="3"]')
    page.keyboard.press("Enter")
    wait_for(page, 'galaxy="3"')
    assert page.get_attribute('#grid button[data-row="3"]', "aria-current") == "true"


def test_who_was_not_asked_is_said_to_all(store: Path, site: Site, open_page: Any) -> None:
    ds = gz3d_zarr.open_store(store, chunks=None)
    bar = ds["classifications"].values[:, 3]
    row = int(np.flatnonzero((bar == 0) & (ds["status"].values == 0))[0])
    page = open_page(site, f"#row={row}")
    assert page.inner_text("#area-bar") == "not asked"
    assert "bar not asked. Arrow keys" in page.get_attribute("#stage", "aria-label")


def test_a_notebook_shows_the_page_and_links_to_it(
    store: Path, tmp_path: Path, browser: Any
) -> None:
    """The notebook's own server is another origin than the page's."""
    with gz3d_zarr.view(store) as server, serve(Site({"lab": tmp_path})) as lab:
        (tmp_path / "a.html").write_text(f"<!doctype html><body>{server._repr_html_()}")
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://localhost:{lab.port}/lab/a.html")
        frame = page.frames[-1]
        frame.wait_for_selector("html[data-ready]", state="attached", timeout=15_000)
        assert 'allow="clipboard-write"' in server._repr_html_()
        reading = f"fetch('{server.link}store/zarr.json').then(() => 'read', () => 'refused')"
        assert page.evaluate(reading) == "refused"
        page.evaluate("document.querySelector('a').target = ''")  # the same visit, without a tab
        page.evaluate("document.querySelector('a').click()")
        page.wait_for_url(f"{server.link}**")
        wait_for(page, "listed")
        assert page.url.startswith(server.link)
        page.reload()  # it is still a visit from another site
        wait_for(page, "listed")
        context.close()


def test_a_page_on_a_disk_says_how_to_show_its_store(
    store: Path, tmp_path: Path, browser: Any
) -> None:
    gz3d_zarr.page(tmp_path, store)
    page = browser.new_page()
    page.goto(f"file://{tmp_path}/index.html")
    wait_for(page, "failed")
    assert "on a disk: run gz3d-zarr view with the path" in page.inner_text("#trouble")
    page.context.close()
