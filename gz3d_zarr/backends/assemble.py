"""Put variables together to a Dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from gz3d_zarr.datamodel.manifest import Entry
from gz3d_zarr.datamodel.schema import (
    OBJECT_ID_ATTRS,
    VARIABLES,
    index_labels,
)


def assemble(
    entries: Sequence[Entry], variables: Mapping[str, Any], attrs: Mapping[str, Any]
) -> xr.Dataset:
    """Put variables together to a Dataset with the coordinates that `open_store` gives."""
    coordinates = {
        name: (name, np.array(values, np.dtypes.StringDType()), labelled)
        for name, (values, labelled) in index_labels(entries).items()
    }
    dataset = xr.Dataset(dict(variables), coords=coordinates, attrs=dict(attrs))
    names = [name for name, variable in VARIABLES.items() if variable.is_coordinate]
    return dataset.set_coords(names).assign_coords(
        object_id=("subject", coordinates["subject"][1], OBJECT_ID_ATTRS)
    )
