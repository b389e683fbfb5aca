"""Clusters: slots for shards, workers that come and go, other versions, a scheduler that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster
from distributed.comm import CommClosedError
from files import link_many
from stores import shards
from waiting import ending, wait_for_tasks, wait_until

import gz3d_zarr
from gz3d_zarr import BuildError, GZ3DError, StoreError, UsageError
from gz3d_zarr.backends.generation import Generation
from gz3d_zarr.pipeline import dask_client, dask_tasks, shard_task
from gz3d_zarr.pipeline.copy import CopyTask, copy_objects
from gz3d_zarr.pipeline.light_checks import check_without_shards
from gz3d_zarr.pipeline.plan import MEMORY_SHARE, WORKER_BYTES, task_bytes
from gz3d_zarr.pipeline.verify import VerifyTask, verify_shard
from gz3d_zarr.progress import Progress
from gz3d_zarr.storage.build_record import BuildRecord, check_owner, put_record
from gz3d_zarr.storage.memory_store import MemoryStore
from gz3d_zarr.storage.object_store import open_object_store
from gz3d_zarr.storage.shards import array_documents


@contextmanager
def local_cluster(folder: Path, **options: Any) -> Iterator[LocalCluster]:
    with LocalCluster(
        processes=False,
        dashboard_address="127.0.0.1:0",
        local_directory=str(folder / "dask"),
        **options,
    ) as workers:
        yield workers


def test_worker_with_many_threads_takes_as_many_shards_as_fit(
    simulated: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, most = [0], [0]
    lock = threading.Lock()
    read_files = shard_task.read_files

    def watched(*args: Any, **kwargs: Any) -> Any:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.05)
        try:
            yield from read_files(*args, **kwargs)
        finally:
            with lock:
                busy[0] -= 1

    monkeypatch.setattr(shard_task, "read_files", watched)
    memory = dask.config.get("distributed.worker.memory")  # this process has more than the limit
    for name in ("target", "spill", "pause", "terminate"):
        monkeypatch.setitem(memory, name, False)
    limit = int((WORKER_BYTES + 2.5 * task_bytes(4)) / MEMORY_SHARE)
    with (
        local_cluster(tmp_path, n_workers=1, threads_per_worker=4, memory_limit=limit) as workers,
        Client(workers, set_as_default=False) as client,
    ):
        gz3d_zarr.build(simulated, tmp_path / "g.zarr", client, shard_size=4)
        left = client.run(lambda dask_worker: "gz3d-slots" in str(list(dask_worker.plugins)))
        assert not any(left.values())
    assert most[0] == 2
    assert shards(tmp_path / "g.zarr") == shards(store)


STARTED: list[int] = []


def note_start(task: int) -> int:
    STARTED.append(task)
    time.sleep(0.1)
    return task


def test_tasks_that_wait_for_a_slot_do_not_outlive_their_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_tasks, "count_slots", lambda *_: 1)
    monkeypatch.setattr(dask_tasks, "WAIT_SECONDS", 0.01)
    STARTED.clear()
    with (
        local_cluster(tmp_path, n_workers=1, threads_per_worker=4) as workers,
        Client(workers, set_as_default=False) as client,
    ):
        results = dask_tasks.run_tasks(client, note_start, range(8), "test", 4)
        next(results)
        results.close()
        wait_for_tasks(client)
        assert len(STARTED) <= 2  # the first, and the one that had its slot
        assert sorted(dask_tasks.run_tasks(client, note_start, range(3), "test", 4)) == [0, 1, 2]


def test_builds_of_other_shards_share_the_room_of_a_worker() -> None:
    room, wanted = dask_tasks.MemoryBudget(), [True]
    with room.take(Fraction(1, 3), lambda: True), room.take(Fraction(2, 3), lambda: True):
        taken: list[bool] = []

        def take() -> None:
            with room.take(Fraction(1, 8), lambda: wanted[0]) as is_wanted:
                taken.append(is_wanted)

        waiting = threading.Thread(target=take)
        waiting.start()
        waiting.join(0.05)
        assert not taken
        wanted[0] = False
        waiting.join(10)
    assert taken == [False]
    with room.take(Fraction(1), lambda: True) as is_wanted:
        assert is_wanted


def test_workers_come_and_go_during_a_build(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = link_many(simulated, tmp_path / "many", 60)
    names: set[str] = set()
    with local_cluster(tmp_path, n_workers=1, threads_per_worker=1) as workers:

        def scale(state: Progress) -> None:
            names.update(str(name) for name in workers.workers)
            if state.done == 0:
                workers.scale(2)
            elif state.done > 30 and len(workers.workers) == 2:
                workers.scale(1)

        with Client(workers, set_as_default=False) as client:
            report = gz3d_zarr.build(
                source, tmp_path / "g.zarr", client, shard_size=2, progress=scale
            )
    assert report.ok == 60
    assert len(names) == 2


def test_build_goes_on_when_all_workers_were_gone(
    simulated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(dask_tasks, "WATCH_SECONDS", 0.05)
    with local_cluster(tmp_path, n_workers=1, threads_per_worker=1) as workers:

        def come_again() -> None:
            wait_until(lambda: "There are no workers at" in caplog.text)
            workers.scale(1)

        watching = threading.Thread(target=come_again, daemon=True)

        def go(state: Progress) -> None:
            if state.done == 4:
                workers.scale(0)
                watching.start()

        with Client(workers, set_as_default=False) as client:
            too_long = threading.Timer(60, client.close)
            too_long.start()
            try:
                report = gz3d_zarr.build(
                    simulated, tmp_path / "g.zarr", client, shard_size=2, progress=go
                )
            finally:
                too_long.cancel()
    assert report.ok == 18
    watching.join(60)


def test_address_without_a_port_is_refused(simulated: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'tcp://127.0.0.1', expected .* tcp://host:8786"):
        gz3d_zarr.build(simulated, tmp_path / "g.zarr", scheduler="tcp://127.0.0.1")


def test_other_versions_are_told(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = dask_client.find_versions()
    assert set(here) >= {"gz3d-zarr", "zarr", "python"}
    plan = gz3d_zarr.plan(simulated, tmp_path / "g.zarr", client=client)
    assert not [note for note in plan.notes if "workers have" in note]
    answers = {"tcp://a": {**here, "zarr": "3.0.0"}}
    monkeypatch.setattr(client, "run", lambda *_, **__: answers)
    plan = gz3d_zarr.plan(simulated, tmp_path / "g.zarr", client=client)
    assert f"workers have zarr 3.0.0, the client has {here['zarr']}" in plan.notes


def test_workers_without_the_package_are_named(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"tcp://a": ModuleNotFoundError("No module named 'gz3d_zarr'")}
    monkeypatch.setattr(client, "run", lambda *_, **__: answers)
    with pytest.raises(BuildError, match="lack a package: No module named 'gz3d_zarr'. Install"):
        gz3d_zarr.build(simulated, tmp_path / "g.zarr", client)


def test_worker_that_goes_away_while_it_is_asked_is_told(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"tcp://a": CommClosedError("gone"), "tcp://b": dask_client.find_versions()}
    monkeypatch.setattr(client, "run", lambda *_, **__: answers)
    plan = gz3d_zarr.plan(simulated, tmp_path / "g.zarr", client=client)
    told = "the worker tcp://a disappeared before it reported its versions"
    assert [note for note in plan.notes if "worker" in note] == [told]


def test_worker_that_other_errors_come_from_is_named(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"tcp://a": AttributeError("no find_versions")}
    monkeypatch.setattr(client, "run", lambda *_, **__: answers)
    with pytest.raises(BuildError, match="worker tcp://a cannot report its versions: no find_ver"):
        gz3d_zarr.build(simulated, tmp_path / "g.zarr", client)


def test_worker_that_says_nothing_ends_the_build(
    simulated: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(client, "run", lambda *_, **__: over.wait(60))
    monkeypatch.setattr(dask_client, "ANSWER_SECONDS", 0.1)
    address = next(iter(client.scheduler_info(n_workers=-1)["workers"]))
    try:
        with pytest.raises(BuildError, match="does not answer within 0.1 seconds") as caught:
            gz3d_zarr.build(simulated, tmp_path / "g.zarr", client)
    finally:
        over.set()
    assert f"{address} has been silent for longest" in str(caught.value)
    assert not (tmp_path / "g.zarr").exists()


def test_cluster_that_adapts_starts_its_first_worker_for_a_build(
    simulated: Path, tmp_path: Path
) -> None:
    with local_cluster(tmp_path, n_workers=0, threads_per_worker=1) as workers:
        workers.adapt(minimum=0, maximum=1, interval="50ms")
        with Client(workers, set_as_default=False) as client:
            report = gz3d_zarr.build(simulated, tmp_path / "g.zarr", client, limit=4)
    assert report.ok == 4


def interrupt_self() -> bool:
    os.kill(os.getpid(), signal.SIGINT)
    return signal.SIGINT in signal.sigpending()


def test_workers_of_a_local_cluster_ignore_interrupts_also_after_a_restart() -> None:
    with dask_client.start_local(dask_client.local_resources(1)) as client:
        assert set(client.run(interrupt_self).values()) == {True}
        client.restart()
        assert set(client.run(interrupt_self).values()) == {True}


SCHEDULER = """
import sys, time
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://",
                      host="127.0.0.1", dashboard_address="127.0.0.1:0",
                      local_directory=sys.argv[1]) as cluster:
        print(cluster.scheduler_address, flush=True)
        time.sleep(120)
"""


def test_worker_for_which_the_store_is_another_place_is_told(store: Path, tmp_path: Path) -> None:
    here, there = (open_object_store(path) for path in (store, tmp_path / "there.zarr"))
    alone = check_without_shards(here)
    assert alone.published is not None
    receipt, documents = alone.receipts[0], array_documents(alone.published.layout)
    put_record(here_too := MemoryStore("memory"), BuildRecord("mine"))
    opened = replace(Generation.from_root(here, here.get("zarr.json") or b""), store=there)
    for work in (
        lambda: verify_shard(VerifyTask(receipt, documents, there)),
        lambda: copy_objects(CopyTask(there, here_too, "mine", receipt.objects)),
        lambda: check_owner(there, "mine"),  # as each task that writes does
        opened.check,
    ):
        with pytest.raises(StoreError, match="workers (and client )?must reach the same store"):
            work()


def test_scheduler_that_goes_away_is_named(simulated: Path, tmp_path: Path) -> None:
    source = link_many(simulated, tmp_path / "many", 300)
    command = [sys.executable, "-c", SCHEDULER, str(tmp_path / "dask")]
    with ending(
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()

        def kill(state: Progress) -> None:
            if state.done > 20:
                process.kill()

        began = time.monotonic()
        with pytest.raises(
            GZ3DError, match=f"the scheduler {address} went away.*use --resume to continue"
        ):
            gz3d_zarr.build(
                source, tmp_path / "g.zarr", scheduler=address, shard_size=2, progress=kill
            )
        assert time.monotonic() - began < 30
    with pytest.raises(gz3d_zarr.IncompleteStoreError):
        gz3d_zarr.open_store(tmp_path / "g.zarr")


GUARDED = "import gz3d_zarr\nif __name__ == '__main__':\n    gz3d_zarr.build('a', 'b')\n"
BARE = "import gz3d_zarr\ngz3d_zarr.build('a', 'b')\n"
ADVICE = r"started: it cannot\. A script must call build under if __name__ == '__main__':$"
OTHER = r"A process ended before it was ready: it was killed, .* Use fewer workers \(--workers\)"


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [
        (BARE, "it cannot.", ADVICE),
        (GUARDED, "it cannot.", OTHER),
        (None, "it cannot.", OTHER),  # a notebook, or python -c
        (GUARDED, "a process before its bootstrapping\nphase", "A script must call build under"),
    ],
)
def test_advice_where_workers_do_not_start_fits_the_script(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    reason: str,
    expected: str,
) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError(reason)

    main = ModuleType("__main__")
    if text is not None:
        main.__file__ = str(tmp_path / "script.py")
        Path(main.__file__).write_text(text)
    monkeypatch.setattr(dask_client, "LocalCluster", fail)
    monkeypatch.setitem(sys.modules, "__main__", main)
    resources = dask_client.local_resources(1)
    with pytest.raises(BuildError, match=expected) as caught, dask_client.start_local(resources):
        pass
    assert "\n" not in str(caught.value)
