"""MaNGA ids and Zooniverse subject ids to rows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from numbers import Integral
from typing import Any

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


def parse_id(value: str | int) -> str | int:
    """Text to an id: an int, a Zooniverse subject id, where it has only digits."""
    if not isinstance(value, str | Integral):
        raise UsageError(f"an id is {value!r:.60}, expected text or a whole number")
    text = str(value).strip()
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else text


def find_rows(
    ids: Sequence[str | int],
    manga_ids: Sequence[str] | NDArray[Any],
    subject_ids: Sequence[int] | NDArray[Any],
) -> list[int]:
    """Rows of ids, in the order of the ids, each row once.

    Parameters
    ----------
    ids : sequence of str or int
        Text is a MaNGA id, an int a Zooniverse subject id. A MaNGA id that repeats gives all its
        rows.
    manga_ids, subject_ids : sequence or ndarray, shape (n,)
        The ids of each row.

    Raises
    ------
    UsageError
        There is no id, or one is unknown; the message has near matches.
    """
    if not ids:
        raise UsageError("the list of ids is empty; expected MaNGA ids or Zooniverse subject ids")
    rows: dict[str | int, list[int]] = {wanted: [] for wanted in ids}
    for labels, kind in ((manga_ids, str), (subject_ids, int)):
        asked = [wanted for wanted in rows if isinstance(wanted, kind)]
        values = np.asarray(labels)
        if len(asked) == 1:  # faster than a loop
            rows[asked[0]] = np.flatnonzero(values == asked[0]).tolist()
        elif asked:
            for row, label in enumerate(values.tolist()):
                if label in rows:
                    rows[label].append(row)
    unknown = [wanted for wanted in rows if not rows[wanted]]
    if unknown:
        raise UsageError(_unknown_message(unknown, manga_ids, subject_ids))
    return list(dict.fromkeys(row for wanted in ids for row in rows[wanted]))


def _unknown_message(
    unknown: Sequence[str | int],
    manga_ids: Sequence[str] | NDArray[Any],
    subject_ids: Sequence[int] | NDArray[Any],
) -> str:
    kinds = []
    for name, kind in (("MaNGA id", str), ("Zooniverse subject id", int)):
        names = [quote(wanted) for wanted in unknown if isinstance(wanted, kind)]
        if names:
            more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
            kinds.append(f"the {name} {', '.join(names[:MAX_LISTED])}{more}")
    labels = np.asarray(manga_ids if isinstance(unknown[0], str) else subject_ids).tolist()
    texts = list(dict.fromkeys(str(label) for label in labels))
    near = difflib.get_close_matches(str(unknown[0])[:MAX_LENGTH], texts, MAX_NEAR_MATCHES)
    hint = f"near matches: {', '.join(near)}" if near else "no id is similar"
    if not near and texts:
        hint += f"; expected one such as {texts[0]}"
    return f"no subject has {' or '.join(kinds)}; {hint}"
