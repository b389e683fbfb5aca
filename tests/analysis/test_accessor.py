"""The accessor: when it is registered, and which Datasets it accepts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import gz3d_zarr
from gz3d_zarr import StoreError, UsageError
from gz3d_zarr.recipes import mean_mask


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


HAS = "print('gz3d' in xr.Dataset.__dict__, type(xr.Dataset().gz3d).__name__)"


def test_importing_alone_is_quick_and_xarray_may_come_later() -> None:
    code = f"""
import sys, importlib.util, gz3d_zarr
heavy = {{"xarray", "pandas", "astropy", "matplotlib", "zarr", "gz3d_zarr.analysis.accessor"}}
print(sorted(heavy & set(sys.modules)))
ours = lambda: sum("gz3d_zarr" in type(finder).__module__ for finder in sys.meta_path)
print(importlib.util.find_spec("xarray").name, "xarray" in sys.modules, ours())
import xarray as xr
print(ours())
{HAS}
print(xr.__spec__.loader.get_source("xarray").lstrip()[:3])
print(sorted({{"astropy", "matplotlib", "reproject"}} & set(sys.modules)))
"""
    lines = fresh(code).splitlines()
    assert lines == ["[]", "xarray False 0", "0", "True GZ3DAccessor", "fro", "[]"]


def test_xarray_may_come_first() -> None:
    assert fresh(f"import xarray as xr, gz3d_zarr; {HAS}") == "True GZ3DAccessor"


def test_public_names_are_listed_once() -> None:
    code = """
import gz3d_zarr
print(sorted(set(gz3d_zarr.__all__) - set(dir(gz3d_zarr)) - {"__version__"}))
print(len(gz3d_zarr.__all__), all(getattr(gz3d_zarr, name) for name in ("build", "__version__")))
from gz3d_zarr import *
print(open_store.__module__, copy.__module__, Status.OK.label)
"""
    lines = fresh(code).splitlines()
    assert lines == ["[]", "23 True", "gz3d_zarr.backends.store gz3d_zarr.pipeline.copy ok"]
    with pytest.raises(AttributeError, match="nothing"):
        gz3d_zarr.nothing  # noqa: B018


def test_help_does_not_import_xarray() -> None:
    code = """
import sys
from click.testing import CliRunner
from gz3d_zarr.cli import main
print(CliRunner().invoke(main, ["plot", "--help"]).exit_code, "xarray" in sys.modules)
"""
    assert fresh(code) == "0 False"


def test_it_works_however_a_store_is_opened(store: Path, simulated: Path) -> None:
    expected = gz3d_zarr.open_store(store).isel(subject=2)["segmentation"].values[2] > 3
    ids = gz3d_zarr.open_store(store)["zooniverse_subject_id"].values
    datasets = {
        "open_store": gz3d_zarr.open_store(store),
        "open_source": gz3d_zarr.open_source(simulated),
        "open_zarr": xr.open_zarr(store),
        "without chunks": xr.open_zarr(store, chunks=None),
        "loaded": gz3d_zarr.open_store(store).isel(subject=[1, 2]).load(),
        "one": gz3d_zarr.open_store(store).isel(subject=2),
        "no attributes": gz3d_zarr.open_store(store).drop_attrs(deep=True),
        "transposed": gz3d_zarr.open_store(store).transpose("x", "y", "class", ...),
    }
    for name, dataset in datasets.items():
        row = dataset.gz3d.sel(zooniverse_subject_id=int(ids[2]))
        assert row.sizes["subject"] == 1, name
        mask = row.gz3d.mask("spiral")
        assert mask.chunks is not None, name
        np.testing.assert_array_equal(mask.transpose("subject", "y", "x").values[0], expected)
        assert row.gz3d.wcs().wcs.crval[0] == row["ra"].values[0]
        again = row.isel(subject=0).gz3d.sel(object_id=row["subject"].item())
        assert again["spiral_votes"].dims == ("subject",)
        assert again["spiral_votes"].values == row["spiral_votes"].values
        assert again["subject"].values.tolist() == row["subject"].values.tolist()


def test_other_datasets_are_refused_when_a_method_is_called(store: Path) -> None:
    other = xr.Dataset({"image": ("x", [1, 2])})
    accessor = other.gz3d  # looking at it does no harm
    with pytest.raises(StoreError, match="not a Dataset of Galaxy Zoo: 3D.*open_store"):
        accessor.cone(1, 2, 3)
    with pytest.raises(StoreError, match="not a Dataset of Galaxy Zoo: 3D"):
        accessor.mask("bar")
    ours = gz3d_zarr.open_store(store)
    with pytest.raises(StoreError, match="lacks segmentation; keep"):
        ours.drop_vars("segmentation").gz3d.mask("bar")
    with pytest.raises(StoreError, match="its schema is 'gz4d'"):
        ours.assign_attrs(schema="gz4d").gz3d.mask("bar")
    with pytest.raises(StoreError, match="lacks subject"):
        ours.mean("subject").gz3d.mask("bar")


def test_rows_along_another_dimension_are_refused(store: Path) -> None:
    ds = gz3d_zarr.open_store(store)
    swapped = ds.swap_dims(subject="zooniverse_subject_id")
    here = float(ds["ra"][0]), float(ds["dec"][0])
    actions: list[Callable[[xr.Dataset], Any]] = [
        lambda other: other.gz3d.cone(*here, 3600),
        lambda other: other.gz3d.votes(spiral=0.2),
        lambda other: other.gz3d.sel(zooniverse_subject_id=int(ds["zooniverse_subject_id"][0])),
        mean_mask,
    ]
    for action in actions:
        with pytest.raises(StoreError, match=r"zooniverse_subject_id, not subject.*swap_dims\(zoo"):
            action(swapped)
        with pytest.raises(StoreError, match=r"along galaxy, not subject.*ds.rename\(galaxy="):
            action(ds.rename(subject="galaxy"))
    again = swapped.swap_dims(zooniverse_subject_id="subject")
    assert again.gz3d.cone(*here, 1).sizes == ds.gz3d.cone(*here, 1).sizes
    one = swapped.isel(zooniverse_subject_id=3)
    assert one.gz3d.wcs().wcs.crval[0] == ds["ra"].values[3]


@pytest.mark.parametrize(
    "module",
    [
        "analysis.selection",
        "analysis.masks",
        "analysis.sky_grids",
        "analysis.indexing",
        "analysis.crossmatch",
        "analysis.plotting",
        "recipes",
        "backends.subject_file",
    ],
)
def test_each_module_can_be_the_first_to_import_xarray(module: str) -> None:
    code = f"import gz3d_zarr.{module}, xarray; assert hasattr(xarray.Dataset, 'gz3d')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_needs_all_classes_says_so(store: Path) -> None:
    ds = gz3d_zarr.open_store(store)
    for one in (ds.isel({"class": 2}), ds.isel({"class": [0, 1]})):
        with pytest.raises(UsageError, match="all four classes"):
            one.gz3d.other()
        with pytest.raises(UsageError, match="has no class bar"):
            one.gz3d.votes(bar=0.1)
    spiral = ds.isel({"class": 2}).gz3d.votes(spiral=0.2)
    assert spiral.sizes["subject"] == ds.gz3d.votes(spiral=0.2).sizes["subject"]
