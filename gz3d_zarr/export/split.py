"""Divide subjects into sets for training and testing, and weight them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.analysis.masks import whole_threshold
from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.datamodel.subject import CLASSES
from gz3d_zarr.errors import UsageError, plural, quote
from gz3d_zarr.export.subset import select_rows

if TYPE_CHECKING:
    from gz3d_zarr.export.subset import Rows

DIAGONAL_ARCSEC = 75
"""Images of subjects that are further apart, 525 pixels of 0.099 arcsec wide, do not overlap."""
POSITION = ("ra", "dec")


def split(
    store: str | Path,
    *,
    by: Literal["healpix", "manga_id"] = "healpix",
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    rows: Rows = None,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[NDArray[np.int64], ...]:
    """Divide the subjects at random into disjoint sets, such as for training and testing.

    Parameters
    ----------
    store : str or Path
        A complete store.
    by : {'healpix', 'manga_id'}
        Subjects with the same MaNGA id are always in one set; with ``healpix``, so are subjects in
        one HEALPix pixel, of the nside of the store, and those whose images overlap, also across
        the border of pixels.
    fractions : sequence of float
        Share of the subjects in each set; their sum is 1. As groups are not divided, the shares
        are approximate.
    seed : int
        Sets the division.
    rows, storage_options
        As for `GZ3DDataset`; only these subjects are divided.

    Returns
    -------
    tuple of ndarray of int64
        Rows of each set, ascending, without subjects whose status is not ok.

    Raises
    ------
    UsageError
        An argument is out of range, or there are too few groups for the sets.
    StoreError
        As for `open_store`.
    """
    try:
        shares = np.asarray(fractions, np.float64)
    except (TypeError, ValueError):
        shares = np.zeros(1)
    if shares.ndim != 1 or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise UsageError(
            f"fractions are {quote(fractions)}, expected numbers above 0 with the sum 1"
        )
    if by not in ("healpix", "manga_id"):
        raise UsageError(f"by is {by!r}, expected healpix or manga_id")
    if check_type("seed", seed, int) is None or seed < 0:
        raise UsageError(f"seed is {seed}, expected 0 or more")
    selection = select_rows(store, rows, storage_options=storage_options)
    keys = [_number(selection.table["subject"].astype(str))]
    if by == "healpix":
        keys += [selection.table["healpix"], *_sky_cells(*(selection.table[n] for n in POSITION))]
    groups = _find_groups(keys)
    sizes = np.bincount(groups)
    if len(sizes) < len(shares):
        raise UsageError(
            f"{plural(len(selection), 'subject')} in {plural(len(sizes), 'group')} by {by}: "
            f"too few for {len(shares)} sets"
        )
    missing = shares * len(selection)
    set_of_group = np.zeros(len(sizes), np.int64)
    for group in np.random.default_rng(seed).permutation(len(sizes)):
        set_of_group[group] = np.argmax(missing)
        missing[set_of_group[group]] -= sizes[group]
    set_of_row = set_of_group[groups]
    sets = tuple(selection.rows[set_of_row == i] for i in range(len(shares)))
    for share, of_set in zip(shares, sets, strict=True):
        if not len(of_set):
            raise UsageError(
                f"no group by {by} is left for the set of {share:g} of {len(selection)} subjects"
            )
    return sets


def sample_weights(
    store: str | Path,
    *,
    by: str = "spiral",
    threshold: float = 3,
    rows: Rows = None,
    storage_options: Mapping[str, Any] | None = None,
) -> NDArray[np.float64]:
    """Weights with which marked and unmarked subjects are drawn equally often.

    For ``torch.utils.data.WeightedRandomSampler`` over a `GZ3DDataset` of the same rows.

    Parameters
    ----------
    store : str or Path
        A complete store.
    by : {'center', 'star', 'spiral', 'bar'}
        Class of the masks.
    threshold : float
        A subject is marked if more than `threshold` volunteers marked one pixel; the store has the
        largest count of each mask, so no pixels are read.
    rows, storage_options
        As for `GZ3DDataset`.

    Returns
    -------
    ndarray of float64
        Of each subject of the dataset; the mean is 1.

    Raises
    ------
    UsageError
        An argument cannot be used.
    StoreError
        As for `open_store`.
    """
    if by not in CLASSES:
        raise UsageError(f"by is {by!r}, expected one of {', '.join(CLASSES)}")
    level = whole_threshold(threshold)
    selection = select_rows(store, rows, storage_options=storage_options)
    is_marked = selection.table["max_count"][:, CLASSES.index(by)] > level
    _, group, sizes = np.unique(is_marked, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = len(selection) / (len(sizes) * sizes[group])
    return weights


def _sky_cells(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Cells of the sky, such that subjects with overlapping images share one; -1 if unknown.

    Cubes along the axes of space, as wide as two diagonals of an image, in eight grids that are
    shifted by half a cube: two points within a diagonal are in one cube of some grid.
    """
    a, b = np.radians(ra), np.radians(dec)
    known = np.isfinite(a) & np.isfinite(b)
    places = np.column_stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)])
    places = np.where(known[:, None], places, 0) / (2 * np.radians(DIAGONAL_ARCSEC / 3600))
    return [
        np.where(known, _number(np.floor(places + np.array(shift) / 2).astype(np.int64)), -1)
        for shift in itertools.product((0, 1), repeat=3)
    ]


def _number(keys: NDArray[Any]) -> NDArray[np.int64]:
    """Number of each key among all that differ; a row of two axes is one key."""
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)


def _find_groups(keys: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Number of the group of each subject: equal keys link subjects, in any steps; -1 is none."""
    count = len(keys[0])
    links = [np.where(each >= 0, _number(each), count + np.arange(count)) for each in keys]
    labels, before = np.arange(count), np.zeros(0, np.int64)
    while not np.array_equal(labels, before):
        before = labels
        for link in links:  # the smallest label of those linked goes to all of them
            least = np.full(link.max() + 1, count)
            np.minimum.at(least, link, labels)
            labels = least[link]
    return np.unique(labels, return_inverse=True)[1]
