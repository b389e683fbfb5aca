"""Target samples of a subject, a list of words joined by commas, as CF flag masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

OTHER = 1
"""Mask of words that have no mask of their own."""
MAX_WORDS = 30
"""Words that have a mask in an int32, besides `OTHER`; the first of a layout's samples."""


def sample_words(text: str) -> list[str]:
    """Words of a text such as ``sdss_lost_set,original``, each once, in order."""
    words = ("_".join(word.split()) for word in text.split(","))
    return list(dict.fromkeys(word for word in words if word))


def sample_mask(text: str, samples: Sequence[str]) -> int:
    """Masks of the words of a text, added up; 0 if it has none.

    Parameters
    ----------
    text : str
    samples : sequence of str
        Names of the masks from 2 on, as the layout of the store has them.
    """
    masks = {name: OTHER << i for i, name in enumerate(samples[:MAX_WORDS], 1)}
    mask = 0
    for word in sample_words(text):
        mask |= masks.get(word, OTHER)
    return mask


def sample_attrs(samples: Sequence[str]) -> dict[str, Any]:
    """CF attributes ``flag_masks`` and ``flag_meanings`` of the variable."""
    names = ("other", *samples[:MAX_WORDS])
    return {
        "flag_masks": [OTHER << i for i in range(len(names))],
        "flag_meanings": " ".join(names),
    }
