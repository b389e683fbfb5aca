"""A source that is gone, and one file that is missing."""

from __future__ import annotations

import dataclasses
import shutil
import zipfile
from pathlib import Path

import fsspec
import pytest
from files import subject_files
from servers import ArchiveServer, serve, status

from gz3d_zarr import SourceError, Status
from gz3d_zarr.datamodel.manifest import Manifest
from gz3d_zarr.sources import source_state
from gz3d_zarr.sources.archive import list_archive
from gz3d_zarr.sources.listing import list_source
from gz3d_zarr.sources.select_subjects import make_manifest
from gz3d_zarr.sources.source_state import (
    SeenUrl,
    SourceState,
    check_source,
    observe_source,
)

MISSING, UNREACHABLE = Status.MISSING, Status.UNREACHABLE


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "files"
    folder.mkdir()
    paths = [folder / f"gz3d_1-{i}_19_{i}.fits.gz" for i in range(3)]
    for path in paths:
        path.write_bytes(b"x")
    return paths


def manifest(source: Path | list[Path] | str) -> Manifest:
    return make_manifest(list_source(source))


def test_missing_file_is_not_a_missing_source(files: list[Path]) -> None:
    state = observe_source(manifest(files[0].parent)).for_files([str(files[0])])
    files[0].unlink()
    files[1].unlink()
    check_source(state, str(files[0]), MISSING)
    assert state.folders.keys() == {str(files[0].parent)}


def test_folder_that_is_gone_or_empty_is(files: list[Path]) -> None:
    folder = files[0].parent
    state = observe_source(manifest(folder))
    for path in files:
        path.unlink()
    with pytest.raises(SourceError, match=r"went away .* is empty now .*--resume"):
        check_source(state, str(files[0]), MISSING)
    folder.rmdir()
    with pytest.raises(SourceError, match=f"{folder} cannot be read: No such file"):
        check_source(state, str(files[0]), MISSING)


def test_folder_on_another_device_is_on_the_same_host_only(files: list[Path]) -> None:
    state = observe_source(manifest(files[0].parent))
    moved = {folder: device + 1 for folder, device in state.folders.items()}
    with pytest.raises(SourceError, match="on another file system than before"):
        check_source(dataclasses.replace(state, folders=moved), str(files[0]), UNREACHABLE)
    elsewhere = SourceState(moved, "another-host")  # numbers its devices otherwise
    check_source(elsewhere, str(files[0]), UNREACHABLE)


def test_folder_that_files_are_linked_to_is_looked_at(files: list[Path], tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for path in files:
        (links / path.name).symlink_to(path)
    state = observe_source(manifest(links))
    shutil.move(files[0].parent, tmp_path / "unmounted")
    with pytest.raises(SourceError, match=f"{files[0].parent} cannot be read"):
        check_source(state, str(links / files[0].name), MISSING)


def test_folder_that_never_existed_is_no_concern(files: list[Path], tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere" / files[0].name
    check_source(observe_source(manifest([nowhere, files[1]])), str(nowhere), MISSING)


def test_server_is_asked_for_what_it_had(simulated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    for path in (*subject_files(simulated)[:2], simulated / "gz3d_metadata.fits"):
        shutil.copy(path, folder)
    with serve(folder) as server:
        state = observe_source(make_manifest(list_archive(server.url)))
        first = server.url + subject_files(folder)[0].name
        for code in (200, 403, 404, 429):  # it answers, whatever it says
            server.faults["gz3d_metadata.fits"] = [status(code)]
            check_source(state, first, UNREACHABLE)
        server.faults["gz3d_metadata.fits"] = [status(503)]
        with pytest.raises(SourceError, match="answers only 503"):
            check_source(state, first, UNREACHABLE)
        server.faults.clear()
        check_source(state, first, MISSING)
        (folder / "gz3d_metadata.fits").unlink()
        with pytest.raises(SourceError, match=r"gz3d_metadata.fits no longer exists"):
            check_source(state, first, MISSING)
    with pytest.raises(SourceError, match="does not answer"):
        check_source(state, first, UNREACHABLE)


def serve_some(simulated: Path, folder: Path, count: int) -> list[str]:
    """Copy a few subject files to a folder to be served; return their names."""
    folder.mkdir()
    for path in subject_files(simulated)[:count]:
        shutil.copy(path, folder)
    return [path.name for path in subject_files(folder)]


def gone(server: ArchiveServer, *names: str) -> None:
    for name in names:
        server.faults[name] = [status(404)]


def test_folder_on_a_server_that_has_nothing_any_more_is_gone(
    simulated: Path, tmp_path: Path
) -> None:
    names = serve_some(simulated, tmp_path / "served", 4)
    with serve(tmp_path / "served") as server:
        state = observe_source(make_manifest(list_archive(server.url)))
        gone(server, *names)
        check_source(state, server.url + names[0], MISSING)  # the index page still exists
        gone(server, "")
        check_source(state, server.url + names[0], UNREACHABLE)  # it answers
        with pytest.raises(SourceError, match=f"{server.url} no longer exists"):
            check_source(state, server.url + names[0], MISSING)


@pytest.mark.parametrize("count", [1, 4])
def test_list_of_urls_is_looked_for_by_its_files(
    simulated: Path, tmp_path: Path, count: int
) -> None:
    names = serve_some(simulated, tmp_path / "served", count)
    with serve(tmp_path / "served", index=False) as server:
        urls = [server.url + name for name in names]
        state = observe_source(manifest(urls[0] if count == 1 else urls))
        assert sum(server.requests.values()) <= 3 + 2  # and the folder, for a catalogue
        if count > 1:
            gone(server, *names[:-1])
            check_source(state, urls[0], MISSING)
        gone(server, *names)
        with pytest.raises(SourceError, match=f"{names[0]} no longer exists"):
            check_source(state, urls[0], MISSING)
    with pytest.raises(SourceError, match="127.0.0.1:[0-9]+ does not answer"):
        check_source(state, urls[-1], UNREACHABLE)


def test_list_whose_files_never_existed_is_no_concern(simulated: Path, tmp_path: Path) -> None:
    names = serve_some(simulated, tmp_path / "served", 2)
    with serve(tmp_path / "served", index=False) as server:
        gone(server, *names)
        urls = [server.url + name for name in names]
        state = observe_source(manifest(urls))
        check_source(state, urls[0], MISSING)
        server.faults.clear()
    check_source(observe_source(manifest(urls)), urls[0], UNREACHABLE)  # down from the start
    with pytest.raises(SourceError, match="does not answer"):
        check_source(state, urls[0], UNREACHABLE)


def test_each_server_of_a_list_is_looked_at(files: list[Path], simulated: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"/one-of-two/{files[0].name}", b"x")
    url = f"memory://one-of-two/{files[0].name}"
    with serve(simulated, index=False) as server:
        other = server.url + subject_files(simulated)[3].name
        state = observe_source(make_manifest(list_source([files[1], url, other]), catalogue=None))
    memory.rm("/one-of-two", recursive=True)
    with pytest.raises(SourceError, match="memory://one-of-two/ no longer exists"):
        check_source(state, url, MISSING)
    with pytest.raises(SourceError, match="127.0.0.1:[0-9]+ does not answer"):
        check_source(state, other, UNREACHABLE)
    check_source(state, str(files[1]), MISSING)


def test_glob_of_urls_is_looked_for_in_its_folder(files: list[Path]) -> None:
    memory = fsspec.filesystem("memory")
    for path in files:
        memory.pipe_file(f"/globbed-source/day/{path.name}", b"x")
    state = observe_source(manifest("memory://globbed-source/d*/gz3d_*"))
    first = f"memory://globbed-source/day/{files[0].name}"
    memory.rm(f"/globbed-source/day/{files[0].name}")
    check_source(state, first, MISSING)
    memory.rm("/globbed-source", recursive=True)
    with pytest.raises(SourceError, match="memory://globbed-source/ no longer exists"):
        check_source(state, first, MISSING)


def test_glob_in_a_zip_file_is_looked_for_in_that(files: list[Path], tmp_path: Path) -> None:
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in files:
            archive.write(path, path.name)
    state = observe_source(manifest(f"zip://*::{packed}"))
    inside = f"zip://{files[0].name}::{packed}"
    check_source(state, inside, MISSING)
    packed.unlink()
    with pytest.raises(SourceError, match=r"zip://::.*packed.zip cannot be read: No such file"):
        check_source(state, inside, MISSING)


def test_folder_that_vanishes_after_it_was_listed_stops_the_build(
    files: list[Path], tmp_path: Path
) -> None:
    found = manifest(files[0].parent)
    for path in files:
        path.unlink()
    with pytest.raises(SourceError, match="went away before .* is empty now.*Nothing was written"):
        observe_source(found)
    files[0].parent.rmdir()
    with pytest.raises(SourceError, match="went away before .* cannot be read: No such file"):
        observe_source(found)


def test_messages_hold_no_secret_and_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, **options: str) -> None:
        raise ValueError(f"no such key {options['key']!r} for {url}")

    monkeypatch.setattr(source_state, "url_to_fs", refuse)
    url = f"s3://bucket/{'long' * 500}/gz3d_1-1_19_1.fits.gz"
    state = SourceState(urls={"s3://bucket": (SeenUrl(url.rpartition("/")[0], True),)})
    with pytest.raises(SourceError, match="no such key") as caught:
        check_source(state, url, MISSING, {"key": "open-sesame"})
    assert "open-sesame" not in str(caught.value)
    assert len(str(caught.value)) < 900


def test_nothing_is_asked_where_nothing_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_state, "probe", None)  # raises if it is called
    url = "http://127.0.0.1:9/gz3d_1-1_19_1.fits.gz"
    check_source(SourceState(), url, UNREACHABLE)


def test_bucket_that_is_emptied_is_gone(files: list[Path]) -> None:
    memory = fsspec.filesystem("memory")
    names = [f"/source-that-goes/{path.name}" for path in files]
    for name in names:
        memory.pipe_file(name, b"x")
    state = observe_source(manifest("memory://source-that-goes"))
    memory.rm(names[0])
    check_source(state, f"memory:/{names[0]}", MISSING)
    memory.rm("/source-that-goes", recursive=True)
    with pytest.raises(SourceError, match="no longer exists, or cannot be reached"):
        check_source(state, f"memory:/{names[0]}", MISSING)
