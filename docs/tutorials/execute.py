"""Execute the tutorials, and keep their outputs: ``python docs/tutorials/execute.py [NAME ...]``.

Without names, all of them. It needs the extras ``docs``, ``test`` and ``torch``. Each runs in a
kernel and a temporary folder of its own. What changes from run to run is made the same, so that a
difference in a commit is a difference in a result.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
TIMEOUT = 600
"""Seconds for a cell."""
PICTURE = "image/png"
LEVELS = 32
"""Of each color in a committed picture: half the bytes, and the eye hardly sees a difference."""
REPLACEMENTS = (
    (re.compile(r"(127\.0\.0\.1|localhost):\d+"), r"\1:8000"),
    (re.compile(r" at 0x[0-9a-f]+"), ""),
    (re.compile(r'id="table\d+[^"]*"'), 'id="table"'),
)
"""Patterns of texts that change from run to run: ports, addresses in memory, ids in HTML."""


def execute(path: Path) -> dict[str, Any]:
    """Execute a notebook in a new kernel.

    Returns
    -------
    dict
        The notebook with its outputs, normalized.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        A cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    # Figures are shown below cells, whatever the environment asks for.
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    with tempfile.TemporaryDirectory() as folder:
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": folder}})
        client.execute(env=environment)
        left = os.listdir(folder)
    if left:
        raise RuntimeError(f"{path.name} leaves {', '.join(left)} in its folder")
    plain: dict[str, Any] = json.loads(nbformat.writes(notebook))
    return normalize(plain)


def normalize(notebook: dict[str, Any]) -> dict[str, Any]:
    """Leave out what changes from run to run, and give pictures the texts of their cells.

    Parameters
    ----------
    notebook : dict
        As in its file. The alternative text of a cell's picture is in the cell's metadata,
        ``mystnb.image.alt``.

    Returns
    -------
    dict
        The same one, changed.
    """
    notebook["metadata"]["language_info"] = {"name": "python"}
    number = 0
    for cell in notebook["cells"]:
        cell["metadata"].pop("execution", None)
        if cell["cell_type"] != "code":
            continue
        number += 1
        cell["execution_count"] = number
        alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt")
        for output in cell["outputs"]:
            _normalize_output(output, alt, number)
    return notebook


def _normalize_output(output: dict[str, Any], alt: str | None, number: int) -> None:
    if "execution_count" in output:
        output["execution_count"] = number
    if "text" in output:
        output["text"] = _same_text(output["text"])
    data = output.get("data", {})
    for kind, value in data.items():
        if kind.startswith("text/"):
            data[kind] = _same_text(value)
    if PICTURE in data:
        data[PICTURE] = shrink(data[PICTURE])
        data["text/plain"] = ["<Figure>"]
        output["metadata"] = {PICTURE: {"alt": alt}} if alt else {}


def _same_text(text: str | list[str]) -> list[str]:
    whole = text if isinstance(text, str) else "".join(text)
    for pattern, replacement in REPLACEMENTS:
        whole = pattern.sub(replacement, whole)
    return whole.splitlines(keepends=True)


def shrink(picture: str) -> str:
    """A PNG in base64 with fewer colors, and without what says how it was made."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    steps = 255 / (LEVELS - 1)
    rounded = [round(round(value / steps) * steps) for value in range(256)]
    buffer = io.BytesIO()
    image.point(rounded * 3).save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def write(path: Path, notebook: dict[str, Any]) -> None:
    """Write a notebook as Jupyter does, so that both change few lines."""
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(f"{text}\n", encoding="utf-8")


def main(names: list[str]) -> None:
    """Execute the notebooks of these names, or all."""
    warnings.filterwarnings("ignore", module="zmq|jupyter_client")
    paths = [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        write(path, execute(path))
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
