"""Methods of the accessor ``ds.gz3d`` for sky positions, other pixel grids and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from gz3d_zarr.analysis.picture_options import PictureOptions
from gz3d_zarr.datamodel.option_fields import check_options

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
        """Rebuild the WCS of a subject's image and masks, or of its spaxels.

        Parameters
        ----------
        subject : str or int, optional
            See `GZ3DAccessor`.

        Returns
        -------
        astropy.wcs.WCS
            Two axes, equal to the WCS in the header of the subject's file. It describes images as
            they are stored, with row 0 at the top; a later flip of `y` or `x` is not detected. Of
            what `sky`, `reproject` and `to_spaxels` gave, it is the WCS of the pixels there.

        Raises
        ------
        UsageError
            The id is unknown; or the file was not read, so that its scale is unknown.
        """
        from gz3d_zarr.analysis import sky_grids

        return sky_grids.pixel_wcs(self._one(subject))

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
        target : WCS, Header, HDU, HDUList, str or Path
            The grid: an ``astropy.wcs.WCS``, an ``astropy.io.fits`` header, an HDU or HDUs, or the
            path of a FITS file such as MaNGA's MAPS or CUBE, of which only headers are read. For a
            cube, its two celestial axes are used; of several HDUs, the first image of the sky.
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
            of the sky, or is a file of MaNGA of another galaxy; or `method` has another value.
        """
        from gz3d_zarr.analysis import sky_grids

        return sky_grids.reprojected(self._one(subject), target, shape, method)

    def to_spaxels(
        self,
        subject: str | int | None = None,
        ifu_size: int | None = None,
        target: Any = None,
        shape: tuple[int, int] | None = None,
        *,
        method: Literal["exact", "marvin"] = "exact",
    ) -> xr.Dataset:
        """Average counts on the grid of MaNGA cubes and maps, for one subject or for many.

        A spaxel has the mean of the counts over its area of 0.5 x 0.5 arcsec. This is the number
        of volunteers who marked it, with fractions at edges; a sum would depend on the size of the
        pixels. Use ``> 3`` for a mask.

        Parameters
        ----------
        subject : str or int, optional
            See `GZ3DAccessor`; by default all subjects of the Dataset, on one grid.
        ifu_size : {7, 19, 37, 61, 91, 127}, optional
            Number of fibers in the bundle; by default ``ifu_design_size``, although the
            observation may have used another bundle. The grid has 24, 34, 44, 54, 64 or 74 spaxels
            along each side, about the position of the subject. Subjects with bundles of several
            sizes need it, or `to_spaxels_by_size`.
        target : WCS, Header, HDU, HDUList, str or Path, optional
            Instead of this grid, that of the subject's MAPS or CUBE file, as for `reproject`: the
            bundle may not be centered on the galaxy.
        shape : tuple of int, optional
            Rows and columns of a target that has none.
        method : {'exact', 'marvin'}
            'marvin' gives what Marvin's ``galaxyzoo3d`` gives, see Notes; it needs scipy (extra
            ``sky``).

        Returns
        -------
        xarray.Dataset
            ``segmentation`` float64 ([subject], class, y, x), a dask array, with row 0 at the
            bottom (south) as in the cubes. `wcs` gives the WCS of each subject's spaxels. Without a
            target, the position of the subject is the center of spaxel (n/2, n/2), counted from 0,
            as in the cubes, where CRPIX is n/2 + 1. A single subject has lazy coordinates ``ra``
            and ``dec`` as from `sky`; for subjects of a sample, `sky` adds them. ``image`` and
            other variables with pixels, such as an assigned mask, are left out. NaN where a target
            is outside the image.

        Raises
        ------
        UsageError
            MaNGA has no bundle of that size, or the subjects have several sizes; the target is not
            a plain (TAN) grid, or does not have the position of the subject: it is of another
            galaxy.

        Warns
        -----
        LeftOutWarning
            Counts subjects of a sample whose status is not ok. They are left out.

        Notes
        -----
        Marvin samples a cubic spline at one point of each spaxel and sets values below 0.5 to 0. It
        takes pixel 262.5, counted from 0, as the position of the subject, and places it between
        spaxels; it is pixel 261.5, and the center of a spaxel of the cube. Marvin's masks are
        therefore of points 0.35 arcsec west and 0.15 arcsec north of the spaxels of the cube, to
        which it assigns them. ``method="marvin"`` repeats this, for comparisons with published
        numbers; of a target, it uses only the size, as Marvin does.
        """
        from gz3d_zarr.analysis import spaxels

        rows = self._dataset if subject is None else self._one(subject)
        return spaxels.spaxels(rows, ifu_size, target, shape, method)

    def to_spaxels_by_size(
        self, *, method: Literal["exact", "marvin"] = "exact"
    ) -> dict[int, xr.Dataset]:
        """Average the counts of all subjects, on one grid for each size of a bundle.

        Parameters
        ----------
        method
            As for `to_spaxels`.

        Returns
        -------
        dict of int to xarray.Dataset
            Number of fibers, ascending, to the result of `to_spaxels` for these subjects.

        Raises
        ------
        UsageError
            The size of a subject's bundle is unknown.

        Warns
        -----
        LeftOutWarning
            As for `to_spaxels`.

        Examples
        --------
        >>> for fibers, sample in ds.gz3d.to_spaxels_by_size().items():
        ...     sample["segmentation"].shape  # (subjects, 4, n, n)
        """
        from gz3d_zarr.analysis import spaxels

        return spaxels.spaxels_by_size(self._dataset, method)

    def plot(
        self,
        subject: str | int | None = None,
        ax: Axes | Sequence[Axes] | None = None,
        **options: Any,
    ) -> Figure:
        """Plot the image of a subject, next to the same image with the masks in color.

        The figure has the width of a column of a journal, 3.5 or 7 inches. Rings show clusters of
        center and star marks, if the Dataset was opened from a store or from files. The legend says
        of which classes nobody was asked, and names both outlines of the bundle.

        Parameters
        ----------
        subject : str or int, optional
            See `GZ3DAccessor`.
        ax : matplotlib Axes, or two of them, optional
            One: plot only the masks. Two, in an array of any shape: image and masks. By default a
            new figure with axes in sky coordinates.
        **options
            Fields of `PictureOptions`:

            classes : str or sequence of str, optional
                Classes to show; by default all four.
            threshold : float
                Outline the pixels that have more marks than this, for each class. Default 3.
            hexagon : bool
                Draw the true outline of the bundle (default). The outline in the image itself is
                too small by a third.
            panels : {'both', 'image', 'masks'}, optional
                The image, the image with the masks over it, or both (default).
            spaxels : bool
                Show the mean counts in the spaxels of MaNGA, as `to_spaxels` gives them, instead of
                those in pixels.
            dpi : float
                Pixels of a new figure per inch, 20 to 1200. Default 200.

        Returns
        -------
        matplotlib.figure.Figure
            Needs no display: call ``savefig``, or let a notebook show it.

        Raises
        ------
        UsageError
            matplotlib is not installed (extra ``plot``), or the subject's status is not ok.

        See Also
        --------
        contact_sheet : many subjects in one figure
        """
        from gz3d_zarr.analysis import plotting

        check_options(SkyMethods.plot, options, PictureOptions)
        return plotting.plot_subject(self._one(subject), ax, PictureOptions(**options))

    def contact_sheet(
        self,
        subjects: Any = None,
        ax: Sequence[Axes] | None = None,
        *,
        columns: int | None = None,
        title: str | None = None,
        **options: Any,
    ) -> Figure:
        """Plot small images of many subjects with the masks in color.

        All are drawn as one image on one axes, which has inches as coordinates.

        Parameters
        ----------
        subjects : sequence of str or int, optional
            MaNGA and Zooniverse ids; by default all subjects of the Dataset. At most 200.
        ax : sequence of matplotlib Axes, optional
            One for each subject; by default a new figure, 7 inches wide.
        columns : int, optional
            Number of columns; by default about as many as rows, and at most 6. With more, the
            figure is wider.
        title : str, optional
            Title of the figure.
        **options
            Fields of `PictureOptions`, as for `plot`; `panels` is 'masks' (default) or 'image'.

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
        from gz3d_zarr.analysis import plot_sheet, selection

        check_options(SkyMethods.contact_sheet, options, PictureOptions)
        chosen = self._dataset
        if subjects is not None:
            chosen = selection.select_any(chosen, subjects)
        style = PictureOptions(**options)
        return plot_sheet.plot_sheet(chosen, ax, style, columns=columns, title=title)

    def _one(self, subject: str | int | None) -> xr.Dataset:
        from gz3d_zarr.analysis import selection

        return selection.one_subject(self._dataset, subject)
