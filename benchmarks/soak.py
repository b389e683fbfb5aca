"""Build, kill, resume, update, retry, overwrite and copy at random, with readers, against a model.

    python benchmarks/soak.py --seed 1 --minutes 30 [--subjects 24] [--without-s3] [--replay FILE]

Every step runs in a process of its own, on a store on disk or on an S3 server on loopback. A fault
may strike while it runs: SIGKILL at any write, rename or request, a full disk, a source that
changes, an object store that fails. Then the store is compared with the model of `soak_model.py`,
with what `gz3d_zarr.verify` says, and every picture with its file. Prints counts; at the first
violation prints the steps, which ``--replay`` runs again, and exits 1.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import soak_model as model
from distributed import Client, LocalCluster
from soak_model import Fault, Kind, Seen, Step, World
from soak_processes import (
    BY_PROCESSES,
    RULES,
    THREADS,
    WRITES,
    WRITES_A_SHARD,
    Call,
    Place,
    ViolationError,
    arm_proxy,
    check_pictures,
    find_leftovers,
    list_faults,
    read_in_a_loop,
    read_truth,
    run_call,
    s3_place,
    statuses,
)

import gz3d_zarr
from gz3d_zarr import StoreError
from gz3d_zarr.pipeline.build_state import TargetState, inspect_target
from gz3d_zarr.simulation import simulate_archive
from gz3d_zarr.storage.build_record import BUILDING_SUFFIX
from gz3d_zarr.storage.object_store import open_object_store

SPAWN = multiprocessing.get_context("forkserver")
PRELOADED = ["gz3d_zarr.pipeline.build", "gz3d_zarr.backends.store", "astropy.io.fits", "s3fs"]
LIMIT_SECONDS = 600
"""A step that takes longer hangs."""


class Soak:
    """The driver: runs steps, and compares what they leave with the model."""

    def __init__(
        self, folder: Path, seed: int, subjects: int, client: Client, by_processes: bool
    ) -> None:
        self.by_processes = by_processes
        self.random = random.Random(seed)
        self.folder, self.client = folder, client
        self.source = folder / "source"
        pool = simulate_archive(subjects, folder / "pool", seed=seed)
        self.pool = {int(path.name.split("_")[3].partition(".")[0]): path for path in pool}
        self.truth = {subject: read_truth(path) for subject, path in self.pool.items()}
        self.source.mkdir()
        shutil.copy(folder / "pool" / "gz3d_metadata.fits", self.source)
        self.places: dict[str, Place] = {}
        self.worlds: dict[str, World] = {}
        self.files: dict[int, str] = {}
        self.steps: list[Step] = []
        self.counts = Counter[str]()
        self.last = ""
        self._edit(
            Step(Kind.EDIT, changes=dict.fromkeys(sorted(self.pool)[: subjects // 3], "whole"))
        )

    def add(self, place: Place) -> None:
        """Take part in the soak with an empty store."""
        self.places[place.name] = place
        self.worlds[place.name] = World(self.files)

    def draw(self) -> Step:
        """Draw the next step."""
        for _ in range(3):
            name = self.random.choice(sorted(self.places))
            faults = list_faults(self.places[name], by_processes=self.by_processes)
            step = model.draw_build(self.random, self.worlds[name], name, faults)
            is_dull = model.is_dull(self.worlds[name], step, RULES)
            if not is_dull or self.random.random() < 0.1:
                return step
        return model.draw_edit(self.random, self.files, sorted(self.pool))

    def run(self, step: Step) -> None:
        """Run one step; ViolationError where the model does not allow what it does."""
        self.steps.append(step)
        self.last = ""
        self.counts[step.kind] += 1
        if step.kind is Kind.EDIT:
            self._edit(step)
        elif step.kind is Kind.COPY:
            self._copy(step)
        else:
            self._build(step)

    def _edit(self, step: Step) -> None:
        for subject, how in step.changes.items():
            original, path = self.pool[subject], self._path(subject)
            path.unlink(missing_ok=True)
            if how == "whole":
                shutil.copy(original, path)
            elif how:
                data = {"cut": original.read_bytes()[:-1000], "empty": b"", "page": b"<html>"}
                path.write_bytes(data[how])
        self._set_files(model.edit(self.files, step.changes))

    def _set_files(self, files: dict[int, str]) -> None:
        self.files = files
        self.worlds = {name: replace(w, files=files) for name, w in self.worlds.items()}

    def _path(self, subject: int) -> Path:
        return self.source / self.pool[subject].name

    def _build(self, step: Step) -> None:
        place, world = self.places[step.place], self.worlds[step.place]
        options = {k: v for k, v in step.options.items() if k != "allow_loss" or RULES.keeps_good}
        if step.kind is not Kind.NEW:
            options[step.kind.value] = True
        if step.subjects is not None:
            options["ids"] = list(step.subjects)
        if step.fault in BY_PROCESSES:
            options["workers"] = 2
        shards = len(model.selected(world, step)) // 3 + 1
        call = Call(
            str(self.source), place.url, {**options, **place.keywords}, fault=step.fault,
            victim=str(self._path(step.victim)),
        )  # fmt: skip
        if place.proxy is None and step.fault is not Fault.SLOW:
            call = replace(call, write=int(step.moment * (WRITES + shards * WRITES_A_SHARD)))
        with self._reader(step) as views:
            result, message = self._run(call, step, shards)
        if Path(f"{self.source}.away").exists():
            Path(f"{self.source}.away").rename(self.source)
        seen = self._observe(place)
        found = list(model.judge(world, step, result, message, seen, RULES))
        for view in views:
            if not model.is_known(world, step, view):
                found.append(f"a reader saw {view}: neither the old store nor the new one")
        if result == "ended":
            found += [f"it leaves {path}" for path in find_leftovers(place)]
        if found:
            raise ViolationError("\n".join([*found, f"{result}: {message}", f"before: {world}"]))
        self.worlds[step.place] = model.advance(world, step, result, seen, RULES)
        self.counts[f"builds {result}"] += 1
        if (step.fault is Fault.REMOVE) and not self._path(step.victim).exists():
            self._set_files({k: v for k, v in self.files.items() if k != step.victim})
        elif step.fault is Fault.DAMAGE and self._path(step.victim).read_bytes() == b"<html>":
            self._set_files({**self.files, step.victim: model.BAD_STATUS["page"]})
        self._verify(place, seen)

    def _run(self, call: Call, step: Step, shards: int) -> tuple[str, str]:
        """Run a call in a child; how it ended, and its message."""
        mine, theirs = SPAWN.Pipe(duplex=False)
        child = SPAWN.Process(target=run_call, args=(call, theirs))
        child.start()
        theirs.close()
        proxy = self.places[step.place].proxy if step.place else None
        if proxy is not None:
            arm_proxy(proxy, step, child.pid or 0, shards)
        if step.fault in BY_PROCESSES:
            self._kill_later(child, step)
        answer = ("killed", "")
        if not mine.poll(LIMIT_SECONDS):
            raise ViolationError(f"a step takes more than {LIMIT_SECONDS} seconds")
        with contextlib.suppress(EOFError):
            answer = mine.recv()
        child.join(LIMIT_SECONDS)
        if proxy is not None:
            proxy.faults, proxy.delay = None, 0.0
        self.last = " ".join(answer)
        self.counts["kills"] += answer[0] == "killed"
        self._end_group(child.pid or 0)
        if answer[0] == "crashed":
            raise ViolationError(f"an exception that is not ours:\n{answer[1]}")
        if answer[0] == "killed" and step.fault not in (Fault.KILL, *BY_PROCESSES):
            raise ViolationError(f"the builder died by itself, exit code {child.exitcode}")
        return answer

    def _kill_later(self, child: Any, step: Step) -> None:
        """Kill the builder, or one of its workers, some seconds after it starts."""
        began = time.monotonic()
        while child.is_alive() and time.monotonic() < began + 1 + 7 * step.moment:
            time.sleep(0.02)
        with contextlib.suppress(psutil.Error, ProcessLookupError, IndexError):
            if step.fault is Fault.KILL_GROUP:
                os.killpg(child.pid, signal.SIGKILL)
            else:
                children = psutil.Process(child.pid).children(recursive=True)
                max(children, key=lambda one: one.memory_info().rss, default=children[0]).kill()
                self.counts["workers killed"] += 1

    def _end_group(self, group: int) -> None:
        """End what a killed builder left; workers end themselves within seconds."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
        raise ViolationError("workers outlive their builder by 20 seconds")

    @contextlib.contextmanager
    def _reader(self, step: Step) -> Iterator[list[dict[int, str]]]:
        """A process that reads while a build runs; the stores that it saw."""
        views: list[dict[int, str]] = []
        if not step.reads:
            yield views
            return
        mine, theirs = SPAWN.Pipe(duplex=False)
        ended = SPAWN.Event()
        place = replace(self.places[step.place], proxy=None)
        reader = SPAWN.Process(
            target=read_in_a_loop, args=(place, self.truth, step.kind, ended, theirs)
        )
        reader.start()
        theirs.close()
        try:
            yield views
        finally:
            ended.set()
            answer = mine.recv() if mine.poll(LIMIT_SECONDS) else ([], {}, "a reader hangs")
            reader.kill()
            reader.join()
        views += answer[0]
        self.counts.update(answer[1])
        if answer[2]:
            raise ViolationError(answer[2])

    def _observe(self, place: Place) -> Seen:
        """What exists; and that advice and leftovers are as they must be."""
        store = open_object_store(place.url, dict(place.options))
        state = inspect_target(store).state
        beside = TargetState.EMPTY
        if store.is_local:
            beside = inspect_target(store.with_url(store.url + BUILDING_SUFFIX)).state
        is_beside = beside is not TargetState.EMPTY
        pending = is_beside or state in (TargetState.UNFINISHED, TargetState.UPDATING)
        try:
            found = statuses(gz3d_zarr.open_store(place.url, **place.keywords))
        except StoreError as error:
            found = None
            if pending and not is_beside and "--resume" not in str(error):
                raise ViolationError(f"no advice to resume: {error}") from error
        return Seen(found if state is not TargetState.UNFINISHED else None, pending, is_beside)

    def _verify(self, place: Place, seen: Seen) -> None:
        """Compare a published store with its files, by `verify` and by reading it."""
        if seen.store is None:
            return
        dataset = gz3d_zarr.open_store(place.url, **place.keywords)
        rows = list(range(dataset.sizes["subject"]))
        is_updating = seen.pending and not seen.is_beside
        check_pictures(dataset, rows, self.truth, changes=is_updating)
        report = gz3d_zarr.verify(place.url, self.source, self.client, **place.keywords)
        names = {self.pool[i].name for i in seen.store}
        differ = {
            self.pool[i].name
            for i, status in seen.store.items()
            if (status == model.OK) != (self.files.get(i) == model.OK) or i not in self.files
        }
        found = {
            check.target for check in report.checks if check.test == "file" and not check.passed
        }
        others = [
            check for check in report.checks
            if not check.passed and check.test not in ("file", "complete")
        ]  # fmt: skip
        self.counts["verified"] += 1
        if found & names != differ or (others and not is_updating):
            raise ViolationError(
                f"verify: differ {sorted(found)}, expected {sorted(differ)}; {others}"
            )
        if is_updating and report.state != "incomplete":
            raise ViolationError(
                f"verify says {report.state} of an update that has not ended: {others}"
            )

    def _copy(self, step: Step) -> None:
        """Copy a store to the disk, maybe with a kill, and resume; then it is the same."""
        place, target = self.places[step.place], self.folder / "copy.zarr"
        fault = step.fault if step.fault in (Fault.KILL, Fault.FULL) else Fault.NONE
        moment = int(step.moment * (WRITES + 100)) if fault is not Fault.NONE else -1
        call = Call(str(self.source), place.url, place.keywords, str(target), fault, moment)
        result, message = self._run(call, Step(Kind.COPY, fault=fault), 0)
        if result != "ended":
            if fault is Fault.NONE:
                raise ViolationError(f"a copy had to end, and says: {message}")
            with contextlib.suppress(StoreError):
                gz3d_zarr.open_store(target)
                if gz3d_zarr.verify(target, client=self.client).state != "sound":
                    raise ViolationError("a copy that was stopped opens and is not sound")
            again = replace(call, keywords={**call.keywords, "resume": True}, fault=Fault.NONE)
            result, message = self._run(again, Step(Kind.COPY), 0)
        if result != "ended" or not gz3d_zarr.verify(target, client=self.client).passed:
            raise ViolationError(f"a copy that is resumed is not sound: {message}")
        original = open_object_store(place.url, dict(place.options))
        copied = {p.relative_to(target).as_posix(): p for p in target.rglob("*") if p.is_file()}
        if any(original.get(key) != path.read_bytes() for key, path in copied.items()):
            raise ViolationError("a copy differs from its store")
        shutil.rmtree(target)


def soak(
    seed: int,
    goes_on: Callable[[int], bool],
    subjects: int = 24,
    *,
    with_s3: bool = True,
    by_processes: bool = True,
    replay: Sequence[Step] = (),
    report: Callable[[str], None] = print,
    trace: bool = False,
) -> Counter[str]:
    """Run steps as long as `goes_on` says so, given their number, or those of `replay`.

    Returns
    -------
    Counter
        Steps by kind, builds by how they ended, and so on; ``violations`` is 0 or 1.
    """
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="gz3d-soak-"))
        SPAWN.set_forkserver_preload(["__main__", *PRELOADED])
        cluster = LocalCluster(**THREADS, local_directory=scratch)
        client = Client(stack.enter_context(cluster), set_as_default=False)
        run = Soak(Path(scratch), seed, subjects, stack.enter_context(client), by_processes)
        run.add(Place("disk", str(Path(scratch, "g.zarr"))))
        if with_s3:
            run.add(stack.enter_context(s3_place()))
        while len(run.steps) < len(replay) if replay else goes_on(len(run.steps)):
            try:
                began = time.monotonic()
                run.run(replay[len(run.steps)] if replay else run.draw())
                if trace:
                    report(f"{time.monotonic() - began:.1f} s: {run.steps[-1]}: {run.last}")
            except ViolationError as error:
                report("\n".join([*map(str, run.steps), f"seed {seed}: {error}"]))
                run.counts["violations"] += 1
                break
        return run.counts


def main() -> None:
    """Run the soak and print its counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--subjects", type=int, default=24)
    parser.add_argument("--without-s3", action="store_true")
    parser.add_argument("--trace", action="store_true", help="print every step")
    parser.add_argument("--replay", type=Path, help="a file with the steps, as they are printed")
    options = parser.parse_args()
    sys.path.append(str(Path(__file__).parents[1] / "tests"))  # its S3 server
    lines = options.replay.read_text().splitlines() if options.replay else []
    deadline = time.monotonic() + 60 * options.minutes
    counts = soak(
        options.seed,
        lambda _: time.monotonic() < deadline,
        options.subjects,
        with_s3=not options.without_s3,
        replay=[Step.from_json(line) for line in lines if line.startswith("{")],
        report=functools.partial(print, flush=True),
        trace=options.trace,
    )
    print(json.dumps(dict(sorted(counts.items())), indent=1))
    sys.exit(1 if counts["violations"] else 0)


if __name__ == "__main__":
    main()
