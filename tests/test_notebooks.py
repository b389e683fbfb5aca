"""Tutorials: what is committed of them, and their cells, which run from top to bottom."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import dask
import matplotlib.pyplot as plt
import numpy as np
import pytest
from distributed import Client
from object_stores import close_sessions
from PIL import Image

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "tutorials"
NAMES = ("analysis", "cloud", "manga", "quickstart", "training")
KIB = 1024
PRIVATE = re.compile(
    r"(?<![\w:/.])/(tmp|home|root|work|Users|var|usr)/|site-packages|0x[0-9a-f]{6}"
)
"""Paths of a machine, and addresses in its memory."""


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return found


def code_cells(name: str) -> list[dict[str, Any]]:
    return [cell for cell in read(name)["cells"] if cell["cell_type"] == "code"]


def texts(cell: dict[str, Any]) -> list[str]:
    """What a reader sees below a cell, except pictures."""
    found = []
    for output in cell["outputs"]:
        data = output.get("data", {})
        found += [output.get("text", [])] + [v for k, v in data.items() if k != "image/png"]
    return ["".join(text) for text in found]


def test_there_are_no_others() -> None:
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb"))) == NAMES
    page = (FOLDER / "index.md").read_text()
    listed = page.partition("```{toctree}")[2].partition("```")[0].split()
    assert sorted(set(listed) & set(NAMES)) == list(NAMES)
    assert all(f"]({name}.ipynb)" in page for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_one_run(name: str) -> None:
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell["outputs"]) for cell in cells) >= 4
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds <= {"stream", "display_data", "execute_result"}  # no error
    streams = {output.get("name") for cell in cells for output in cell["outputs"]}
    assert streams <= {"stdout", None}  # no warning


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_small_and_have_alternative_text(name: str) -> None:
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 600 * KIB
    seen = 0
    for cell in code_cells(name):
        pictures = [o for o in cell["outputs"] if "image/png" in o.get("data", {})]
        if not pictures:
            continue
        (picture,) = pictures  # as a cell has one text
        alt = picture["metadata"]["image/png"]["alt"]
        assert alt == cell["metadata"]["mystnb"]["image"]["alt"]
        assert len(alt.split()) > 8
        data = base64.b64decode(picture["data"]["image/png"])
        assert len(data) < 120 * KIB
        with Image.open(io.BytesIO(data)) as image:
            assert image.width <= 640
            assert not image.info  # no software, no date
        seen += 1
    assert seen >= 2


@pytest.mark.parametrize("name", NAMES)
def test_nothing_tells_of_the_machine(name: str) -> None:
    for cell in read(name)["cells"]:
        for text in ["".join(cell["source"]), *(texts(cell) if "outputs" in cell else [])]:
            assert not PRIVATE.search(text), text
            assert set(re.findall(r"127\.0\.0\.1:(\d+)", text)) <= {"0", "8000"}


def test_cells_of_pictures_are_those_with_alternative_text() -> None:
    for name in NAMES:
        for cell in code_cells(name):
            shows = any("image/png" in output.get("data", {}) for output in cell["outputs"])
            assert shows == ("mystnb" in cell["metadata"]), (name, cell["id"])


def numbers(name: str, pattern: str) -> list[float]:
    """Numbers of the one place where the committed outputs match: the answers that readers see."""
    everything = "\n".join(text for cell in code_cells(name) for text in texts(cell))
    found = re.findall(pattern, everything)
    assert len(found) == 1, found
    return [float(number) for number in np.atleast_1d(found[0])]


def run(name: str, **parameters: Any) -> dict[str, Any]:
    """Names that a notebook leaves behind; parameters replace those of its cell of that tag."""
    names: dict[str, Any] = {}
    here = Path.cwd()
    try:
        for cell in code_cells(name):
            exec("".join(cell["source"]), names)
            if "parameters" in cell["metadata"].get("tags", []):
                assert set(parameters) <= set(names)
                names.update(parameters)
    finally:  # done already, unless a cell failed
        os.chdir(here)
        for end in (
            lambda: names["client"].close(),
            lambda: names["cluster"].close(),
            lambda: names["moto"].stop(),
            lambda: names["folder"].cleanup(),
        ):
            try:
                end()
            except KeyError:
                continue
    return names


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without a display, in a folder that stands for the clone; what is left there is seen."""
    here, scratch, temporary = (tmp_path / name for name in ("here", "dask", "temporary"))
    for folder in (here, scratch, temporary):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(scratch / "torch"))  # torch's own
    plt.switch_backend("agg")
    with dask.config.set({"temporary-directory": str(scratch)}), plt.rc_context():
        yield
    plt.close("all")
    assert Path.cwd() == here
    assert list(here.iterdir()) == []
    assert list(temporary.iterdir()) == []


def draw() -> int:
    """Draw what a notebook would show; how many figures that were."""
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    return len(plt.get_fignums())


def test_quickstart(client: Client) -> None:
    with client.as_current():
        names = run("quickstart")
    assert names["report"].ok == 24
    assert names["arms"].shape == (525, 525)
    mean, error = numbers("quickstart", r"Mean area of arms: (\d+) ± (\d+) square arcsec")
    (naive,) = numbers("quickstart", r"nobody was asked about: (\d+)")
    assert names["area"].mean().item() == pytest.approx(mean, abs=0.5)
    assert names["error"].item() == pytest.approx(error, abs=0.5)
    assert names["naive"].mean().item() == pytest.approx(naive, abs=0.5)
    assert naive < 0.7 * mean
    # What the last section says in words.
    words = "".join("".join(cell["source"]) for cell in read("quickstart")["cells"])
    assert f"{mean:.0f} ± {error:.0f} square arcsec" in words
    assert f"you get {naive:.0f}" in words
    assert draw() == 2


def test_manga(client: Client) -> None:
    pytest.importorskip("reproject")
    pytest.importorskip("scipy")
    with client.as_current():
        names = run("manga")
    enough = names["enough"]
    assert enough.sum() >= 4
    assert (names["inside_number"][enough] >= names["BEAM"]).all()
    assert (names["contrast"][enough] > 1).all()
    assert names["contrast"][enough][-1] - 2 * names["contrast_error"][enough][-1] > 1
    assert not (names["arms"] & names["other"]).any()
    assert names["flux"].shape == names["spaxels"]["segmentation"].shape[1:]
    committed = numbers("manga", r"(\d+) spaxels are in the arms, and (\d+) with Marvin's masks")
    assert [names["arms"].sum(), names["shifted"].sum()] == committed
    # Marvin takes counts from 0.35 arcsec west and 0.15 north: its arms lie east and south.
    assert names["east_shift"] == pytest.approx(0.35, abs=0.1)
    assert names["south_shift"] == pytest.approx(0.15, abs=0.1)
    assert draw() == 3


def test_training(client: Client) -> None:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    try:
        with client.as_current(), torch.random.fork_rng():
            names = run("training", SUBJECTS=20, EPOCHS=2)
    finally:
        torch.set_num_threads(threads)
    assert names["losses"][-1] < names["losses"][0]
    assert not names["common"]
    assert set(names["train_rows"]).isdisjoint(names["test_rows"])
    assert names["predicted"].shape == names["test_masks"].shape
    assert len(names["each"]) == len(names["test_rows"])
    (reached, error) = numbers("training", r"overlap with drawn masks is ([\d.]+) ± ([\d.]+)\.\n")
    (baseline,) = numbers("training", r"That of the baseline is ([\d.]+)\.\n")
    assert reached - 5 * error > baseline
    assert draw() == 2


def test_cloud() -> None:
    try:
        names = run("cloud")
    finally:
        close_sessions()
    assert names["copied"].copied == names["copied"].objects
    assert not {"key", "secret"} & set(names["READER"])
    assert names["answer"].status == 200
    assert 2 <= names["opening"] <= 3
    assert 0 < names["mean"].max() <= 1
    assert names["client"].status == "closed"
    assert len(names["workers"]) <= 2
    # Results are sums of a shard, not its masks.
    assert sum(task["nbytes"] for task in names["stream"].data) < names["masks"] * 10
    assert draw() == 2


def test_analysis(client: Client) -> None:
    with client.as_current():
        names = run("analysis", SUBJECTS=36, MINIMUM=3)
    assert names["mean"].attrs["subjects"] == names["spirals"].sizes["subject"]
    assert names["table"]["number"].sum() == names["table"].sizes["subject"]
    assert (names["number"] >= 3).all()
    assert (names["error"] > 0).all()
    for profile, spread in names["profiles"].values():
        assert (spread[profile.values > 0.05] > 0).all()
    counted = sum(profile.attrs["subjects"] for profile, _ in names["profiles"].values())
    assert counted == names["spirals"].sizes["subject"]
    assert -1 <= names["measured"] <= 1
    assert draw() == 3


@pytest.fixture(scope="module")
def execute() -> ModuleType:
    """The script that keeps outputs."""
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_changes_from_run_to_run_is_left_out(execute: ModuleType) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 3, 250)).save(buffer, "png", dpi=(80, 80))
    picture = base64.b64encode(buffer.getvalue()).decode()

    def notebook(count: int, port: int) -> dict[str, Any]:
        html = f'<table id="table{port}7">'
        data = {"text/plain": f"<X at 0x7f{port}>", "text/html": html, "image/png": picture}
        shown = {"output_type": "execute_result", "execution_count": count, "data": data}
        said = {"output_type": "stream", "name": "stdout", "text": f"http://127.0.0.1:{port}/a\nb"}
        cell = {
            "cell_type": "code",
            "metadata": {"execution": {"time": port}, "mystnb": {"image": {"alt": "A square."}}},
            "execution_count": count,
            "outputs": [shown, said],
        }
        prose = {"cell_type": "markdown", "metadata": {}}
        return {"metadata": {"language_info": {"version": f"3.{port}"}}, "cells": [prose, cell]}

    one, other = (execute.normalize(notebook(*pair)) for pair in ((3, 12345), (9, 54321)))
    assert one == other
    shown, said = one["cells"][1]["outputs"]
    assert said["text"] == ["http://127.0.0.1:8000/a\n", "b"]
    assert shown["metadata"] == {"image/png": {"alt": "A square."}}
    assert shown["execution_count"] == one["cells"][1]["execution_count"] == 1
    with Image.open(io.BytesIO(base64.b64decode(shown["data"]["image/png"]))) as image:
        color = np.asarray(image)[0, 0]
        assert not image.info
    np.testing.assert_allclose(color, (255, 3, 250), atol=8)
    assert color[0] == 255  # white stays white


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_notebook_that_leaves_a_file_is_refused(execute: ModuleType, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = [nbformat.v4.new_code_cell("print(6 * 7)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "one.ipynb")
    (cell,) = execute.execute(tmp_path / "one.ipynb")["cells"]
    assert [output["text"] for output in cell["outputs"]] == [["42\n"]]
    cells.append(nbformat.v4.new_code_cell("open('left', 'w').close()"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "two.ipynb")
    with pytest.raises(RuntimeError, match="two.ipynb leaves left in its folder"):
        execute.execute(tmp_path / "two.ipynb")


@pytest.mark.parametrize("name", NAMES)
def test_committed_notebooks_are_normalized(
    name: str, execute: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another zlib would give other bytes of the same picture.
    monkeypatch.setattr(execute, "shrink", lambda picture: picture)
    notebook = read(name)
    again = execute.normalize(json.loads(json.dumps(notebook)))
    assert again == notebook
    execute.write(tmp_path / "again.ipynb", notebook)
    assert (tmp_path / "again.ipynb").read_bytes() == (FOLDER / f"{name}.ipynb").read_bytes()
