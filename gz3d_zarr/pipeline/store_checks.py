"""What must hold in a complete store, apart from its pictures and its source."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.datamodel.arrays import BIG_ARRAYS, CATALOGUE_GROUP
from gz3d_zarr.datamodel.file_names import parse_name
from gz3d_zarr.datamodel.healpix import healpix_pixels
from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.sample_flags import sample_attrs, sample_mask
from gz3d_zarr.datamodel.subject import CLASSES, SIDE
from gz3d_zarr.datamodel.variables import (
    CATALOGUE_TEXT,
    LABELS,
    NO_CLASSIFICATION,
    NO_VOTE,
    VARIABLES,
)
from gz3d_zarr.errors import GZ3DError, Status, StoreError, error_message, plural, quote, shorten
from gz3d_zarr.storage.build_record import ROOT_KEY, WORK_PREFIX
from gz3d_zarr.storage.object_store import ObjectStore
from gz3d_zarr.storage.shards import ignore_zarr_spec_warnings

Problem = str
"""What is wrong, in words; empty where nothing is."""


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


def check_metadata(store: ObjectStore) -> list[Check]:
    """Compare consolidated metadata with each array's own; they differ where a program changed one.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    consolidated = _consolidated(store)
    if consolidated is None:
        return [Check("metadata", ROOT_KEY, False, "it has no consolidated metadata")]
    found = {
        key.removesuffix(f"/{ROOT_KEY}")
        for key in store.list_sizes()
        if key.endswith(f"/{ROOT_KEY}") and not key.startswith(WORK_PREFIX)
    }
    checks = []
    for name in sorted({*found, *consolidated}):
        finding = ""
        try:
            own = json.loads(store.get(f"{name}/{ROOT_KEY}") or b"null")
        except ValueError:
            own, finding = None, f"{name}/{ROOT_KEY} is damaged"
        if not finding and _without_members(own) != _without_members(consolidated.get(name)):
            finding = f"the consolidated metadata differs from {name}/{ROOT_KEY}"
        checks.append(check_that("metadata", name, finding))
    return checks


def _consolidated(store: ObjectStore) -> dict[str, Any] | None:
    """Consolidated metadata of the root; None where there is none."""
    try:
        document = json.loads(store.get(ROOT_KEY) or b"{}")["consolidated_metadata"]["metadata"]
    except (ValueError, KeyError, TypeError):
        return None
    return document if isinstance(document, dict) else None


def _without_members(document: object) -> object:
    """Metadata of a group without what it consolidates: the root has it."""
    if not isinstance(document, dict):
        return document
    return {name: value for name, value in document.items() if name != "consolidated_metadata"}


def check_structure(dataset: xr.Dataset, catalogue: xr.Dataset, layout: Layout) -> list[Check]:
    """Dimensions, dtypes and lengths of every array against the schema."""
    lengths = {"subject": layout.subjects, "shard": layout.shards, "y": SIDE, "x": SIDE}
    lengths |= {name: len(labels) for name, labels in LABELS.items()}
    expected: dict[str, tuple[tuple[str, ...], str]] = {
        name: (array.dims, str(array.dtype)) for name, array in BIG_ARRAYS.items()
    }
    expected |= {name: (v.dims, str(np.dtype(v.dtype))) for name, v in VARIABLES.items()}
    checks = [
        check_that("structure", name, _compare_array(dataset, name, dims, dtype, lengths))
        for name, (dims, dtype) in expected.items()
    ]
    expected = dict.fromkeys(CATALOGUE_TEXT, (("subject",), ""))
    expected["source_size"] = (("subject",), "int64")
    return checks + [
        check_that(
            "structure",
            f"{CATALOGUE_GROUP}/{name}",
            _compare_array(catalogue, name, dims, dtype, lengths),
        )
        for name, (dims, dtype) in expected.items()
    ]


def _compare_array(
    dataset: xr.Dataset, name: str, dims: tuple[str, ...], dtype: str, lengths: Mapping[str, int]
) -> Problem:
    if name not in dataset.variables:
        return "it is missing"
    array = dataset.variables[name]
    shape = tuple(lengths[dim] for dim in dims)
    if (array.dims, array.shape) != (dims, shape) or (dtype and str(array.dtype) != dtype):
        found = dict(zip(array.dims, array.shape, strict=True))
        expected = dict(zip(dims, shape, strict=True))
        return f"it is {array.dtype} of {found}, expected {dtype or 'text'} of {expected}"
    return ""


def check_objects(store: ObjectStore) -> list[Check]:
    """Check that every chunk of every array has its object, and that there are no other chunks.

    Zarr reads a missing chunk as fill values; a build writes all chunks.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    found, checks = store.list_sizes(), []
    expected: set[str] = set()
    for name, document in (_consolidated(store) or {}).items():
        try:
            expected |= _chunk_keys(name, document, len(found))
        except _PARSE_ERRORS as error:
            words = f"{type(error).__name__}: {error_message(error)}"
            finding = f"its metadata cannot be understood: {words}"
            checks.append(Check("metadata", name, False, finding))
    checks += [
        check_that("object", key, "" if key in found else "it is missing")
        for key in sorted(expected)
    ]
    unfinished = any(key.startswith(WORK_PREFIX) for key in found)
    strange = sorted(key for key in found if "/c/" in key and key not in expected)
    if strange and not unfinished:  # an update that has not ended has written ahead
        finding = f"{plural(len(strange), 'object')} of no array (first {strange[0]})"
        checks.append(check_that("object", "others", finding))
    return checks


def stored_keys(store: ObjectStore, count: int) -> set[str]:
    """Keys of all objects of a store besides its root, according to the root.

    `count` is the number of objects that exist.

    Raises
    ------
    StoreError
        The root cannot be read or understood.
    """
    keys = set()
    for name, document in (_consolidated(store) or {}).items():
        try:
            keys |= {f"{name}/{ROOT_KEY}", *_chunk_keys(name, document, count)}
        except _PARSE_ERRORS as error:
            raise StoreError(
                f"the metadata of {name} in {store.url} cannot be understood "
                f"({error_message(error)}): the store is damaged; run gz3d-zarr verify for details"
            ) from error
    return keys


_PARSE_ERRORS = (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError)
"""What metadata that are no array's raise."""


def _chunk_keys(name: str, document: Mapping[str, Any], most: int) -> set[str]:
    """Keys of all chunks of an array, none of a group; ValueError if they are more than `most`."""
    if document.get("node_type") != "array":
        return set()
    lengths = document["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [-(-n // chunk) for n, chunk in zip(document["shape"], lengths, strict=True)]
    if math.prod(counts) > most:
        raise ValueError(f"it claims {math.prod(counts)} chunks, the store has {most} objects")
    indices = itertools.product(*(range(n) for n in counts))
    return {"/".join((name, "c", *map(str, index))) for index in indices}


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


def check_labels(store: ObjectStore, layout: Layout) -> list[Check]:
    """Check labels as stored: `open_store` uses the schema's, other programs use these.

    Raises
    ------
    OSError, ValueError, RuntimeError
        From zarr or xarray, where they cannot be read.
    """
    with ignore_zarr_spec_warnings():
        stored = xr.open_zarr(
            store.url,
            zarr_format=3,
            consolidated=True,
            chunks=None,
            storage_options=dict(store.storage_options) or None,
        )
    checks = []
    for name, labels in LABELS.items():
        found = [str(label) for label in stored[name].values.tolist()]
        finding = "" if found == list(labels) else f"it is {quote(found)}, expected {list(labels)}"
        checks.append(check_that("coordinates", name, finding))
    for name, expected in sample_attrs(layout.samples).items():
        value = stored["sample"].attrs.get(name)
        same = np.array_equal(np.asarray(value), np.asarray(expected))
        finding = "" if same else f"it is {quote(value)}, expected {expected!r}"
        checks.append(check_that("coordinates", f"sample's {name}", finding))
    return checks


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


def check_attributes(attrs: Mapping[str, Any], status: Iterable[int]) -> list[Check]:
    """Counts in the attributes of the root against the statuses."""
    flags = list(status)
    ok = flags.count(Status.OK)
    expected = {"subjects": len(flags), "subjects_ok": ok, "subjects_failed": len(flags) - ok}
    expected |= {"complete": 1}
    return [
        check_that(
            "attributes",
            name,
            ""
            if attrs.get(name) == value
            else f"it is {shorten(attrs.get(name))}, expected {value}",
        )
        for name, value in expected.items()
    ]
