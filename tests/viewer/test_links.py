"""The state in a link to neuroglancer fits the arrays of a store."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import gz3d_zarr
from gz3d_zarr.analysis.palette import CLASS_COLORS
from gz3d_zarr.viewer.links import COLORS


def read_state(link: str) -> Any:
    fragment = urlsplit(link).fragment
    assert re.fullmatch(r"![\w.%~/-]+", fragment)  # chats and mails cut a link at other characters
    return json.loads(unquote(fragment.removeprefix("!")))


def test_the_state_fits_the_arrays_of_a_store(store: Path) -> None:
    link = gz3d_zarr.neuroglancer_link("https://host/a%20folder/gz3d.zarr/", row=5)
    assert link.startswith("https://neuroglancer-demo.appspot.com/#!%7B")
    state = read_state(link)
    shapes = {}
    for layer in state["layers"]:
        array = layer["name"]
        metadata = json.loads((store / array / "zarr.json").read_text())
        names, shape = metadata["dimension_names"], metadata["shape"]
        assert layer["source"]["url"] == f"https://host/a%20folder/gz3d.zarr/{array}/|zarr3:"
        found = [*layer["source"]["transform"]["outputDimensions"]]
        assert [name.rstrip("^") for name in found] == names
        # A shader asks for each index of the dimension that is marked, and no other.
        (channel,) = (i for i, name in enumerate(found) if name.endswith("^"))
        asked = re.findall(r"getDataValue\((\d)\)", layer["shader"])
        assert sorted(asked) == [str(i) for i in range(shape[channel])]
        shapes |= dict(zip(names, shape, strict=True))
    assert [layer["name"] for layer in state["layers"]] == ["image", "segmentation"]
    assert [*state["dimensions"]] == ["x", "y", "subject"]
    assert state["displayDimensions"] == ["x", "y"]
    assert state["position"] == [shapes["x"] / 2, shapes["y"] / 2, 5.5]


def test_masks_have_the_colors_of_figures() -> None:
    assert {**COLORS} == {**CLASS_COLORS}


@pytest.mark.parametrize(
    ("url", "row", "message"),
    [
        ("s3://bucket/gz3d.zarr", 0, "is no web address, which neuroglancer needs"),
        ("s3://user:word@bucket/gz3d.zarr", 0, "holds a password"),
        ("https://user:word@host/gz3d.zarr", 0, "holds a password"),
        ("https://host/gz3d.zarr?X-Amz-Signature=1", 0, "a query"),
        ("https://host/gz3d.zarr", -1, "row is -1, expected 0 or more"),
        ("https://host/gz3d.zarr", 1.5, "row is 1.5, expected a whole number"),
    ],
)
def test_what_makes_no_link_is_refused(url: str, row: Any, message: str) -> None:
    with pytest.raises(gz3d_zarr.UsageError, match=message) as refused:
        gz3d_zarr.neuroglancer_link(url, row)
    assert "word@" not in str(refused.value)
