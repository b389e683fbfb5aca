"""Whether a build may go on with what stands at a place: same plan, same files, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gz3d_zarr.errors import Status, StoreError, count
from gz3d_zarr.objects import ObjectFolder
from gz3d_zarr.planning import Plan
from gz3d_zarr.receipts import Receipt
from gz3d_zarr.schema import SCHEMA


def identify(made: Plan) -> dict[str, Any]:
    """What two builds must share for one to go on with the other's work."""
    return {
        "schema": SCHEMA,
        "fingerprint": made.fingerprint,
        "order": made.manifest.order,
        **asdict(made.layout),
    }


def check_same(
    folder: ObjectFolder, made: Plan, there: Mapping[str, Any], names: Sequence[str]
) -> None:
    """Refuse to go on with another plan, and say in words what differs."""
    mine = identify(made)
    if there.get("fingerprint") == mine["fingerprint"]:
        return
    differences = _differences(mine, there)
    differences += _compare_names([e.file.name for e in made.manifest.entries], names)
    raise StoreError(
        f"{folder.url} was begun with another plan: {'; '.join(differences) or 'samples differ'}. "
        "Give the options and the source that it was begun with, or use --overwrite"
    )


def check_grown(
    folder: ObjectFolder, made: Plan, there: Mapping[str, Any], names: Sequence[str]
) -> None:
    """Refuse an update that could not leave what stands there alone."""
    differences = _differences(identify(made), there, without=("subjects",))
    wanted = [entry.file.name for entry in made.manifest.entries]
    gone = sorted(set(names) - set(wanted))
    if gone:
        differences.append(f"the source lacks {count(len(gone), 'file')} of it (first {gone[0]})")
    elif not differences and wanted[: len(names)] != list(names):
        first = next(i for i, name in enumerate(names) if wanted[i] != name)
        differences.append(
            f"in the order of {made.manifest.order}, {wanted[first]} comes before subjects that it "
            "has, and an update can only add behind them"
        )
    if differences:
        raise StoreError(
            f"{folder.url} cannot be updated: {'; '.join(differences)}. Build it anew with "
            "--overwrite"
        )


def _differences(
    mine: Mapping[str, Any], there: Mapping[str, Any], without: Sequence[str] = ()
) -> list[str]:
    return [
        f"{name} is {mine[name]}, there it is {there.get(name)}"
        for name in ("subjects", "shard_size", "codec", "nside", "order")
        if name not in without and there.get(name) != mine[name]
    ]


def _compare_names(wanted: Sequence[str], there: Sequence[str]) -> list[str]:
    """How two lists of files differ, in words."""
    new, gone = sorted(set(wanted) - set(there)), sorted(set(there) - set(wanted))
    words = []
    if new:
        words.append(f"{count(len(new), 'file')} of the source not there (first {new[0]})")
    if gone:
        words.append(f"{count(len(gone), 'file')} there and not in the source (first {gone[0]})")
    if not words and list(wanted) != list(there):
        words.append("the files are in another order")
    return words


def check_unchanged(folder: ObjectFolder, made: Plan, receipts: Iterable[Receipt]) -> None:
    """Refuse to mix subjects that are stored with files that were replaced since."""
    changed = []
    for receipt in receipts:
        entries = made.manifest.entries[made.layout.rows(receipt.shard)]
        for entry, outcome in zip(entries, receipt.outcomes, strict=False):  # an update adds some
            other = (entry.sha1 or outcome.sha1, entry.file.size or outcome.size)
            if outcome.status is Status.OK and other != (outcome.sha1, outcome.size):
                changed.append(entry.file.name)
    if changed:
        raise StoreError(
            f"{count(len(changed), 'file')} of the source changed since {folder.url} was built "
            f"from them (first {changed[0]}: another size or sha1). Build it anew with --overwrite"
        )
