"""The model of `soak.py`: what a store must hold after each step. Pure, without I/O.

Subjects are Zooniverse ids. A file has the status that it would get if it were read now; a store
has the status of each of its subjects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from random import Random
from typing import Any

OK = "ok"
BAD_STATUS: Mapping[str, str] = {"cut": "corrupt", "empty": "corrupt", "page": "corrupt"}
"""Ways to damage a file, and the status that the file then gets."""
MISSING = "missing"
Snapshot = Mapping[int, str]
"""Subject to status."""


class Kind(StrEnum):
    """What a step does."""

    NEW = "new"
    RESUME = "resume"
    UPDATE = "update"
    RETRY = "retry_failed"
    OVERWRITE = "overwrite"
    COPY = "copy"
    EDIT = "edit"


FRESH = (Kind.NEW, Kind.OVERWRITE)


class Fault(StrEnum):
    """What happens while a step runs."""

    NONE = "none"
    KILL = "the builder is killed"
    KILL_GROUP = "the builder and its workers are killed"
    KILL_WORKER = "a worker is killed"
    FULL = "the disk is full"
    SLOW = "writes are slow"
    SERVER = "the object store fails some requests"
    DAMAGE = "a file of the source is damaged"
    REMOVE = "a file of the source is removed"
    VANISH = "the source vanishes"


HARMLESS = (Fault.NONE, Fault.SLOW, Fault.SERVER)
"""Faults in spite of which a build ends; without one that is killed, workers may fail to start."""


@dataclass(frozen=True)
class Step:
    """One step of the sequence.

    Attributes
    ----------
    place : str
        Which store.
    subjects : tuple of int, or None
        The selection; None for the whole source.
    options : mapping
        Other options of the build.
    fault : Fault
    moment : float
        When the fault happens: part of the writes or of the seconds that a build may take.
    victim : int
        Subject whose file a fault damages.
    changes : mapping
        Of an edit: subject to the way its file is damaged, "whole", or "" to remove it.
    reads : bool
        A reader runs at the same time.
    """

    kind: Kind
    place: str = ""
    subjects: tuple[int, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    fault: Fault = Fault.NONE
    moment: float = 0.0
    victim: int = -1
    changes: Mapping[int, str] = field(default_factory=dict)
    reads: bool = False

    def __str__(self) -> str:
        """JSON of the fields that are not empty."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        return json.dumps({name: value for name, value in content.items() if value})

    @classmethod
    def from_json(cls, text: str) -> Step:
        """Read what `str` gives."""
        content = json.loads(text)
        content["kind"] = Kind(content["kind"])
        content["fault"] = Fault(content.get("fault", Fault.NONE))
        content["changes"] = {int(i): how for i, how in content.get("changes", {}).items()}
        if "subjects" in content:
            content["subjects"] = tuple(content["subjects"])
        return cls(**content)


@dataclass(frozen=True)
class Pending:
    """A build that has not ended, and the statuses that its files had while it ran."""

    subjects: frozenset[int]
    seen: Mapping[int, frozenset[str]]


@dataclass(frozen=True)
class World:
    """The source and one store.

    Attributes
    ----------
    files : mapping
        The source's subjects, with the status of each file.
    store : mapping or None
        The published store.
    pending : tuple of Pending
        Builds of which one has not ended; more than one where it was stopped before it could be
        known which.
    is_beside : bool
        The pending build is to replace the store.
    """

    files: Snapshot
    store: Snapshot | None = None
    pending: tuple[Pending, ...] = ()
    is_beside: bool = False

    @property
    def is_continued_beside(self) -> bool:
        """Whether the pending build keeps nothing of a published store."""
        return bool(self.pending) and (self.store is None or self.is_beside)


@dataclass(frozen=True)
class Seen:
    """What exists after a step.

    Attributes
    ----------
    store : mapping or None
        What `open_store` shows.
    pending, is_beside : bool
        A build has not ended; it is beside the store.
    """

    store: Snapshot | None
    pending: bool
    is_beside: bool


@dataclass(frozen=True)
class Rules:
    """What the installed version promises."""

    keeps_good: bool
    """An overwrite loses no good subject without allow_loss; a vanished source stops it."""
    readers_notice: bool = False
    """Readers that opened a store before an overwrite or a retry notice it; retries are atomic."""


class Expected(StrEnum):
    """How a build without faults must end."""

    ENDS = "ends"
    REFUSES = "refuses"
    EITHER = "either"


def selected(world: World, step: Step) -> frozenset[int]:
    """Subjects of a build."""
    return frozenset(world.files if step.subjects is None else step.subjects)


def expect(world: World, step: Step, rules: Rules) -> Expected:
    """How a build must end, if nothing goes wrong meanwhile."""
    subjects, store, files = selected(world, step), world.store, world.files
    if not subjects <= files.keys():  # an id that no file has
        return Expected.REFUSES
    if step.kind is Kind.NEW:
        return Expected.REFUSES if store is not None or world.pending else Expected.ENDS
    if step.kind is Kind.OVERWRITE:
        lost = _lost(store or {}, {i: files[i] for i in subjects})
        forbidden = rules.keeps_good and lost and not step.options.get("allow_loss")
        return Expected.REFUSES if forbidden else Expected.ENDS
    if world.pending and world.is_beside and step.kind is not Kind.RESUME:
        return Expected.REFUSES
    if world.is_continued_beside or (world.pending and step.kind is Kind.RESUME):
        return _expect_continued(world, subjects)
    if store is None:
        return Expected.ENDS
    same = store.keys() <= subjects if step.kind is Kind.UPDATE else store.keys() == subjects
    return Expected.ENDS if same and not _lost(store, files) else Expected.REFUSES


def _expect_continued(world: World, subjects: frozenset[int]) -> Expected:
    matches = [pending.subjects == subjects for pending in world.pending]
    changed = any(
        OK in statuses and world.files[subject] != OK
        for pending in world.pending
        for subject, statuses in pending.seen.items()
        if subject in subjects
    )
    if not world.is_beside and _lost(world.store or {}, world.files):
        changed = True
    if not any(matches):
        return Expected.REFUSES
    return Expected.ENDS if all(matches) and not changed else Expected.EITHER


def _lost(before: Snapshot, after: Snapshot) -> list[int]:
    """Subjects that were ok and are not any more."""
    return [i for i, status in before.items() if status == OK and after.get(i) != OK]


def files_during(world: World, step: Step) -> Snapshot:
    """The source after the fault of a step."""
    if step.fault is Fault.VANISH:
        return dict.fromkeys(world.files, MISSING)
    changed = {Fault.DAMAGE: BAD_STATUS["page"], Fault.REMOVE: MISSING}.get(step.fault)
    return world.files if changed is None else {**world.files, step.victim: changed}


def allowed(world: World, step: Step) -> dict[int, frozenset[str]]:
    """Statuses that each subject may have in the store that a build publishes."""
    after, store = files_during(world, step), world.store or {}
    if world.is_continued_beside:
        store = {}
    found = {}
    for subject in selected(world, step):
        now = frozenset({world.files.get(subject, MISSING), after.get(subject, MISSING)})
        seen = frozenset[str]().union(*(p.seen.get(subject, set()) for p in world.pending))
        old = store.get(subject)
        if step.kind in FRESH:
            found[subject] = now
        elif old == OK:
            found[subject] = frozenset({OK})
        elif step.kind is Kind.RETRY:
            found[subject] = now | (seen & {OK})
        elif old is None:
            found[subject] = now | seen
        else:
            found[subject] = frozenset({old}) | seen | (now if world.pending else frozenset())
    return found


def is_target(world: World, step: Step, store: Snapshot) -> bool:
    """Whether this is the store that a build is to publish."""
    statuses = allowed(world, step)
    return store.keys() == statuses.keys() and all(store[i] in statuses[i] for i in store)


def is_known(world: World, step: Step, store: Snapshot) -> bool:
    """Whether a reader may see this while a step runs: the old store, or the new one."""
    return store == world.store or is_target(world, step, store)


def judge(
    world: World, step: Step, result: str, message: str, seen: Seen, rules: Rules
) -> Iterator[str]:
    """Violations of the model; `result` is "ended", "stopped" or "killed"."""
    expected = expect(world, step, rules)
    before = Seen(world.store, bool(world.pending), world.is_beside)
    if result == "ended":
        if expected is Expected.REFUSES:
            yield "it ended, and had to refuse"
        if seen.pending or seen.store is None:
            yield f"it ended, and leaves {seen}"
        elif not is_target(world, step, seen.store):
            yield f"it published {seen.store}, allowed is {allowed(world, step)}"
        elif (
            rules.keeps_good
            and not step.options.get("allow_loss")
            and _lost(world.store or {}, seen.store)
        ):
            yield f"good subjects are lost: {_lost(world.store or {}, seen.store)}"
        return
    if result == "stopped" and expected is Expected.ENDS and step.fault in HARMLESS:
        yield f"it had to end, and says: {message}"
    if result == "stopped" and expected is Expected.REFUSES and seen != before:
        yield f"it refused, and changed {before} to {seen}"
    may_be_gone = step.kind is Kind.OVERWRITE or world.store is None or world.is_beside
    if seen.store is None and not may_be_gone:
        yield "the store is gone"
    if seen.store is not None and not is_known(world, step, seen.store):
        yield f"it was stopped, and leaves {seen.store}: neither the old store nor the new one"


def advance(world: World, step: Step, result: str, seen: Seen, rules: Rules) -> World:
    """The world after a step that the model allows."""
    if result == "ended" or not seen.pending:
        return replace(world, store=seen.store, pending=(), is_beside=False)
    pending = world.pending
    if not (result == "stopped" and expect(world, step, rules) is Expected.REFUSES):
        subjects, after = selected(world, step), files_during(world, step)
        continued = [] if step.kind in FRESH else [p for p in pending if p.subjects == subjects]
        statuses = {
            i: frozenset({world.files.get(i, MISSING), after.get(i, MISSING)}).union(
                *(p.seen.get(i, set()) for p in continued)
            )
            for i in subjects
        }
        pending = (*(p for p in pending if p not in continued), Pending(subjects, statuses))
    return replace(world, store=seen.store, pending=pending, is_beside=seen.is_beside)


def edit(files: Snapshot, changes: Mapping[int, str]) -> dict[int, str]:
    """The source's files after an edit."""
    after = {**files, **{i: BAD_STATUS.get(how, OK) for i, how in changes.items()}}
    return {i: status for i, status in after.items() if changes.get(i) != ""}


def draw_edit(random: Random, files: Snapshot, pool: Sequence[int]) -> Step:
    """Add, damage, repair or remove some files; at least three stay."""
    absent = [i for i in pool if i not in files]
    bad = [i for i, status in files.items() if status != OK]
    way = random.choice(["add", "add", "damage", "repair", "repair", "remove"])
    some = random.randint(1, 3)
    if way == "add" and absent:
        return Step(Kind.EDIT, changes=dict.fromkeys(absent[:some], "whole"))
    if way == "remove" and len(files) > 3:
        return Step(Kind.EDIT, changes={random.choice(sorted(files)): ""})
    if way == "damage":  # rather new files than those that stores have, which then refuse them
        how = random.choice(sorted(BAD_STATUS))
        victims = absent if absent and random.random() < 0.7 else sorted(files)
        return Step(Kind.EDIT, changes={random.choice(victims): how})
    everything = dict.fromkeys(bad or absent[:1], "whole")
    return Step(Kind.EDIT, changes=everything)


def is_dull(world: World, step: Step, rules: Rules) -> bool:
    """Whether a build is refused, or has nothing to do."""
    if expect(world, step, rules) is Expected.REFUSES:
        return True
    store = world.store or {}
    failed = step.kind is Kind.RETRY and set(store.values()) - {OK}
    is_fresh = step.kind in (*FRESH, Kind.COPY)
    return not (is_fresh or world.pending or failed) and store.keys() == selected(world, step)


def draw_build(random: Random, world: World, place: str, faults: Sequence[Fault]) -> Step:
    """A build that makes sense in most cases, and is to be refused in some."""
    kinds = [Kind.OVERWRITE, Kind.RESUME]
    if world.pending:
        kinds += [Kind.RESUME] * 6 + [Kind.UPDATE, Kind.RETRY]
    elif world.store is None:
        kinds = [Kind.NEW] * 6 + [Kind.RESUME]
    else:
        kinds += [Kind.UPDATE] * 4 + [Kind.RETRY] * 3 + [Kind.COPY] * 2 + [Kind.NEW]
    kind = random.choice(kinds)
    everything = sorted(world.files)
    subjects: list[int] | None = None
    if kind in FRESH and random.random() < 0.4:
        subjects = random.sample(everything, random.randint(2, len(everything)))
    elif world.pending and random.random() < 0.9:
        subjects = sorted(world.pending[-1].subjects)
    elif kind in (Kind.RETRY, Kind.RESUME) and world.store is not None and random.random() < 0.9:
        subjects = sorted(world.store)
    options: dict[str, Any] = {}
    if kind in FRESH:
        options = {
            "shard_size": random.choice([2, 3, 4]),
            "codec": random.choice(["portable", "compact"]),
            "order": random.choice(["healpix", "name"]),
        }
    if kind is Kind.OVERWRITE:
        options["allow_loss"] = random.random() < 0.5
    return Step(
        kind,
        place,
        None if subjects is None else tuple(sorted(subjects)),
        options,
        random.choice(faults),
        random.random(),
        random.choice(everything),
        reads=random.random() < 0.5,
    )
