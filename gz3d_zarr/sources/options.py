"""Options that select subjects, and options that fetch files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gz3d_zarr.datamodel.option_fields import check_types, option
from gz3d_zarr.errors import UsageError
from gz3d_zarr.locations import absolute, is_url

ORDERS = ("healpix", "name")
MISSING_IDS = ("error", "warn")
TINY_LIMIT = 5
DEFAULT_CONNECTIONS = 8


@dataclass(frozen=True)
class SelectionOptions:
    """Which subjects of a source, and in which order."""

    limit: int | None = option(
        None, "Only the first N subjects in the order of the store.", int, "N"
    )
    tiny: bool = option(False, f"Only the first {TINY_LIMIT} subjects.", bool)
    ids: Iterable[str | int] | None = option(
        None,
        "Only these MaNGA or Zooniverse ids, one per line; - for standard input.",
        list,
        "FILE",
    )
    missing_ids: str = option(
        "error",
        "error: stop if no subject has one of the ids; warn: leave it out.",
        choices=MISSING_IDS,
    )
    ids_table: str | Path | None = option(
        None,
        "FITS or CSV table with the columns mangaid and plateifu, such as DRPall. With it, --ids "
        "may have plate-IFUs.",
        str,
        "FILE",
        flags=("table", "ids-table"),
    )
    min_vote_fraction: float | None = option(
        None,
        "Only subjects with a spiral or bar vote fraction of at least F (0 to 1).",
        float,
        "F",
    )
    catalogue: str | Path | None = option(
        None,
        "Catalogue; 'none' for no catalogue. [default: gz3d_metadata.fits beside the files]",
        str,
        "FILE",
    )
    order: str | None = option(
        None,
        "Order of subjects. [default: healpix if positions are known]",
        choices=ORDERS,
    )

    def __post_init__(self) -> None:
        """Refuse options that exclude each other."""
        check_types(self)
        if self.tiny and self.limit is not None:
            raise UsageError(f"tiny is limit {TINY_LIMIT}: give one of tiny and limit, not both")
        if self.missing_ids not in MISSING_IDS:
            raise UsageError(
                f"missing_ids is {self.missing_ids!r}, expected one of {', '.join(MISSING_IDS)}"
            )
        if self.ids_table is not None and self.ids is None:
            raise UsageError("ids_table (--table) is for ids (--ids), and there are none")

    def adopt(self, record: Mapping[str, Any]) -> SelectionOptions:
        """Fill in what is not given from the record of a store or of an unfinished build."""
        return replace(self, order=self.order or record.get("order"))


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """How files of a source are fetched and accepted; `cache` becomes an absolute path."""

    cache: str | None = option(None, "Keep fetched files in DIR.", str, "DIR")
    connections: int = option(
        DEFAULT_CONNECTIONS,
        "Maximum connections to the source server, across all workers.",
        int,
        "N",
    )
    source_options: Mapping[str, Any] | None = option(
        None,
        "Option for the source's file system; dots in KEY nest. Repeatable.",
        dict,
        "KEY=VALUE",
        repr=False,  # it may hold a secret
    )
    trust_names: bool = option(
        False,
        "Accept files without a sha1 under other names than their own MANGAID and bundle.",
        bool,
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot be used, before any work."""
        check_types(self)
        if self.connections < 1:
            raise UsageError(f"connections is {self.connections}, expected at least 1")
        if self.cache is not None:  # workers may run in another folder
            folder = absolute(str(self.cache))
            if is_url(folder):
                raise UsageError("cache is a URL, expected a local folder")
            object.__setattr__(self, "cache", folder)
