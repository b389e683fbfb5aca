"""All groups of a store by plain xarray and plain zarr, without a warning: these are errors here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import gz3d_zarr
from gz3d_zarr.datamodel.arrays import GROUPS, MARKS, THUMBNAIL


@pytest.mark.filterwarnings("error")
def test_datatree_shows_all_groups(store: Path) -> None:
    tree = xr.open_datatree(store, engine="zarr")
    assert set(tree.groups) == {"/", *(f"/{name}" for name in GROUPS)}
    assert tree[MARKS].dims == ("subject",)
    assert tree[THUMBNAIL].shape == (18, 75, 75, 3)
    assert len(tree["clusters"].data_vars) == 24
    assert len(tree["catalogue"].data_vars) == 8
    ds = gz3d_zarr.open_store(store)
    sizes = tree["clusters/number_foreground_stars"].values
    np.testing.assert_array_equal(sizes, ds["number_foreground_stars"].values)
    assert tree["clusters/star_x"].sizes == {"foreground_star": sizes.sum()}
    blocks = ds["image"].values[3].reshape(75, 7, 75, 7, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(tree[THUMBNAIL].values[3], np.floor(blocks + 0.5))


@pytest.mark.filterwarnings("error")
def test_plain_zarr_reads_every_array(store: Path) -> None:
    root = zarr.open_group(store, mode="r")
    members = dict(root.members(max_depth=None))
    arrays = {name: node for name, node in members.items() if isinstance(node, zarr.Array)}
    assert set(members) - set(arrays) == set(GROUPS)
    assert all(array[...].shape == array.shape for array in arrays.values())
    assert len(arrays) == len(list(store.rglob("zarr.json"))) - len(GROUPS) - 1
