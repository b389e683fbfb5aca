"""The maker of long stores of `benchmarks/full_length.py`: what it makes is a sound store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import gz3d_zarr

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="there are no benchmarks here")
SUBJECTS = 30


@pytest.mark.filterwarnings("ignore:.*is currently not part")
def test_long_store_is_sound(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from full_length import make_full_length_store

    target = tmp_path / "long.zarr"
    make_full_length_store(store, target, SUBJECTS)
    assert gz3d_zarr.verify(target).passed
    ours, plain = gz3d_zarr.open_store(target, chunks=None), xr.open_zarr(target, chunks=None)
    assert ours.sizes["subject"] == plain.sizes["subject"] == SUBJECTS
    assert len(set(ours["zooniverse_subject_id"].values.tolist())) == SUBJECTS
    for name in ("image", "segmentation"):
        assert (ours[name].values == plain[name].values).all()
    whole = ours["segmentation"].values
    assert (np.count_nonzero(whole > 3, axis=(2, 3)) == ours["marked_pixels_above_3"].values).all()
    with pytest.raises(SystemExit, match="exists"):
        make_full_length_store(store, target, SUBJECTS)
