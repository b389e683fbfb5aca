"""Every code block of the README and of the documentation runs, or says why it does not."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from astropy.table import Table
from click.testing import CliRunner
from distributed import Client
from object_stores import S3Server, close_sessions, run_moto

import gz3d_zarr
from gz3d_zarr.cli import main
from gz3d_zarr.datamodel.origins import ATTRIBUTES, ORIGINS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = {"python", "sh"}
DATA = {"json"}
WITHOUT_STORE = {"README.md", "docs/howto/build.md"}
"""Pages that build the store which others begin with."""
BY_CI = re.compile(r"python3 -m (pip|pytest)|\S*npm ")
"""Commands that .ci/run gives in fresh environments."""


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    why_not: str
    line: int


def read_blocks(page: Path) -> list[Block]:
    found = []
    pattern = re.compile(
        r"(?:^<!-- not run: (?P<why>[^\n]+?) -->\n)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
        re.MULTILINE | re.DOTALL,
    )
    text = page.read_text()
    for match in pattern.finditer(text):
        line = text[: match.start()].count("\n") + 1
        found.append(Block(match["language"], match["text"], match["why"] or "", line))
    return found


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_blocks_are_of_known_languages() -> None:
    assert len(PAGES) > 15
    unknown = [
        f"{name(page)}:{block.line} {block.language}"
        for page in PAGES
        for block in read_blocks(page)
        if block.language not in RUN | DATA
        and not block.why_not
        and not block.language.startswith("{")
    ]
    # A drawing of the tree in the developers' page is no code.
    assert [line for line in unknown if not line.startswith("docs/development")] == []


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with run_moto() as server:
        with server.client() as client:
            client.create_bucket(Bucket="bucket")
        yield server
    close_sessions()


@pytest.fixture
def here(
    tmp_path: Path, simulated: Path, monkeypatch: pytest.MonkeyPatch, client: Client
) -> Iterator[Path]:
    """The folder that the pages speak of."""
    shutil.copytree(simulated, tmp_path / "files", copy_function=os.link)
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    with client.as_current():
        yield tmp_path
    plt.close("all")


def add_store(folder: Path, store: Path) -> None:
    shutil.copytree(store, folder / "gz3d.zarr", copy_function=os.link)
    dataset = gz3d_zarr.open_store(store)
    ids = [str(label) for label in dataset.subject.values]
    (folder / "ids.txt").write_text("\n".join([*ids[:5], "1-999999"]))
    table = Table(
        {
            "mangaid": ids,
            "plateifu": [
                f"{8000 + i}-{size}01" for i, size in enumerate(dataset.ifu_design_size.values)
            ],
            "objra": dataset.ra.values,
            "objdec": dataset.dec.values,
            "ifura": dataset.ra.values,
            "ifudec": dataset.dec.values,
            "ifudesignsize": dataset.ifu_design_size.values,
        }
    )
    table.write(folder / "drpall.fits")


def add_profile(folder: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3.client() as client:  # what another page has built there
        found = client.list_objects_v2(Bucket="bucket").get("Contents", [])
        for item in found:
            client.delete_object(Bucket="bucket", Key=item["Key"])
    (folder / "aws").write_text(
        f"[profile me]\nregion = us-east-1\nendpoint_url = {s3.endpoint}\n"
        f"aws_access_key_id = {s3.key}\naws_secret_access_key = {s3.secret}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "aws"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)


def run_commands(text: str, where: str) -> None:
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or BY_CI.match(line):
            continue
        assert words[0] == "gz3d-zarr", f"{where}: {line}"
        result = CliRunner().invoke(main, words[1:])
        assert result.exit_code == 0, f"{where}: {line}\n{result.output}"


@pytest.mark.filterwarnings("ignore:left out of")
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")  # of to_zarr
@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.language in RUN for b in read_blocks(p))], ids=name
)
def test_blocks_run(
    page: Path,
    here: Path,
    store: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks = [b for b in read_blocks(page) if b.language in RUN and not b.why_not]
    whole = "\n".join(block.text for block in blocks)
    if re.search(r"^(from|import) torch|export\.torch", whole, re.MULTILINE):
        pytest.importorskip("torch")
    if "s3://" in whole:
        add_profile(here, request.getfixturevalue("s3"), monkeypatch)
    if name(page) in WITHOUT_STORE:
        (here / "ids.txt").write_text("\n".join(gz3d_zarr.open_store(store).subject.values[:3]))
    else:
        add_store(here, store)
    names = {"__name__": "__main__"}
    for block in blocks:
        where = f"{name(page)}:{block.line}"
        if block.language == "sh":
            run_commands(block.text, where)
        else:
            exec(compile(block.text, where, "exec"), names)


def test_every_array_has_an_origin(store: Path) -> None:
    arrays = {
        path.parent.relative_to(store).as_posix()
        for path in store.rglob("zarr.json")
        if path.parent != store and '"node_type":"array"' in path.read_text().replace(" ", "")
    }
    assert {*ORIGINS} == arrays


def test_every_attribute_of_the_root_has_a_meaning(store: Path) -> None:
    assert {*ATTRIBUTES} == {*json.loads((store / "zarr.json").read_text())["attributes"]}


def test_first_builds_of_the_archive_work(here: Path) -> None:
    """On local files; the cache is for those that are fetched."""
    page = ROOT / "docs" / "howto" / "build.md"
    (text,) = [block.text for block in read_blocks(page) if " dr17 " in block.text]
    run_commands(text.replace(" dr17 ", " files ").replace("50", "5"), name(page))
    sizes = [gz3d_zarr.open_store(here / s).sizes["subject"] for s in ("first.zarr", "gz3d.zarr")]
    assert sizes == [5, len(list((here / "files").glob("*.fits.gz")))]


def test_reference_of_commands_is_rendered(tmp_path: Path) -> None:
    """Sphinx does not warn where directives are shown as text."""
    for package in ("myst_parser", "sphinx_click"):
        pytest.importorskip(package)
    (tmp_path / "conf.py").write_text("extensions = ['myst_parser', 'sphinx_click']\n")
    text = (ROOT / "docs" / "reference" / "cli.md").read_text().replace("(api.md)", "(index.md)")
    (tmp_path / "index.md").write_text(text)
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", tmp_path, tmp_path / "out"]
    subprocess.run(command, check=True)
    html = (tmp_path / "out" / "index.html").read_text()
    assert 'id="cmdoption-gz3d-zarr-build-limit"' in html
    assert "<p>.. " not in html


def test_links_between_pages_lead_somewhere() -> None:
    dead = []
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text()):
            if not (page.parent / target).exists():
                dead.append(f"{name(page)}: {target}")
    assert dead == []


def test_version_is_the_same_everywhere() -> None:
    version = gz3d_zarr.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version


def test_pictures_of_pages_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"^```\{image\} (\S+)", page.read_text(), re.MULTILINE):
            assert (page.parent / target).is_file(), f"{name(page)}: {target}"
