"""Whether a build may continue from what exists, and from what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import xarray as xr

from gz3d_zarr.backends.store import read_store
from gz3d_zarr.datamodel.layout import Layout, read_layout
from gz3d_zarr.datamodel.receipts import Receipt, StoredObject, SubjectOutcome
from gz3d_zarr.datamodel.schema import BIG_ARRAYS, SCHEMA
from gz3d_zarr.datamodel.subject import SubjectMetadata
from gz3d_zarr.errors import Status, StoreError, plural
from gz3d_zarr.pipeline.plan import Plan
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.shards import shard_key


def identify(made: Plan) -> dict[str, Any]:
    """What two builds must share for one to go on with the other's work."""
    return {
        "schema": SCHEMA,
        "fingerprint": made.fingerprint,
        "order": made.manifest.order,
        **asdict(made.layout),
    }


def check_same(
    folder: ObjectStore, made: Plan, there: Mapping[str, Any], names: Sequence[str]
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
    folder: ObjectStore, made: Plan, there: Mapping[str, Any], names: Sequence[str]
) -> None:
    """Refuse an update that could not leave what stands there alone."""
    differences = _differences(identify(made), there, without=("subjects",))
    wanted = [entry.file.name for entry in made.manifest.entries]
    gone = sorted(set(names) - set(wanted))
    if gone:
        differences.append(f"the source lacks {plural(len(gone), 'file')} of it (first {gone[0]})")
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
        words.append(f"{plural(len(new), 'file')} of the source not there (first {new[0]})")
    if gone:
        words.append(f"{plural(len(gone), 'file')} there and not in the source (first {gone[0]})")
    if not words and list(wanted) != list(there):
        words.append("the files are in another order")
    return words


def check_unchanged(folder: ObjectStore, made: Plan, receipts: Iterable[Receipt]) -> None:
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
            f"{plural(len(changed), 'file')} of the source changed since {folder.url} was built "
            f"from them (first {changed[0]}: another size or sha1). Build it anew with --overwrite"
        )


_NUMBERS = (
    "ra",
    "dec",
    "scale",
    "ifu_design_size",
    "manga_tile_id",
    "nsa_id",
    "total_classifications",
    "spiral_votes",
    "bar_votes",
    "number_galaxy_centers",
    "number_foreground_stars",
)
_TEXT = {
    "manga_id": "manga_id",
    "iauname": "iauname",
    "explorer_link": "explorer_link",
    "sample": "sample_name",
}


def restore_receipts(folder: ObjectStore) -> tuple[Layout, list[Receipt]]:
    """Read what the receipts of a complete store said, from its variables and its catalogue.

    Returns
    -------
    layout : Layout
    receipts : list of Receipt
        One for each shard; the size of an object that is not there is -1.

    Raises
    ------
    StoreError
        As `open_store`, or where the store does not tell.
    """
    dataset, catalogue = read_store(folder)
    attrs = dataset.attrs
    layout = read_layout(attrs)
    sizes = folder.list_sizes()
    receipts = []
    try:
        outcomes = _outcomes(dataset, catalogue)
        for shard in range(layout.shards):
            stored = []
            for name in BIG_ARRAYS:
                key = shard_key(name, shard)
                digest = str(catalogue[f"{name}_sha256"].values[shard])
                stored.append(StoredObject(key, sizes.get(key, -1), digest))
            rows = tuple(outcomes[layout.rows(shard)])
            receipts.append(Receipt(shard, attrs["fingerprint"], rows, tuple(stored)))
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise StoreError(
            f"{folder.url} does not say what it was built from ({type(error).__name__}: {error}): "
            "it is damaged, or was changed by another program"
        ) from error
    return layout, receipts


def _outcomes(dataset: xr.Dataset, catalogue: xr.Dataset) -> list[SubjectOutcome]:
    """Each subject's outcome; metadata only where the file told it."""
    numbers = {name: dataset[name].values.tolist() for name in _NUMBERS}
    texts = {field: catalogue[name].values.tolist() for field, name in _TEXT.items()}
    columns = ("file_name", "status", "reason", "source_sha1", "source_size")
    outcomes = []
    for i, (name, status, reason, sha1, size) in enumerate(
        zip(*(catalogue[column].values.tolist() for column in columns), strict=True)
    ):
        fields: dict[str, Any] = {field: values[i] for field, values in numbers.items()}
        fields |= {field: values[i] for field, values in texts.items()}
        metadata = SubjectMetadata(**fields) if status == Status.OK else None
        outcomes.append(SubjectOutcome(name, Status(status), reason, sha1, size, metadata))
    return outcomes
