"""Every kind of bad file among good ones: flagged, named, and nothing else changed."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import logging
import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from click.testing import CliRunner
from distributed import Client
from files import (
    edited,
    subject_files,
    with_cell,
    with_image,
    with_mask_value,
    without_column,
)
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import LIMIT_SECONDS

import gz3d_zarr
from gz3d_zarr import GZ3DError, SourceError, Status, SubjectError
from gz3d_zarr.cli import main
from gz3d_zarr.sources import http
from gz3d_zarr.sources.catalogue import read_catalogue, read_file_names
from gz3d_zarr.sources.download import decode_body, read_file

MEGABYTE = 2**20


def bomb(megabytes: int = 600) -> bytes:
    """Gzip of zeros, with a thousandth of their size."""
    packer = zlib.compressobj(1, wbits=31)
    zeros = bytes(MEGABYTE)
    return b"".join([*(packer.compress(zeros) for _ in range(megabytes)), packer.flush()])


def cut_hdus(hdus: fits.HDUList) -> None:
    del hdus[5:]


def flip_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x40]) + data[middle + 1 :]


BAD: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "truncated gzip": ("corrupt", lambda data: data[: len(data) // 2]),
    "flipped byte": ("corrupt", flip_middle),
    "empty": ("corrupt", lambda _: b""),
    "HTML": ("corrupt", lambda _: b"<html><body>404 Not Found</body></html>"),
    "gzip of text": ("corrupt", lambda _: gzip.compress(b"hello, world")),
    "NaN count": ("invalid", lambda data: with_mask_value(data, 1, np.nan)),
    "negative count": ("invalid", lambda data: with_mask_value(data, 2, -1)),
    "fractional count": ("invalid", lambda data: with_mask_value(data, 3, 2.5)),
    "300.5 counts": ("invalid", lambda data: with_mask_value(data, 4, 300.5)),
    "missing HDUs": ("invalid", lambda data: edited(data, cut_hdus)),
    "wrong mask shape": ("invalid", lambda data: with_image(data, 3, np.zeros((525, 524)))),
    "wrong image shape": (
        "invalid",
        lambda data: with_image(data, 0, np.zeros((525, 500, 3), np.uint8)),
    ),
    "no MANGAID": ("invalid", lambda data: without_column(data, "MANGAID")),
    "ra NaN": ("invalid", lambda data: with_cell(data, "ra", np.nan)),
    "bomb of 600 MB": ("corrupt", lambda _: bomb()),
}


@pytest.fixture
def damaged(archive: Path) -> dict[str, str]:
    """The archive with fifteen bad files of eighteen and no sha1 list; name to status."""
    (archive / "manga_morphology_galaxyzoo3d_v4_0_0.sha1sum").unlink()
    expected = {}
    for path, (status, damage) in zip(subject_files(archive), BAD.values(), strict=False):
        path.write_bytes(damage(path.read_bytes()))
        expected[path.name] = status
    return expected


def test_fifteen_bad_files_are_flagged_and_named(
    archive: Path, damaged: dict[str, str], store: Path, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "g.zarr"
    with client.as_current():
        result = CliRunner().invoke(main, ["build", str(archive), str(target), "--json"])
    assert result.exit_code == 3, result.output
    summary = json.loads(result.stdout)
    assert len(damaged) == 15
    assert {f["file_name"]: f["status"] for f in summary["failures"]} == damaged
    reasons = [f["reason"] for f in summary["failures"]]
    assert all(reasons)
    ds, good = gz3d_zarr.open_store(target).compute(), gz3d_zarr.open_store(store).compute()
    ok = ds["status"].values == 0
    assert ok.sum() == 3
    xr.testing.assert_equal(ds.isel(subject=ok), good.isel(subject=ok))
    assert not ds["image"].values[~ok].any()
    assert not ds["segmentation"].values[~ok].any()
    kept = xr.open_zarr(target, group="catalogue")
    assert sorted(reason for reason in kept["reason"].values if reason) == sorted(reasons)
    meanings = ds["status"].attrs["flag_meanings"].split()
    statuses = dict(zip(kept["file_name"].values, ds["status"].values, strict=True))
    assert {name: meanings[statuses[name]] for name in damaged} == damaged


def test_saturated_counts_and_sentinels_are_kept_and_named(
    archive: Path, client: Client, tmp_path: Path
) -> None:
    (archive / "manga_morphology_galaxyzoo3d_v4_0_0.sha1sum").unlink()
    first, second, *_ = subject_files(archive)
    first.write_bytes(with_mask_value(first.read_bytes(), 4, 300))
    second.write_bytes(with_cell(second.read_bytes(), "nsa_id", -999))
    target = tmp_path / "g.zarr"
    with client.as_current():
        result = CliRunner().invoke(
            main, ["build", str(archive), str(target), "--limit", "2", "--order", "name"]
        )
    assert result.exit_code == 0, result.output
    assert (
        f"counts above 255 are stored as 255, with the flag saturated, in 1 file: {first.name}."
    ) in result.stdout
    note = "the tile, NSA id or votes of 1 subject are unknown in HDU 5, and -1 in the store"
    assert f"{note} (first {second.name})" in result.stdout
    ds = xr.open_zarr(target)
    assert f"{note} (first {second.name})" in ds.attrs["notes"]
    assert ds["saturated"].values.tolist() == [1, 0]
    assert ds["status"].values.tolist() == [0, 0]
    assert ds["nsa_id"].values[1] == -1
    assert ds["segmentation"].values[0, 3, 100, 200] == 255
    again = gz3d_zarr.build(archive, target, client, limit=2, order="name", resume=True)
    assert again.saturated == (first.name,)
    assert first.name in again._repr_html_()
    assert gz3d_zarr.verify(target, archive, client).passed


def test_report_is_html_in_a_notebook(
    archive: Path, damaged: dict[str, str], client: Client, tmp_path: Path
) -> None:
    report = gz3d_zarr.build(archive, tmp_path / "<g>.zarr", client)
    shown = report._repr_html_()
    assert all(name in shown for name in damaged)
    assert "&lt;g&gt;.zarr" in shown
    assert "<g>" not in shown
    assert "3 of 18 subjects are ok" in shown


def test_bomb_takes_no_more_memory_than_the_limit(simulated: Path, tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(bomb())
    script = (
        "import resource, sys, gz3d_zarr\n"
        "from gz3d_zarr.datamodel.fits_decoder import decode\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "try:\n    decode(data)\n    print('good')\n"
        "except gz3d_zarr.SubjectError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    said, peak = {}, {}
    for name, path in {"good": subject_files(simulated)[0], "bomb": tmp_path / "bomb"}.items():
        command = [sys.executable, "-c", script, str(path)]
        out = subprocess.check_output(command, text=True, timeout=LIMIT_SECONDS)
        said[name], kilobytes = out.splitlines()
        peak[name] = int(kilobytes) / 1024
    assert said["good"] == "good"
    assert "unpacks to more than 128 MiB" in said["bomb"]
    assert peak["bomb"] < peak["good"] + 300  # 128 MiB, twice while a buffer grows


@pytest.fixture
def remote(simulated: Path, tmp_path: Path) -> Iterator[tuple[str, bytes]]:
    """URL of one subject file in memory, and its bytes."""
    folder = f"/{tmp_path.name}"
    path = subject_files(simulated)[0]
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"{folder}/{path.name}", path.read_bytes())
    try:
        yield f"memory:/{folder}/{path.name}", path.read_bytes()
    finally:
        memory.rm(folder, recursive=True)


@pytest.mark.parametrize("known", [True, False])
def test_file_damaged_on_its_way_is_read_once_more(
    remote: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    url, data = remote
    answers = [flip_middle(data), data]
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *_, **__: answers.pop(0))
    assert read_file(url, hashlib.sha1(data).hexdigest() if known else None).data == data
    answers = [flip_middle(data), flip_middle(data), data]
    assert read_file(url, None).data == flip_middle(data)
    assert answers == [data]


def test_empty_object_is_corrupt_and_not_unreachable(
    remote: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = remote

    def refuse(*_: Any, **__: Any) -> bytes:  # as s3fs does what S3 answers with 416
        raise OSError(errno.EINVAL, "The requested range is not satisfiable")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refuse)
    with pytest.raises(SubjectError, match="range is not satisfiable") as caught:
        read_file(url, None)
    assert caught.value.status is Status.UNREACHABLE
    fsspec.filesystem("memory").pipe_file(url.partition(":/")[2], b"")
    assert decode_body(url, None, read_file(url, None))[1].status is Status.CORRUPT


CATALOGUES: dict[str, Callable[[bytes], bytes]] = {
    "no TFIELDS": lambda data: data.replace(b"TFIELDS ", b"TFIELDZ ", 1),
    "NAXIS2 of nothing": lambda data: data.replace(b"NAXIS2  =", b"NAXIS2  /", 1),
    "TFORM of nonsense": lambda data: data.replace(b"TFORM3  = '", b"TFORM3  = Q", 1),
    "empty": lambda _: b"",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CATALOGUES)
def test_damaged_catalogue_is_named(simulated: Path, kind: str) -> None:
    data = (simulated / "gz3d_metadata.fits").read_bytes()
    with pytest.raises(SourceError, match="the catalogue c.fits"):
        read_catalogue("c.fits", CATALOGUES[kind](data))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150)
@given(
    flips=st.lists(st.tuples(st.integers(0, 20000), st.integers(0, 255)), max_size=4),
    length=st.none() | st.integers(0, 17000),
)
def test_any_bytes_are_a_catalogue_or_an_error(
    simulated: Path, flips: list[tuple[int, int]], length: int | None
) -> None:
    data = bytearray((simulated / "gz3d_metadata.fits").read_bytes())
    for position, value in flips:
        data[position % len(data)] = value
    for read in (read_catalogue, read_file_names):
        with contextlib.suppress(SourceError):
            read("c.fits", bytes(data[:length]))


SECRET = "open-sesame-4711"


def test_no_secret_is_written_or_shown(
    archive: Path,
    client: Client,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A made-up secret, in every option that takes one, through builds that work and fail."""
    caplog.set_level(logging.DEBUG, "distributed")
    monkeypatch.setattr(http, "ATTEMPTS", 1)
    subject_files(archive)[0].write_bytes(b"")
    storage: dict[str, Any] = {"listings_expiry_time": None, "key": SECRET}
    texts = []
    store = "memory://secret/g.zarr"
    report = gz3d_zarr.build(archive, store, client, shard_size=4, storage_options=storage)
    texts += [report.to_text(), repr(report), json.dumps(report.summary())]
    plan = gz3d_zarr.plan(archive, "memory://secret/h.zarr", workers=1, storage_options=storage)
    texts += [plan.to_text(), repr(plan)]
    ds = gz3d_zarr.open_store(store)  # the newest zarr wants no options for memory
    texts += [repr(ds), str(ds.attrs)]
    memory = fsspec.filesystem("memory")
    try:
        texts += [memory.cat_file(name).decode("latin-1") for name in memory.find("/secret")]
    finally:
        memory.rm("/secret", recursive=True)
    headers = {"headers": {"Authorization": f"Bearer {SECRET}"}}
    endpoint = {
        "key": "who",
        "secret": SECRET,
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 1}},
    }
    for source, target, options in (
        ("http://127.0.0.1:9/", "g.zarr", {"source_options": headers}),
        (["http://127.0.0.1:9/gz3d_1-1_19_1.fits.gz"], "g.zarr", {"source_options": headers}),
        (archive, "s3://bucket/g.zarr", {"storage_options": endpoint}),
        (archive, f"s3://who:{SECRET}@bucket/g.zarr", {}),
    ):
        path = target if "://" in target else str(tmp_path / target)
        try:
            texts.append(gz3d_zarr.build(source, path, client, **options).to_text())
        except GZ3DError as error:
            texts.append(str(error))
    try:
        gz3d_zarr.build(archive, "s3://bucket/g.zarr", client, storage_options=endpoint)
    except GZ3DError:
        texts.append(traceback.format_exc())
    texts += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*.json")]
    texts += [*capfd.readouterr(), caplog.text]
    texts += client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
    assert len(texts) > 50
    assert not [text for text in texts if SECRET in text]
