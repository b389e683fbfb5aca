"""Directive ``data-model``: tables of all arrays of a store, from a store that is built for it."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import zarr
from dask.distributed import Client
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import gz3d_zarr
from gz3d_zarr.datamodel.origins import ATTRIBUTES, ORIGINS
from gz3d_zarr.datamodel.sentinels import SENTINELS
from gz3d_zarr.simulation import simulate_archive

SIZES = {"subject": "subject", "class": "class: 4", "channel": "channel: 3", "y": "y: 525"} | {
    "x": "x: 525", "y_thumbnail": "y_thumbnail: 75", "x_thumbnail": "x_thumbnail: 75"
}  # fmt: skip


@functools.cache
def read_model() -> dict[str, Any]:
    """Arrays of a small store by path, and the attributes of its root under an empty name."""
    with tempfile.TemporaryDirectory() as folder:
        archive, store = Path(folder, "archive"), Path(folder, "gz3d.zarr")
        simulate_archive(2, archive)
        with Client(processes=False, n_workers=1, dashboard_address="127.0.0.1:0") as client:
            gz3d_zarr.build(archive, store, client)
        root = zarr.open_group(store, mode="r")
        members = {
            name: (
                "string" if array.dtype.kind in "OT" else str(array.dtype),
                array.metadata.dimension_names,
                dict(array.attrs),
                array.chunks,
                array.shards,
            )
            for name, array in root.members(max_depth=None)
            if isinstance(array, zarr.Array)
        }
        return {**members, "": dict(root.attrs)}


def describe(attrs: dict[str, Any], name: str) -> str:
    """Meaning of an array in one cell."""
    words = [str(attrs.get("long_name", "labels"))]
    if name in SENTINELS:  # said below, for all of them
        words[0] = words[0].replace(", -1 where unknown", "")
    if "flag_meanings" in attrs:
        values = attrs.get("flag_values", attrs.get("flag_masks", ()))
        flags = zip(values, str(attrs["flag_meanings"]).split(), strict=False)
        words.append(", ".join(f"{value}: {meaning}" for value, meaning in flags))
    elif "comment" in attrs:
        words.append(str(attrs["comment"]))
    if name in SENTINELS:
        sentinels = ", ".join(f"{value:g}" for value in SENTINELS[name])
        words.append(f"not data: {sentinels}")
    return "; ".join(words)


class DataModelDirective(SphinxDirective):
    """Table of the arrays of one group, or with the argument ``attributes`` of the root's."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the table in Markdown, and parse it."""
        group = self.arguments[0]
        model = read_model()
        if group == "attributes":
            rows = [("attribute", "type", "meaning")]
            rows += [
                (f"`{name}`", type(value).__name__, ATTRIBUTES[name])
                for name, value in sorted(model[""].items())
            ]
        else:
            prefix = "" if group == "root" else f"{group}/"
            rows = [("array", "type (dimensions), unit", "from", "meaning")]
            for name, found in sorted(model.items()):
                folder, _, last = name.rpartition("/")
                if not name or folder != prefix.rstrip("/"):
                    continue
                dtype, dims, attrs, _, _ = found
                shape = ", ".join(SIZES.get(dim, dim) for dim in dims)
                unit = f", {attrs['units']}" if attrs.get("units", "1") != "1" else ""
                kind = f"{dtype} ({shape}){unit}"
                rows.append((f"`{last}`", kind, ORIGINS[name], describe(attrs, name)))
        cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        lines.insert(1, "|" + " --- |" * len(cells[0]))
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("data-model", DataModelDirective)
    return {"parallel_read_safe": True}
