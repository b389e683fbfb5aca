"""Sentinels of the schema, such as -1 where a value is unknown, as NaN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gz3d_zarr.datamodel.variables import VARIABLES

SENTINELS: Mapping[str, tuple[float, ...]] = {
    name: variable.sentinels for name, variable in VARIABLES.items() if variable.sentinels
}
"""Variables that have sentinels, and these."""


def masked_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Type of masked values: float32 for small integers, float64 for others."""
    return np.result_type(dtype, np.float32)


def mask_sentinels(name: str, values: Any) -> NDArray[np.floating[Any]]:
    """Values of a variable as floats, with NaN in place of its sentinels."""
    stored = np.asarray(values)
    masked: NDArray[np.floating[Any]] = stored.astype(masked_dtype(stored.dtype))
    masked[np.isin(stored, np.array(SENTINELS[name], stored.dtype))] = np.nan
    return masked


def masked_attrs(name: str, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a masked variable: flags and descriptions of sentinels are left out."""
    kept = {key: value for key, value in attrs.items() if not key.startswith("flag_")}
    if "flag_values" in attrs:
        values = [float(value) for value in np.atleast_1d(attrs["flag_values"])]
        words = str(attrs.get("flag_meanings", "")).split()
        flags = [f for f in zip(values, words, strict=False) if f[0] not in SENTINELS[name]]
        if flags:
            kept["flag_values"] = [value for value, _ in flags]
            kept["flag_meanings"] = " ".join(word for _, word in flags)
        else:
            kept.pop("comment", None)  # it explains the flags
    for key in ("long_name", "comment"):
        if key in kept:
            kept[key] = str(kept[key]).replace("-1 where unknown", "NaN where unknown")
    return kept
