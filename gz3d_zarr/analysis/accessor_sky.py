"""The half of the accessor ``ds.gz3d`` that places a subject on the sky, and draws it."""

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
    """Methods of `GZ3DAccessor` that place a subject on the sky, or draw it.

    Parameters
    ----------
    dataset : xarray.Dataset
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def wcs(self, subject: str | int | None = None) -> WCS:
        """Rebuild the WCS of a subject's picture and masks.

        Parameters
        ----------
        subject
            See `GZ3DAccessor`.

        Returns
        -------
        astropy.wcs.WCS
            Of two axes, equal to that in the header of the subject's file: for pictures as they
            are stored, row 0 at the top. A flip of `y` or `x` cannot be seen, and is not undone.

        Raises
        ------
        UsageError
            The id is unknown, or the file was never read and its scale is not known.
        """
        from gz3d_zarr.analysis import wcs as sky

        return sky.subject_wcs(self._one(subject))

    def sky(self, subject: str | int | None = None) -> xr.Dataset:
        """Give every pixel of a subject its position on the sky.

        Parameters
        ----------
        subject
            See `GZ3DAccessor`.

        Returns
        -------
        xarray.Dataset
            The subject alone, with lazy coordinates ``ra`` and ``dec`` (y, x; degrees, ICRS) by
            xarray's CoordinateTransformIndex: ``sel(ra=..., dec=..., method="nearest")`` takes
            points on the sky, as DataArrays or Variables of the same dimensions; for numbers,
            xarray raises TypeError. A point outside the picture raises UsageError. The subject's
            own position is ``subject_ra, subject_dec``.

        Examples
        --------
        >>> ra, dec = xr.Variable("point", [41.317, 41.318]), xr.Variable("point", [15.285, 15.286])
        >>> ds.gz3d.sky("1-150061")["image"].sel(ra=ra, dec=dec, method="nearest")
        """
        from gz3d_zarr.analysis import wcs as sky

        return sky.with_sky(self._one(subject))

    def reproject(
        self,
        subject: str | int | None,
        target: Any,
        shape: tuple[int, int] | None = None,
        *,
        method: Literal["exact", "interp", "adaptive"] = "exact",
    ) -> xr.Dataset:
        """Put a subject on the grid of another image, such as a MaNGA cube.

        Parameters
        ----------
        subject
            See `GZ3DAccessor`.
        target : astropy.wcs.WCS or astropy.io.fits.Header
            Of a cube, the two axes on the sky are used.
        shape : tuple of int, optional
            Rows and columns; by default those of the target.
        method : {'exact', 'interp', 'adaptive'}
            Function of the package ``reproject``. Exact averages over the pixel's area on the
            sky, so that counts stay counts of volunteers, and takes seconds; interp does not.

        Returns
        -------
        xarray.Dataset
            ``image`` (y, x, channel) and ``segmentation`` (class, y, x) as float64, computed, NaN
            outside the picture, with lazy coordinates ``ra`` and ``dec`` as from `sky`. Other
            variables of pixels, such as a mask that was assigned, are left out, and ``scale``,
            without which there are no `area`, `wcs` and `plot`.

        Raises
        ------
        UsageError
            ``reproject`` is not installed (extra ``sky``), or the target has no shape.
        """
        from gz3d_zarr.analysis import wcs as sky

        return sky.reprojected(self._one(subject), target, shape, method)

    def to_spaxels(
        self, subject: str | int | None = None, ifu_size: int | None = None
    ) -> xr.Dataset:
        """Put a subject's counts on the grid of MaNGA's cubes and maps.

        Each spaxel gets the mean of the counts over its area of 0.5 arcsec squared, so that it
        still says how many volunteers marked it, in fractions at edges; sums would depend on the
        pixels' size. Compare with ``> 3`` for a mask.

        Parameters
        ----------
        subject
            See `GZ3DAccessor`.
        ifu_size : {7, 19, 37, 61, 91, 127}, optional
            Fibres in the bundle, by default ``ifu_design_size``; the observation may have used
            another. The grid has 24, 34, 44, 54, 64, 74 spaxels along each side.

        Returns
        -------
        xarray.Dataset
            ``segmentation`` float64 (class, y, x), over dask, row 0 at the bottom (south) as in
            the cubes, with lazy coordinates ``ra`` and ``dec``. The subject's position is the
            centre of spaxel (n/2, n/2), counted from 0: CRPIX is n/2 + 1 in the cubes. ``image``
            and other variables of pixels, such as a mask that was assigned, are left out.

        Raises
        ------
        UsageError
            There is no bundle of that size.

        Notes
        -----
        Marvin's ``galaxyzoo3d`` samples a cubic spline at the middle of each spaxel, sets what is
        under 0.5 to 0, and puts the position at pixel 262.5 from 0 and between spaxels, not at
        261.5 and on one: its grid lies 0.35 arcsec to the west and 0.15 to the north of this one.
        Where a cube was not observed about `ra` and `dec`, use `reproject` with the cube's WCS.
        """
        from gz3d_zarr.analysis import wcs as sky

        return sky.spaxels(self._one(subject), ifu_size)

    def plot(
        self,
        subject: str | int | None = None,
        ax: Axes | Sequence[Axes] | None = None,
        *,
        classes: str | Sequence[str] | None = None,
        threshold: float = THRESHOLD,
        hexagon: bool = True,
    ) -> Figure:
        """Draw a subject: its picture, and beside it the same with the masks in color.

        Parameters
        ----------
        subject
            See `GZ3DAccessor`.
        ax : matplotlib Axes, or two of them, optional
            One: the masks only. Two, in an array of any shape: picture and masks. By default a
            new figure with axes in sky coordinates.
        classes : str or sequence of str, optional
            By default all four.
        threshold : float
            Where more volunteers than this marked a class, an outline says so.
        hexagon : bool
            Draw the true outline of the bundle; that in the picture is too small by a third.

        Returns
        -------
        matplotlib.figure.Figure
            Made without a display; ``savefig`` it, or let a notebook show it.

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
        """Draw many subjects, small: pictures with the masks in color.

        Parameters
        ----------
        subjects : sequence of str or int, optional
            MaNGA and Zooniverse ids; by default all of the Dataset, at most 200.
        ax : sequence of matplotlib Axes, optional
            One for each subject that is drawn; by default a new figure.
        columns : int, optional
            By default about as many as rows.
        classes, threshold, hexagon
            As for `plot`.
        title : str, optional
            Above all.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        UsageError
            matplotlib is not installed (extra ``plot``), or there is no subject to draw, or there
            are too many.

        Warns
        -----
        LeftOutWarning
            Subjects whose status is not ok are left out; how many.
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
