"""The list: filters, search, pages, keys, links to a state of the page, and how much is asked for."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client
from page_server import Site, serve
from pages import STATIC, read_canvas, wait_for
from zarr.codecs import ZstdCodec

import gz3d_zarr

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def ds(store: Path) -> xr.Dataset:
    return gz3d_zarr.open_store(store, chunks=None)


def shown_rows(page: Any) -> list[int]:
    script = "buttons => buttons.map(button => Number(button.dataset.row))"
    return page.eval_on_selector_all("#grid button", script)


def expect_rows(page: Any, expected: Any) -> None:
    """Wait until the thumbnails are those of these rows."""
    deadline = time.monotonic() + 15
    while (rows := shown_rows(page)) != list(expected) and time.monotonic() < deadline:
        page.wait_for_timeout(20)
    assert rows == list(expected)


def slide(page: Any, selector: str, value: int) -> None:
    page.eval_on_selector(
        selector,
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }",
        value,
    )


def test_filters_select_the_rows_that_python_selects(
    ds: xr.Dataset, site: Site, open_page: Any
) -> None:
    page = open_page(site)
    total = ds["total_classifications"].values
    known = total > 0
    spiral = np.where(known, ds["spiral_votes"].values / np.where(known, total, 1), -1)
    asked, drawn = ds["classifications"].values, ds["classifications_drawn"].values
    status = ds["status"].values
    bundle = ds["ifu_design_size"].values
    cases = {
        "#observed=yes": ds["observed"].values == 1,
        "#observed=unknown": ds["observed"].values == -1,
        "#asked=spiral": asked[:, 2] > 0,
        "#asked=none": (asked[:, 2] == 0) & (asked[:, 3] == 0),
        "#marks=bar": drawn[:, 3] > 0,
        "#marks=none": (drawn == 0).all(1),
        "#status=ok": status == 0,
        "#status=failed": status != 0,
        f"#bundle={bundle[0]}": bundle == bundle[0],
        "#spiral=50&asked=bar": (spiral >= 0.5) & (asked[:, 3] > 0),
    }
    for fragment, expected in cases.items():
        page.evaluate("hash => location.hash = hash", fragment)
        expect_rows(page, np.flatnonzero(expected))
    slide(page, "#spiral", 40)
    wait_for(page, f'listed="{((spiral >= 0.4) & (asked[:, 3] > 0)).sum()}"')
    page.wait_for_url("**spiral=40**")
    page.click("#reset")
    wait_for(page, f'listed="{len(status)}"')


def test_search(ds: xr.Dataset, site: Site, open_page: Any) -> None:
    page = open_page(site)
    ids, manga = ds["zooniverse_subject_id"].values, ds["subject"].values
    row = int(np.flatnonzero(np.isfinite(ds["ra"].values))[5])
    ra, dec = (float(ds[name].values[row]) for name in ("ra", "dec"))

    def search(text: str) -> str:
        page.fill("#query", text)
        page.keyboard.press("Enter")
        return page.inner_text("#message")

    assert search(str(ids[7])) == ""
    wait_for(page, 'galaxy="7"')
    assert f"id={ids[7]}" in page.url
    assert search(manga[3]) == ""
    wait_for(page, 'galaxy="3"')
    assert "nearest galaxy is 0.0 arcsec" in search(f"{ra} {dec}")
    wait_for(page, f'galaxy="{row}"')
    search(f"{ra}, {dec} 0.5")
    near = ds.gz3d.cone(ra, dec, 1800).sizes["subject"]
    wait_for(page, f'listed="{near}"')
    assert f"cone={ra:.5f}".rstrip("0") in page.url
    assert "no MaNGA id 8485-1901, and does not hold plates" in search("8485-1901")
    assert "no subject with the Zooniverse id 5." in search("5")
    assert search("<b>nonsense</b>").startswith(
        '"<b>nonsense</b>" cannot be searched: type a MaNGA'
    )
    assert "10:30:00" in search("400 10")
    # A message is about what is shown, and goes with it.
    page.click("#reset")
    assert page.inner_text("#message") == ""
    wait_for(page, f'listed="{len(ids)}"')
    search("5")
    page.click("#next")
    assert page.inner_text("#message") == ""


def test_pages_and_a_repeated_manga_id(reference_store: Path, open_page: Any) -> None:
    with serve(Site({"page": STATIC, "gz3d.zarr": reference_store})) as site:
        page = open_page(site)
        wait_for(page, 'grid="0"')
        # A page in the order of the store: the index, and one range.
        assert count_requests(site, "thumbnail") == 2
        page.click("#page-on")
        wait_for(page, 'grid="1"')
        assert page.inner_text("#pager") == "64 galaxies, page 2 of 2"
        assert count_requests(site, "thumbnail") == 3
        page.fill("#query", "1-150019")  # twice in the reference files
        page.keyboard.press("Enter")
        wait_for(page, 'listed="2"')
        assert "2 subjects have the MaNGA id" in page.inner_text("#message")
        # Another search is not one among these two.
        page.fill("#query", "0 0 180")
        page.keyboard.press("Enter")
        wait_for(page, 'listed="64"')
        assert "manga=" not in page.url
        page.evaluate("location.hash = 'manga=1-150019'")
        wait_for(page, 'listed="2"')
        page.fill("#query", "1-150052")
        page.keyboard.press("Enter")
        wait_for(page, 'listed="64"')


def count_requests(site: Site, name: str) -> int:
    return sum(key.startswith(f"gz3d.zarr/{name}") for key, _, _ in site.log)


def test_a_link_restores_everything(ds: xr.Dataset, site: Site, open_page: Any) -> None:
    page = open_page(site)
    page.select_option("#status", "ok")
    page.check("text=both")
    page.uncheck("#show-star")
    page.check("#show-paths")
    page.uncheck("#show-bundle")
    slide(page, "#threshold", 5)
    slide(page, "#bar", 1)
    wait_for(page, "grid")
    rows = shown_rows(page)
    page.click(f'#grid button[data-row="{rows[2]}"]')
    wait_for(page, f'galaxy="{rows[2]}"')
    state = page.url.partition("#")[2]
    other = open_page(site, f"#{state}")
    wait_for(other, f'galaxy="{rows[2]}"')
    expect_rows(other, rows)
    assert other.input_value("#threshold") == "5"
    assert other.input_value("#status") == "ok"
    assert other.input_value("#bar") == "1"
    assert other.is_checked("text=both")
    checked = "boxes => boxes.filter(box => box.checked).map(box => box.id)"
    assert other.eval_on_selector_all("#layers input[type=checkbox]", checked) == [
        "show-center", "show-spiral", "show-bar", "show-paths"
    ]  # fmt: skip
    other.click("text=filled")
    assert other.url.partition("#")[2] == state.replace("&mode=both", "")
    # Rows may have moved: the Zooniverse id decides.
    ids = ds["zooniverse_subject_id"].values
    moved = open_page(site, f"#row=2&id={ids[9]}")
    wait_for(moved, 'galaxy="9"')
    gone = open_page(site, "#row=2&id=77")
    assert "no subject with the Zooniverse id 77" in gone.inner_text("#message")


def test_page_is_used_by_keyboard_alone(site: Site, open_page: Any) -> None:
    page = open_page(site)
    page.keyboard.press("ArrowRight")
    wait_for(page, 'galaxy="1"')
    page.keyboard.press("ArrowLeft")
    wait_for(page, 'galaxy="0"')
    page.go_back()
    wait_for(page, 'galaxy="1"')
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    page.focus("#stage")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    assert page.inner_text("#readout").startswith("x 263, y 272; RA ")
    wait_for(page, 'galaxy="1"')  # the arrows moved the pointer only
    page.focus("#sky")
    page.keyboard.press("ArrowUp")
    assert page.inner_text("#sky-note").endswith("°. Enter chooses the nearest galaxy.")
    page.keyboard.press("Enter")
    assert "nearest galaxy" in page.inner_text("#message")
    # Whatever can be used is reached by Tab, and has a name.
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(90):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    wanted = "buttons => buttons.filter(b => b.offsetParent && !b.disabled && b.id).map(b => b.id)"
    assert set(page.eval_on_selector_all("button, select, [tabindex]", wanted)) <= reached
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, select, input, [tabindex]")]
        .filter(e => e.offsetParent && !(e.ariaLabel || e.labels?.length || e.innerText.trim()))
        .map(e => e.outerHTML)"""
    )
    assert unnamed == []


def test_map_selects_by_click_and_by_circle(ds: xr.Dataset, site: Site, open_page: Any) -> None:
    page = open_page(site)
    row = int(np.flatnonzero(np.isfinite(ds["ra"].values))[3])
    ra, dec = np.radians([float(ds[name].values[row]) for name in ("ra", "dec")])
    turn = (ra - np.radians(120) + np.pi) % (2 * np.pi) - np.pi
    root = np.sqrt(2 / (1 + np.cos(dec) * np.cos(turn / 2)))  # Hammer's projection
    x, y = 2 * root * np.cos(dec) * np.sin(turn / 2), root * np.sin(dec)
    box = page.locator("#sky").bounding_box()
    scale = box["width"] / (4 * np.sqrt(2) * 1.02)
    at = box["x"] + box["width"] / 2 - x * scale, box["y"] + box["height"] / 2 - y * scale
    page.mouse.click(*at, button="right")
    assert page.inner_text("#message") == ""
    page.mouse.click(*at)
    text = page.inner_text("#message")
    assert "nearest galaxy" in text
    assert float(text.split(" is ")[1].split("°")[0].split()[0]) < 1 or "arcsec" in text
    page.mouse.move(*at)
    page.mouse.down()
    page.mouse.move(at[0] + 30, at[1])
    page.mouse.up()
    page.wait_for_url("**cone=**")
    cone = [float(n) for n in page.url.split("cone=")[1].split("&")[0].split(",")]
    near = ds.gz3d.cone(cone[0], cone[1], 3600 * cone[2])["zooniverse_subject_id"].values
    expect_rows(page, np.flatnonzero(np.isin(ds["zooniverse_subject_id"].values, near)))
    page.evaluate("location.hash = 'cone=10,10,60'")
    page.wait_for_selector("#active:has-text('within 60.00')")
    image = read_canvas(page, "#cursor")
    drawn = image[:, image.shape[1] * 3 // 4 :, 3].any(axis=1)
    first, last = np.flatnonzero(drawn)[[0, -1]]
    assert last - first > 150
    assert drawn[first:last].all()  # a line without gaps


def test_subjects_that_are_not_ok_say_why(
    simulated: Path, archive: Path, client: Client, tmp_path: Path, open_page: Any
) -> None:
    files = sorted(archive.glob("gz3d_*.fits.gz"))
    files[2].write_bytes(files[2].read_bytes()[:3000])
    path = tmp_path / "gz3d.zarr"
    gz3d_zarr.build(archive, path, client, shard_size=4, max_failures=18)
    ds = gz3d_zarr.open_store(path, chunks=None)
    row = int(np.flatnonzero(ds["status"].values != 0)[0])
    reason = str(xr.open_zarr(path, group="catalogue", chunks=None)["reason"].values[row])
    assert reason
    with serve(Site({"page": STATIC, "gz3d.zarr": path})) as site:
        page = open_page(site, f"#row={row}")
        page.wait_for_selector(f"#notice:has-text({reason[:30]!r})")
        notice = page.inner_text("#notice")
        assert "the status of its file is corrupt: " in notice
        label = page.get_attribute("#stage", "aria-label")
        assert label.startswith(f"No picture of MaNGA {ds['subject'].values[row]}.")
        assert page.inner_text(f'#grid button[data-row="{row}"]').strip() == "corrupt"
        page.click("#png")
        assert page.inner_text("#message") == "There is no picture to download."


def test_few_requests_are_made(site: Site, open_page: Any) -> None:
    page = open_page(site)
    wait_for(page, "grid")
    started = page.evaluate(
        """() => { const drawn = performance.getEntriesByName("galaxy")[0].startTime;
        return performance.getEntriesByType("resource")
            .filter(entry => entry.startTime < drawn).map(entry => entry.name); }"""
    )
    assert len(started) + 1 <= 16, started  # and the document
    for keys, most in {
        (("ArrowRight", 1),): 2,  # in the same shard
        (("ArrowRight", 2), ("ArrowRight", 3), ("ArrowRight", 4)): 2 + 2 + 4,
        (("ArrowLeft", 3), ("ArrowLeft", 2)): 0,  # looking back asks for nothing
    }.items():
        before = count_requests(site, "")
        for key, row in keys:
            page.keyboard.press(key)
            if row is not None:
                wait_for(page, f'galaxy="{row}"')
        assert count_requests(site, "") - before <= most, site.log[-12:]


def test_a_key_that_is_held_down_leaves_pictures_out(site: Site, open_page: Any) -> None:
    page = open_page(site)
    wait_for(page, "grid")
    site.delay = 0.1
    before = count_requests(site, "image")
    page.evaluate(
        """() => { for (let i = 0; i < 14; i++)
        document.body.dispatchEvent(
            new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true })); }"""
    )
    wait_for(page, 'galaxy="14"')
    assert "row=14&" in page.url
    assert count_requests(site, "image") - before <= 4  # of the first and the last


def test_columns_of_several_chunks_are_joined(
    store: Path, ds: xr.Dataset, tmp_path: Path, open_page: Any
) -> None:
    path = tmp_path / "gz3d.zarr"
    shutil.copytree(store, path)
    group = zarr.open_group(path, mode="r+")
    for name in ("subject", "zooniverse_subject_id", "ra", "classifications"):
        old = group[name]
        values, dims = old[:], old.metadata.dimension_names
        new = group.create_array(
            name,
            shape=old.shape,
            chunks=(5, *old.shape[1:]),
            dtype=old.dtype,
            compressors=ZstdCodec(level=1, checksum=True),
            dimension_names=dims,
            overwrite=True,
        )
        new[:] = values
    root = json.loads((path / "zarr.json").read_text())
    for name in ("subject", "zooniverse_subject_id", "ra", "classifications"):
        document = json.loads((path / name / "zarr.json").read_text())
        root["consolidated_metadata"]["metadata"][name] = document
    (path / "zarr.json").write_text(json.dumps(root))
    with serve(Site({"page": STATIC, "gz3d.zarr": path})) as site:
        page = open_page(site, "#row=16")
        assert page.inner_text("#name") == f"MaNGA {ds['subject'].values[16]}"
        facts = page.inner_text("#facts")
        assert str(ds["zooniverse_subject_id"].values[16]) in facts
        assert f"{ds['ra'].values[16]:.5f}°" in facts
        assert f"center {ds['classifications_drawn'].values[16, 0]} of " in facts


def test_page_fits_a_phone(site: Site, open_page: Any) -> None:
    page = open_page(site)
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        back = "getComputedStyle(document.documentElement).backgroundColor"
        assert (
            page.evaluate(back)
            == {"dark": "rgb(16, 19, 26)", "light": "rgb(246, 247, 250)"}[scheme]
        )
    page.locator("#grid button").last.click()
    assert page.locator("#stage").bounding_box()["y"] < 300
