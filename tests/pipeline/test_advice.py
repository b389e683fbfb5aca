"""Whatever is damaged at a store, its message says what to do, and doing that ends well."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from stores import StopHereError, stop_after

import gz3d_zarr
from gz3d_zarr import GZ3DError, StoreError
from gz3d_zarr.backends.store_info import read_info
from gz3d_zarr.datamodel.sealed_json import seal
from gz3d_zarr.locations import write_atomically
from gz3d_zarr.pipeline import build as building
from gz3d_zarr.storage.build_record import BuildRecord, digest, put_record
from gz3d_zarr.storage.lease import Lease
from gz3d_zarr.storage.object_store import open_object_store

PLAN, FILES, RECEIPT = ".gz3d/plan.json", ".gz3d/files.txt", ".gz3d/receipts/000000.json"
pytestmark = pytest.mark.long
OPTIONS: dict[str, Any] = {"limit": 2, "shard_size": 1}
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def complete(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("complete") / "g.zarr"
    gz3d_zarr.build(simulated, store, client, **OPTIONS)
    return store


@pytest.fixture(scope="module")
def unfinished(simulated: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of two shards that was stopped after one or two of them."""
    store = tmp_path_factory.mktemp("unfinished") / "g.zarr"
    with pytest.raises(StopHereError):
        gz3d_zarr.build(simulated, store, client, progress=stop_after(1), **OPTIONS)
    return store


def put(key: str, data: bytes | None) -> Damage:
    def damage(store: Path) -> None:
        if data is None:
            (store / key).unlink()
        else:
            (store / key).parent.mkdir(parents=True, exist_ok=True)
            (store / key).write_bytes(data)

    return damage


def cut(key: str) -> Damage:
    return lambda store: put(key, (store / key).read_bytes()[:60])(store)


def edit(key: str, sealed: bool, **changes: Any) -> Damage:
    """Change fields of a document, with a digest that fits or with the old one."""

    def damage(store: Path) -> None:
        content = {**json.loads((store / key).read_bytes()), **changes}
        content = {name: value for name, value in content.items() if value is not ...}
        if sealed:
            del content["sha256"]
        put(key, seal(content) if sealed else json.dumps(content).encode())(store)

    return damage


def all_of(*damages: Damage) -> Damage:
    def damage(store: Path) -> None:
        for each in damages:
            each(store)

    return damage


def remove_all_but_documents(store: Path) -> None:
    for path in store.iterdir():
        if path.name != ".gz3d":
            shutil.rmtree(path)


PLANS: dict[str, Damage] = {
    "cut": cut(PLAN),
    "empty": put(PLAN, b""),
    "binary": put(PLAN, b"\xff\x00\x01"),
    "foreign": put(PLAN, b'{"a": 1}'),
    "a list": put(PLAN, b"[1]"),
    "nested": put(PLAN, b"[" * 100_000),
    "newer": edit(PLAN, True, schema_version=99),
    "edited": edit(PLAN, False, order="healpix", nside=32),
    "no fingerprint": edit(PLAN, True, fingerprint=...),
    "text as shard size": edit(PLAN, True, shard_size="2"),
    "no shard size": edit(PLAN, True, shard_size=0),
    "unknown codec": edit(PLAN, True, codec="x"),
    "odd shards": edit(PLAN, True, shards_to_write=[1, "x"]),
}
RECEIPTS: dict[str, Damage] = {
    "cut receipt": cut(RECEIPT),
    "empty receipt": put(RECEIPT, b""),
    "binary receipt": put(RECEIPT, b"\xff\x00"),
    "receipt with text": edit(RECEIPT, True, shard="0"),
    "receipt without outcomes": edit(RECEIPT, True, outcomes=[]),
    "receipt without objects": edit(RECEIPT, True, objects=[]),
    "edited receipt": edit(RECEIPT, False, objects=[]),
    "receipt of another build": edit(RECEIPT, True, fingerprint="x"),
    "receipt of another shard": edit(RECEIPT, True, shard=1),
    "cut files": cut(FILES),
    "empty files": put(FILES, b""),
    "binary files": put(FILES, b"\xff\xfe\x00"),
    "no files": put(FILES, None),
}
UNFINISHED: dict[str, Damage] = {
    "as it is": lambda _: None,
    "no plan": put(PLAN, None),
    **{f"plan: {name}": damage for name, damage in PLANS.items()},
    "plan: empty, notes": all_of(PLANS["empty"], put("notes.txt", b"mine")),
    "plan: newer, documents only": all_of(PLANS["newer"], remove_all_but_documents),
    "plan only": all_of(
        remove_all_but_documents, lambda store: shutil.rmtree(store / ".gz3d" / "receipts")
    ),
    "documents without plan": all_of(remove_all_but_documents, put(PLAN, None)),
    **RECEIPTS,
}


def damage_published(change: Callable[[bytes], bytes | None], fits: bool = False) -> Damage:
    """Change the receipts of a complete store, with a digest that fits or with the old one."""

    def damage(store: Path) -> None:
        (path,) = (store / "receipts").glob("*.json.gz")
        data = change(path.read_bytes())
        path.unlink()
        if data is None:
            return
        if fits:
            name = hashlib.sha256(data).hexdigest()
            path = path.with_name(f"{name}.json.gz")
            edit_root(receipts_sha256=name)(store)
        path.write_bytes(data)

    return damage


def edit_root(**changes: Any) -> Damage:
    def damage(store: Path) -> None:
        root = json.loads((store / "zarr.json").read_bytes())
        root["attributes"] |= changes
        (store / "zarr.json").write_text(json.dumps(root))

    return damage


def packed(content: object) -> Callable[[bytes], bytes]:
    return lambda _: gzip.compress(json.dumps(content).encode())


def few_receipts(data: bytes) -> bytes:
    content = json.loads(gzip.decompress(data))
    return packed({**content, "receipts": content["receipts"][:1]})(data)


COMPLETE: dict[str, Damage] = {
    "plan: empty": put(PLAN, b""),
    "plan: binary": put(PLAN, b"\xff\x00\x01"),
    "no receipts": damage_published(lambda _: None),
    "cut receipts": damage_published(lambda data: data[:100]),
    "receipts: not packed": damage_published(lambda _: b"abc", True),
    "receipts: cut": damage_published(lambda data: data[:-9], True),
    "receipts: a list": damage_published(packed([]), True),
    "receipts: a number": damage_published(packed(7), True),
    "receipts: few": damage_published(few_receipts, True),
    "receipts: odd rows": damage_published(packed({"receipts": [5], "catalogue": [5]}), True),
    "older version": edit_root(schema_version=1),
    "no root": put("zarr.json", None),
    "cut root": cut("zarr.json"),
    "no root, a page": all_of(put("zarr.json", None), put("index.html", b"mine")),
    "cut root, notes": all_of(cut("zarr.json"), put("image/notes.txt", b"mine")),
}


def find_advice(message: str) -> set[str]:
    """Options and calls that a message names."""
    found = set(re.findall(r"(?<!copy )--(overwrite|resume|update|retry-failed)", message))
    calls = {"incomplete=True": "incomplete", "copy --resume": "copy"}
    return found | {advice for words, advice in calls.items() if words in message}


def follow(advice: str, source: Path, store: Path, client: Client, good: Path) -> None:
    if advice == "copy":
        gz3d_zarr.copy(good, store, client, resume=True)
    elif advice == "incomplete":
        gz3d_zarr.open_store(store, incomplete=True).compute()
        return
    else:
        gz3d_zarr.build(source, store, client, **OPTIONS, **{advice.replace("-", "_"): True})
    report = gz3d_zarr.verify(store, client=client)
    assert report.passed, report.to_text()
    assert not (store / ".gz3d").exists()
    assert not store.with_name(f"{store.name}.replaced").exists()


def check_advice(make: Callable[[], Path], source: Path, client: Client, good: Path) -> None:
    """Ask in every way; each build ends well or names something that does, when followed."""

    def build(**modes: bool) -> Any:
        return gz3d_zarr.build(source, make(), client, **OPTIONS, **modes)

    asked: dict[str, Callable[[], Any]] = {
        "open": lambda: gz3d_zarr.open_store(make()),
        "info": lambda: read_info(make()).to_text(),
        "verify": lambda: gz3d_zarr.verify(make(), client=client).to_text(),
        "new": build,
        "resume": lambda: build(resume=True),
        "update": lambda: build(update=True),
        "retry": lambda: build(retry_failed=True),
    }
    advised: dict[str, str] = {"overwrite": "a build can always be begun anew"}
    for name, ask in asked.items():
        try:
            text = ask()
        except GZ3DError as error:
            text = str(error)
            assert "yourself" not in text
            is_build = name not in ("open", "info", "verify")
            assert find_advice(text) or not is_build, f"{name}: {text}"
        if isinstance(text, str):
            advised |= dict.fromkeys(find_advice(text), f"{name}: {text}")
    for advice, message in advised.items():
        try:
            follow(advice, source, make(), client, good)
        except GZ3DError as error:
            pytest.fail(f"{message!r} led to {error}")


@pytest.mark.parametrize("state", UNFINISHED)
def test_advice_on_an_unfinished_build_works(
    simulated: Path, unfinished: Path, complete: Path, client: Client, tmp_path: Path, state: str
) -> None:
    count = iter(range(1000))

    def make() -> Path:
        store = tmp_path / f"{next(count)}.zarr"
        shutil.copytree(unfinished, store)
        UNFINISHED[state](store)
        return store

    check_advice(make, simulated, client, complete)


@pytest.mark.parametrize("name", ["index.html", "image/notes.txt"])
def test_a_persons_files_stay_where_a_store_without_root_is_overwritten(
    simulated: Path, complete: Path, client: Client, tmp_path: Path, name: str
) -> None:
    store = Path(shutil.copytree(complete, tmp_path / "g.zarr"))
    all_of(put("zarr.json", None), put(name, b"mine"))(store)
    gz3d_zarr.build(simulated, store, client, **OPTIONS, overwrite=True)
    assert (store / name).read_bytes() == b"mine"


@pytest.mark.parametrize("state", COMPLETE)
def test_advice_on_a_damaged_store_works(
    simulated: Path, complete: Path, client: Client, tmp_path: Path, state: str
) -> None:
    count = iter(range(1000))

    def make() -> Path:
        store = tmp_path / f"{next(count)}.zarr"
        shutil.copytree(complete, store)
        COMPLETE[state](store)
        return store

    check_advice(make, simulated, client, complete)


def test_advice_on_an_unfinished_copy_works(
    simulated: Path, complete: Path, client: Client, tmp_path: Path
) -> None:
    count = iter(range(1000))
    record = BuildRecord("copy", root_sha256=digest((complete / "zarr.json").read_bytes()))

    def make() -> Path:
        store = tmp_path / f"{next(count)}.zarr"
        put(PLAN, record.to_json())(store)
        return store

    check_advice(make, simulated, client, complete)


def test_a_persons_files_stay_where_a_damaged_build_is_overwritten(
    simulated: Path, unfinished: Path, client: Client, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(unfinished, tmp_path / "g.zarr"))
    UNFINISHED["plan: empty, notes"](store)
    gz3d_zarr.build(simulated, store, client, **OPTIONS, overwrite=True)
    assert (store / "notes.txt").read_bytes() == b"mine"


def test_damaged_receipt_costs_only_its_shard(
    simulated: Path, unfinished: Path, complete: Path, client: Client, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(unfinished, tmp_path / "g.zarr"))
    receipts = sorted((store / ".gz3d/receipts").iterdir())
    report = gz3d_zarr.build(simulated, store, client, **OPTIONS, resume=True)
    assert report.shards_built == 2 - len(receipts)
    again = Path(shutil.copytree(unfinished, tmp_path / "h.zarr"))
    (again / ".gz3d/receipts" / receipts[0].name).write_bytes(b"")
    report = gz3d_zarr.build(simulated, again, client, **OPTIONS, resume=True)
    assert report.shards_built == 3 - len(receipts)


def test_place_that_another_builder_began_is_being_built(
    simulated: Path, unfinished: Path, client: Client, tmp_path: Path, monkeypatch: Any
) -> None:
    """Also where it begins while this build reads its source."""
    place = tmp_path / "g.zarr"
    store, real = open_object_store(place), building.make_plan
    other = Lease(store)

    def begin(*args: Any) -> Any:
        other.acquire()
        shard = "image/c/0/0/0/0"
        write_atomically(place / shard, (unfinished / shard).read_bytes())
        return real(*args)

    modes: list[dict[str, bool]] = [{}, {"resume": True}, {"overwrite": True}, {"update": True}]
    monkeypatch.setattr(building, "make_plan", begin)
    for mode in modes:
        with pytest.raises(StoreError, match="is being built by process"):
            gz3d_zarr.build(simulated, place, client, **OPTIONS, **mode)
        monkeypatch.setattr(building, "make_plan", real)
    with pytest.raises(StoreError, match="a build has just begun there"):
        gz3d_zarr.open_store(place)
    other.release()
    gz3d_zarr.build(simulated, place, client, **OPTIONS, overwrite=True)
    assert gz3d_zarr.verify(place, simulated, client).passed


def test_build_that_begins_while_its_place_is_looked_at(
    unfinished: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Its record was not there at the first look, and is at the second."""
    store = open_object_store(Path(shutil.copytree(unfinished, tmp_path / "g.zarr")))
    seen = []
    real = type(store).get

    def get(self: Any, key: str) -> bytes | None:
        seen.append(key)
        return None if len(seen) <= 2 else real(self, key)

    monkeypatch.setattr(type(store), "get", get)
    target = building.inspect_target(store)
    assert (target.state.value, target.damage) == ("unfinished", "")
    assert target.record is not None


def test_plans_are_on_disk_before_they_have_their_name(tmp_path: Path, monkeypatch: Any) -> None:
    done: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        done.append(f"rename {Path(target).name}")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    put_record(open_object_store(tmp_path / "g.zarr"), BuildRecord("id"))
    first = [what for what in done if "plan.json" in what or what == "sync .gz3d"]
    assert first[0].startswith("sync .plan.json.")
    assert first[1] == "rename plan.json"
    assert "sync .gz3d" in first[2:]
