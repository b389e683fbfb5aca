"""Pictures of subjects: what the volunteers saw, beside what they marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gz3d_zarr.errors import UsageError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

CLASS_COLOURS: Mapping[str, str] = {
    "center": "#ffd21f",
    "star": "#ff5a3c",
    "spiral": "#35b6ff",
    "bar": "#5ce65c",
}


def plot_subjects(dataset: xr.Dataset, *, title: str | None = None) -> Figure:
    """Draw each subject of a small Dataset: the picture above, its marks on it below.

    Parameters
    ----------
    dataset : xarray.Dataset
        A selection with the dimension ``subject``; one column each.
    title : str, optional
        Above all.

    Returns
    -------
    matplotlib.figure.Figure
        Made without a display; save it with ``savefig``.

    Raises
    ------
    UsageError
        matplotlib is not installed, or there is no subject.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise UsageError(
            f"plotting needs {error.name}: python3 -m pip install 'gz3d-zarr[plot]'"
        ) from error
    count = dataset.sizes["subject"]
    if count == 0:
        raise UsageError("there is no subject to plot")
    figure = Figure(figsize=(3.2 * count, 7.2), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    for column in range(count):
        row = dataset.isel(subject=column)
        image = row["image"].values
        above, below = axes[0, column], axes[1, column]
        above.imshow(image)
        above.set_title(f"{row['subject'].item()}\n({row['zooniverse_subject_id'].item()})")
        below.imshow(np.rint(image * 0.55).astype(np.uint8))
        for name, colour in CLASS_COLOURS.items():
            counts = row["segmentation"].sel({"class": name}).values
            if counts.any():
                level = counts.max() / 2
                below.contourf(counts, [level, 256], colors=[colour], alpha=0.35)
                below.contour(counts, [level], colors=[colour], linewidths=1.2)
        for axis in (above, below):
            axis.set_axis_off()
    handles = [Patch(color=colour, label=name) for name, colour in CLASS_COLOURS.items()]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        title="marked by at least half as many volunteers as the most marked pixel",
    )
    if title is not None:
        figure.suptitle(title)
    return figure
