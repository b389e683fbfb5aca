"""Masks, fractions and areas of what volunteers marked, computed lazily.

A mask is true where *more than* `threshold` volunteers marked a pixel. The authors of the catalogue
do the same: S. Shamsi's GZ3D_spiral_analysis, the code for the spiral arms of Masters et al. 2021
(MNRAS 507, 3923), compares counts with ``> threshold``, 3 by default. With 0, a mask is true where
at least one volunteer marked the pixel.
"""

from __future__ import annotations

import difflib
import math
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.indexing import (
    as_shard_chunks,
    chunk_like,
    compute_variables,
    isel_subjects,
    with_subject_dim,
)
from gz3d_zarr.analysis.sky_grids import require_scale
from gz3d_zarr.analysis.validation import status_label, validate_dataset
from gz3d_zarr.backends.mask_reader import find_stored_masks
from gz3d_zarr.datamodel.sentinels import SENTINELS, masked_attrs
from gz3d_zarr.datamodel.subject import CLASSES
from gz3d_zarr.errors import Status, UsageError, plural

MAX_THRESHOLD = 254
"""The highest threshold that a uint8 count can exceed."""


def class_mask(dataset: xr.Dataset, cls: str | None, threshold: float) -> xr.DataArray:
    """Where a class is marked, as `GZ3DAccessor.mask` documents."""
    counts = _counts(dataset, cls)
    marked = counts > _level(counts, threshold)
    return _named(marked, "mask", f"marked by more than {threshold:g} volunteers")


def no_class_mask(dataset: xr.Dataset, threshold: float) -> xr.DataArray:
    """Where no class is marked, as `GZ3DAccessor.other` documents."""
    validate_dataset(dataset, "status")
    counts = _counts(dataset, None)
    if counts.sizes.get("class") != len(CLASSES):
        raise UsageError("other needs all four classes: use the Dataset before one was selected")
    free = xr.apply_ufunc(
        _free,
        counts,
        chunk_like(counts, dataset["status"] == Status.OK),
        input_core_dims=[["class", "y", "x"], []],
        output_core_dims=[["y", "x"]],
        kwargs={"level": _level(counts, threshold)},
        dask="parallelized",
        output_dtypes=[np.bool_],
        dask_gufunc_kwargs={"allow_rechunk": True},
    )
    return _named(free, "other", f"no class is marked by more than {threshold:g} volunteers")


def marked_fraction(
    dataset: xr.Dataset, cls: str | None, of: Literal["volunteers", "marks"]
) -> xr.DataArray:
    """Counts as a fraction, as `GZ3DAccessor.fraction` documents."""
    functions = {"volunteers": _of_volunteers, "marks": _of_marks}
    if of not in functions:
        raise UsageError(f"of is {of!r}, expected volunteers or marks")
    counts = _counts(dataset, cls)
    asked = volunteers_asked(dataset, cls)
    stored = find_stored_masks(dataset)
    if stored is not None and asked.chunks is None:
        from gz3d_zarr.analysis.reductions import map_stored  # dask is slow to import

        function = _divide if of == "volunteers" else _divide_by_most
        numbers = asked.transpose("subject", ...).values.reshape(len(stored.rows), -1)
        classes = class_positions(dataset, cls)
        planes = map_stored(function, stored, numbers.astype(np.float32), classes, np.float32)
        fraction = counts.copy(data=planes if cls is None else planes[:, 0])
        fraction.encoding = {}
    else:
        fraction = xr.apply_ufunc(
            functions[of],
            counts,
            chunk_like(counts, asked),
            input_core_dims=[["y", "x"], []],
            output_core_dims=[["y", "x"]],
            dask="parallelized",
            output_dtypes=[np.float32],
        )
    whole = (
        "the number of volunteers who were asked"
        if of == "volunteers"
        else "the count of the most marked pixel"
    )
    return _named(fraction, "fraction", f"counts divided by {whole}", "1")


def class_area(
    dataset: xr.Dataset, cls: str | None, threshold: float, unasked: float = math.nan
) -> xr.DataArray:
    """Marked area, as `GZ3DAccessor.area` documents."""
    require_scale(dataset, "status")
    counts = _counts(dataset, cls)
    is_asked = volunteers_asked(dataset, cls) > 0
    is_ok = dataset["status"] == Status.OK
    pixel = ((dataset["scale"] * 3600) ** 2).where(is_ok).where(is_asked)
    stored = find_stored_masks(dataset)
    if stored is not None:
        from gz3d_zarr.analysis.reductions import count_stored  # dask is slow to import

        number = count_stored(stored, class_positions(dataset, cls), whole_threshold(threshold))
        like = counts.isel(y=0, x=0, drop=True)
        area = like.copy(data=number if cls is None else number[:, 0]) * pixel
    else:
        area = xr.apply_ufunc(
            _area,
            counts,
            chunk_like(counts, pixel),
            input_core_dims=[["y", "x"], []],
            kwargs={"level": _level(counts, threshold)},
            dask="parallelized",
            output_dtypes=[np.float64],
        )
    if not math.isnan(unasked):
        area = area.where(is_asked | ~is_ok, unasked)
    return _named(area, "area", f"area marked by more than {threshold:g} volunteers", "arcsec2")


def class_positions(dataset: xr.Dataset, cls: str | None) -> list[int]:
    """Positions along ``class`` of one class, or of all."""
    return list(range(dataset.sizes["class"])) if cls is None else [check_class(dataset, cls)]


def class_counts(dataset: xr.Dataset, cls: str | None) -> xr.DataArray:
    """Counts of a class, as `GZ3DAccessor.counts` documents."""
    validate_dataset(dataset, "segmentation", "class")
    return _select_class(dataset, dataset["segmentation"], cls).rename("counts")


def subject_picture(row: xr.Dataset) -> xr.DataArray:
    """Image of one row, as `GZ3DAccessor.picture` documents."""
    validate_dataset(row, "image", "status")
    status = int(compute_variables(row, "status")[0])
    if status != Status.OK:
        raise UsageError(
            f"subject {row['subject'].values} ({row['zooniverse_subject_id'].values}) has no "
            f"picture: its status is {status_label(status)}"
        )
    return row["image"].transpose("y", "x", "channel", missing_dims="ignore")


def _counts(dataset: xr.Dataset, cls: str | None) -> xr.DataArray:
    validate_dataset(dataset, "segmentation", "class")
    return _select_class(dataset, as_shard_chunks(dataset["segmentation"]), cls)


def _select_class(dataset: xr.Dataset, counts: xr.DataArray, cls: str | None) -> xr.DataArray:
    if cls is None:
        return counts
    position = check_class(dataset, cls)
    # By position: the index of a text coordinate differs between versions of pandas. Without the
    # dimension, the class is already selected.
    return counts.isel({"class": position}) if "class" in counts.dims else counts


def select_asked(dataset: xr.Dataset, cls: str) -> xr.Dataset:
    """Rows of which volunteers were asked about a class, as `GZ3DAccessor.asked` documents."""
    validate_dataset(dataset, "classifications", "class")
    rows = with_subject_dim(dataset)
    is_asked = volunteers_asked(rows, cls).values > 0
    if not is_asked.any():
        raise UsageError(
            f"volunteers were not asked to mark {cls} for any of the "
            f"{plural(len(is_asked), 'subject')}: select others"
        )
    return isel_subjects(rows, np.flatnonzero(is_asked))


def known_votes(dataset: xr.Dataset) -> xr.DataArray:
    """Vote fractions without flags, as `GZ3DAccessor.vote_fraction` documents."""
    validate_dataset(dataset, "vote_fraction")
    stored = dataset["vote_fraction"]
    votes: xr.DataArray = stored.where(~stored.isin(SENTINELS["vote_fraction"]))
    votes.attrs = masked_attrs("vote_fraction", stored.attrs)
    return votes


def volunteers_asked(dataset: xr.Dataset, cls: str | None) -> xr.DataArray:
    """How many volunteers were asked about a class: (subject, [class]), NaN where nobody was."""
    validate_dataset(dataset, "classifications", "class")
    numbers = dataset["classifications"]
    if cls is not None:
        position = check_class(dataset, cls)
        numbers = numbers.isel({"class": position}) if "class" in numbers.dims else numbers
    return numbers.where(numbers > 0)


def check_class(dataset: xr.Dataset, cls: str) -> int:
    """Position of a class along ``class``; UsageError if it does not exist."""
    names = [str(name) for name in np.atleast_1d(dataset["class"].values)]
    if cls not in names:
        near = difflib.get_close_matches(str(cls), names, 1)
        raise UsageError(
            f"there is no class {cls!r}, expected one of {', '.join(names)}"
            + (f"; did you mean {near[0]}?" if near and near[0] != cls else "")
        )
    return names.index(cls)


def _level(counts: xr.DataArray, threshold: float) -> Any:
    """The threshold in a type that does not change that of the counts."""
    whole = np.uint8(whole_threshold(threshold))
    # Averages, such as those of spaxels, are not whole numbers.
    return threshold if counts.dtype.kind == "f" else whole


def whole_threshold(threshold: float) -> int:
    """The whole number that a count exceeds if and only if it exceeds `threshold`."""
    number = isinstance(threshold, int | float | np.integer | np.floating)
    if not number or isinstance(threshold, bool) or not 0 <= threshold <= MAX_THRESHOLD:
        raise UsageError(f"threshold is {threshold!r}, expected a number from 0 to {MAX_THRESHOLD}")
    return math.floor(threshold)


def _area(counts: NDArray[Any], pixel: NDArray[Any], level: Any) -> NDArray[np.float64]:
    area: NDArray[np.float64] = (counts > level).sum(axis=(-2, -1), dtype=np.float64) * pixel
    return area


def _free(counts: NDArray[Any], ok: NDArray[np.bool_], level: Any) -> NDArray[np.bool_]:
    # With <=, NaN (outside the image) is not free.
    free: NDArray[np.bool_] = (counts <= level).all(axis=-3) & ok[..., None, None]
    return free


def _of_volunteers(counts: NDArray[Any], asked: NDArray[Any]) -> NDArray[np.float32]:
    return counts.astype(np.float32) / asked.astype(np.float32)[..., None, None]


def _divide(counts: NDArray[np.uint8], asked: np.float32, out: NDArray[np.float32]) -> None:
    np.divide(counts, asked, out=out)


def _divide_by_most(counts: NDArray[np.uint8], asked: np.float32, out: NDArray[np.float32]) -> None:
    most = np.float32(np.nan) if np.isnan(asked) else np.float32(max(counts.max(), 1))
    np.divide(counts, most, out=out)


def _of_marks(counts: NDArray[Any], asked: NDArray[Any]) -> NDArray[np.float32]:
    # Unlike max, fmax ignores NaN (outside the image).
    most: NDArray[Any] = np.fmax.reduce(counts, axis=(-2, -1), keepdims=True, initial=0)
    most = np.maximum(most, 1).astype(np.float32)
    most[np.isnan(asked)] = np.nan
    share: NDArray[np.float32] = counts.astype(np.float32) / most
    return share


def _named(array: xr.DataArray, name: str, meaning: str, unit: str | None = None) -> xr.DataArray:
    named: xr.DataArray = array.rename(name)
    named.attrs = {"long_name": meaning, **({} if unit is None else {"units": unit})}
    return named
