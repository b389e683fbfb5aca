"""Whatever options, lists and documents contain, nothing but a GZ3DError comes out."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from distributed import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import StopHereError, stop_after

import gz3d_zarr
from gz3d_zarr import GZ3DError, SourceError, UsageError
from gz3d_zarr.backends.store_info import read_info
from gz3d_zarr.cli import main
from gz3d_zarr.datamodel.layout import LayoutOptions
from gz3d_zarr.datamodel.option_fields import option_specs
from gz3d_zarr.datamodel.sealed_json import seal
from gz3d_zarr.export.fits import export_fits
from gz3d_zarr.export.marks import export_marks
from gz3d_zarr.export.mmu import export_mmu
from gz3d_zarr.sources.catalogue import read_sha1_list
from gz3d_zarr.sources.listing import list_source
from gz3d_zarr.sources.options import FetchOptions, SelectionOptions
from gz3d_zarr.storage.object_store import open_object_store

SECRET = "open-sesame-4711"
quick = settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
PLAN_OPTIONS = [
    name
    for group in (SelectionOptions, LayoutOptions, FetchOptions)
    for name in option_specs(group)
]
BUILD_OPTIONS = ["client", "scheduler", "workers", "max_memory", "storage_options", "on_error"]
BUILD_OPTIONS += ["max_failures", "progress", "announce", "resume", "overwrite", "update"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
) | st.sampled_from([10**12, 10**30, -1, 0, "../x", "a\0b", "x" * 300])
ODD = st.one_of(
    JSON,
    st.floats(),
    st.binary(max_size=9),
    st.sampled_from([object(), math, np.zeros(3), np.int64(3), Path("x\0"), {1: 2}, "~nobody/x"]),
)


@pytest.fixture(scope="module")
def small(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete store of two subjects, whose root tests replace and put back."""
    store = tmp_path_factory.mktemp("small") / "g.zarr"
    gz3d_zarr.build(simulated, store, client, limit=2, shard_size=1)
    return store


@contextlib.contextmanager
def replaced(path: Path, data: bytes) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def ask_all(*asks: Callable[[], Any]) -> None:
    for ask in asks:
        with contextlib.suppress(GZ3DError):
            ask()


@quick
@given(st.sampled_from(PLAN_OPTIONS), ODD)
def test_odd_options_of_a_plan(simulated: Path, tmp_path: Path, name: str, value: Any) -> None:
    ask_all(lambda: gz3d_zarr.plan(simulated, tmp_path / "g", workers=1, **{name: value}).to_text())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [*BUILD_OPTIONS, *PLAN_OPTIONS])
def test_option_of_a_wrong_type_is_refused_before_anything_is_written(
    simulated: Path, client: Client, tmp_path: Path, name: str
) -> None:
    options: dict[str, Any] = {"client": client, name: object()}
    with pytest.raises(UsageError, match=name):
        gz3d_zarr.build(simulated, tmp_path / "g.zarr", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["false", 1, "no", [False]])
def test_text_is_no_flag(simulated: Path, small: Path, value: Any) -> None:
    with pytest.raises(UsageError, match="overwrite is .*, expected True or False"):
        gz3d_zarr.build(simulated, small, overwrite=value)


def test_numpy_numbers_are_numbers(simulated: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "limit": np.int64(3),
        "shard_size": np.uint8(2),
        "nside": np.int32(4),
    }
    plan = gz3d_zarr.plan(simulated, tmp_path / "g", workers=1, **options)
    assert json.loads(json.dumps(plan.summary()))["shard_size"] == 2


@quick
@given(ODD, st.sampled_from(["store", "source", "storage_options", "workers", "max_memory"]))
def test_odd_arguments(simulated: Path, tmp_path: Path, value: Any, name: str) -> None:
    arguments = {"source": simulated, "store": tmp_path / "g", "workers": 1, name: value}
    ask_all(lambda: gz3d_zarr.plan(**arguments).to_text())


@quick
@given(ODD)
def test_odd_arguments_of_readers(simulated: Path, small: Path, value: Any) -> None:
    export = {"store": small, "dest": small.with_name("x")}
    for name in ("store", "chunks", "masked", "incomplete", "anon", "storage_options"):
        ask_all(lambda name=name: gz3d_zarr.open_store(**{"store": small, name: value}))
    if value is not None:
        for name in ("workers", "resume", "destination_options"):
            ask_all(
                lambda name=name: gz3d_zarr.copy(small, "http://127.0.0.1:9/", **{name: value}),
            )
        with pytest.raises(GZ3DError):
            gz3d_zarr.verify(small.with_name("nothing"), value, workers=1)
        for function in (export_fits, export_mmu, export_marks):
            for name in ("overwrite", "destination_options"):
                if not isinstance(value, bool | dict):
                    with pytest.raises(GZ3DError):
                        function(**export, **{name: value})


@pytest.mark.parametrize("backend", ["s3fs", "obstore"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config_kwargs", SECRET),
        ("client_kwargs", SECRET),
        ("client_kwargs", {SECRET: SECRET}),
        ("anon", SECRET),
        ("session", SECRET),
        ("loop", SECRET),
        ("asynchronous", True),
        ("default_block_size", SECRET),
        ("protocol", SECRET),
        ("endpoint_url", SECRET),
        ("backend", SECRET),
        (SECRET, SECRET),
        ("key", [SECRET]),
        ("secret", {SECRET: SECRET}),
    ],
)
def test_odd_storage_options_are_one_sentence_without_them(
    backend: str, name: str, value: Any
) -> None:
    options = {
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}},
        "key": "who",
        "secret": SECRET,
        "backend": backend,
    }
    if backend == "obstore":
        del options["config_kwargs"]
    with pytest.raises(GZ3DError) as caught:
        open_object_store("s3://bucket/g.zarr", {**options, name: value}).get("zarr.json")
    assert_hidden(caught)
    if backend == "s3fs":
        del options["backend"]
        with pytest.raises(GZ3DError) as caught:
            list_source("s3://bucket/folder/", {**options, name: value})
        assert_hidden(caught)


def assert_hidden(caught: Any) -> None:
    texts = (str(caught.value), repr(caught.value), str(caught.getrepr(chain=True)))
    assert not any(SECRET in text for text in texts[:2])
    error = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


LINES = st.binary(max_size=40) | st.sampled_from(
    [b"x" * 300, b"a/" * 3000, b"\0", b"\xff\xfe", b"~nobody/x", b"gz3d_1-1_19_1.fits.gz", b"a::b"]
)


@quick
@given(st.lists(LINES, max_size=4))
def test_odd_lists(tmp_path: Path, lines: list[bytes]) -> None:
    data = b"\n".join(lines)
    listed = tmp_path / "list.txt"
    listed.write_bytes(data)
    ask_all(
        lambda: list_source(listed),
        lambda: read_sha1_list("x.sha1sum", data),
        lambda: gz3d_zarr.plan(listed, tmp_path / "g", workers=1),
    )


@quick
@given(st.lists(LINES, max_size=4))
def test_odd_ids(simulated: Path, tmp_path: Path, lines: list[bytes]) -> None:
    listed = tmp_path / "ids"
    listed.write_bytes(b"\n".join(lines))
    arguments = ["plan", str(simulated), str(tmp_path / "g"), "--workers", "1", "--ids"]
    result = CliRunner().invoke(main, [*arguments, str(listed)])
    assert result.exit_code in (0, 1, 2), result.exception
    table = [*arguments, "-", "--table", str(listed)]
    assert CliRunner().invoke(main, table, input="8623-12701\n").exit_code in (1, 2)


def test_list_with_a_long_line_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("x" * 300)
    with pytest.raises(SourceError, match="has no subject files"):
        list_source(tmp_path / "list.txt")


ATTRS = (
    "schema", "schema_version", "subjects", "shard_size", "codec", "nside", "samples", "order",
    "appended", "fingerprint", "receipts_sha256", "notes", "complete", "coordinates", "source",
    "subjects_ok", "created", "source_catalogue",
)  # fmt: skip


@quick
@given(name=st.sampled_from(ATTRS), value=JSON)
def test_odd_attributes(simulated: Path, small: Path, name: str, value: Any) -> None:
    root = json.loads((small / "zarr.json").read_bytes())
    root["attributes"][name] = value
    with replaced(small / "zarr.json", json.dumps(root).encode()):
        ask_all(
            lambda: gz3d_zarr.open_store(small),
            lambda: read_info(small).to_text(),
            lambda: gz3d_zarr.plan(simulated, small, workers=1, update=True, limit=3),
            lambda: gz3d_zarr.plan(simulated, small, workers=1, retry_failed=True, limit=2),
        )


@pytest.mark.parametrize("name", ["codec", "shard_size", "notes", "receipts_sha256", "samples"])
@pytest.mark.parametrize("value", ["x", 7, None, [1]])
def test_attribute_that_no_build_writes_is_damage(
    small: Path, client: Client, name: str, value: Any
) -> None:
    root = json.loads((small / "zarr.json").read_bytes())
    if isinstance(value, type(root["attributes"][name])) and name != "samples":
        value = {}
    root["attributes"][name] = value
    with replaced(small / "zarr.json", json.dumps(root).encode()):
        assert not gz3d_zarr.verify(small, client=client).passed


@pytest.fixture(scope="module")
def half(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build that was stopped, whose documents tests replace and put back."""
    store = tmp_path_factory.mktemp("half") / "g.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.build(simulated, store, client, limit=2, shard_size=1, progress=stop_after(1))
    return store


def mutations(document: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The document with one field, or one of its first subject or object, of another value."""
    names = [(name,) for name in document]
    for name in ("outcomes", "objects"):
        names += [(name, 0, inner) for inner in (document.get(name) or [{}])[0]]

    def mutate(where: tuple[Any, ...], value: Any) -> dict[str, Any]:
        changed = json.loads(json.dumps(document))
        inner = changed
        for key in where[:-1]:
            inner = inner[key]
        inner[where[-1]] = value
        del changed["sha256"]
        return changed

    return st.builds(mutate, st.sampled_from([n for n in names if n != ("sha256",)]), JSON)


@pytest.mark.parametrize("is_sealed", [True, False])
@quick
@given(data=st.data())
def test_odd_documents_of_a_build(
    simulated: Path, half: Path, data: st.DataObject, is_sealed: bool
) -> None:
    receipt = next((half / ".gz3d" / "receipts").iterdir())
    path = data.draw(st.sampled_from([half / ".gz3d" / "plan.json", receipt]))
    content = data.draw(mutations(json.loads(path.read_bytes())))
    with replaced(path, seal(content) if is_sealed else json.dumps(content).encode()):
        ask_all(
            lambda: gz3d_zarr.open_store(half),
            lambda: gz3d_zarr.open_store(half, incomplete=True).compute(),
            lambda: gz3d_zarr.plan(
                simulated, half, workers=1, limit=2, shard_size=1, resume=True
            ).to_text(),
        )


@quick
@given(data=st.data())
def test_odd_published_receipts(simulated: Path, small: Path, data: st.DataObject) -> None:
    (path,) = (small / "receipts").glob("*.json.gz")
    content = json.loads(gzip.decompress(path.read_bytes()))
    first = data.draw(mutations({**content["receipts"][0], "sha256": ""}))
    content["receipts"][0] = first
    packed = gzip.compress(json.dumps(content).encode())
    root = json.loads((small / "zarr.json").read_bytes())
    name = hashlib.sha256(packed).hexdigest()
    root["attributes"]["receipts_sha256"] = name
    other = path.with_name(f"{name}.json.gz")
    other.write_bytes(packed)
    with replaced(small / "zarr.json", json.dumps(root).encode()):
        ask_all(
            lambda: gz3d_zarr.plan(simulated, small, workers=1, update=True, limit=3),
            lambda: gz3d_zarr.plan(simulated, small, workers=1, resume=True, limit=2),
        )
    other.unlink()
