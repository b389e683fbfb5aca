"""No secret comes out of any command: not into what it prints, reports, raises, writes or logs."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from click.testing import CliRunner
from distributed import Client
from object_stores import S3Server, close_sessions, run_moto
from servers import serve

import gz3d_zarr
from gz3d_zarr import GZ3DError
from gz3d_zarr.cli import main
from gz3d_zarr.sources import http

pytestmark = pytest.mark.long
SECRET = "open-sesame-4711"
DEAD = "127.0.0.1:9"
COMMANDS: dict[str, tuple[str, ...]] = {
    "build": ("SOURCE", "STORE"),
    "plan": ("SOURCE", "STORE"),
    "info": ("STORE",),
    "verify": ("STORE",),
    "copy": ("STORE", "DEST"),
    "export fits": ("STORE", "DEST"),
    "export mmu": ("STORE", "DEST"),
    "export marks": ("STORE", "DEST"),
    "export table": ("STORE", "DEST"),
    "subset": ("STORE", "DEST", "--min-vote-fraction", "0"),
    "page": ("DEST", "--store", "STORE"),
    "plot": ("STORE", "1-1", "-o", "DEST"),
}
URLS = [
    f"https://me:{SECRET}@{DEAD}/a",
    f"https://{SECRET}@{DEAD}/a",
    f"https://me:se/{SECRET}@{DEAD}/a",
    f"http://{DEAD}/a?sig={SECRET}",
    f"http://{DEAD}/a#{SECRET}",
    f"http://{DEAD}/a;{SECRET}/b",
    f"s3://me:{SECRET}@bucket/a",
    f"s3://bucket/a#{SECRET}",
    f"zip://a::http://{DEAD}/b.zip#{SECRET}",
    f"{SECRET}::http://me:x@{DEAD}/a",
]
S3 = ["--endpoint-url", f"http://{DEAD}", "--storage-option", "key=who"]
S3 += ["--storage-option", f"secret={SECRET}", "--storage-option", f"token={SECRET}"]
STORE_OPTIONS = [
    S3,
    [*S3, "--store-backend", "obstore"],
    ["--storage-option", SECRET],
    ["--storage-option", f"{SECRET}="],
    ["--storage-option", f"secret:{SECRET}"],
    ["--storage-option", f"{SECRET}=1", "--endpoint-url", f"http://{DEAD}"],
    ["--storage-option", f"{SECRET}=1", "--store-backend", "obstore"],
    ["--storage-option", f"a={SECRET}", "--storage-option", f"a.{SECRET}=1"],
    ["--storage-option", f"client_kwargs={SECRET}", "--region", "here"],
    ["--storage-option", f"config_kwargs={SECRET}"],
    ["--storage-option", f"headers.Authorization={SECRET}"],
    ["--endpoint-url", f"http://me:{SECRET}@{DEAD}"],
    ["--endpoint-url", f"http://{DEAD}#{SECRET}"],
    ["--endpoint-url", SECRET],
]
SOURCE_OPTIONS = [
    ["--source-option", f"headers.Authorization={SECRET}"],
    ["--source-option", f"headers.A={SECRET}\nB"],
    ["--source-option", f"headers.{SECRET}\n=1"],
    ["--source-option", f"headers={SECRET}"],
    ["--source-option", SECRET],
    ["--source-option", f"{SECRET}=1"],
    ["--source-option", f"x={SECRET}"],
    *(["--catalogue", url] for url in URLS),
    *(["--ids", "-", "--table", url] for url in URLS),
]


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(http, "ATTEMPTS", 1)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    yield
    close_sessions()


def run(command: str, *arguments: object, **places: object) -> str:
    """What a command prints, and the traceback that a caller from Python would see."""
    words = [str(places.get(word, word)) for word in COMMANDS[command]]
    result = CliRunner().invoke(main, [*command.split(), *words, *map(str, arguments)], input="1\n")
    assert isinstance(result.exception, SystemExit | None), result.exception
    texts = [result.stdout, result.stderr]
    error: BaseException | None = result.exception
    while error is not None:
        texts += [str(error), repr(error)]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(texts)


def contents(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            yield data
            if data[:2] == b"\x1f\x8b":
                yield gzip.decompress(data)


@pytest.fixture
def texts(
    client: Client,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[list[str]]:
    """What commands gave; checked in the end, with all logs and all files."""
    caplog.set_level(logging.DEBUG, "distributed")
    monkeypatch.chdir(tmp_path)
    found: list[str] = []
    with client.as_current():
        yield found
    found += [caplog.text, *capfd.readouterr()]
    found += [data.decode("latin-1") for data in contents(tmp_path)]
    for worker in client.cluster.workers.values():
        found += [str(key) for key in worker.state.tasks]
    for text in found:
        where = text.find(SECRET)
        assert where < 0, text[max(0, where - 300) : where + 100]


def test_urls_with_secrets_are_refused_without_them(simulated: Path, texts: list[str]) -> None:
    good = {"SOURCE": simulated, "STORE": "g.zarr", "DEST": "dest"}
    for i, (command, url) in enumerate(itertools.product(COMMANDS, URLS)):
        if sum(divmod(i, len(URLS))) % 2:  # each URL with every other command
            continue
        for place in {*COMMANDS[command]} & {"SOURCE", "STORE", "DEST"}:
            if (command, place) != ("plot", "DEST"):  # a local file
                text = run(command, **{**good, place: url})
                assert "Error: " in text
                texts.append(text)


def test_urls_with_secrets_in_places_of_other_kinds(
    simulated: Path, store: Path, texts: list[str]
) -> None:
    for url in URLS:
        texts.append(run("plan", "--scheduler", url, SOURCE=simulated, STORE="g.zarr"))
        texts.append(run("export table", STORE=store, DEST=url))
        if "://" in url:
            texts.append(run("plot", STORE=store, DEST=url))
    assert all("Error: " in text for text in texts)


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_stores_with_secrets(
    simulated: Path, store: Path, texts: list[str], command: str
) -> None:
    for i, (options, where) in enumerate(
        itertools.product(STORE_OPTIONS, ("s3://bucket/g.zarr", "memory://g.zarr", str(store)))
    ):
        if "://" not in where and command == "build":
            continue
        if (i - [*COMMANDS].index(command)) % 4:  # the commands share the code: each has a part
            continue
        texts.append(run(command, *options, SOURCE=simulated, STORE=where, DEST=f"dest{i}"))
    if command in ("copy", "subset", "export fits", "export mmu", "export marks", "export table"):
        for pair in (f"secret={SECRET}", SECRET, f"{SECRET}=1"):
            options = ["--destination-option", pair]
            texts.append(run(command, *options, STORE=store, DEST="s3://bucket/dest"))
            texts.append(run(command, *options, STORE=store, DEST="local"))


@pytest.mark.parametrize("command", ["build", "plan", "verify"])
def test_options_of_sources_with_secrets(
    simulated: Path, store: Path, texts: list[str], command: str
) -> None:
    part = ["build", "plan", "verify"].index(command)
    pairs = [*itertools.product(SOURCE_OPTIONS, (f"http://{DEAD}/a/", simulated))]
    for options, source in pairs[part::3]:  # the commands share the code: each has a part
        if command == "verify":
            if "--ids" not in options:
                texts.append(run(command, "--source", source, *options, STORE=store))
        elif str(source) != str(simulated) or command == "plan":
            texts.append(run(command, *options, SOURCE=source, STORE="g.zarr"))


def test_commands_that_work_keep_secrets(
    simulated: Path, texts: list[str], client: Client, tmp_path: Path
) -> None:
    with run_moto() as s3, serve(simulated) as server:
        options = ["--endpoint-url", s3.endpoint, "--region", "us-east-1"]
        options += ["--storage-option", "key=who", "--storage-option", f"secret={SECRET}"]
        header = ["--source-option", f"headers.Authorization=Bearer {SECRET}"]
        places = {"SOURCE": server.url, "STORE": f"{s3.url}/g.zarr"}
        built = run("build", *options, *header, "--limit", 2, "--json", **places)
        assert json.loads(built.partition("\n}")[0] + "}")["ok"] == 2
        assert any(SECRET in str(asked) for asked in server.headers)
        texts += [built, run("plan", *options, *header, "--update", "--json", **places)]
        texts.append(run("verify", *options, *header, "--source", server.url, "--json", **places))
        texts += [run("info", *options, *more, **places) for more in ((), ("--json",))]
        for command in ("copy", "export fits", "export mmu", "export marks"):
            texts.append(run(command, *options, "--json", DEST=f"{command[-4:]}.x", **places))
        assert len([*(tmp_path / "fits.x").glob("*.fits.gz")]) == 2
        texts.append(run("plot", *options, DEST="x.png", **places))
        texts += read_by_python(s3, server.url, client)


def read_by_python(s3: S3Server, source: str, client: Client) -> list[str]:
    """What Python gives to a caller: reprs, reports, keys of tasks, and tracebacks."""
    options = {**s3.storage_options, "secret": SECRET}
    headers = {"headers": {"Authorization": f"Bearer {SECRET}"}}
    ds = gz3d_zarr.open_store(f"{s3.url}/g.zarr", storage_options=options)
    lazy = gz3d_zarr.open_store(f"{s3.url}/g.zarr", storage_options=options, chunks=None)
    plan = gz3d_zarr.plan(source, "h.zarr", client=client, source_options=headers)
    texts = [repr(ds), str(ds.encoding), repr(lazy.image.variable._data), repr(plan)]
    texts += [str(key) for key in ds.image.data.__dask_graph__()]
    for store, more in (
        (s3.url, {SECRET: 1}),
        ("s3://nobody/x", {}),
        (s3.url, {"session": SECRET}),
    ):
        try:
            gz3d_zarr.open_store(store, storage_options={**options, **more})
        except GZ3DError as error:
            texts += ["".join(traceback.format_exception(error)), repr(error.args)]
    assert len(texts) > 10
    return texts
