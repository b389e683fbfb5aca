"""Notebooks run from top to bottom, and are kept without outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import matplotlib.pyplot as plt
import numpy as np
import pytest
from distributed import Client
from object_stores import close_sessions, fresh_bucket, run_moto

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def cells(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    return found


def run(name: str, **parameters: Any) -> dict[str, Any]:
    """Names that a notebook leaves behind; parameters replace those of its cell of that tag."""
    names: dict[str, Any] = {}
    try:
        for cell in cells(name):
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
                if "parameters" in cell["metadata"].get("tags", []):
                    assert set(parameters) <= set(names)
                    names.update(parameters)
    finally:
        if "client" in names:  # closed already, unless a cell failed
            names["client"].close()
    return names


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without a display, and with all files in a folder of the test."""
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        yield
    plt.close("all")


def draw() -> int:
    """Draw what a notebook would show; how many figures that were."""
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    return len(plt.get_fignums())


@pytest.mark.parametrize("name", ["quickstart", "cloud", "analysis"])
def test_notebooks_are_kept_without_outputs(name: str) -> None:
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    # Figures are shown in a notebook only where pyplot was imported.
    assert any("import matplotlib.pyplot" in "".join(cell["source"]) for cell in code)


def test_there_are_no_others() -> None:
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    assert names == ["analysis", "cloud", "quickstart"]


def test_quickstart(client: Client) -> None:
    with client.as_current():
        names = run("quickstart")
    assert names["report"].ok == 12
    assert names["marked"].shape == (12, 4)
    assert names["near"].sizes["subject"] > 1
    titles = [text.get_text() for text in names["figure"].axes[0].texts]
    assert sum("(14" in title for title in titles) == 4
    image, masks, *bars = names["portrait"].axes
    assert image.images
    assert masks.images
    assert "spiral" in [bar.get_title() for bar in bars]
    assert draw() == 2


def test_cloud() -> None:
    try:
        with run_moto() as moto, fresh_bucket(moto) as owner:
            owner.allow_everybody_to_read()
            reader = {**owner.storage_options, "anon": True}
            names = run(
                "cloud",
                STORE_URL=f"{owner.url}/gz3d.zarr",
                WRITE_OPTIONS=owner.storage_options,
                READ_OPTIONS={
                    name: reader[name] for name in reader if name not in {"key", "secret"}
                },
            )
            close_sessions()
    finally:
        close_sessions()
    assert not {"key", "secret"} & set(names["READ_OPTIONS"])
    assert names["copied"].copied == names["copied"].objects
    assert names["row"].sizes["y"] == 525
    assert 0 < names["mean"].max() <= 1
    assert names["client"].status == "closed"
    assert draw() == 1


@pytest.mark.filterwarnings("ignore:left out of .*, as volunteers were not asked")
def test_analysis() -> None:
    names = run("analysis", SUBJECTS=16)
    assert names["mean"].dims == ("class", "y", "x")
    assert names["table"]["number"].sum() == names["table"].sizes["subject"]
    profiles = names["profiles"].values()
    assert sum(profile.attrs["subjects"] for profile in profiles) == names["mean"].attrs["subjects"]
    for profile in profiles:
        is_asked = (profile["asked_subjects"] > 0).values
        np.testing.assert_array_equal(np.isfinite(profile).all("radius"), is_asked)
    assert names["client"].status == "closed"
    assert draw() == 3
