"""Stores that were made to hang, mislead or attack the page: it stays quick, and says what is wrong."""

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
from test_page_refusals import check_sentence, with_array, with_root

from gz3d_zarr.storage.memory_store import MemoryStore
from gz3d_zarr.viewer.server import ViewServer

pytestmark = pytest.mark.long

ROOT = "gz3d.zarr/zarr.json"
STATUS = "gz3d.zarr/status/c/0"
RIGHT_TO_LEFT = "\u202e"
NAME = f"1-2{RIGHT_TO_LEFT}evil\u200b\n" + "x" * 50_000
SKIPPABLE = struct.pack("<II4s", 0x184D2A50, 4, b"skip")


def chunks(number: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": [number]}}


def without(data: bytes, bits: int) -> bytes:
    """The header of a frame with other flags."""
    return data[:4] + bytes([data[4] ^ bits]) + data[5:]


LIST: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "a request for each row": (
        ROOT,
        with_root(
            lambda root: (
                root["attributes"].update(subjects=2**18),
                root["consolidated_metadata"]["metadata"]["subject"].update(
                    shape=[2**18], chunk_grid=chunks(1)
                ),
            )
        ),
        "The array subject of the store has the chunks [1], expected at most 64 of 262144 rows",
    ),
    "shape of 2^53": (ROOT, with_array("scale", shape=[2**53]), "has the shape [9007199254740992]"),
    "negative": (ROOT, with_array("scale", chunk_grid=chunks(-1)), "has the chunks [-1]"),
    "deep": (
        ROOT,
        lambda data: data.replace(
            b'"data_type": "float64"', b'"data_type": ' + b"[" * 10**4 + b"]" * 10**4
        ),
        "The array scale of the store has the type [[[[[[",
    ),
    "words turned round": (
        ROOT,
        with_array("scale", data_type=f"x{RIGHT_TO_LEFT}y"),
        'The array scale of the store has the type "x�y", expected float64',
    ),
    "skippable frame": (STATUS, lambda data: SKIPPABLE + data, "Chunk 0 of status is not a zstd"),
    "frame behind": (STATUS, lambda data: data + SKIPPABLE, "Chunk 0 of status has a wrong check"),
    "two frames": (STATUS, lambda data: data + data, "Chunk 0 of status cannot be unpacked"),
    "dictionary": (STATUS, lambda data: without(data, 1), "is a zstd frame without a checksum or"),
    "no checksum": (STATUS, lambda data: without(data, 4), "is a zstd frame without a checksum or"),
}


@pytest.mark.parametrize("case", LIST)
def test_a_hostile_list_is_told_quickly(case: str, site: Site, open_page: Any) -> None:
    key, edit, expected = LIST[case]
    site.edits[key] = edit
    page = open_page(site, wait="failed")
    text = page.inner_text("#message")
    check_sentence(text, expected)
    assert RIGHT_TO_LEFT not in text
    assert len(text) < 700
    assert sum(name.startswith("gz3d.zarr") for name, _, _ in site.log) < 12


@pytest.mark.parametrize("subjects", [0, -1, 2**53, 1.5, "18", None])
def test_a_wrong_number_of_subjects_is_told(subjects: Any, site: Site, open_page: Any) -> None:
    site.edits[ROOT] = with_root(lambda root: root["attributes"].update(subjects=subjects))
    page = open_page(site, wait="failed")
    expected = f"says that it has {json.dumps(subjects)} subjects, expected a number from 1 to"
    check_sentence(page.inner_text("#trouble"), expected)


@pytest.fixture(scope="module")
def hostile(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with values that no survey has."""
    path = tmp_path_factory.mktemp("hostile") / "gz3d.zarr"
    shutil.copytree(store, path)
    group = zarr.open_group(path, mode="r+")
    number = group["subject"].shape[0]
    # The page reads the small arrays themselves.
    group["subject"][:] = np.array([NAME] * number, np.dtypes.StringDType())
    group["catalogue/reason"][:] = np.array([NAME] * number, np.dtypes.StringDType())
    group["status"][:] = np.array([0] * (number - 1) + [4], np.uint8)
    group["zooniverse_subject_id"][:] = 7
    group["ifu_design_size"][:] = -1
    group["spiral_votes"][:] = 2**31 - 1
    group["bar_votes"][:] = -(2**31)
    group["total_classifications"][:] = 1
    group["ra"][:] = [1e300, np.nan] * (number // 2)
    group["dec"][:] = [np.inf, -1e300] * (number // 2)
    group["scale"][:] = [1e-300, -5.0] * (number // 2)
    comb = [[i / 2, 524.6 if i % 2 else 0.3] for i in range(1000)]
    marks = [json.dumps({"spiral": {"spiral_paths": [cell] * copies}}) for cell, copies in (
        (json.dumps([comb]), 8),
        (json.dumps([comb]), 41),
        (json.dumps([comb * 2]), 1),
        ("[" * 10**5 + "]" * 10**5, 1),
        ("[[[NaN, 1]]]", 1),
        ("[[[1e308, -1e308], [-1e308, 1e308], [1e308, 1e308]]]", 1),
        ("x" * 2**22, 1),
    )]  # fmt: skip
    texts = (marks * number)[:number]
    group["marks/annotations"][:] = np.array(texts, np.dtypes.StringDType())
    return path


def test_absurd_values_are_shown_in_short(hostile: Path, open_page: Any) -> None:
    with serve(Site({"page": STATIC, "gz3d.zarr": hostile})) as site:
        page = open_page(site, "#row=3")
        wait_for(page, "grid")
        name = page.inner_text("#name")
        assert name.startswith("MaNGA 1-2�evil��xxx")
        assert len(name) < 220
        facts = page.inner_text("#facts")
        assert "unknown" in facts.partition("MaNGA bundle")[2].splitlines()[1]
        assert "unknown" in facts.partition("Votes for bar")[2].splitlines()[1]
        assert len(page.evaluate("document.body.innerText")) < 20_000
        assert page.locator("#links a").count() == 0
        page.keyboard.press("ArrowRight")  # ids that repeat: the row decides
        wait_for(page, 'galaxy="4"')
        assert "row=4&id=7" in page.url
        page.reload()
        wait_for(page, 'galaxy="4"')
        page.evaluate("location.hash = 'row=17'")
        page.wait_for_selector("#notice:has-text('the status of its file is invalid: 1-2�evil')")
        assert len(page.inner_text("#notice")) < 800
        assert not page.failures


MARKS = {
    0: "spiral (8 paths) differs from the mask",
    1: "they have more than 40000 points",
    2: "is not a path of at most 1000 points",
    3: "The marks of this subject cannot be read (",
    4: "is not valid JSON",
    5: "spiral (1 path)",
    6: "characters, expected at most 4194304",
}


def test_marks_that_would_take_for_ever(hostile: Path, open_page: Any) -> None:
    with serve(Site({"page": STATIC, "gz3d.zarr": hostile})) as site:
        page = open_page(site, "#row=0&paths=1")
        for row, expected in MARKS.items():
            page.evaluate("row => location.hash = `row=${row}&paths=1`", row)
            wait_for(page, f'marks="{row}"')
            text = page.inner_text("#layer-note")
            assert expected in text
            assert len(text) < 500
            assert page.is_visible("#picture")
        assert not page.failures


def test_one_subject_and_only_failures_are_shown(site: Site, open_page: Any) -> None:
    def one(root: Any) -> None:
        root["attributes"]["subjects"] = 1
        for array in root["consolidated_metadata"]["metadata"].values():
            if array.get("shape") and array["dimension_names"][0] == "subject":
                array["shape"][0] = 1

    site.edits[ROOT] = with_root(one)
    page = open_page(site)
    wait_for(page, "grid")
    assert page.inner_text("#pager") == "1 galaxy, page 1 of 1"
    assert page.locator("#grid button").count() == 1
    page.select_option("#status", "failed")
    page.wait_for_selector("#pager:has-text('No galaxy passes these filters.')")
    assert not page.failures


class FailingStore(MemoryStore):
    """A store whose server fails after its root was read."""

    def _get(self, key: str, limit: int | None) -> bytes:
        if key.startswith("image/c"):
            raise OSError(f"the disk of the server is full <b>{RIGHT_TO_LEFT}")
        return super()._get(key, limit)


def test_the_page_of_view_says_what_view_could_not_read(store: Path, browser: Any) -> None:
    objects = {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file()
    }
    with ViewServer(FailingStore("memory://g.zarr", objects=objects)) as server:
        page = browser.new_page()
        page.goto(f"{server.link}#row=0")
        wait_for(page, "ready")
        text = page.inner_text("#notice")
        check_sentence(text, "memory://g.zarr/image/c/0/0/0/0 cannot be read: the disk of the ser")
        assert RIGHT_TO_LEFT not in text
        assert page.inner_text("#address") == "memory://g.zarr"
        page.context.close()
