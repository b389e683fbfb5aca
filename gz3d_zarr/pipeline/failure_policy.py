"""When a build stops because of subjects that failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gz3d_zarr.datamodel.option_fields import option
from gz3d_zarr.errors import BuildError, Status, UsageError, plural

if TYPE_CHECKING:
    from gz3d_zarr.datamodel.receipts import Receipt

ON_ERROR = ("skip", "raise")


@dataclass(frozen=True)
class FailurePolicy:
    """When a build stops because of subjects that failed."""

    on_error: str = option(
        "skip",
        "skip: keep the row of a subject that cannot be read, and set its status; "
        "raise: stop the build.",
        choices=ON_ERROR,
    )
    max_failures: int | None = option(None, "Stop once more than N subjects have failed.", int, "N")

    def __post_init__(self) -> None:
        """Refuse values that have no meaning."""
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

    def check(self, receipts: Iterable[Receipt]) -> None:
        """Stop a build with more failed subjects than allowed.

        Raises
        ------
        BuildError
            Says how many, or names the first.
        """
        bad = [o for r in receipts for o in r.outcomes if o.status is not Status.OK]
        if self.is_strict and bad:
            raise stopped_at(f"{bad[0].status.label}: {bad[0].file_name}: {bad[0].reason}")
        if self.max_failures is not None and len(bad) > self.max_failures:
            raise BuildError(
                f"stopped: {plural(len(bad), 'subject')} failed, more than the "
                f"{self.max_failures} allowed. Finished shards are kept; to continue, use "
                "--resume with a larger --max-failures"
            )


def stopped_at(what: str) -> BuildError:
    """The error that stops a strict build at its first failed subject."""
    return BuildError(f"stopped at the first subject that failed: {what}")
