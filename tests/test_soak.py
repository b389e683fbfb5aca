"""The soak of `benchmarks/soak.py`: a short one passes, and its model finds what is wrong."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="there are no benchmarks here"),
]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def model() -> Any:
    import soak_model

    return soak_model


@pytest.mark.skipif(sys.platform == "win32", reason="it kills by signals")
def test_short_soak_finds_nothing(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import soak

    folder = tmp_path_factory.mktemp("s")  # names of sockets have at most 107 characters
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    said: list[str] = []
    counts = soak.soak(
        3, lambda done: done < 5, 6, with_s3=False, by_processes=False, report=said.append
    )
    assert said == []
    assert counts["violations"] == 0
    assert counts["kills"] >= 1
    assert counts["verified"] >= 2
    assert not list(folder.glob("gz3d-soak-*"))


def test_soak_finds_pixels_of_another_subject(
    simulated: Path, store: Path, client: Client, tmp_path: Path, model: Any
) -> None:
    import soak_processes
    from files import subject_files

    import gz3d_zarr

    files = {int(p.name.split("_")[3].partition(".")[0]): p for p in subject_files(simulated)}
    dataset = gz3d_zarr.open_store(store).isel(subject=[3, 7])
    subjects = dataset["zooniverse_subject_id"].values.tolist()
    truth = {subject: soak_processes.read_truth(files[subject]) for subject in subjects}
    soak_processes.check_pictures(dataset, [0, 1], truth, changes=False)
    swapped = dataset.assign(image=dataset["image"].roll(subject=1))
    with pytest.raises(soak_processes.ViolationError, match="has other pixels than its file"):
        soak_processes.check_pictures(swapped, [1], truth, changes=False)


def test_model_tells_what_may_not_be(model: Any) -> None:
    files = {1: "ok", 2: "ok", 3: "corrupt"}
    rules = model.Rules(keeps_good=True)
    world = model.World(files, store={1: "ok", 3: "corrupt"})
    update = model.Step(model.Kind.UPDATE)

    def judge(step: Any, result: str, store: Any, pending: bool = False) -> list[str]:
        seen = model.Seen(store, pending, False)
        return list(model.judge(world, step, result, "a message", seen, rules))

    new = {1: "ok", 2: "ok", 3: "corrupt"}
    assert judge(update, "ended", new) == []
    assert judge(update, "killed", world.store, True) == []
    assert judge(update, "killed", new) == []
    assert "published" in judge(update, "ended", world.store)[0]
    assert "published" in judge(update, "ended", {**new, 1: "missing"})[0]
    assert "leaves" in judge(update, "ended", new, True)[0]
    assert "neither" in judge(update, "killed", {1: "ok", 2: "ok"}, True)[0]
    assert "gone" in judge(update, "killed", None, True)[0]
    assert "had to end" in judge(update, "stopped", world.store)[0]
    refused = replace(update, subjects=(2, 3))
    assert judge(refused, "stopped", world.store) == []
    assert "had to refuse" in judge(refused, "ended", new)[0]
    assert "changed" in judge(refused, "stopped", new)[0]
    overwrite = model.Step(model.Kind.OVERWRITE, subjects=(2, 3))
    assert "had to refuse" in judge(overwrite, "ended", {2: "ok", 3: "corrupt"})[0]
    allowed = replace(overwrite, options={"allow_loss": True})
    assert judge(allowed, "ended", {2: "ok", 3: "corrupt"}) == []


def test_steps_can_be_read_again(model: Any) -> None:
    step = model.Step(
        model.Kind.OVERWRITE, "disk", (1, 2), {"codec": "compact"}, model.Fault.KILL, 0.25, 2,
        reads=True,
    )  # fmt: skip
    assert model.Step.from_json(str(step)) == step
    edit = model.Step(model.Kind.EDIT, changes={3: "cut", 4: ""})
    assert model.Step.from_json(str(edit)) == edit
