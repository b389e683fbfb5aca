"""Values and errors are the same with every codec pipeline that is installed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import multiprocessing
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client

import gz3d_zarr
from gz3d_zarr import StoreError
from gz3d_zarr.backends import codec_pipeline
from gz3d_zarr.backends.codec_pipeline import FUSED, PIPELINES, ZARRS, open_array
from gz3d_zarr.backends.store_info import read_info
from gz3d_zarr.storage.object_store import open_object_store

DEFAULT = "zarr.core.codec_pipeline.BatchedCodecPipeline"


def is_installed(pipeline: str) -> bool:
    module, _, name = pipeline.rpartition(".")
    return importlib.util.find_spec(module) is not None and hasattr(
        importlib.import_module(module), name
    )


@pytest.fixture(params=[ZARRS, FUSED, DEFAULT])
def pipeline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The only one that may be chosen."""
    if not is_installed(request.param):
        pytest.skip("not installed")
    monkeypatch.setattr(codec_pipeline, "PIPELINES", (request.param,))
    return str(request.param)


@pytest.fixture
def damaged(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "copy.zarr"))


def class_name(pipeline: str) -> str:
    return pipeline.rpartition(".")[2]


def test_values_are_the_same_with_every_pipeline(store: Path, pipeline: str) -> None:
    before = zarr.config.get("codec_pipeline.path")
    opened = gz3d_zarr.open_store(store, chunks=18)
    for name in ("image", "segmentation"):
        expected = np.asarray(zarr.open_array(store, path=name, mode="r")[...])
        for dataset in (opened, gz3d_zarr.open_store(store, chunks=None)):
            array = dataset[name]
            np.testing.assert_array_equal(array, expected)
            np.testing.assert_array_equal(array[1:15, 2, ::-3], expected[1:15, 2, ::-3])
            np.testing.assert_array_equal(array[3:13, :, 7:9, ::2], expected[3:13, :, 7:9, ::2])
            np.testing.assert_array_equal(array[[5, 2]], expected[[5, 2]])
        sent = pickle.loads(pickle.dumps(opened[name]))
        np.testing.assert_array_equal(sent, expected)
    info = read_info(store)
    assert info.pipeline.endswith(class_name(pipeline))
    assert re.search(rf"^pipeline +{info.pipeline}$", info.to_text(), re.MULTILINE)
    assert json.loads(json.dumps(info.summary()["pipeline"])) == info.pipeline
    assert zarr.config.get("codec_pipeline.path") == before


def test_damage_is_our_error_with_every_pipeline(damaged: Path, pipeline: str) -> None:
    whole = gz3d_zarr.open_store(damaged, chunks=18)["image"]
    shard = damaged / "image/c/1/0/0/0"
    data = bytearray(shard.read_bytes())
    half = len(data) // 2
    for changed in (bytes(1000), data[:-1], data[:half], data[half:], b""):
        shard.write_bytes(changed)
        with pytest.raises(StoreError, match="shard 1 of image in .* cannot be read"):
            whole.compute()
    data[1000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="image of rows 0 to 17 in .* cannot be read"):
        whole.compute()
    shard.unlink()
    with pytest.raises(StoreError, match="shard 1 of image in .* is missing"):
        whole.compute()


def test_the_fastest_pipeline_that_takes_the_store_is_chosen(
    store: Path, simulated: Path, client: Client, tmp_path: Path
) -> None:
    metadata = zarr.open_array(store, path="image", mode="r").metadata
    installed = [name for name in (*PIPELINES, DEFAULT) if is_installed(name)]
    local = open_array(open_object_store(store), "image", metadata)
    assert type(local.async_array.codec_pipeline).__name__ == class_name(installed[0])
    remote = open_array(open_object_store("memory://nothing/g.zarr"), "image", metadata)
    expected = class_name(next(name for name in installed if name != ZARRS))
    assert type(remote.async_array.codec_pipeline).__name__ == expected
    with pytest.raises(StoreError, match="is missing"):
        remote[:1]
    compact = tmp_path / "compact.zarr"  # zarrs does not take its codec, and warns
    gz3d_zarr.build(simulated, compact, client, codec="compact", shard_size=4, order="name")
    same = pickle.loads(pickle.dumps(gz3d_zarr.open_store(compact, chunks=18)["image"]))
    ids = gz3d_zarr.open_store(store)["zooniverse_subject_id"].values
    mine = xr.DataArray(same["zooniverse_subject_id"].values, dims="subject")
    order = [ids.tolist().index(one) for one in mine.values]
    np.testing.assert_array_equal(same, gz3d_zarr.open_store(store)["image"][order])


def read_after_fork(source: Any) -> None:
    assert source.read_rows(np.arange(16)).any()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_reads_without_the_threads_of_its_parent(store: Path) -> None:
    """zarrs would wait for them for ever."""
    source = gz3d_zarr.open_store(store)["image"].data._stored.source
    read_after_fork(source)
    child = multiprocessing.get_context("fork").Process(target=read_after_fork, args=(source,))
    child.start()
    child.join(30)
    if child.is_alive():
        child.kill()
        pytest.fail("it still reads")
    assert child.exitcode == 0
