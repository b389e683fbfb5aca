"""Imports between sub-packages go downwards only."""

from __future__ import annotations

import ast
import importlib
import pydoc
import re
from graphlib import TopologicalSorter
from pathlib import Path

import gz3d_zarr

ROOT = Path(gz3d_zarr.__file__).parent
BASE = {"errors", "locations", "progress"}
ALLOWED = {
    "errors": set(),
    "locations": {"errors"},
    "progress": {"errors"},
    "datamodel": {"errors"},
    "sources": {*BASE, "datamodel"},
    "storage": {*BASE, "datamodel"},
    # Marks and clusters are other groups of the store that a Dataset was opened from.
    "analysis": {*BASE, "datamodel", "backends", "viewer"},
    "simulation": {*BASE, "datamodel"},
    "backends": {*BASE, "datamodel", "sources", "storage"},
    "viewer": {*BASE, "datamodel", "storage", "backends"},
    "pipeline": {*BASE, "datamodel", "sources", "storage", "backends"},
    "recipes": {*BASE, "datamodel", "analysis"},
    "export": {*BASE, "datamodel", "storage", "backends", "pipeline", "analysis"},
}
"""What each part of the package may import; entry points may import everything."""
ENTRY_POINTS = {"__init__", "__main__", "cli", "demo"}
MOST_LINES = 400
MOST_FLOORS = 7


def find_imports(path: Path) -> set[str]:
    """Dotted names of our own modules that a module imports anywhere, also for type checking."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gz3d_zarr"):
            module = (node.module or "").removeprefix("gz3d_zarr").removeprefix(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".strip(".").replace(".", "/")
                is_module = (ROOT / f"{inner}.py").exists() or (ROOT / inner).is_dir()
                found.add(inner.replace("/", ".") if is_module else module or "__init__")
        elif isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.startswith("gz3d_z")}
    return found - {""}


def find_modules() -> dict[str, set[str]]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): find_imports(path)
        for path in sorted(ROOT.rglob("*.py"))
    }


def test_arrows_between_packages_go_downwards() -> None:
    wrong = []
    for module, imports in find_modules().items():
        part = module.partition(".")[0]
        if part in ENTRY_POINTS:
            continue
        for other in sorted({name.partition(".")[0] for name in imports} - {part}):
            if other not in ALLOWED[part]:
                wrong.append(f"{module} imports {other}")
    assert not wrong


def test_there_is_no_circle_and_few_floors() -> None:
    modules = find_modules()
    graph = {
        module: imports & set(modules)
        for module, imports in modules.items()
        if module.partition(".")[0] not in ENTRY_POINTS
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError
    floors: dict[str, int] = {}
    for part in TopologicalSorter(ALLOWED).static_order():
        floors[part] = 1 + max((floors[other] for other in ALLOWED[part]), default=-1)
    assert max(floors.values()) < MOST_FLOORS


def test_modules_are_short_and_stand_in_their_packages() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in ROOT.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > MOST_LINES
    }
    assert not long
    assert {path.stem for path in ROOT.glob("*.py")} == ENTRY_POINTS - {"cli"} | {
        "errors",
        "locations",
        "progress",
        "recipes",
    }


def test_help_shows_public_names_and_names_public_modules() -> None:
    """Python lists every file under PACKAGE CONTENTS: the text above it says which are public."""
    text = pydoc.render_doc(gz3d_zarr, renderer=pydoc.plaintext)
    sections = dict(re.findall(r"^([A-Z ]+)\n((?:    .*\n|\n)+)", text, re.MULTILINE))
    shown = re.findall(
        r"^    (?:class )?(\w+)\(", sections["FUNCTIONS"] + sections["CLASSES"], re.M
    )
    assert {*shown, "__version__"} == {*gz3d_zarr.__all__}
    assert "DATA" not in sections
    modules = re.findall(r"^    - ``([\w.]+)``", sections["DESCRIPTION"], re.MULTILINE)
    assert len(modules) == 5
    for name in modules:
        assert importlib.import_module(name).__doc__
    documented = (ROOT.parent / "docs" / "reference" / "api.md").read_text()
    for name in re.findall(r"^    (\w+)\(", sections["FUNCTIONS"], re.MULTILINE):
        assert f"autofunction:: gz3d_zarr.{name}\n" in documented
