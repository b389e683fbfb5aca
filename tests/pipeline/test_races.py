"""Two builders that start at the same moment, in any modes: the store is one that a build gives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
import xarray as xr
from distributed import Client
from files import subject_files
from object_stores import close_sessions, fresh_bucket
from stores import StopHereError, stop_after

import gz3d_zarr
from gz3d_zarr import StoreError
from gz3d_zarr.pipeline.report import BuildReport
from gz3d_zarr.storage.object_store import open_object_store

pytestmark = pytest.mark.long
FIXED: dict[str, Any] = {"shard_size": 2, "order": "name"}
Place = tuple[str, dict[str, Any]]


@pytest.fixture(params=["disk", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where two builders meet, and the options to reach it."""
    if request.param == "disk":
        yield str(tmp_path / "race" / "g.zarr"), {}
    elif request.param == "memory":
        yield f"memory://race-{tmp_path.name}/g.zarr", {}
        fsspec.filesystem("memory").rm(f"/race-{tmp_path.name}", recursive=True)
    else:
        with fresh_bucket(request.getfixturevalue("moto")) as bucket:
            yield f"{bucket.url}/g.zarr", {"storage_options": bucket.storage_options}
            close_sessions()


def race(builds: list[Any]) -> list[BuildReport | StoreError]:
    """Run builds in threads; each waits for the others where it has planned, before its lease."""
    meeting = threading.Barrier(len(builds))

    def run(build: Any) -> BuildReport | StoreError:
        try:
            return build(announce=lambda _: meeting.wait(60))
        except StoreError as error:
            return error

    with ThreadPoolExecutor(len(builds)) as executor:
        return list(executor.map(run, builds))


@pytest.mark.parametrize(
    ("before", "modes"),
    [
        ("nothing", ({}, {})),
        ("unfinished", ({"overwrite": True}, {"resume": True})),
        ("smaller", ({"update": True}, {"update": True})),
        ("with a bad file", ({"update": True}, {"retry_failed": True})),
    ],
)
def test_of_two_builders_one_is_refused_or_both_give_the_same(
    archive: Path, client: Client, place: Place, before: str, modes: tuple[dict[str, bool], ...]
) -> None:
    (name, options), files = place, subject_files(archive)
    for path in files[4:]:
        path.unlink()
    expected = gz3d_zarr.open_source(archive, order="name")
    whole = files[1].read_bytes()
    if before == "with a bad file":
        files[1].write_bytes(b"")
    if before == "unfinished":
        with pytest.raises(StopHereError):
            gz3d_zarr.build(archive, name, client, progress=stop_after(1), **FIXED, **options)
    elif before != "nothing":
        limit = 2 if before == "smaller" else None
        gz3d_zarr.build(archive, name, client, limit=limit, **FIXED, **options)
    files[1].write_bytes(whole)

    def build(mode: dict[str, bool]) -> Any:
        return lambda **more: gz3d_zarr.build(
            archive, name, client, **FIXED, **options, **mode, **more
        )

    results = race([build(mode) for mode in modes])
    refusals = [str(result) for result in results if isinstance(result, StoreError)]
    assert len(refusals) < 2, refusals
    assert all("is being built by" in text or "holds a" in text for text in refusals), refusals
    if before == "with a bad file" and refusals:  # the update may have won, which reads nothing
        gz3d_zarr.build(archive, name, client, retry_failed=True, **FIXED, **options)
    opened = gz3d_zarr.open_store(name, **options)
    assert opened["status"].values.tolist() == [0] * 4
    for variable in ("image", "segmentation", "ra", "zooniverse_subject_id"):
        xr.testing.assert_equal(
            opened[variable].variable.load(), expected[variable].variable.load()
        )
    store = open_object_store(name, options.get("storage_options"))
    assert store.list_sizes(".gz3d/") == {}
    assert gz3d_zarr.verify(name, archive, client, **options).passed
    if store.is_local:
        assert [path.name for path in Path(name).parent.iterdir()] == ["g.zarr"]
