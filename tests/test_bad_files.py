"""Every kind of bad file among good ones: flagged, named, and nothing else changed."""

from __future__ import annotations

import gzip
import json
import logging
import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable
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

import gz3d_zarr
from gz3d_zarr import GZ3DError, fetch
from gz3d_zarr.cli import main

MEGABYTE = 2**20


def bomb(megabytes: int = 600) -> bytes:
    """Gzip of so many zeros, a thousandth of their size."""
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
    "count of 300": ("invalid", lambda data: with_mask_value(data, 4, 300)),
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
    told = dict(zip(kept["file_name"].values, ds["status"].values, strict=True))
    assert {name: meanings[told[name]] for name in damaged} == damaged


def test_report_is_html_in_a_notebook(
    archive: Path, damaged: dict[str, str], client: Client, tmp_path: Path
) -> None:
    report = gz3d_zarr.build(archive, tmp_path / "<g>.zarr", client)
    shown = report._repr_html_()
    assert all(name in shown for name in damaged)
    assert "&lt;g&gt;.zarr" in shown
    assert "<g>" not in shown
    assert "3 of 18 subjects are ok" in shown


def test_bomb_takes_no_more_memory_than_a_good_file(simulated: Path, tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(bomb())
    script = (
        "import resource, sys, gz3d_zarr\n"
        "from gz3d_zarr.subject import decode\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "try:\n    decode(data)\n    print('good')\n"
        "except gz3d_zarr.SubjectError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    said, peak = {}, {}
    for name, path in {"good": subject_files(simulated)[0], "bomb": tmp_path / "bomb"}.items():
        command = [sys.executable, "-c", script, str(path)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        said[name], kilobytes = out.splitlines()
        peak[name] = int(kilobytes) / 1024
    assert said["good"] == "good"
    assert "unpacks to more than 32 MiB" in said["bomb"]
    assert peak["bomb"] < peak["good"] + 64


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
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
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
    for source, place, options in (
        ("http://127.0.0.1:9/", "g.zarr", {"source_options": headers}),
        (["http://127.0.0.1:9/gz3d_1-1_19_1.fits.gz"], "g.zarr", {"source_options": headers}),
        (archive, "s3://bucket/g.zarr", {"storage_options": endpoint}),
        (archive, f"s3://who:{SECRET}@bucket/g.zarr", {}),
    ):
        place = place if "://" in place else str(tmp_path / place)
        try:
            texts.append(gz3d_zarr.build(source, place, client, **options).to_text())
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
