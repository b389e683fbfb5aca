"""MaNGA ids, Zooniverse subject ids and plate-IFUs to rows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.errors import UsageError, quote

MAX_NEAR_MATCHES = 3
MAX_LENGTH = 64
"""Characters of an id that are compared with others."""
MAX_DIGITS = 18
"""Of a Zooniverse subject id, as in the names of subject files."""
MAX_LISTED = 5
"""Unknown ids of each kind that an error message lists."""

_PLATE_IFU = re.compile(r"\d{4,5}-\d{3,5}")


def parse_id(value: str | int) -> str | int:
    """Text to an id: an int, a Zooniverse subject id, where it has only digits."""
    if not isinstance(value, str | Integral):
        raise UsageError(f"an id is {value!r:.60}, expected text or a whole number")
    text = str(value).strip()
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else text


def is_plate_ifu(wanted: str | int) -> TypeGuard[str]:
    """Whether an id has the form of a plate-IFU, which no MaNGA id of the catalogue has."""
    return isinstance(wanted, str) and _PLATE_IFU.fullmatch(wanted) is not None


def find_rows(
    ids: Sequence[str | int],
    manga_ids: Sequence[str] | NDArray[Any],
    subject_ids: Sequence[int] | NDArray[Any],
    plate_ifus: Sequence[str] | NDArray[Any] = (),
) -> list[int]:
    """Rows of ids, in the order of the ids, each row once.

    Parameters
    ----------
    ids : sequence of str or int
        Text is a MaNGA id or a plate-IFU, an int a Zooniverse subject id. An id that repeats gives
        all its rows.
    manga_ids, subject_ids : sequence or ndarray, shape (n,)
        The ids of each row.
    plate_ifus : sequence or ndarray, shape (n,), optional
        Likewise, where a table that has them is joined.

    Raises
    ------
    UsageError
        There is no id, or one is unknown; the message has near matches.
    """
    if not ids:
        raise UsageError("the list of ids is empty; expected MaNGA ids or Zooniverse subject ids")
    rows: dict[str | int, list[int]] = {wanted: [] for wanted in ids}
    kinds: list[tuple[Any, type]] = [(manga_ids, str), (subject_ids, int)]
    if len(plate_ifus):
        kinds.append((plate_ifus, str))
    for labels, kind in kinds:
        asked = [wanted for wanted in rows if isinstance(wanted, kind)]
        values = np.asarray(labels)
        if len(asked) == 1 and len(str(asked[0])) <= MAX_LENGTH:  # faster than a loop
            rows[asked[0]] += np.flatnonzero(values == asked[0]).tolist()
        elif asked:
            for row, label in enumerate(values.tolist()):
                if label in rows:
                    rows[label].append(row)
    unknown = [wanted for wanted in rows if not rows[wanted]]
    if unknown:
        raise UsageError(_unknown_message(unknown, manga_ids, subject_ids, plate_ifus))
    return list(dict.fromkeys(row for wanted in ids for row in rows[wanted]))


def _unknown_message(
    unknown: Sequence[str | int],
    manga_ids: Sequence[str] | NDArray[Any],
    subject_ids: Sequence[int] | NDArray[Any],
    plate_ifus: Sequence[str] | NDArray[Any],
) -> str:
    kinds = []
    text = "MaNGA id or plate-IFU" if len(plate_ifus) else "MaNGA id"
    for name, kind in ((text, str), ("Zooniverse subject id", int)):
        names = [quote(wanted) for wanted in unknown if isinstance(wanted, kind)]
        if names:
            more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
            kinds.append(f"the {name} {', '.join(names[:MAX_LISTED])}{more}")
    own = manga_ids if isinstance(unknown[0], str) else subject_ids
    if len(plate_ifus) and is_plate_ifu(unknown[0]):
        own = [name for name in plate_ifus if name]
    labels = np.asarray(own).tolist()
    texts = list(dict.fromkeys(str(label) for label in labels))
    near = difflib.get_close_matches(str(unknown[0])[:MAX_LENGTH], texts, MAX_NEAR_MATCHES)
    hint = f"near matches: {', '.join(near)}" if near else "no id is similar"
    if not near and texts:
        hint += f"; expected one such as {texts[0]}"
    return f"no subject has {' or '.join(kinds)}; {hint}"
