"""What the page refuses, each with one sentence; and hostile stores and links, which do nothing."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from page_server import Site, serve
from pages import STATIC, wait_for

pytestmark = pytest.mark.long

ROOT = "gz3d.zarr/zarr.json"
SHARD = "gz3d.zarr/image/c/0/0/0/0"
DAMAGED = "the store is damaged, or was replaced"
FLIPPED = f"has a wrong checksum: {DAMAGED}|cannot be unpacked: {DAMAGED}"
HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"


def with_root(edit: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    """An edit of a root's JSON."""

    def change(data: bytes) -> bytes:
        root = json.loads(data)
        edit(root)
        return json.dumps(root).encode()

    return change


def with_array(name: str, **fields: Any) -> Callable[[bytes], bytes]:
    return with_root(lambda root: root["consolidated_metadata"]["metadata"][name].update(fields))


def flipped(data: bytes) -> bytes:
    """One bit of the first chunk is wrong."""
    return data[:500] + bytes([data[500] ^ 4]) + data[501:]


def bomb(size: int, blocks: int) -> bytes:
    """A zstd frame that says it has `size` bytes, of blocks that repeat a byte 131,071 times."""
    head = struct.pack("<IBI", 0xFD2FB528, 0b10100100, size)
    block = (131_071 << 3 | 0b010).to_bytes(3, "little") + b"\0"
    last = (131_071 << 3 | 0b011).to_bytes(3, "little") + b"\0"
    return head + block * (blocks - 1) + last + b"\0\0\0\0"


WHOLE_STORE = {
    "another zarr": (
        ROOT,
        lambda data: b'{"zarr_format": 3, "node_type": "group", "attributes": {}}',
        "is not a store of Galaxy Zoo: 3D",
    ),
    "not json": (ROOT, lambda data: b"<html>", "is not JSON: this is not a Zarr 3 store"),
    "nothing": (ROOT, lambda data: None, "There is no Zarr store at http://127.0.0.1"),
    "another version": (
        ROOT,
        with_root(lambda root: root["attributes"].update(schema_version=3)),
        "has version 3 of the schema, and this page shows version 2",
    ),
    "too many subjects": (
        ROOT,
        with_root(lambda root: root["attributes"].update(subjects=10**9)),
        "says that it has 1000000000 subjects, expected a number from 1 to 262144",
    ),
    "huge document": (ROOT, lambda data: data + b" " * 2**23, "has more than 8388608 bytes"),
}
LIST = {
    "huge column": (
        ROOT,
        with_array("ra", shape=[10**9]),
        "The array ra of the store has the shape [1000000000]",
    ),
    "huge chunk": (
        ROOT,
        with_array("ra", chunk_grid={"name": "regular", "configuration": {"chunk_shape": [2**30]}}),
        "The array ra of the store has the chunks [1073741824]",
    ),
    "bomb": (
        "gz3d.zarr/status/c/0",
        lambda data: bomb(2**32 - 1, 5),
        "unpacks to 4294967295 bytes",
    ),
    "bomb that lies": (
        "gz3d.zarr/status/c/0",
        lambda data: bomb(32_768, 20_000),
        "Chunk 0 of status cannot be unpacked|Chunk 0 of status has a wrong checksum",
    ),
    "not zstd": ("gz3d.zarr/ra/c/0", lambda data: bytes(100), "Chunk 0 of ra is not a zstd frame"),
    "lost column": ("gz3d.zarr/dec/c/0", lambda data: None, "dec/c/0 is missing in the store"),
}
GALAXY = {
    "flipped byte": (SHARD, flipped, FLIPPED),
    "truncated": (
        SHARD,
        lambda data: data[:-600],
        "Chunk 0/0/0/0 of image is in a shard whose index has a wrong checksum",
    ),
    "almost empty": (SHARD, lambda data: data[:30], "is shorter than it must be"),
    "lost": (SHARD, lambda data: None, "image/c/0/0/0/0 is missing in the store"),
    "wrong type": (
        ROOT,
        with_array("image", data_type="uint16"),
        'The array image of the store has the type "uint16", expected uint8',
    ),
    "wrong shape": (
        ROOT,
        with_array("image", shape=[18, 525, 525, 4]),
        "The array image of the store has the shape [18,525,525,4]",
    ),
    "wrong codec": (
        ROOT,
        with_array("segmentation", codecs=[{"name": "bytes"}, {"name": "blosc"}]),
        "The array segmentation of the store has the codecs",
    ),
    "lost masks": (
        "gz3d.zarr/segmentation/c/0/0/0/0",
        lambda data: None,
        "segmentation/c/0/0/0/0 is missing in the store",
    ),
}


def check_sentence(text: str, expected: str) -> None:
    assert any(part in text for part in expected.split("|")), text
    assert text.endswith(".")
    assert "\n" not in text


@pytest.mark.parametrize("case", WHOLE_STORE)
def test_what_is_no_store_is_refused(case: str, site: Site, open_page: Any) -> None:
    key, edit, expected = WHOLE_STORE[case]
    site.edits[key] = edit
    page = open_page(site, wait="failed")
    check_sentence(page.inner_text("#trouble"), expected)
    assert not page.is_visible("#page")
    assert sum(name.startswith("gz3d.zarr") for name, _, _ in site.log) == 1


@pytest.mark.parametrize("case", LIST)
def test_a_damaged_list_is_told(case: str, site: Site, open_page: Any) -> None:
    key, edit, expected = LIST[case]
    site.edits[key] = edit
    page = open_page(site, wait="failed")
    check_sentence(page.inner_text("#message"), expected)
    if "lost" in case:
        page.click("#next")
        wait_for(page, 'galaxy="1"')
        check_sentence(page.inner_text("#message"), expected)  # it still is so


@pytest.mark.parametrize("case", GALAXY)
def test_a_damaged_galaxy_is_told_and_others_shown(case: str, site: Site, open_page: Any) -> None:
    key, edit, expected = GALAXY[case]
    site.edits[key] = edit
    page = open_page(site, "#row=0")
    check_sentence(page.inner_text("#notice"), expected)
    if key != ROOT:
        page.keyboard.press("End")
        page.evaluate("location.hash = 'row=5'")
        wait_for(page, 'galaxy="5"')
        assert not page.is_visible("#notice")


def test_a_damaged_thumbnail_and_marks_are_told(site: Site, open_page: Any) -> None:
    site.edits["gz3d.zarr/thumbnail/image/c/0/0/0/0"] = flipped
    site.edits["gz3d.zarr/marks/annotations/c/0"] = flipped
    page = open_page(site, "#row=0&paths=1")
    wait_for(page, "grid")
    check_sentence(page.inner_text("#grid-note"), FLIPPED)
    wait_for(page, 'marks="0"')
    check_sentence(page.inner_text("#layer-note"), FLIPPED)


def test_errors_of_a_server_are_told(site: Site, open_page: Any) -> None:
    for status, expected in {
        403: f"127.0.0.1:{site.port} refuses image/c/0/0/0/0 (403): it is not public, or missing",
        503: f"127.0.0.1:{site.port} answered 503 for image/c/0/0/0/0, expected 200 or 206: try",
    }.items():
        site.statuses[SHARD] = status
        page = open_page(site)
        check_sentence(page.inner_text("#notice"), expected)


def test_a_server_without_ranges_is_refused(site: Site, open_page: Any) -> None:
    site.ranges = False
    page = open_page(site)
    expected = "knows no Range requests, so that each picture would be a download of about 22 MB"
    check_sentence(page.inner_text("#notice"), f"127.0.0.1:{site.port} {expected}")
    assert page.inner_text("#count") == "18 galaxies"  # the list and its filters work


def test_other_hosts_are_asked_about_and_errors_told(
    site: Site, store: Path, open_page: Any
) -> None:
    with serve(Site({"gz3d.zarr": store}, cors=True)) as other:
        address = f"{other.url}/gz3d.zarr"
        page = open_page(site, store=address, wait="question")
        assert address in page.inner_text("#start-text")
        assert other.log == []
        page.click("#decline")
        assert page.inner_text("#start-text") == "No store is open."
        assert other.log == []
        page = open_page(site, store=address, wait="question")
        page.click("#accept")
        wait_for(page, "ready")
        assert page.inner_text("#address") == f"{address}/"
        other.cors = False
        page = open_page(site, store=address, wait="question")
        page.click("#accept")
        wait_for(page, "failed")
        check_sentence(page.inner_text("#trouble"), "does not allow this page to read it (CORS)")
    page = open_page(site, store=address, wait="question")
    page.click("#accept")
    wait_for(page, "failed")
    check_sentence(page.inner_text("#trouble"), "does not answer: the address may be wrong")


def test_being_offline_is_told(site: Site, open_page: Any) -> None:
    page = open_page(site)
    wait_for(page, "grid")
    page.context.set_offline(True)
    page.keyboard.press("ArrowRight")
    wait_for(page, 'galaxy="1"')
    check_sentence(page.inner_text("#notice"), "This computer is offline")
    page.context.set_offline(False)
    page.keyboard.press("ArrowLeft")
    wait_for(page, 'galaxy="0"')
    page.keyboard.press("ArrowRight")
    wait_for(page, 'galaxy="1"')
    assert not page.is_visible("#notice")


def test_a_replaced_store_and_a_redirect_are_told(site: Site, store: Path, open_page: Any) -> None:
    page = open_page(site)
    site.edits[ROOT] = lambda data: data.replace(b'"generation": "', b'"generation": "0', 1)
    page.keyboard.press("ArrowRight")
    wait_for(page, 'galaxy="1"')
    assert page.inner_text("#message") == ""  # it was opened less than a minute ago
    page.evaluate("() => { const late = Date.now() + 61000; Date.now = () => late; }")
    page.keyboard.press("ArrowRight")
    wait_for(page, "failed")
    check_sentence(page.inner_text("#message"), "The store was replaced since this page was opened")
    page.keyboard.press("ArrowRight")
    check_sentence(page.inner_text("#message"), "The store was replaced since this page was opened")
    page.reload()
    wait_for(page, "ready")
    assert sum(key == "gz3d.zarr/ra/c/0" for key, _, _ in site.log) == 2  # not of a cache
    edit = site.edits.pop(ROOT)
    first = []  # the root as it is, and then another one
    site.edits[ROOT] = lambda data: edit(data) if first else first.append(1) or data
    page = open_page(site)
    check_sentence(page.inner_text("#message"), "The store was replaced since this page was opened")
    del site.edits[ROOT]
    with serve(Site({"gz3d.zarr": store}, cors=True)) as other:
        site.redirects[ROOT] = f"{other.url}/{ROOT}"
        page = open_page(site, wait="failed")
        expected = f"redirects to 127.0.0.1:{other.port}: open the store at that address"
        check_sentence(page.inner_text("#trouble"), expected)


ADDRESSES = {
    "javascript:window.hacked=1": "is not an https:// address",
    "data:text/html,x": "is not an https:// address",
    "file:///etc/passwd": "does not let a page read a store on a disk: run gz3d-zarr view",
    "http://example.com/gz3d.zarr": "is not an https:// address",
    "https://user:secret@example.com/gz3d.zarr": "has a user name or password in it",
    "https://example.com/gz3d.zarr?key=secret": "example.com/gz3d.zarr?… has a query, which",
    "s3://bucket/gz3d.zarr": "A browser cannot read s3://bucket/gz3d.zarr",
    "s3://key:secret@bucket/gz3d.zarr": "A browser cannot read s3://…@bucket/gz3d.zarr",
    "https://key:secret@": "is not an address",
    "//key:secret@example.com/g": "has a user name or password in it",
    "\\\\key:secret@example.com/g": "has a user name or password in it",
    "//example.com/gz3d.zarr": "is not an https:// address",
    "java%0Ascript:window.hacked=1": "is not an https:// address",
    "https://exam%00ple.com/": "is not an address",
    "x" * 20_000 + "://y": "is not an https:// address",
    "\u202ehttps://x": "There is no Zarr store at",
    "https://": "is not an address, expected one such as https://host/gz3d.zarr",
}


def test_addresses_that_are_not_opened(site: Site, open_page: Any) -> None:
    page = open_page(site, store=None, wait="start")
    for address, expected in ADDRESSES.items():
        page.goto(f"{site.url}/page/index.html?{'store=' + address.replace('?', '%3F')}")
        wait_for(page, "failed")
        text = page.inner_text("#trouble")
        check_sentence(text, expected)
        assert "secret" not in text
        assert len(text) < 500
        assert "\u202e" not in text
    page.fill("#store-address", "ftp://x")
    page.keyboard.press("Enter")
    check_sentence(page.inner_text("#trouble"), "ftp://x is not an https:// address")
    page.fill("#store-address", f"{site.url}/gz3d.zarr")
    page.keyboard.press("Enter")
    wait_for(page, "listed")
    assert page.evaluate("window.hacked") is None


def test_a_page_of_one_store_shows_only_that(
    site: Site, store: Path, tmp_path: Path, open_page: Any
) -> None:
    own = tmp_path / "page"
    shutil.copytree(STATIC, own)
    html = (own / "index.html").read_text()
    name = '<meta name="gz3d-store" content="'
    source = '<meta name="gz3d-source" content="'
    html = html.replace(name, f"{name}../gz3d.zarr").replace(source, f"{source}/data/gz3d.zarr")
    (own / "index.html").write_text(html)
    with serve(Site({"page": own, "gz3d.zarr": store})) as owner:
        page = open_page(owner, store=None)
        assert page.inner_text("#address") == "/data/gz3d.zarr"
        assert 'open_store("/data/gz3d.zarr")' in page.input_value("#python")
        for other in (f"{site.url}/gz3d.zarr", "javascript:window.hacked=1"):
            page = open_page(owner, store=other)
            assert page.inner_text("#address") == "/data/gz3d.zarr"
            check_sentence(page.inner_text("#message"), "This copy of the page shows its own store")
        owner.edits[ROOT] = lambda data: None
        page = open_page(owner, store=None, wait="failed")
        check_sentence(page.inner_text("#trouble"), "There is no Zarr store at /data/gz3d.zarr (")


def test_hostile_texts_do_nothing(store: Path, tmp_path: Path, open_page: Any) -> None:
    path = tmp_path / "hostile.zarr"
    shutil.copytree(store, path)
    group = zarr.open_group(path, mode="r+")
    number = group["subject"].shape[0]
    group["subject"][:] = np.array([HOSTILE] * number, np.dtypes.StringDType())
    group["status"][:] = np.array([0, 4, 9] * (number // 3), np.uint8)
    reasons = np.array([HOSTILE + "é" * 3000] * number, np.dtypes.StringDType())
    group["catalogue/reason"][:] = reasons
    group["clusters/number_galaxy_centers"][0] = 10**6
    marks = json.dumps({"spiral": {"spiral_paths": ["[[[1,2],[1e999,4]]]"]}})
    group["marks/annotations"][:] = np.array([marks] * number, np.dtypes.StringDType())
    with serve(Site({"page": STATIC, "gz3d.zarr": path})) as site:
        asked = []
        page = open_page(site, f"#row=0&paths=1&manga={HOSTILE}&mode={HOSTILE}&show={HOSTILE}")
        page.on("request", lambda request: asked.append(request.url))
        url = page.url
        assert HOSTILE in page.inner_text("#name")
        assert page.locator("#links a").count() == 2  # the id is no MaNGA id
        check_sentence(page.inner_text("#layer-note"), "The marks of this subject cannot be read")
        page.uncheck("#show-paths")
        page.check("#show-rings")
        page.wait_for_selector("#layer-note:has-text('has 1000000 clusters of center')")
        page.evaluate("location.hash = 'row=1'")
        page.wait_for_selector("#notice:has-text('onerror')")
        assert len(page.inner_text("#notice")) < 800
        page.evaluate("location.hash = 'row=2'")
        page.wait_for_selector("#notice:has-text('status of its file is unknown')")
        page.fill("#query", HOSTILE)
        page.keyboard.press("Enter")
        assert "cannot be searched" in page.inner_text("#message")
        assert page.evaluate("window.hacked") is None
        assert page.locator("img, body script").count() == 0
        assert page.url.partition("#")[0] == url.partition("#")[0]
        assert {address.startswith(site.url) for address in asked} == {True}
        assert not page.failures
