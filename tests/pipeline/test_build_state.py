"""What exists where a build writes, what is kept of it, and what each mode does with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gz3d_zarr import Status, StoreError
from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.limits import MAX_SUBJECTS
from gz3d_zarr.datamodel.receipts import Receipt, StoredObject, SubjectOutcome
from gz3d_zarr.pipeline.build_state import (
    ACTIONS,
    Action,
    Mode,
    Target,
    TargetState,
    choose_action,
    choose_request,
    inspect_target,
)
from gz3d_zarr.pipeline.resume import keeps
from gz3d_zarr.storage.build_record import RECORD_KEY, BuildRecord
from gz3d_zarr.storage.object_store import open_object_store

NAMES = st.lists(st.sampled_from([f"gz3d_1-{i}_19_{i}.fits.gz" for i in range(6)]), unique=True)
KEYS = ("image/c/0/0/0/0", "segmentation/c/0/0/0/0")


@st.composite
def receipts(draw: Any) -> Receipt:
    outcomes = tuple(
        SubjectOutcome(name, draw(st.sampled_from(Status)), "", "", 1, None) for name in draw(NAMES)
    )
    stored = tuple(StoredObject(key, draw(st.integers(0, 3)), "x") for key in KEYS)
    return Receipt(0, "plan", outcomes, stored)


SIZES = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 3))


@given(receipts(), SIZES, st.booleans())
def test_what_is_kept_is_whole_and_of_the_plan(
    receipt: Receipt, sizes: dict[str, int], retrying: bool
) -> None:
    names = [outcome.file_name for outcome in receipt.outcomes]
    kept = keeps(receipt, names, sizes, retrying=retrying)
    whole = all(sizes.get(stored.key) == stored.size for stored in receipt.objects)
    failed = [o for o in receipt.outcomes if o.status is not Status.OK]
    assert kept == (whole and not (retrying and failed))
    if kept:
        assert keeps(receipt, names, sizes, retrying=False)  # retrying never keeps more
        assert keeps(receipt, names, {**sizes, "ra/c/0": 9}, retrying=retrying)


@given(receipts(), SIZES, NAMES, st.booleans())
def test_other_subjects_are_never_kept(
    receipt: Receipt, sizes: dict[str, int], names: list[str], retrying: bool
) -> None:
    if names != [outcome.file_name for outcome in receipt.outcomes]:
        assert not keeps(receipt, names, sizes, retrying=retrying)
    assert not keeps(None, names, sizes, retrying=retrying)


@given(receipts(), SIZES, st.sampled_from(KEYS))
def test_a_lost_object_is_never_kept(receipt: Receipt, sizes: dict[str, int], key: str) -> None:
    names = [outcome.file_name for outcome in receipt.outcomes]
    left = {name: size for name, size in sizes.items() if name != key}
    assert not keeps(receipt, names, left, retrying=False)


def test_a_receipt_without_objects_is_never_kept() -> None:
    assert not keeps(Receipt(0, "plan", (), ()), [], {}, retrying=False)


def test_every_mode_has_an_action_for_every_state() -> None:
    assert set(ACTIONS) == {(mode, state) for mode in Mode for state in TargetState}
    assert {ACTIONS[mode, TargetState.EMPTY] for mode in Mode} == {Action.WRITE}


@pytest.mark.parametrize("mode", [Mode.NEW, Mode.RESUME])
def test_what_is_damaged_is_only_replaced(tmp_path: Path, mode: Mode) -> None:
    store = open_object_store(tmp_path / "g.zarr", None)
    target = Target(TargetState.COMPLETE, damage="zarr.json is damaged")
    with pytest.raises(StoreError, match=r"continued \(zarr.json is damaged\): build it anew"):
        choose_action(store, target, mode)
    assert choose_action(store, target, Mode.OVERWRITE) is Action.REPLACE


def test_resume_is_part_of_update_and_retry() -> None:
    options = {"resume": True, "overwrite": False, "update": False, "retry_failed": False}
    assert choose_request(**options).mode is Mode.RESUME
    grows = choose_request(**{**options, "update": True})
    assert (grows.mode, grows.may_grow, grows.retry_failed) == (Mode.RESUME, True, False)


@given(
    st.builds(
        BuildRecord,
        st.text(),
        st.text(),
        st.sampled_from(["healpix", "name"]),
        st.builds(Layout, st.integers(1, MAX_SUBJECTS), st.integers(1, 64)) | st.none(),
        st.lists(st.integers(0, 500)).map(tuple) | st.none(),
        st.booleans(),
        st.text(),
    )
)
def test_records_survive_json(record: BuildRecord) -> None:
    assert BuildRecord.from_json(record.to_json()) == record


def test_damaged_record_can_only_be_overwritten(tmp_path: Path) -> None:
    store = open_object_store(tmp_path / "g.zarr", None)
    whole = BuildRecord("id", layout=Layout(3)).to_json()
    newer = whole.replace(b'"schema_version": 2', b'"schema_version": 99')
    older = whole.replace(b'"schema_version": 2,', b"")
    assert older != whole
    for content in (b"", whole[: len(whole) // 2], b"\xff\x00", b"[]", b"null", newer, older):
        store.put(RECORD_KEY, content)
        target = inspect_target(store)
        assert target.state is TargetState.UNFINISHED
        assert RECORD_KEY in target.damage
        with pytest.raises(StoreError, match="--overwrite"):
            choose_action(store, target, Mode.RESUME)
        assert choose_action(store, target, Mode.OVERWRITE) is Action.REPLACE
