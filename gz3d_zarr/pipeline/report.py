"""What a build did, and what a verification found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import Any

from dask.utils import format_bytes

from gz3d_zarr.datamodel.text_report import TextReport
from gz3d_zarr.datamodel.variables import UNKNOWN, SubjectRecord
from gz3d_zarr.errors import plural, shorten, status_counts
from gz3d_zarr.pipeline.store_checks import Check
from gz3d_zarr.progress import format_rate

MAX_LISTED = 50
"""Failures that the text lists; JSON lists all."""
MAX_ADDITIONS = 10
REPAIRED = frozenset(
    ("shard", "object", "values", "metadata", "attributes", "consolidated", "coordinates", "open")
)
"""Checks of `verify` after which ``build --resume`` repairs the store."""
MAY_BE_UNKNOWN = (
    "manga_tile_id",
    "nsa_id",
    "total_classifications",
    "spiral_votes",
    "bar_votes",
)
"""Metadata of a subject that is ok for which a file may have a value such as -999."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A subject that failed."""

    file_name: str
    status: str
    reason: str


@dataclass(frozen=True)
class BuildReport(TextReport):
    """Result of `build`.

    Attributes
    ----------
    store : str
        Absolute path or URL.
    subjects : int
        Rows in the store.
    ok : int
        How many of them are ok.
    failures : tuple of Failure
        The others.
    shards : int
        Shards of the store.
    shards_built : int
        Shards that this run wrote; the others existed.
    subjects_built : int
        Subjects that this run read.
    stored_bytes : int
        Bytes of the shards that this run wrote.
    seconds : float
        Wall time of this run, without the start of the workers.
    notes : tuple of str
        Notes for the user.
    saturated : tuple of str
        Files with counts above 255, which the store has as 255.
    """

    store: str
    subjects: int
    ok: int
    failures: tuple[Failure, ...]
    shards: int
    shards_built: int
    subjects_built: int
    stored_bytes: int
    seconds: float
    notes: tuple[str, ...] = ()
    saturated: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Subjects by status."""
        return status_counts(self.ok, (failure.status for failure in self.failures))

    @property
    def rate(self) -> float:
        """Subjects per second that this run built."""
        return self.subjects_built / self.seconds if self.seconds > 0 else 0.0

    @property
    def _ok_text(self) -> str:
        verb = "is" if self.subjects == 1 else "are"
        return f"{self.ok} of {plural(self.subjects, 'subject')} {verb} ok"

    @property
    def _saturated_text(self) -> str:
        names = ", ".join(self.saturated[:MAX_LISTED])
        if len(self.saturated) > MAX_LISTED:
            names += f" and {len(self.saturated) - MAX_LISTED} more (--json lists all)"
        files = plural(len(self.saturated), "file")
        return f"counts above 255 are stored as 255, with the flag saturated, in {files}: {names}"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        counts = "".join(f"<th>{name}</th>" for name in self.counts)
        numbers = "".join(f"<td>{number}</td>" for number in self.counts.values())
        rows = "".join(
            f"<tr><td>{escape(f.status)}</td><td>{escape(f.file_name)}</td>"
            f"<td style='text-align: left'>{escape(f.reason)}</td></tr>"
            for f in self.failures[:MAX_LISTED]
        )
        if len(self.failures) > MAX_LISTED:
            rows += f"<tr><td colspan='3'>and {len(self.failures) - MAX_LISTED} more</td></tr>"
        failures = f"<table><tr><th>status</th><th>file</th><th>reason</th></tr>{rows}</table>"
        remarks = [*self.notes, self._saturated_text] if self.saturated else self.notes
        notes = "".join(f"<li>{escape(note)}</li>" for note in remarks)
        return (
            f"<p><b>{escape(self.store)}</b>: {self._ok_text}; built "
            f"{self.subjects_built} in {self.seconds:.1f} s</p>"
            f"<table><tr>{counts}</tr><tr>{numbers}</tr></table>"
            f"{failures if self.failures else ''}{f'<ul>{notes}</ul>' if notes else ''}"
        )

    def summary(self) -> dict[str, Any]:
        """What ``gz3d-zarr build --json`` prints."""
        return {**asdict(self), "counts": self.counts, "subjects_per_second": self.rate}

    def to_text(self) -> str:
        """What ``gz3d-zarr build`` prints."""
        if self.shards_built:
            done = (
                f"Read {plural(self.subjects_built, 'subject')} and wrote {self.shards_built} of "
                f"{plural(self.shards, 'shard')}, {format_bytes(self.stored_bytes)}, in "
                f"{self.seconds:.1f} s"
            )
            rate = f" ({format_rate(self.rate)} subjects per second)" if self.rate else ""
            done += f"{rate}."
        else:
            done = "Nothing to build: all shards exist."
        lines = [done, f"{self.store}: {self._ok_text}."]
        lines += [f"Note: {note}." for note in self.notes]
        if self.saturated:
            lines.append(f"Note: {self._saturated_text}.")
        if self.failures:
            lines.append(f"{plural(len(self.failures), 'subject')} failed:")
            lines += [
                f"  {f.status:<11} {f.file_name}  {f.reason}" for f in self.failures[:MAX_LISTED]
            ]
            if len(self.failures) > MAX_LISTED:
                lines.append(f"  and {len(self.failures) - MAX_LISTED} more; --json lists all")
        return "\n".join(lines)


def list_saturated(records: Iterable[SubjectRecord]) -> tuple[str, ...]:
    """Names of the files with counts above 255."""
    return tuple(
        record.entry.file.name
        for record in records
        if record.metadata is not None and record.metadata.saturated_pixels
    )


def note_subjects(records: Iterable[SubjectRecord]) -> list[str]:
    """Notes about files that are ok and have something unusual in HDU 5."""
    read = [(r.entry.file, r.outcome.metadata) for r in records if r.outcome.metadata is not None]
    notes = []
    others = [(file, m) for file, m in read if m.manga_id != file.manga_id]
    if others:
        file, metadata = others[0]
        notes.append(
            f"another MANGAID inside than in the name of {plural(len(others), 'file')} (first "
            f"{file.name}: {shorten(metadata.manga_id)}); the coordinate subject has the name's"
        )
    unknown = [
        file.name for file, m in read if UNKNOWN in [getattr(m, name) for name in MAY_BE_UNKNOWN]
    ]
    if unknown:
        notes.append(
            f"the tile, NSA id or votes of {plural(len(unknown), 'subject')} are unknown in HDU 5, "
            f"and {UNKNOWN} in the store (first {unknown[0]})"
        )
    return notes


@dataclass(frozen=True)
class VerifyReport(TextReport):
    """Result of `verify`.

    Attributes
    ----------
    store : str
        Absolute path or URL.
    state : {'sound', 'damaged', 'stale', 'incomplete', 'differs'}
        Stale: only the root's copy of the metadata differs; incomplete: the build is unfinished;
        differs: sound in itself, but the source has other files now.
    checks : tuple of Check
        All checks.
    subjects : int
        Rows of the store.
    not_ok : int
        How many of them failed.
    compared : int
        How many were compared with their files.
    additions : tuple of str
        Files, arrays, groups and attributes of the root that others have added. They are not
        damage.
    """

    store: str
    state: str
    checks: tuple[Check, ...]
    subjects: int = 0
    not_ok: int = 0
    compared: int = 0
    additions: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """Checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    def summary(self) -> dict[str, Any]:
        """What ``gz3d-zarr verify --json`` prints."""
        return {**asdict(self), "passed": self.passed}

    def without_passed(self) -> VerifyReport:
        """The same report with the checks that failed only."""
        return replace(self, checks=self.failures)

    def to_text(self) -> str:
        """What ``gz3d-zarr verify`` prints."""
        counted = Counter(check.test for check in self.checks)
        failed = Counter(check.test for check in self.failures)
        lines = [f"{'test':<12} {'checks':>7} {'failed':>7}"]
        lines += [f"{test:<12} {n:>7} {failed[test]:>7}" for test, n in counted.items()]
        lines += [f"  {c.test}  {c.target}: {c.detail}" for c in self.failures[:MAX_LISTED]]
        if len(self.failures) > MAX_LISTED:
            lines.append(f"  and {len(self.failures) - MAX_LISTED} more; --json lists all")
        if self.subjects and REPAIRED & {check.test for check in self.failures}:
            lines.append(
                "To repair it, delete the objects of damaged shards and run build --resume with "
                "the same source and options (of a subset, with its ids as --ids): it reads these "
                "shards again, and writes small arrays and metadata anew."
            )
        if self.additions:
            names = ", ".join(self.additions[:MAX_ADDITIONS])
            more = len(self.additions) - MAX_ADDITIONS
            names += f" and {more} more (--json lists all)" if more > 0 else ""
            lines.append(f"Not part of the store, and not checked: {names}.")
        words = "sound, but differs from its source" if self.state == "differs" else self.state
        counts = (
            f": {plural(self.subjects, 'subject')}, {self.not_ok} failed, "
            f"{self.compared or 'none'} compared with their files"
        )
        lines.append(f"{self.store} is {words}{counts if self.subjects else ''}.")
        return "\n".join(lines)
