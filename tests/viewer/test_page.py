"""What the page shows of a galaxy: what the store has, pixel by pixel."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from page_server import Site, serve
from pages import SOURCES, STATIC, expected_opacity, read_canvas, wait_for

import gz3d_zarr
from gz3d_zarr.analysis.palette import BUNDLE_COLOR, CLASS_COLORS, CLASS_DASHES, EDGE_COLOR
from gz3d_zarr.analysis.plot_rings import read_rings
from gz3d_zarr.analysis.sky_grids import bundle_hexagon
from gz3d_zarr.analysis.store_groups import find_annotations
from gz3d_zarr.datamodel.arrays import make_thumbnail
from gz3d_zarr.datamodel.wcs import image_wcs

CLASSES = ("center", "star", "spiral", "bar")


def open_arrays(store: Path) -> xr.Dataset:
    return gz3d_zarr.open_store(store, chunks=None)


def check_canvases(page: Any, ds: xr.Dataset, row: int) -> None:
    """Picture and masks, with threshold 0, equal the arrays of a row."""
    picture = read_canvas(page, "#picture")
    np.testing.assert_array_equal(picture[..., :3], ds["image"].values[row])
    assert (picture[..., 3] == 255).all()
    for i, name in enumerate(CLASSES):
        counts = ds["segmentation"].values[row, i]
        opacity = read_canvas(page, f"#mask-{name}")[..., 3]
        np.testing.assert_array_equal(opacity, expected_opacity(counts, 0), name)


@pytest.mark.parametrize("codec", ["portable", "compact"])
def test_canvas_equals_store(codec: str, store: Path, compact_store: Path, open_page: Any) -> None:
    path = store if codec == "portable" else compact_store
    ds = open_arrays(path)
    ok = np.flatnonzero(ds["status"].values == 0)
    with serve(Site({"page": STATIC, "gz3d.zarr": path})) as site:
        page = open_page(site, f"#row={ok[0]}&more=0")
        for row in (ok[0], ok[-1]):  # a full shard, and the last one
            page.evaluate("row => location.hash = `row=${row}&more=0`", int(row))
            wait_for(page, f'galaxy="{row}"')
            check_canvases(page, ds, row)
        wait_for(page, "grid")
        thumbnail = read_canvas(page, f'#grid button[data-row="{ok[0]}"] canvas')
        expected = make_thumbnail(ds["image"].values[ok[0]])
        np.testing.assert_array_equal(thumbnail[..., :3], expected)
        assert not page.failures


@pytest.mark.long
@pytest.mark.parametrize("codec", ["portable", "compact"])
def test_canvas_equals_reference(
    codec: str, reference: Path, client: Client, tmp_path: Path, open_page: Any, request: Any
) -> None:
    if codec == "portable":
        path = request.getfixturevalue("reference_store")
    else:
        path = tmp_path / "gz3d.zarr"
        gz3d_zarr.build(reference, path, client, codec=codec)
    ds = open_arrays(path)
    with serve(Site({"page": STATIC, "gz3d.zarr": path})) as site:
        page = open_page(site, "#row=8&more=0&paths=1")
        check_canvases(page, ds, 8)
        wait_for(page, 'marks="8"')
        assert page.inner_text("#layer-note").endswith("spiral (17 paths) equals the mask.")
        page.keyboard.press("ArrowRight")
        wait_for(page, 'galaxy="9"')
        check_canvases(page, ds, 9)


REDRAW = """async ([texts, cls]) => {
    const { parseMarks, redraw } = await import("/src/redraw.js");
    return texts.map(text => Array.from(redraw(parseMarks(text), cls)).join(","));
}"""


@pytest.mark.long
def test_masks_are_drawn_again_from_paths(store: Path, module_page: Any) -> None:
    check_redrawn(store, module_page)


@pytest.mark.long
def test_reference_masks_are_drawn_again(reference_store: Path, module_page: Any) -> None:
    check_redrawn(reference_store, module_page)


def check_redrawn(store: Path, page: Any) -> None:
    texts = xr.open_zarr(store, group="marks", chunks=None)["annotations"].values.tolist()
    ds = open_arrays(store)
    for cls in ("spiral", "bar"):
        stored = ds["segmentation"].sel({"class": cls}).values
        assert stored.any()
        for start in range(0, len(texts), 8):
            drawn = page.evaluate(REDRAW, [texts[start : start + 8], cls])
            masks = np.array([text.split(",") for text in drawn], np.uint8).reshape(-1, 525, 525)
            np.testing.assert_array_equal(masks, stored[start : start + 8])


@pytest.mark.long
def test_threshold_layers_and_areas(store: Path, site: Site, open_page: Any) -> None:
    ds = open_arrays(store)
    counts = ds["segmentation"].values
    row = int(np.argmax((counts[:, 2] > 3).sum((1, 2))))
    page = open_page(site, f"#row={row}")
    wait_for(page, f'galaxy="{row}"')
    for threshold in (3, 6):
        page.evaluate(
            """n => { const slider = document.querySelector("#threshold");
            slider.value = n; slider.dispatchEvent(new Event("input")); }""",
            threshold,
        )
        opacity = read_canvas(page, "#mask-spiral")[..., 3]
        expected = expected_opacity(counts[row, 2], threshold)
        np.testing.assert_array_equal(opacity, expected)
        area = ds.gz3d.area("spiral", threshold=threshold).values[row]
        assert page.inner_text("#area-spiral") == f"{area:.1f} arcsec²"
    lines = read_canvas(page, "#lines")
    page.check("text=contours")
    assert not read_canvas(page, "#mask-spiral").any()
    assert (read_canvas(page, "#lines") != lines).any()
    page.check("text=both")
    page.uncheck("#show-spiral")
    assert not read_canvas(page, "#mask-spiral").any()
    assert read_canvas(page, "#mask-center").any()
    assert {"mode=both", "show=center,star,bar"} <= set(page.url.partition("#")[2].split("&"))
    for box in ("#show-paths", "#show-rings"):
        before = read_canvas(page, "#lines")
        page.check(box)
        page.wait_for_timeout(300)
        assert (read_canvas(page, "#lines") != before).any(), box
    before = read_canvas(page, "#lines")
    page.uncheck("#show-bundle")
    assert (read_canvas(page, "#lines") != before).any()


@pytest.mark.long
@pytest.mark.parametrize("cls", ["center", "star"])
def test_rings_are_around_the_clusters(cls: str, store: Path, site: Site, open_page: Any) -> None:
    ds = open_arrays(store)
    number = {"center": "number_galaxy_centers", "star": "number_foreground_stars"}[cls]
    row = int(np.flatnonzero(ds[number].values > 0)[-1])  # after all others' clusters
    rows = ds.isel(subject=[row])
    rings = read_rings(find_annotations(rows), [cls], 1)[0]
    page = open_page(site, f"#row={row}&show={cls}&hexagon=0")
    wait_for(page, f'marks="{row}"')
    before = read_canvas(page, "#lines")
    page.check("#show-rings")
    page.wait_for_selector("#layer-note:empty", state="attached")
    page.wait_for_timeout(300)
    changed = (read_canvas(page, "#lines") != before).any(2)
    zoom = len(changed) / 525
    near = np.zeros(changed.shape, bool)
    y, x = np.indices(changed.shape)
    for ring in rings:
        outline = (ring.outline(5.0) + 0.5) * zoom
        assert changed[tuple(outline.astype(int).T[::-1])].mean() > 0.8  # dashes have an edge
        for u, v in outline:
            near |= np.hypot(x - u, y - v) < 5
    assert len(rings) > 0
    assert not changed[~near].any()


@pytest.mark.long
def test_counts_and_position_under_the_pointer(store: Path, site: Site, open_page: Any) -> None:
    ds = open_arrays(store)
    row = int(np.flatnonzero(ds["status"].values == 0)[1])
    page = open_page(site, f"#row={row}")
    box = page.locator("#stage").bounding_box()
    for x, y in ((262, 262), (40, 500), (511, 17)):
        page.mouse.move(
            box["x"] + (x + 0.5) / 525 * box["width"], box["y"] + (y + 0.5) / 525 * box["height"]
        )
        text = page.inner_text("#readout")
        assert text.startswith(f"x {x}, y {y}; ")
        found = [int(n) for n in re.findall(r"(?:center|star|spiral|bar) (\d+)", text)]
        assert found == ds["segmentation"].values[row, :, y, x].tolist()
        ra, dec = (float(n) for n in re.findall(r"(?:RA|Dec) (-?[\d.]+)°", text))
        wcs = image_wcs(*(float(ds[name].values[row]) for name in ("ra", "dec", "scale")))
        np.testing.assert_allclose([ra, dec], wcs.wcs_pix2world([[x, y]], 0)[0], atol=6e-6)


@pytest.mark.long
def test_the_next_galaxy_has_its_own_counts_under_the_pointer(
    store: Path, site: Site, open_page: Any
) -> None:
    page = open_page(site, "#row=0")
    page.hover("#stage")
    first = page.inner_text("#readout")
    page.keyboard.press("ArrowRight")
    wait_for(page, 'galaxy="1"')
    text = page.inner_text("#readout")
    counts = open_arrays(store)["segmentation"].values[1, :, 262, 262].tolist()
    assert [int(n) for n in re.findall(r"(?:center|star|spiral|bar) (\d+)", text)] == counts
    assert re.search("RA [^;]*", text)[0] != re.search("RA [^;]*", first)[0]


@pytest.mark.long
def test_facts_links_and_the_python_line(store: Path, site: Site, open_page: Any) -> None:
    ds = open_arrays(store)
    row = int(np.flatnonzero(ds["total_classifications"].values > 0)[0])
    page = open_page(site, f"#row={row}")
    facts = page.inner_text("#facts")
    votes, total = ds["spiral_votes"].values[row], ds["total_classifications"].values[row]
    assert f"{votes} of {total} ({round(100 * votes / total)} %)" in facts
    asked, drawn = ds["classifications"].values[row], ds["classifications_drawn"].values[row]
    assert f"center {drawn[0]} of {asked[0]}" in facts
    links = page.eval_on_selector_all("#links a", "links => links.map(a => [a.href, a.rel])")
    ra, dec = ds["ra"].values[row], ds["dec"].values[row]
    assert any(f"ra={ra:.6f}&dec={dec:.6f}" in href for href, _ in links)
    assert links[-1][0] == f"https://dr17.sdss.org/marvin/galaxy/{ds['subject'].values[row]}/"
    assert {rel for _, rel in links} == {"noopener noreferrer"}
    line = page.input_value("#python").replace(f"{site.url}/gz3d.zarr/", str(store))
    scope: dict[str, Any] = {}
    exec(line, scope)
    assert scope["ds"]["subject"].values.tolist() == [ds["subject"].values[row]]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-python")
    page.wait_for_selector("text=The Python line is copied.")
    assert page.evaluate("navigator.clipboard.readText()") == page.input_value("#python")


@pytest.mark.long
def test_download_is_a_png(site: Site, open_page: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    page = open_page(site)
    with page.expect_download() as waiting:
        page.click("#png")
    assert re.fullmatch(r"gz3d_\d+\.png", waiting.value.suggested_filename)
    with image.open(waiting.value.path()) as picture:
        assert picture.size == (1050, 1090)
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels[:1050].any()
    assert (pixels[1050:] > 200).any()  # the line of text


def test_page_has_the_colors_of_the_plots(site: Site, open_page: Any, module_page: Any) -> None:
    page = open_page(site, wait="listed")
    for name, color in CLASS_COLORS.items():
        style = f"getComputedStyle(document.documentElement).getPropertyValue('--{name}')"
        assert page.evaluate(style) == color
    palette = module_page.evaluate("import('/src/palette.js').then(module => ({...module}))")
    assert palette["CLASS_COLORS"] == dict(CLASS_COLORS)
    assert palette["BUNDLE_COLOR"] == BUNDLE_COLOR
    assert palette["EDGE_COLOR"] == EDGE_COLOR
    assert palette["CLASS_DASHES"] == {name: list(d) for name, d in CLASS_DASHES.items()}


def test_hashes_are_those_of_the_standards(module_page: Any) -> None:
    hashes = module_page.evaluate(
        """async () => {
        const { xxh64 } = await import("/src/xxh64.js");
        const { crc32c } = await import("/src/crc32c.js");
        const bytes = text => new TextEncoder().encode(text);
        const count = Uint8Array.from({ length: 101 }, (_, i) => i);
        return [xxh64(bytes("")), xxh64(bytes("a")), xxh64(bytes("abc")), xxh64(count),
                crc32c(bytes("123456789"))].map(hash => hash.toString(16));
    }"""
    )
    # Of the reference implementation; the last is the check value of CRC-32C in RFC 3720.
    assert hashes == [
        "ef46db3751d8e999",
        "d24ec4f1a98c6e5b",
        "44bc2cf5ad770999",
        "e99038495f85381e",
        "e3069283",
    ]


def test_bundle_is_that_of_the_plots(store: Path, module_page: Any) -> None:
    script = """async ([fibers, scale]) => {
        const { bundleCorners } = await import("/src/wcs.js");
        return bundleCorners(fibers, scale);
    }"""
    ds = open_arrays(store)
    ok = np.flatnonzero(ds["status"].values == 0)
    for row in {int(ds["ifu_design_size"].values[row]): int(row) for row in ok}.values():
        inputs = [int(ds["ifu_design_size"].values[row]), float(ds["scale"].values[row])]
        expected = bundle_hexagon(ds.isel(subject=row))
        np.testing.assert_allclose(module_page.evaluate(script, inputs), expected)
    assert module_page.evaluate(script, [8, 1e-4]) == []


def test_outlines_enclose_the_pixels_of_a_mask(module_page: Any) -> None:
    script = """async pixels => {
        const { traceOutlines } = await import("/src/outline.js");
        const counts = new Uint8Array(525 * 525);
        for (const [x, y] of pixels) counts[y * 525 + x] = 5;
        return traceOutlines(counts, 4);
    }"""
    rng = np.random.default_rng(1)
    pixels = {(int(x), int(y)) for x, y in rng.integers(0, 14, (90, 2))} | {(524, 524), (523, 523)}
    outlines = [np.reshape(line, (-1, 2)) for line in module_page.evaluate(script, [*pixels])]
    x, y = (np.concatenate([line[:, i] for line in outlines]) for i in (0, 1))
    after = [np.roll(line, -1, 0) for line in outlines]
    u, v = (np.concatenate([line[:, i] for line in after]) for i in (0, 1))
    assert np.sum(x * v - u * y) / 2 == len(pixels)
    assert ((x == u) ^ (y == v)).all()  # along edges of pixels only


def test_sources_are_short_and_the_bundle_is_small() -> None:
    long = {p.name: n for p in SOURCES.glob("*.js") if (n := len(p.read_text().splitlines())) > 400}
    assert not long
    assert (STATIC / "app.js").stat().st_size < 80_000
    html = (STATIC / "index.html").read_text()
    assert "script-src 'self'" in html
    assert "unsafe" not in html
    for name in ("app.js", "style.css"):  # no browser takes an old one for that of this page
        digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()
        assert f'"{name}?{digest[:12]}"' in html
    assert not re.search(r"<script(?! src)|<style| style=| on[a-z]+=", html)
    assert {p.name for p in STATIC.iterdir()} == {
        "index.html", "app.js", "style.css", "icon.svg", "LICENSES.txt"
    }  # fmt: skip
