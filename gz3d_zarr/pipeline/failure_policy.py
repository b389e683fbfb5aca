"""When a build stops because of subjects that failed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gz3d_zarr.datamodel.option_fields import check_types, option
from gz3d_zarr.errors import BuildError, Status, UsageError, plural

if TYPE_CHECKING:
    from gz3d_zarr.datamodel.receipts import Receipt, SubjectOutcome

ON_ERROR = ("skip", "raise")
FIRST_SUBJECTS = 100
"""A larger build stops if so many subjects are read and all of them are invalid or corrupt."""
_DAMAGED = (Status.INVALID, Status.CORRUPT)
_MAX_REASON = 160
_VARYING = re.compile(r"[0-9a-f]{40}|\d[\d.]*")
"""Digests and numbers, in which reasons of one kind differ."""


@dataclass(frozen=True)
class FailurePolicy:
    """When a build stops because of subjects that failed."""

    on_error: str = option(
        "skip",
        "skip: keep the row of a subject that cannot be read, and set its status; "
        "raise: stop the build.",
        choices=ON_ERROR,
    )
    max_failures: int | None = option(
        None,
        "Stop once more than N subjects have failed. [default: stop if the first "
        f"{FIRST_SUBJECTS} are all invalid or corrupt]",
        int,
        "N",
    )
    allow_loss: bool = option(
        False,
        "Let --overwrite, or the --resume of one, replace a store also if good subjects of it "
        "failed or are left out.",
        bool,
    )

    def __post_init__(self) -> None:
        """Refuse values that have no meaning."""
        check_types(self)
        if self.on_error not in ON_ERROR:
            raise UsageError(
                f"on_error is {self.on_error!r}, expected one of {', '.join(ON_ERROR)}"
            )
        if self.max_failures is not None and self.max_failures < 0:
            raise UsageError(f"max_failures is {self.max_failures}, expected 0 or more")

    @property
    def is_strict(self) -> bool:
        """Whether the first failed subject stops the build."""
        return self.on_error == "raise"

    def check(self, receipts: Iterable[Receipt], subjects: int) -> None:
        """Stop a build with more failed subjects than allowed.

        Parameters
        ----------
        receipts : iterable of Receipt
            Of the shards that are finished.
        subjects : int
            Of the whole build.

        Raises
        ------
        BuildError
            Says how many, or names the first.
        """
        outcomes = [outcome for receipt in receipts for outcome in receipt.outcomes]
        bad = [outcome for outcome in outcomes if outcome.status is not Status.OK]
        if self.is_strict and bad:
            raise stopped_at(f"{bad[0].status.label}: {bad[0].file_name}: {bad[0].reason}")
        if self.max_failures is not None and len(bad) > self.max_failures:
            raise BuildError(
                f"stopped: {plural(len(bad), 'subject')} failed, more than the "
                f"{self.max_failures} allowed. Finished shards are kept; to continue, use "
                "--resume with a larger --max-failures"
            )
        if (
            self.max_failures is None
            and subjects > FIRST_SUBJECTS
            and len(outcomes) >= FIRST_SUBJECTS
            and all(outcome.status in _DAMAGED for outcome in outcomes)
        ):
            raise BuildError(
                f"stopped: the first {len(outcomes)} of {subjects} subjects are all invalid or "
                f"corrupt, most of them for this reason: {_commonest_reason(bad)}. Is this the "
                "right source? Finished shards are kept; to build all the same, use --resume "
                f"with --max-failures {subjects}"
            )


def _commonest_reason(outcomes: Sequence[SubjectOutcome]) -> str:
    """The first reason of the commonest kind, shortened."""
    kinds = [_VARYING.sub("0", outcome.reason) for outcome in outcomes]
    commonest, _ = Counter(kinds).most_common(1)[0]
    reason = outcomes[kinds.index(commonest)].reason
    return reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}..."


def stopped_at(what: str) -> BuildError:
    """The error that stops a strict build at its first failed subject."""
    return BuildError(f"stopped at the first subject that failed: {what}")
