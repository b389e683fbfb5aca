"""When a build stops because of failed subjects."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed import Client

import gz3d_zarr
from gz3d_zarr import BuildError, Status
from gz3d_zarr.datamodel.receipts import Receipt, SubjectOutcome
from gz3d_zarr.pipeline.failure_policy import FailurePolicy


def receipt(*statuses: Status, reason: str = "its sha1 is {:040x}, the list says 0") -> Receipt:
    outcomes = tuple(
        SubjectOutcome(
            f"gz3d_1-{i}_19_{i}.fits.gz", status, status and reason.format(i), "", -1, None
        )
        for i, status in enumerate(statuses)
    )
    return Receipt(0, "", outcomes, ())


BAD = [Status.INVALID, Status.CORRUPT] * 32


def test_build_of_which_the_first_100_are_bad_stops() -> None:
    policy = FailurePolicy()
    policy.check([receipt(*BAD)], 500)
    other = receipt(Status.INVALID, Status.INVALID, reason="HDU 3 is a table")
    with pytest.raises(BuildError, match="first 130 of 500 subjects are all invalid") as caught:
        policy.check([other, receipt(*BAD), receipt(*BAD)], 500)
    assert f"this reason: its sha1 is {0:040x}, the list" in str(caught.value)
    assert "--max-failures 500" in str(caught.value)


@pytest.mark.parametrize("status", [Status.OK, Status.MISSING, Status.UNREACHABLE])
def test_one_subject_of_another_status_keeps_it_going(status: Status) -> None:
    FailurePolicy().check([receipt(*BAD), receipt(*BAD), receipt(status)], 500)


def test_small_builds_and_max_failures_do_not_stop() -> None:
    FailurePolicy().check([receipt(*BAD[:50]), receipt(*BAD[:50])], 100)
    FailurePolicy(max_failures=500).check([receipt(*BAD), receipt(*BAD)], 500)


def test_long_reasons_are_shortened() -> None:
    bad = receipt(*BAD, *BAD, reason="x" * 2000)
    with pytest.raises(BuildError) as caught:
        FailurePolicy().check([bad], 129)
    assert len(str(caught.value)) < 500


def test_build_from_a_wrong_source_stops_by_itself(client: Client, tmp_path: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    for i in range(101):
        (source / f"gz3d_1-{i}_19_{i}.fits.gz").write_bytes(b"<html>login</html>")
    with pytest.raises(BuildError, match=r"of 101 subjects .*this reason: not a gzip file"):
        gz3d_zarr.build(source, tmp_path / "g.zarr", client, shard_size=25)
