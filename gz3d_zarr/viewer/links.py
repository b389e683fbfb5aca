"""Links to viewers of others that read a store by its web address."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote as quote_url

from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.datamodel.subject import CLASSES, SIDE
from gz3d_zarr.errors import UsageError, quote
from gz3d_zarr.locations import absolute, is_http

NEUROGLANCER = "https://neuroglancer-demo.appspot.com/"
COLORS: Mapping[str, str] = {
    "center": "#f0e442",
    "star": "#e8601a",
    "spiral": "#80d0ff",
    "bar": "#00a878",
}
"""Of the classes; those of the figures."""
_DRAWN = ("spiral", "bar", "star", "center")
"""Each over those before it: bars lie on spirals, centers are the smallest."""
_CHANNELS = ("channel", "class")
"""Dimensions that a shader reads as a whole, which neuroglancer marks by ``^``."""
_PICTURE = """void main() {
  emitRGB(vec3(toNormalized(getDataValue(0)), toNormalized(getDataValue(1)),
               toNormalized(getDataValue(2))));
}
"""


def neuroglancer_link(url: str, row: int = 0) -> str:
    """Make a link that shows a public, portable store in neuroglancer.

    Nothing is read. The picture is drawn, and over it each pixel that more volunteers marked than
    the slider of the layer ``segmentation`` says. A compact store shows its masks only.

    Parameters
    ----------
    url : str
        Web address of the store. Its server must allow other origins and ranges.
    row : int
        Row of the subject that is shown first.

    Returns
    -------
    str
        An address with the state as its fragment.

    Raises
    ------
    UsageError
        `url` is no web address, or holds a secret, or `row` is negative.
    """
    check_type("url", url, str)
    row = check_type("row", row, int)
    address = absolute(url)
    if not is_http(url):
        raise UsageError(
            f"{quote(url)} is no web address, which neuroglancer needs: give one such as "
            "https://bucket.s3.amazonaws.com/gz3d.zarr"
        )
    if row < 0:
        raise UsageError(f"row is {row}, expected 0 or more")
    state = {
        "dimensions": {name: [1, ""] for name in ("x", "y", "subject")},
        "displayDimensions": ["x", "y"],
        "position": [SIDE / 2, SIDE / 2, row + 0.5],
        "crossSectionScale": 0.75,
        "layout": "xy",
        "showAxisLines": False,
        "layers": [
            _make_layer(address, "image", _PICTURE),
            _make_layer(address, "segmentation", _write_mask_shader()),
        ],
        "selectedLayer": {"layer": "segmentation", "visible": True},
    }
    return f"{NEUROGLANCER}#!{quote_url(json.dumps(state, separators=(',', ':')))}"


def _make_layer(url: str, array: str, shader: str) -> dict[str, Any]:
    dimensions = [f"{dim}^" if dim in _CHANNELS else dim for dim in BIG_ARRAYS[array].dims]
    return {
        "name": array,
        "type": "image",
        "source": {
            "url": f"{url.rstrip('/')}/{array}/|zarr3:",
            "transform": {"outputDimensions": {name: [1, ""] for name in dimensions}},
        },
        "tab": "rendering",
        "codeVisible": False,
        "opacity": 1 if array == "image" else 0.5,
        "shader": shader,
    }


def _write_mask_shader() -> str:
    """A shader that fills each class with its color."""
    lines = ["#uicontrol int more_than slider(min=0, max=15, default=0)"]
    lines += [f'#uicontrol vec3 {name} color(default="{COLORS[name]}")' for name in COLORS]
    lines += ["void main() {", "  emitTransparent();"]
    lines += [
        f"  if (int(toRaw(getDataValue({CLASSES.index(name)}))) > more_than) emitRGB({name});"
        for name in _DRAWN
    ]
    return "\n".join([*lines, "}", ""])
