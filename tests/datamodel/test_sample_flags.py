"""Lists of target samples as CF flag masks."""

from __future__ import annotations

import pytest

from gz3d_zarr.datamodel.sample_flags import sample_attrs, sample_mask, sample_words

SAMPLES = ("extra", "original", "sdss_lost_set")


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("", 0),
        (" , ", 0),
        ("extra", 2),
        ("sdss_lost_set,original", 8 | 4),
        ("original, original", 4),
        ("stripe82,stripe82", 1),
        ("new words,extra", 1 | 2),
    ],
)
def test_words_have_a_mask_each(text: str, mask: int) -> None:
    assert sample_mask(text, SAMPLES) == mask


def test_attributes_are_those_of_cf() -> None:
    assert sample_attrs(SAMPLES) == {
        "flag_masks": [1, 2, 4, 8],
        "flag_meanings": "other extra original sdss_lost_set",
    }
    assert sample_words("new  words, x,x") == ["new_words", "x"]


def test_masks_fit_in_an_int32() -> None:
    many = tuple(f"sample{i}" for i in range(40))
    assert max(sample_attrs(many)["flag_masks"]) == 2**30
    assert sample_mask("sample29", many) == 2**30
    assert sample_mask("sample30", many) == 1
