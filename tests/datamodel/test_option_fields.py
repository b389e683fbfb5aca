"""Options: declared once as fields, checked by name, and adopted from what is resumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from gz3d_zarr import UsageError
from gz3d_zarr.datamodel.layout import LayoutOptions
from gz3d_zarr.datamodel.option_fields import check_options, option, option_specs, take_options
from gz3d_zarr.sources.options import FetchOptions, SelectionOptions


@dataclass(frozen=True)
class Toy:
    """A group of two options."""

    size: int = option(3, "How large.", int, "N")
    secret: str | None = option(None, "Not shown.", repr=False)


def play(name: str, *, color: str = "red", **options: Any) -> Toy:
    check_options(play, options, Toy)
    return take_options(Toy, {**options, "other": 1})


def test_fields_carry_their_help_and_default() -> None:
    spec, default = option_specs(Toy)["size"]
    assert (spec.help, spec.type, spec.metavar, default) == ("How large.", int, "N", 3)
    assert "hunter2" not in repr(Toy(secret="hunter2"))
    assert "hunter2" not in repr(FetchOptions(source_options={"password": "hunter2"}))


def test_unknown_options_are_named_with_those_that_exist() -> None:
    assert play("x", size=4) == Toy(4)
    message = "unknown option sice, weight for play; its options are size, secret, color"
    with pytest.raises(UsageError, match=message):
        play("x", sice=4, weight=1)


def test_only_what_is_not_given_is_adopted() -> None:
    record = {"shard_size": 8, "codec": "compact", "nside": 32, "order": "name", "more": 1}
    assert LayoutOptions(codec="portable").adopt(record) == LayoutOptions(8, "portable", 32)
    assert LayoutOptions(nside=4).adopt({}) == LayoutOptions(nside=4)
    assert SelectionOptions(limit=3).adopt(record) == SelectionOptions(limit=3, order="name")
    assert SelectionOptions(order="healpix").adopt(record).order == "healpix"


def test_cache_is_absolute_wherever_workers_run(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert FetchOptions(cache="files").cache == str(tmp_path / "files")
