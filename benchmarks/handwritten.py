"""What a careful person writes in an afternoon: dask, astropy and xarray, one task per subject.

``gz3d-zarr build`` is compared with this script. It writes the image, the masks and the votes of
every file to one Zarr store with the same chunks and shards. It checks nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import xarray as xr
from astropy.io import fits
from distributed import Client, LocalCluster


@dask.delayed
def load(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read one file as the data model's documentation shows."""
    with fits.open(path) as hdus:
        row = hdus[5].data[0]
        votes = [row["GZ_total_classifications"], row["GZ_spiral_votes"], row["GZ_bar_votes"]]
        position = [row["ra"], row["dec"]]
        masks = np.stack([hdus[i].data for i in range(1, 5)]).astype("uint8")
        return np.array(hdus[0].data), masks, np.array([*position, *votes], "float64")


def main(source: str, store: str, workers: int) -> None:
    """Build `store` from all subject files in `source`."""
    paths = sorted(str(path) for path in Path(source).glob("gz3d_*_*_*.fits.gz"))
    loaded = [load(path) for path in paths]

    def stack(i: int, shape: tuple[int, ...], dtype: str) -> da.Array:
        return da.stack([da.from_delayed(item[i], shape, dtype) for item in loaded])

    image = stack(0, (525, 525, 3), "uint8").rechunk({0: 64})
    masks = stack(1, (4, 525, 525), "uint8").rechunk({0: 64})
    scalars = stack(2, (5,), "float64").rechunk({0: 64})
    dataset = xr.Dataset(
        {
            "image": (("subject", "y", "x", "channel"), image),
            "segmentation": (("subject", "class", "y", "x"), masks),
            "scalars": (("subject", "column"), scalars),
        }
    )
    encoding = {
        "image": {"chunks": (1, 525, 525, 3), "shards": (64, 525, 525, 3)},
        "segmentation": {"chunks": (1, 4, 525, 525), "shards": (64, 4, 525, 525)},
    }
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster),
    ):
        dataset.to_zarr(store, encoding=encoding, zarr_format=3, consolidated=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
