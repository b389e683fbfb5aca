"""Methods of the accessor ``ds.gz3d`` for sky positions, other pixel grids and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from gz3d_zarr.datamodel.subject import THRESHOLD

if TYPE_CHECKING:
    import xarray as xr
    from astropy.wcs import WCS
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class SkyMethods:
    """Methods of `GZ3DAccessor` for sky positions, other pixel grids and figures.

    Parameters
    ----------
    dataset : xarray.Dataset
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def wcs(self, subject: str | int | None = None) -> WCS:
        """Rebuild the WCS of a subject's image and masks.

        Parameters
        ----------
        subject : str or int, optional
            See `GZ3DAccessor`.

        Returns
        -------
        astropy.wcs.WCS
            Two axes, equal to the WCS in the header of the subject's file. It describes images as
            they are stored, with row 0 at the top; a later flip of `y` or `x` is not detected.

        Raises
        ------
        UsageError
            The id is unknown; or the file was not read, so that its scale is unknown.
        """
        from gz3d_zarr.analysis import sky_grids

        return sky_grids.subject_wcs(self._one(subject))

    def sky(self, subject: str | int | None = None) -> xr.Dataset:
        """Add the sky position of every pixel of a subject.

        Parameters
        ----------
        subject : str or int, optional
            See `GZ3DAccessor`.

        Returns
        -------
        xarray.Dataset
            This subject with lazy coordinates ``ra`` and ``dec`` (y, x; degrees, ICRS), from
            xarray's CoordinateTransformIndex. ``sel(ra=..., dec=..., method="nearest")`` selects
            points on the sky, given as DataArrays or Variables with the same dimensions; for plain
            numbers, xarray raises TypeError. A point outside the image raises UsageError. The
            position of the subject itself is ``subject_ra, subject_dec``.

        Examples
        --------
        >>> ra, dec = xr.Variable("point", [41.317, 41.318]), xr.Variable("point", [15.285, 15.286])
        >>> ds.gz3d.sky("1-150061")["image"].sel(ra=ra, dec=dec, method="nearest")
        """
        from gz3d_zarr.analysis import sky_grids

        return sky_grids.with_sky(self._one(subject))

    def reproject(
        self,
        subject: str | int | None,
        target: Any,
        shape: tuple[int, int] | None = None,
        *,
        method: Literal["exact", "interp", "adaptive"] = "exact",
    ) -> xr.Dataset:
        """Reproject a subject to the grid of another image, such as a MaNGA cube.

        Parameters
        ----------
        subject : str or int, optional
            See `GZ3DAccessor`.
        target : astropy.wcs.WCS or astropy.io.fits.Header
            The grid. For a cube, its two celestial axes are used.
        shape : tuple of int, optional
            Rows and columns; by default those of the target.
        method : {'exact', 'interp', 'adaptive'}
            Function of the package ``reproject``. 'exact' averages over the area of the pixel on
            the sky, so that counts remain counts of volunteers; it takes seconds. 'interp' is fast
            and does not average.

        Returns
        -------
        xarray.Dataset
            ``image`` (y, x, channel) and ``segmentation`` (class, y, x) as float64 in memory, NaN
            outside the image, with lazy coordinates ``ra`` and ``dec`` as from `sky`. Other
            variables with pixels, such as an assigned mask, are left out. So is ``scale``, which
            `area`, `wcs` and `plot` need.

        Raises
        ------
        UsageError
            ``reproject`` is not installed (extra ``sky``); the target has no shape or is not a WCS
            of the sky; or `method` has another value.
        """
        from gz3d_zarr.analysis import sky_grids

        return sky_grids.reprojected(self._one(subject), target, shape, method)

    def to_spaxels(
        self, subject: str | int | None = None, ifu_size: int | None = None
    ) -> xr.Dataset:
        """Average a subject's counts on the grid of MaNGA cubes and maps.

        A spaxel has the mean of the counts over its area of 0.5 x 0.5 arcsec. This is the number
        of volunteers who marked it, with fractions at edges; a sum would depend on the size of the
        pixels. Use ``> 3`` for a mask.

        Parameters
        ----------
        subject : str or int, optional
            See `GZ3DAccessor`.
        ifu_size : {7, 19, 37, 61, 91, 127}, optional
            Number of fibers in the bundle; by default ``ifu_design_size``, although the
            observation may have used another bundle. The grid has 24, 34, 44, 54, 64 or 74 spaxels
            along each side.

        Returns
        -------
        xarray.Dataset
            ``segmentation`` float64 (class, y, x), a dask array, with row 0 at the bottom (south)
            as in the cubes, and lazy coordinates ``ra`` and ``dec``. The position of the subject is
            the center of spaxel (n/2, n/2), counted from 0; in the cubes, CRPIX is n/2 + 1.
            ``image`` and other variables with pixels, such as an assigned mask, are left out.

        Raises
        ------
        UsageError
            MaNGA has no bundle of that size.

        Notes
        -----
        Marvin's ``galaxyzoo3d`` samples a cubic spline at the center of each spaxel and sets values
        below 0.5 to 0. It uses pixel 262.5, counted from 0, as the position, and places it between
        spaxels; here it is pixel 261.5, at the center of a spaxel. Marvin's grid is therefore
        0.35 arcsec west and 0.15 arcsec north of this one. If a cube is not centered on `ra` and
        `dec`, use `reproject` with the WCS of the cube.
        """
        from gz3d_zarr.analysis import sky_grids

        return sky_grids.spaxels(self._one(subject), ifu_size)

    def plot(
        self,
        subject: str | int | None = None,
        ax: Axes | Sequence[Axes] | None = None,
        *,
        classes: str | Sequence[str] | None = None,
        threshold: float = THRESHOLD,
        hexagon: bool = True,
    ) -> Figure:
        """Plot the image of a subject, next to the same image with the masks in color.

        Rings show clusters of center and star marks, if the Dataset was opened from a store. The
        legend says of which classes nobody was asked.

        Parameters
        ----------
        subject : str or int, optional
            See `GZ3DAccessor`.
        ax : matplotlib Axes, or two of them, optional
            One: plot only the masks. Two, in an array of any shape: image and masks. By default a
            new figure with axes in sky coordinates.
        classes : str or sequence of str, optional
            Classes to show; by default all four.
        threshold : float
            Outline the pixels that more volunteers than this marked, for each class.
        hexagon : bool
            Draw the true outline of the bundle. The outline in the image itself is too small by a
            third.

        Returns
        -------
        matplotlib.figure.Figure
            Needs no display: call ``savefig``, or let a notebook show it.

        Raises
        ------
        UsageError
            matplotlib is not installed (extra ``plot``), or the subject's status is not ok.
        """
        from gz3d_zarr.analysis import plotting

        return plotting.plot_subject(
            self._one(subject), ax, classes=classes, threshold=threshold, hexagon=hexagon
        )

    def contact_sheet(
        self,
        subjects: Any = None,
        ax: Sequence[Axes] | None = None,
        *,
        columns: int | None = None,
        classes: str | Sequence[str] | None = None,
        threshold: float = THRESHOLD,
        hexagon: bool = True,
        title: str | None = None,
    ) -> Figure:
        """Plot small images of many subjects with the masks in color.

        Parameters
        ----------
        subjects : sequence of str or int, optional
            MaNGA and Zooniverse ids; by default all subjects of the Dataset. At most 200.
        ax : sequence of matplotlib Axes, optional
            One for each subject; by default a new figure.
        columns : int, optional
            Number of columns; by default about as many as rows.
        classes, threshold, hexagon
            As for `plot`.
        title : str, optional
            Title of the figure.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        UsageError
            matplotlib is not installed (extra ``plot``), there is no subject to plot, or there are
            too many.

        Warns
        -----
        LeftOutWarning
            Counts subjects whose status is not ok. They are left out.
        """
        from gz3d_zarr.analysis import plotting, selection

        chosen = self._dataset
        if subjects is not None:
            chosen = selection.select_any(chosen, subjects)
        style: Any = {"classes": classes, "threshold": threshold, "hexagon": hexagon}
        return plotting.plot_sheet(chosen, ax, columns=columns, title=title, **style)

    def _one(self, subject: str | int | None) -> xr.Dataset:
        from gz3d_zarr.analysis import selection

        return selection.one_subject(self._dataset, subject)
