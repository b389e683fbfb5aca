"""The accessor ``ds.gz3d``: selection, masks, sky and pictures of a Dataset.

Registered by ``import gz3d_zarr``. Its methods check that the Dataset is of Galaxy Zoo: 3D when
they are called, so that looking at the attributes of any other Dataset does no harm. What they do
stands in other modules, which are imported only then: xarray may be imported by one of these, and
this module by that.
"""

from __future__ import annotations

from typing import Any, Literal

import xarray as xr

from gz3d_zarr.analysis.accessor_sky import SkyMethods
from gz3d_zarr.datamodel.subject import THRESHOLD


@xr.register_dataset_accessor("gz3d")
class GZ3DAccessor(SkyMethods):
    """What people do with a Dataset of Galaxy Zoo: 3D.

    Where a method takes a ``subject``, text such as ``"1-603114"`` is a MaNGA id, and a number,
    or text of digits only, is a Zooniverse subject id, never a position. A MaNGA id that has more
    than one row is refused with the Zooniverse ids to choose from. Without a subject, the Dataset
    itself must hold a single one: ``ds.isel(subject=7).gz3d.wcs()``.

    Every method raises StoreError where the Dataset is not of Galaxy Zoo: 3D or lacks a variable,
    and UsageError where an argument has no sense, or a selection would have no subject.

    Parameters
    ----------
    dataset : xarray.Dataset
        From `open_store`, `open_source` or ``xr.open_zarr``, or a selection of it.
    """

    def sel(self, object_id: Any = None, zooniverse_subject_id: Any = None) -> xr.Dataset:
        """Select subjects by id.

        Parameters
        ----------
        object_id : str or sequence of str, optional
            MaNGA ids. One that is repeated in the catalogue gives all its rows.
        zooniverse_subject_id : int or sequence of int, optional
            Unique. With both, a row must match both.

        Returns
        -------
        xarray.Dataset
            Lazy, with the dimension ``subject`` also for one row; in the order asked for, each
            row once.

        Raises
        ------
        UsageError
            An id is unknown; the message has near matches.
        """
        from gz3d_zarr.analysis import selection

        return selection.select_ids(self._dataset, object_id, zooniverse_subject_id)

    def cone(self, ra: Any, dec: Any = None, radius: Any = None) -> xr.Dataset:
        """Select the subjects within a radius of a position.

        Parameters
        ----------
        ra, dec : float or Quantity
            Degrees, ICRS. Instead of both, one SkyCoord: ``cone(position, radius=...)``.
        radius : float or Quantity
            Arcseconds where it is a number; a subject at exactly this distance is in.

        Returns
        -------
        xarray.Dataset
            Lazy, in the order of the store; distances are on the sphere, also across ra 0 and at
            the poles.

        Raises
        ------
        UsageError
            No subject is there; the message says how far the nearest is. Or an argument is not a
            position or an angle.
        """
        from gz3d_zarr.analysis import selection

        return selection.select_cone(self._dataset, ra, dec, radius)

    def healpix(self, pixels: Any, nside: int | None = None) -> xr.Dataset:
        """Select the subjects in HEALPix pixels, nested order.

        Parameters
        ----------
        pixels : int or sequence of int
        nside : int, optional
            A power of two; by default that of the coordinate ``healpix``. Coarser pixels are
            derived from it, finer ones from the positions.

        Returns
        -------
        xarray.Dataset
            Lazy, in the order of the store.
        """
        from gz3d_zarr.analysis import selection

        return selection.select_pixels(self._dataset, pixels, nside)

    def votes(self, spiral: float | None = None, bar: float | None = None) -> xr.Dataset:
        """Select the subjects whose share of Galaxy Zoo votes reaches a fraction.

        Parameters
        ----------
        spiral, bar : float, optional
            From 0 to 1; with both, both must be reached. 0.2 is where the project asked
            volunteers to draw the structure. The flags -1.0 and -0.5 and NaN never pass.

        Returns
        -------
        xarray.Dataset
            Lazy, in the order of the store.
        """
        from gz3d_zarr.analysis import selection

        return selection.select_votes(self._dataset, {"spiral": spiral, "bar": bar})

    def crossmatch(
        self, table: Any, radius: Any, *, ra: str = "ra", dec: str = "dec", prefix: str = "table_"
    ) -> xr.Dataset:
        """Join each subject with its nearest row of another catalogue.

        Parameters
        ----------
        table : astropy.table.Table, pandas.DataFrame or SkyCoord
            Positions are in a SkyCoord column, or in the columns `ra` and `dec`.
        radius : float or Quantity
            Arcseconds where it is a number; subjects with no row within it are left out.
        ra, dec : str
            Names of columns, whatever their case; degrees, ICRS, unless they have a unit.
        prefix : str
            Put before the name of a column that the Dataset has already; not empty.

        Returns
        -------
        xarray.Dataset
            Lazy, the matched subjects in the order of the store, and along ``subject`` the
            columns of the table, ``separation`` (float64, arcsec) and ``table_row`` (int64, the
            position of the row). A row may match several subjects, such as those that share a
            MaNGA id. Masked values become NaN, or empty text; integers of which one exceeds
            2^53, such as ids of SDSS, stay integers, 0 where masked, and ``<name>_masked`` says
            where.

        Raises
        ------
        UsageError
            Nothing matches, the table has no positions or two columns of one name, or `prefix` is
            empty.

        Warns
        -----
        LeftOutWarning
            Columns that are neither numbers nor text, such as times, are left out; which.
        """
        from gz3d_zarr.analysis import crossmatch as matching

        return matching.crossmatch(self._dataset, table, radius, ra=ra, dec=dec, prefix=prefix)

    def mask(self, cls: str | None = None, threshold: float = THRESHOLD) -> xr.DataArray:
        """Where more than `threshold` volunteers marked a class.

        Parameters
        ----------
        cls : {'center', 'star', 'spiral', 'bar'}, optional
            By default all, along the dimension ``class``.
        threshold : float
            From 0 to 254. Counts must exceed it, as in the analysis of Masters et al. 2021; with
            0, any mark counts.

        Returns
        -------
        xarray.DataArray
            Boolean (subject, y, x), over dask; False where the status is not ok.

        Raises
        ------
        UsageError
            There is no such class, or the threshold is out of range.
        """
        from gz3d_zarr.analysis import masks

        return masks.class_mask(self._dataset, cls, threshold)

    def other(self, threshold: float = THRESHOLD) -> xr.DataArray:
        """Where no class is marked by more than `threshold` volunteers, as for `mask`.

        Marvin's ``other_mask_spaxel`` leaves stars out of account; here all four classes count.

        Returns
        -------
        xarray.DataArray
            Boolean (subject, y, x), over dask; False where the status is not ok, and where a
            count is not known, as outside the picture after `reproject`.
        """
        from gz3d_zarr.analysis import masks

        return masks.no_class_mask(self._dataset, threshold)

    def fraction(
        self, cls: str | None = None, of: Literal["volunteers", "marks"] = "volunteers"
    ) -> xr.DataArray:
        """Counts as a share.

        Parameters
        ----------
        cls : {'center', 'star', 'spiral', 'bar'}, optional
            By default all, along the dimension ``class``.
        of : {'volunteers', 'marks'}
            Of the 15 volunteers that were asked, as a rule; it exceeds 1 where counts exceed 15.
            Or of the marks actually made, as far as the masks tell: the count in the most marked
            pixel of the subject and class, which those marks number at least. The share is then
            from 0 to 1, and 0 where nothing was marked.

        Returns
        -------
        xarray.DataArray
            float32 (subject, [class,] y, x), over dask.
        """
        from gz3d_zarr.analysis import masks

        return masks.marked_fraction(self._dataset, cls, of)

    def area(self, cls: str | None = None, threshold: float = THRESHOLD) -> xr.DataArray:
        """Area of a class's mask.

        Parameters
        ----------
        cls, threshold
            As for `mask`.

        Returns
        -------
        xarray.DataArray
            float64 (subject, [class]) in square arcsec, over dask; NaN where the status is not
            ok, and 0 where volunteers were not asked: for spiral arms, or a bar, that is where less
            than a fifth of the votes were for one. A pixel is `scale` squared: over 52 arcsec the
            projection changes that by 1e-7.

        Raises
        ------
        UsageError
            As for `mask`.
        """
        from gz3d_zarr.analysis import masks

        return masks.class_area(self._dataset, cls, threshold)
