"""Select subjects by id, sky position, HEALPix pixel or votes.

Every function reads only small variables, then selects rows by position. An image or mask that is
computed later reads only the shards of the selected rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gz3d_zarr.analysis.indexing import compute_variables, isel_subjects, with_subject_dim
from gz3d_zarr.analysis.validation import validate_dataset
from gz3d_zarr.datamodel.healpix import healpix_pixels
from gz3d_zarr.datamodel.ids import MAX_DIGITS, find_rows, is_plate_ifu
from gz3d_zarr.errors import UsageError, plural, quote

FloatArray = NDArray[np.float64]
PLATE_IFU_NAMES = ("plateifu", "plate_ifu")
"""Names of a column with plate-IFUs, in any case."""
_MAX_RADIUS_ARCSEC = 180 * 3600.0


def select_ids(
    dataset: xr.Dataset, object_id: Any, zooniverse_subject_id: Any, plateifu: Any
) -> xr.Dataset:
    """Rows with these ids, as `GZ3DAccessor.sel` documents."""
    validate_dataset(dataset)
    dataset = with_subject_dim(dataset)
    kinds: Mapping[str, tuple[Any, Callable[[Any], str | int]]] = {
        "object_id": (object_id, _any_id),
        "zooniverse_subject_id": (zooniverse_subject_id, _zooniverse_id),
        "plateifu": (plateifu, _plate_ifu),
    }
    given = {name: ids for name, (ids, _) in kinds.items() if ids is not None}
    if not given:
        raise UsageError("sel needs object_id, zooniverse_subject_id or plateifu")
    first, *others = (
        _find_rows(dataset, [kinds[name][1](i) for i in as_list(ids)])
        for name, ids in given.items()
    )
    both = set(first).intersection(*others)
    rows = [row for row in first if row in both]
    if not rows:
        shown = " and ".join(f"{name}={quote(ids)}" for name, ids in given.items())
        raise UsageError(f"no subject has both {shown}")
    return isel_subjects(dataset, rows)


def select_any(dataset: xr.Dataset, subjects: Any) -> xr.Dataset:
    """Rows with these ids, in their order; MaNGA and Zooniverse ids and plate-IFUs may be mixed.

    Raises
    ------
    UsageError
        An id is unknown, or the list is empty.
    """
    validate_dataset(dataset)
    dataset = with_subject_dim(dataset)
    ids = [_any_id(subject) for subject in as_list(subjects)]
    return isel_subjects(dataset, _find_rows(dataset, ids))


def one_subject(dataset: xr.Dataset, subject: str | int | None) -> xr.Dataset:
    """The row with this id, or the only row of the Dataset; without the dimension ``subject``.

    Raises
    ------
    UsageError
        The id is unknown, or several rows match.
    """
    validate_dataset(dataset)
    if subject is None and not dataset["subject"].dims:
        return dataset  # with the index of its pixels' positions
    rows = with_subject_dim(dataset) if subject is None else select_any(dataset, [subject])
    if rows.sizes["subject"] == 1:
        return rows.isel(subject=0)
    if subject is None:
        raise UsageError(
            f"the Dataset has {plural(rows.sizes['subject'], 'subject')}: name one by its MaNGA id "
            "or Zooniverse id (contact_sheet plots many)"
        )
    raise UsageError(f"{subject!r} has more than one row; {_tell_apart(rows)}")


def _tell_apart(rows: xr.Dataset) -> str:
    """How to choose one of several rows: by the ids that tell them apart."""
    names = {"Zooniverse id": "zooniverse_subject_id", "plate-IFU": find_plate_ifus(rows)}
    for kind, name in names.items():
        ids = [] if name is None else [str(i) for i in rows[name].values.tolist()]
        if ids and len(set(ids)) == len(ids):
            return f"give the {kind} of one: {', '.join(ids)}"
    return "a table with repeated rows was joined: choose one by its position, with isel"


def find_plate_ifus(dataset: xr.Dataset) -> str | None:
    """Name of the variable with plate-IFUs, which a joined table gave; None if there is none."""
    for name, variable in dataset.variables.items():
        if str(name).lower() in PLATE_IFU_NAMES and variable.dims == ("subject",):
            return str(name)
    return None


def select_cone(dataset: xr.Dataset, ra: Any, dec: Any, radius: Any) -> xr.Dataset:
    """Rows within a radius of a position, as `GZ3DAccessor.cone` documents."""
    validate_dataset(dataset, "ra", "dec")
    if hasattr(ra, "icrs"):
        if radius is None:
            dec, radius = None, dec
        if dec is not None:
            raise UsageError("cone takes a SkyCoord and a radius, or ra, dec and a radius")
        ra, dec = sky_degrees(ra)
    center = _number(ra, "ra", "deg", -360, 360), _number(dec, "dec", "deg", -90, 90)
    limit = _number(radius, "radius", "arcsec", 0, _MAX_RADIUS_ARCSEC)
    dataset = with_subject_dim(dataset)
    distance = separation(*center, *compute_variables(dataset, "ra", "dec"))
    rows = np.flatnonzero(distance <= limit)
    if not len(rows):
        known = np.flatnonzero(np.isfinite(distance))
        nearest = "no position is known"
        if len(known):
            row = known[distance[known].argmin()]
            name = dataset["subject"].values[row]
            nearest = f"the nearest, {name}, is {_format_angle(distance[row])} away"
        raise UsageError(
            f"no subject within {_format_angle(limit)} of ra={center[0]:.6f}, dec={center[1]:.6f}: "
            f"{nearest}"
        )
    return isel_subjects(dataset, rows)


def select_pixels(dataset: xr.Dataset, pixels: Any, nside: int | None) -> xr.Dataset:
    """Rows in HEALPix pixels, as `GZ3DAccessor.healpix` documents."""
    validate_dataset(dataset, "healpix", "ra", "dec")
    dataset = with_subject_dim(dataset)
    own = dataset["healpix"].attrs.get("nside", dataset.attrs.get("nside"))
    if nside is None and own is None:
        raise UsageError("the attributes of healpix no longer have its nside: give nside")
    side = own if nside is None else nside
    if isinstance(side, bool) or not isinstance(side, int | np.integer):
        raise UsageError(f"nside is {side!r}, expected a power of two")
    side = int(side)
    if not 1 <= side <= 2**29 or side & (side - 1):
        raise UsageError(f"nside is {side}, expected a power of two from 1 to 2^29")
    wanted = np.array(as_list(pixels))
    if not wanted.size or wanted.dtype.kind not in "iu":
        raise UsageError(f"pixels is {pixels!r}, expected one or more whole numbers")
    if wanted.min() < 0 or wanted.max() >= 12 * side**2:
        raise UsageError(f"pixels is {pixels!r}, expected 0 to {12 * side**2 - 1} for nside {side}")
    rows = np.flatnonzero(np.isin(_pixels(dataset, side, own), wanted))
    if not len(rows):
        raise UsageError(f"no subject in the HEALPix pixels {pixels!r} of nside {side}")
    return isel_subjects(dataset, rows)


def _pixels(dataset: xr.Dataset, nside: int, own: int | None) -> NDArray[np.int64]:
    """Nested pixel of each row, -1 where unknown."""
    if own is not None and nside <= own:
        (stored,) = compute_variables(dataset, "healpix")
        shift = 2 * (int(own).bit_length() - nside.bit_length())
        known = np.where(stored >= 0, stored, -1)  # NaN in a masked Dataset
        coarser: NDArray[np.int64] = known.astype(np.int64) >> shift  # -1 stays -1
        return coarser
    ra, dec = compute_variables(dataset, "ra", "dec")
    return healpix_pixels(ra, dec, nside)


def select_votes(dataset: xr.Dataset, fractions: Mapping[str, float | None]) -> xr.Dataset:
    """Rows that reach all these vote fractions, as `GZ3DAccessor.votes` documents."""
    validate_dataset(dataset, "vote_fraction", "class")
    dataset = with_subject_dim(dataset)
    minima = {name: minimum for name, minimum in fractions.items() if minimum is not None}
    if not minima:
        raise UsageError("votes needs a minimum fraction for spiral or bar")
    names = [str(name) for name in np.atleast_1d(dataset["class"].values)]
    lacking = sorted(set(minima) - set(names))
    if lacking:
        raise UsageError(
            f"the Dataset has no class {' and '.join(lacking)}: use the Dataset before a class "
            "was selected"
        )
    (votes,) = compute_variables(dataset, "vote_fraction")
    if "class" in dataset["vote_fraction"].dims:
        votes = np.moveaxis(votes, dataset["vote_fraction"].get_axis_num("class"), -1)
    votes = votes.reshape(len(votes), math.prod(votes.shape[1:]))  # -1 would fail for no rows
    selected = np.ones(len(votes), bool)
    for name, minimum in minima.items():
        # In the precision of the variable: 0.7 as float32 is not equal to 0.7 as float64.
        bound = votes.dtype.type(_number(minimum, name, "", 0, 1))
        selected &= votes[:, names.index(name)] >= bound  # false for the flags -1, -0.5 and NaN
    if not selected.any():
        limits = " and ".join(f"{name} {minimum}" for name, minimum in minima.items())
        raise UsageError(f"no subject reaches the vote fraction of {limits}")
    return isel_subjects(dataset, np.flatnonzero(selected))


def separation(ra1: Any, dec1: Any, ra2: Any, dec2: Any) -> FloatArray:
    """Angle between positions, float64, in arcsec; all arguments in degrees.

    Uses Vincenty's formula, which is precise at all angles, also at poles and antipodes.
    """
    a, b = np.radians(dec1), np.radians(dec2)
    difference = np.radians(np.subtract(ra2, ra1))
    across = np.cos(b) * np.sin(difference)
    along = np.cos(a) * np.sin(b) - np.sin(a) * np.cos(b) * np.cos(difference)
    cosine = np.sin(a) * np.sin(b) + np.cos(a) * np.cos(b) * np.cos(difference)
    angle: FloatArray = np.degrees(np.arctan2(np.hypot(across, along), cosine)) * 3600
    return angle


def sky_degrees(positions: Any) -> tuple[Any, Any]:
    """Right ascension and declination, ICRS, in degrees, of a SkyCoord."""
    try:
        icrs = positions.icrs
    except (TypeError, ValueError) as error:
        raise UsageError(f"the SkyCoord cannot be transformed to ICRS: {error}") from error
    return icrs.ra.deg, icrs.dec.deg


def arcseconds(radius: Any) -> float:
    """A radius in arcsec, from a number or a Quantity; UsageError if it is neither."""
    return _number(radius, "radius", "arcsec", 0, _MAX_RADIUS_ARCSEC)


def _number(value: Any, name: str, unit: str, low: float, high: float) -> float:
    """One finite number within bounds, from a number or a Quantity."""
    try:
        number = float(value.to_value(unit) if hasattr(value, "to_value") else value)
    except (TypeError, ValueError) as error:
        of = f" or a Quantity of {unit}" if unit else ""
        raise UsageError(f"{name} is {value!r}, expected one number{of}") from error
    if not (math.isfinite(number) and low <= number <= high):
        raise UsageError(f"{name} is {number}, expected {low} to {high} {unit}".rstrip())
    return number


def _format_angle(arcsec: float) -> str:
    return f"{arcsec:.4g} arcsec" if arcsec < 3600 else f"{arcsec / 3600:.4g} deg"


def as_list(values: Any) -> list[Any]:
    """One or several values as a list of plain Python values."""
    if isinstance(values, str | bytes | int | float):
        return [values]
    if hasattr(values, "__array__"):
        return list(np.asarray(values).ravel().tolist())
    if not isinstance(values, Iterable):
        raise UsageError(f"expected one id or several, not {values!r}")
    return [value.item() if hasattr(value, "item") else value for value in values]


def _any_id(value: Any) -> str | int:
    """A Zooniverse id where it is a number, as such or as text; else a MaNGA id or plate-IFU."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and not value.strip().isdecimal():
        return value.strip(" \t\r\n\0")
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise UsageError(
            f"{quote(value)} is no id, expected a MaNGA id such as '1-603114', a Zooniverse "
            "subject id, or a plate-IFU such as '8623-12701'"
        )
    return _zooniverse_id(value)


def _plate_ifu(value: Any) -> str:
    wanted = _any_id(value)
    if not is_plate_ifu(wanted):
        raise UsageError(f"{quote(value)} is not a plate-IFU, expected text such as '8623-12701'")
    return wanted


def _zooniverse_id(value: Any) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or len(text) > MAX_DIGITS:
        raise UsageError(
            f"{quote(value)} is not a Zooniverse subject id, expected a whole number of at most "
            f"{MAX_DIGITS} digits"
        )
    return int(text)


def _find_rows(dataset: xr.Dataset, ids: Sequence[str | int]) -> list[int]:
    labels, numbers = dataset["subject"].values, dataset["zooniverse_subject_id"].values
    if not any(is_plate_ifu(wanted) for wanted in ids):
        return find_rows(ids, labels, numbers)
    name = find_plate_ifus(dataset)
    if name is None:
        try:
            return find_rows(ids, labels, numbers)  # were they MaNGA ids
        except UsageError as error:
            raise UsageError(
                f"{error}; plate-IFUs are known once a table that has them, such as DRPall, is "
                "joined: ds.gz3d.join(table)"
            ) from None
    plates = [str(value).strip() for value in dataset[name].values.tolist()]
    return find_rows(ids, labels, numbers, plates)
