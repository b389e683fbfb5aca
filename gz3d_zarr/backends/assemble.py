"""The Dataset that every opener returns: variables, coordinates, labels, in one order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
from gz3d_zarr.datamodel.layout import Layout
from gz3d_zarr.datamodel.manifest import Entry
from gz3d_zarr.datamodel.schema import OBJECT_ID_ATTRS, index_labels
from gz3d_zarr.datamodel.variables import LABELS, VARIABLES, variable_attrs

ReadVariable = Callable[[str, tuple[int, ...], np.dtype[Any]], Any]
"""Gives the values of a variable from its name, its shape per subject, and its dtype."""


def assemble(
    variables: Mapping[str, Any], attrs: Mapping[str, Any], coordinates: Collection[str] = ()
) -> xr.Dataset:
    """Assemble the Dataset that all openers return.

    Parameters
    ----------
    variables : mapping
        Anything that `xarray.Dataset` accepts as variables, ``subject`` among them.
    attrs : mapping
        Attributes of the Dataset.
    coordinates : collection of str
        Variables that are coordinates, in addition to those of the schema.

    Returns
    -------
    xarray.Dataset
        Data variables in the order of the schema, then any others; with the coordinate
        ``object_id``, the published data model's name for the MaNGA id.
    """
    ordered = [name for name in (*BIG_ARRAYS, *VARIABLES) if name in variables]
    ordered += [name for name in variables if name not in ordered]
    names = {name for name, variable in VARIABLES.items() if variable.is_coordinate}
    dataset = xr.Dataset({name: variables[name] for name in ordered}, attrs=dict(attrs))
    dataset = dataset.set_coords([n for n in ordered if n in names or n in coordinates])
    subject = dataset.variables["subject"]
    return dataset.assign_coords(object_id=(subject.dims, subject.data, OBJECT_ID_ATTRS))


def define_variables(
    entries: Sequence[Entry], layout: Layout, read: ReadVariable
) -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    """Define every variable of these subjects: dimensions, values from `read`, attributes."""
    variables: dict[str, tuple[Any, Any, dict[str, Any]]] = {}
    for name, array in BIG_ARRAYS.items():
        variables[name] = (array.dims, read(name, array.shape, array.dtype), dict(array.attrs))
    for name, variable in VARIABLES.items():
        shape = tuple(len(LABELS[dim]) for dim in variable.dims[1:])
        values = read(name, shape, np.dtype(variable.dtype))
        variables[name] = (variable.dims, values, variable_attrs(name, layout))
    for name, (labels, attrs) in index_labels(entries).items():
        variables[name] = (name, text_array(labels), dict(attrs))
    return variables


def text_array(labels: Sequence[str]) -> np.ndarray[Any, Any]:
    """Labels in the dtype that Zarr's data type ``string`` has in NumPy."""
    return np.array(labels, np.dtypes.StringDType())
