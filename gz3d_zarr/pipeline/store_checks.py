"""What must hold in a complete store, apart from its pictures and its source."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.datamodel.file_names import parse_name
from gz3d_zarr.datamodel.healpix import healpix_pixels
from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.receipts import StoredObject
from gz3d_zarr.datamodel.sample_flags import sample_mask
from gz3d_zarr.datamodel.schema import RECEIPTS_ATTR
from gz3d_zarr.datamodel.subject import CLASSES
from gz3d_zarr.datamodel.variables import NO_CLASSIFICATION, NO_VOTE, VARIABLES
from gz3d_zarr.errors import GZ3DError, Status, error_message, plural
from gz3d_zarr.storage.build_record import ROOT_KEY, WORK_PREFIX, digest
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.published_receipts import PublishedReceipts, published_key

Problem = str
"""What is wrong, in words; empty where nothing is."""

MAX_SURPLUS = 10**6
"""Bytes by which a small object may be larger than was written, and is still read."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tested.

    Attributes
    ----------
    test : str
        What kind of test.
    target : str
        What was tested: an array, an object, a subject's file.
    passed : bool
    detail : str
        What was found where it did not pass.
    """

    test: str
    target: str
    passed: bool
    detail: str = ""


def check_that(test: str, target: str, finding: Problem) -> Check:
    """A check that passes where nothing was found."""
    return Check(test, target, not finding, finding)


def read_small_objects(
    store: ObjectStore, published: PublishedReceipts, sizes: Mapping[str, int]
) -> dict[str, bytes]:
    """Read every object of a store but its shards and its root, each once.

    Parameters
    ----------
    store : ObjectStore
    published : PublishedReceipts
    sizes : mapping of str to int
        Bytes of every object that exists. One that is far larger than was written is not read.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    wanted = [
        item.key
        for item in published.small_objects
        if sizes.get(item.key, 0) <= item.size + MAX_SURPLUS
    ]
    return {key: data for key, data in store.get_all(wanted).items() if data is not None}


def find_damage(item: StoredObject, data: bytes | None) -> Problem:
    """How an object differs from what the build wrote; empty where it does not.

    Without a digest, only whether it exists, and has no more bytes than `item`.
    """
    if data is None:
        return "it is missing"
    if len(data) > item.size:  # perhaps not all of it was read
        return f"it has more than {item.size} bytes"
    if not item.sha256:
        return ""
    if len(data) != item.size:
        return f"it has {len(data)} bytes, expected {item.size}"
    if digest(data) != item.sha256:
        return "its bytes are not those that the build wrote (SHA-256)"
    return ""


def check_objects(
    published: PublishedReceipts, stored: Mapping[str, bytes], sizes: Mapping[str, int]
) -> Iterator[Check]:
    """Check that every object exists, and that the small ones are as they were written.

    Zarr reads a missing chunk as fill values; a build writes all chunks.

    Parameters
    ----------
    published : PublishedReceipts
    stored : mapping of str to bytes
        From `read_small_objects`.
    sizes : mapping of str to int
        Bytes of every object that exists.
    """
    for receipt in published.receipts:
        for item in receipt.objects:
            finding = "" if item.key in sizes else "it is missing"
            yield check_that("object", item.key, finding)
    for item in published.small_objects:
        finding = find_damage(item, stored.get(item.key))
        if item.key in sizes and item.key not in stored:
            finding = f"it has {sizes[item.key]} bytes, expected {item.size}"
        yield check_that("object", item.key, finding)


def sort_others(
    published: PublishedReceipts, nodes: Collection[str], sizes: Mapping[str, int]
) -> tuple[list[str], list[str]]:
    """Divide the objects that are not of the store into damage and additions.

    Parameters
    ----------
    published : PublishedReceipts
    nodes : collection of str
        Names of all arrays and groups of the store.
    sizes : mapping of str to int
        Bytes of every object that exists.

    Returns
    -------
    strange, added : list of str
        Strange: what a reader may take for a part of an array or group of the store, such as a
        chunk beyond its end, or metadata of another Zarr version. Added: files, arrays and groups
        of others, which do not change what a reader of the store sees.
    """
    own = {ROOT_KEY, published_key(str(published.attributes[RECEIPTS_ATTR])), *published.objects}
    others = [key for key in sorted({*sizes} - own) if not key.startswith(WORK_PREFIX)]
    strange: list[str] = []
    added: list[str] = []
    for key in others:
        (strange if _is_strange(key, nodes) else added).append(key)
    return strange, added


def _is_strange(key: str, nodes: Collection[str]) -> bool:
    node, separator, index = key.partition("/c/")
    if separator:
        return node in nodes and _CHUNK.fullmatch(index) is not None
    folder, _, name = key.rpartition("/")
    return name in _METADATA_NAMES and folder in ("", *nodes)


_CHUNK = re.compile(r"\d+(/\d+)*")
_METADATA_NAMES = (".zarray", ".zattrs", ".zgroup", ".zmetadata")
"""Metadata documents of Zarr 2, which some programs read where both exist."""


def check_coordinates(
    dataset: xr.Dataset, catalogue: xr.Dataset, layout: Layout
) -> Iterator[Check]:
    """Coordinates and catalogue against each other."""
    values = {name: dataset[name].values for name in (*VARIABLES, "subject") if name in dataset}
    table = {str(name): catalogue[name].values for name in catalogue.data_vars}
    for target, find in _COORDINATE_CHECKS.items():
        try:
            finding = find(values, table, layout)
        except (KeyError, IndexError, ValueError, TypeError, GZ3DError) as error:
            finding = f"it cannot be tested: {type(error).__name__}: {error_message(error)}"
        yield check_that("coordinates", target, finding)


Values = Mapping[str, NDArray[Any]]


def _first(bad: NDArray[np.bool_], what: str) -> Problem:
    rows = np.flatnonzero(bad)
    if not rows.size:
        return ""
    return f"{what} in {plural(rows.size, 'row')} (first {rows[0]})"


def _find_healpix(values: Values, _: Values, layout: Layout) -> Problem:
    expected = healpix_pixels(values["ra"], values["dec"], layout.nside)
    return _first(values["healpix"] != expected, "not the pixel of ra and dec")


def _find_votes(values: Values, _: Values, __: Layout) -> Problem:
    total = values["total_classifications"]
    fractions = values["vote_fraction"]
    expected = np.full(fractions.shape, NO_VOTE, np.float32)
    for name in ("spiral", "bar"):
        votes = values[f"{name}_votes"]
        known = (total > 0) & (votes >= 0)
        share = np.full(total.shape, np.nan)
        share[total == 0] = NO_CLASSIFICATION
        np.divide(votes, total, out=share, where=known)
        expected[:, CLASSES.index(name)] = share
    same = (fractions == expected) | (np.isnan(fractions) & np.isnan(expected))
    return _first(~same.all(axis=1), "vote_fraction is not votes over total_classifications")


def _find_repeated(values: Values, _: Values, __: Layout) -> Problem:
    ids = values["zooniverse_subject_id"]
    found, first = np.unique(ids, return_index=True)
    repeated = np.ones(ids.shape, bool)
    repeated[first] = False
    return _first(repeated, "a repeated id") if found.size < ids.size else ""


def _find_names(values: Values, table: Values, _: Layout) -> Problem:
    bad = np.zeros(len(table["file_name"]), bool)
    for i, name in enumerate(table["file_name"]):
        file = parse_name(str(name))
        ids = (str(values["subject"][i]), int(values["zooniverse_subject_id"][i]))
        bad[i] = file is None or ids != (file.manga_id, file.zooniverse_subject_id)
    return _first(bad, "ids that differ from the file's name")


def _find_status(values: Values, table: Values, _: Layout) -> Problem:
    status = values["status"]
    unknown = ~np.isin(status, [int(flag) for flag in Status])
    reasons = np.array([bool(str(reason)) for reason in table["reason"]])
    return _first(unknown, "an unknown flag") or _first(
        (status == Status.OK) == reasons,
        "a reason where the status is ok, or none where it is not",
    )


def _find_samples(values: Values, table: Values, layout: Layout) -> Problem:
    expected = np.array([sample_mask(str(name), layout.samples) for name in table["sample_name"]])
    return _first(values["sample"] != expected, "not the flags of sample_name")


def _find_positions(values: Values, _: Values, __: Layout) -> Problem:
    ra, dec, status = values["ra"], values["dec"], values["status"]
    with np.errstate(invalid="ignore"):
        on_sky = (ra >= 0) & (ra <= 360) & (dec >= -90) & (dec <= 90)
    unknown = np.isnan(ra) & np.isnan(dec) & (status != Status.OK)
    return _first(~(on_sky | unknown), "a position that is not on the sky")


_COORDINATE_CHECKS: Mapping[str, Callable[[Values, Values, Layout], Problem]] = {
    "ra, dec": _find_positions,
    "healpix": _find_healpix,
    "vote_fraction": _find_votes,
    "zooniverse_subject_id": _find_repeated,
    "subject": _find_names,
    "status": _find_status,
    "sample": _find_samples,
}
