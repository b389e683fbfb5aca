"""One builder at a time: leases of living and dead builders, and builders that start at once."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import psutil
import pytest
from object_stores import (
    Fault,
    Proxy,
    S3Server,
    close_sessions,
    fresh_bucket,
    run_proxy,
)
from waiting import wait_until

from gz3d_zarr import StoreError, locations
from gz3d_zarr.storage import base_store, lease
from gz3d_zarr.storage.build_record import LEASE_KEY, WORK_PREFIX
from gz3d_zarr.storage.lease import check_free, hold_lease
from gz3d_zarr.storage.object_store import ObjectStore, open_object_store

RACES = 20
RACES_ON_S3 = 5
DEAD_PID = 2**22 + 1
"""Larger than the kernel gives to any process."""


@pytest.fixture
def local(tmp_path: Path) -> ObjectStore:
    return open_object_store(tmp_path / "g.zarr")


def holder(**changes: Any) -> bytes:
    """A lease of this process, but for the changes."""
    return json.dumps({**lease._process(), "build_id": "theirs", **changes}).encode()


def test_lease_of_a_dead_builder_does_not_hold(
    local: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 0.05)
    for content in (
        holder(pid=DEAD_PID),  # killed, on this machine
        holder(started=1.0),  # another process has its number now
        holder(host="elsewhere", pid=1),  # not renewed while we watch
        b'"not a lease"',
        b"",  # half written before a power failure
    ):
        local.put(LEASE_KEY, content)
        with hold_lease(local) as held:
            assert json.loads(local.get(LEASE_KEY) or b"")["build_id"] == held.build_id
        assert local.list_sizes() == {}


def test_builder_is_alive_whatever_the_clock_says(
    local: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold_lease(local):
        create_time = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: create_time(self) + 1)
        monkeypatch.setattr("psutil.boot_time", lambda: 1.0)
        with pytest.raises(StoreError, match=f"is being built by process {os.getpid()} on"):
            lease.check_free(local)
        with pytest.raises(StoreError, match=f"is being built by process {os.getpid()} on"):
            hold_lease(local).__enter__()


def test_lease_of_another_machine_of_the_same_name_is_watched(
    local: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_text = Path.read_text

    def elsewhere(self: Path, *args: Any, **options: Any) -> str:
        return "another-boot\n" if self.name == "boot_id" else read_text(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", elsewhere)
        theirs = lease._process()
    if not Path("/proc/sys/kernel/random/boot_id").exists():
        pytest.skip("this system does not tell one boot from another")
    renewals = itertools.count()
    monkeypatch.setattr(
        ObjectStore,
        "get",
        lambda *_: holder(**{**theirs, "pid": DEAD_PID}, renewals=next(renewals)),
    )
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 0.1)
    with pytest.raises(StoreError, match="is being built by process"):
        lease.check_free(local)


def test_machine_without_a_boot_id_is_known_by_its_network_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", refuse)
    here = lease._process()["machine"]
    monkeypatch.setattr(lease.uuid, "getnode", lambda: 0x123456789ABC)
    assert "123456789abc" in lease._process()["machine"] != here


def test_lease_of_a_builder_elsewhere_holds_while_it_is_renewed(
    local: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 30)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.02)
    ended = threading.Event()

    def renew() -> None:
        renewals = 0
        while not ended.wait(0.02):
            renewals += 1
            local.put(LEASE_KEY, holder(host="elsewhere", pid=7, renewals=renewals))

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        wait_until(lambda: local.get(LEASE_KEY))
        with pytest.raises(StoreError, match="is being built by process 7 on elsewhere"):
            hold_lease(local).__enter__()
    finally:
        ended.set()
        renewing.join()


def test_lease_is_renewed_until_somebody_else_has_it(
    local: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)  # our put takes less
    with hold_lease(local):
        first = local.get(LEASE_KEY)
        wait_until(lambda: local.get(LEASE_KEY) != first)
        local.put(LEASE_KEY, b'{"build_id": "a successor"}')  # this builder was suspended
        time.sleep(0.3)
        assert json.loads(local.get(LEASE_KEY) or b"") == {"build_id": "a successor"}
    assert local.get(LEASE_KEY) is not None


def test_lease_that_somebody_deleted_is_taken_again(
    local: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    with hold_lease(local) as mine:
        local.delete([LEASE_KEY])
        wait_until(lambda: local.get(LEASE_KEY))
        assert mine.is_ours()
        with pytest.raises(StoreError, match="is being built by process"):
            check_free(local)
    assert local.get(LEASE_KEY) is None


def test_two_that_come_at_once_do_not_both_hold_the_lease(
    local: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = type(local)._create

    def late(self: ObjectStore, key: str, data: bytes) -> bool:
        local.put(LEASE_KEY, holder())
        return create(self, key, data)

    monkeypatch.setattr(type(local), "_create", late)
    with pytest.raises(StoreError, match=f"is being built by process {os.getpid()} on"):
        hold_lease(local).__enter__()


def test_lease_is_created_whole_without_hard_links(
    local: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(locations.os, "link", refuse)
    assert local.put_if_absent("a", b"first")
    assert not local.put_if_absent("a", b"second")
    assert (local.get("a"), local.list_sizes()) == (b"first", {"a": 5})


def test_locks_of_killed_builders_are_taken_over_and_removed(local: ObjectStore) -> None:
    """One was killed as it built, the next as it replaced its lease."""
    dead = holder(pid=DEAD_PID)
    local.put(LEASE_KEY, dead)
    locks: list[str] = []

    class KilledError(BaseException):
        pass

    def killed(self: ObjectStore, key: str, data: bytes) -> None:
        locks.extend(local.list_sizes(lease.LOCK_PREFIX))
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "put", killed)
        patch.setattr(ObjectStore, "delete", lambda *_: None)
        patch.setattr(lease, "_process", lambda: json.loads(dead))
        patch.setattr(lease, "_is_running", lambda _: False)
        with pytest.raises(KilledError):
            hold_lease(local).__enter__()
    left = local.list_sizes()
    assert LEASE_KEY in left
    assert len(left) == 2
    with hold_lease(local):
        assert list(local.list_sizes()) == [LEASE_KEY]


@pytest.fixture
def proxy(moto: S3Server) -> Iterator[Proxy]:
    with fresh_bucket(moto) as bucket, run_proxy(bucket) as running:
        yield running
    close_sessions()


def on_s3(proxy: Proxy, name: str, backend: str) -> ObjectStore:
    if backend == "obstore":
        pytest.importorskip("obstore")
    options = {**proxy.server.storage_options, "backend": backend}
    return open_object_store(f"{proxy.server.url}/{name}", options)


def race(*stores: ObjectStore) -> tuple[int, list[str]]:
    """How many of some builders that start at once hold the lease together; what others hear."""
    start, end = threading.Barrier(len(stores)), threading.Barrier(len(stores))
    held: list[str] = []
    refused: list[str] = []

    def run(store: ObjectStore) -> None:
        start.wait(60)
        try:
            with hold_lease(store) as mine:
                held.append(mine.build_id)
                end.wait(60)
        except StoreError as error:
            refused.append(str(error))
            end.wait(60)

    threads = [threading.Thread(target=run, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) + len(refused) == len(stores)
    return len(held), refused


@pytest.mark.parametrize("dead", [False, True])
def test_one_of_two_wins_locally(tmp_path: Path, dead: bool) -> None:
    for number in range(RACES):
        store = open_object_store(tmp_path / f"{number}.zarr")
        if dead:
            store.put(LEASE_KEY, holder(pid=DEAD_PID))
        held, refused = race(store, store)
        assert held == 1, refused
        assert "is being built by process" in refused[0]
        assert store.list_sizes(WORK_PREFIX) == {}


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("backend", ["s3fs", "obstore"])
def test_one_of_two_wins_on_s3(proxy: Proxy, backend: str, dead: bool) -> None:
    for number in range(RACES_ON_S3 if not dead else 3):  # more requests in each
        store = on_s3(proxy, f"{number}.zarr", backend)
        if dead:
            store.put(LEASE_KEY, holder(pid=DEAD_PID))
        held, refused = race(store, store)
        assert held == 1, refused
        assert "is being built by process" in refused[0]
        assert store.list_sizes(WORK_PREFIX) == {}


def first_is_slow(seconds: float) -> Callable[[str, str], float]:
    """Hold the first PUT of a lease, also one that replaces another."""
    slow = iter([seconds])
    return lambda method, key: next(slow, 0.0) if method == "PUT" and "lease" in key else 0.0


@pytest.mark.parametrize("dead", [False, True])
def test_slow_put_lets_no_second_in(proxy: Proxy, dead: bool) -> None:
    store = on_s3(proxy, "g.zarr", "s3fs")
    if dead:
        store.put(LEASE_KEY, holder(pid=DEAD_PID))
    proxy.hold = first_is_slow(0.4)
    held, refused = race(store, store)
    assert held == 1, refused


def test_slow_replacement_of_a_dead_lease_lets_no_second_in(proxy: Proxy) -> None:
    store = on_s3(proxy, "g.zarr", "s3fs")
    store.put(LEASE_KEY, holder(pid=DEAD_PID))
    proxy.hold = lambda method, key: 0.4 if method == "PUT" and key.endswith("lease.json") else 0.0
    held, refused = race(store, store, store)
    assert held == 1, refused


@pytest.mark.parametrize("fault", [Fault.NO_CONDITION, Fault.NOT_IMPLEMENTED])
@pytest.mark.parametrize("backend", ["s3fs", "obstore"])
def test_server_without_conditions_never_accepts_both(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, fault: Fault, backend: str
) -> None:
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda *_, **__: 0.001)
    proxy.faults = lambda method, key, asked: fault if method == "PUT" else None
    store = on_s3(proxy, "g.zarr", backend)
    assert store.get(LEASE_KEY) is None  # connected, which takes time
    waits: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            base_store, "time", SimpleNamespace(monotonic=time.monotonic, sleep=waits.append)
        )
        assert store.put_if_absent("alone", b"data")
    assert waits == [base_store.READ_BACK_SECONDS]
    if backend == "obstore" and fault is Fault.NOT_IMPLEMENTED:
        return  # it repeats each request for seconds; what follows is the same for s3fs
    monkeypatch.setattr(base_store, "READ_BACK_SECONDS", 0.5)
    held, refused = race(store, store)
    assert held <= 1, refused


def test_slow_server_without_conditions_is_refused(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_store, "READ_BACK_SECONDS", 0.2)
    proxy.faults = lambda method, key, asked: Fault.NO_CONDITION
    proxy.hold = first_is_slow(0.3)
    store = on_s3(proxy, "g.zarr", "s3fs")
    held, refused = race(store, store)
    assert held <= 1
    assert any("does not support conditional writes" in message for message in refused)
    assert store.get(LEASE_KEY) is None


def test_lost_answer_to_the_first_put_does_not_matter(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda *_, **__: 0.001)
    proxy.faults = lambda method, key, asked: (
        Fault.LOST_ANSWER if method == "PUT" and asked == 1 else None
    )
    store = on_s3(proxy, "g.zarr", "s3fs")
    with hold_lease(store):
        assert store.get(LEASE_KEY) is not None


def test_memory_is_locked_too() -> None:
    store = open_object_store("memory://test-lease/g.zarr")
    try:
        with hold_lease(store), pytest.raises(StoreError, match="is being built by process"):
            hold_lease(store).__enter__()
        assert store.list_sizes() == {}
    finally:
        fsspec.filesystem("memory").store.clear()
