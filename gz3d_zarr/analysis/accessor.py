"""The accessor ``ds.gz3d``: select subjects, and get their masks, sky positions and figures.

``import gz3d_zarr`` registers it. A method checks that the Dataset is of Galaxy Zoo: 3D only when
it is called, so that other Datasets can have the attribute. Modules that do the work are imported
only then: such a module may be the first to import xarray, and that import loads this module.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import xarray as xr

from gz3d_zarr.analysis.accessor_marks import MarkMethods
from gz3d_zarr.analysis.accessor_view import ViewMethods
from gz3d_zarr.datamodel.subject import THRESHOLD


@xr.register_dataset_accessor("gz3d")
class GZ3DAccessor(MarkMethods, ViewMethods):
    """Methods for a Dataset of Galaxy Zoo: 3D.

    Many methods take a ``subject``. Text such as ``"1-603114"`` is a MaNGA id. A number, or text
    that has only digits, is a Zooniverse subject id, never a position. If a MaNGA id has more than
    one row, UsageError lists the Zooniverse ids to choose from. Without ``subject``, the Dataset
    must have exactly one: ``ds.isel(subject=7).gz3d.wcs()``.

    Every method raises StoreError if the Dataset is not of Galaxy Zoo: 3D or lacks a variable, and
    UsageError if an argument is not valid or a selection would be empty.

    Parameters
    ----------
    dataset : xarray.Dataset
        From `open_store`, `open_source` or ``xr.open_zarr``, or a selection from one.
    """

    def sel(self, object_id: Any = None, zooniverse_subject_id: Any = None) -> xr.Dataset:
        """Select subjects by id.

        Parameters
        ----------
        object_id : str or sequence of str, optional
            MaNGA ids. An id with several rows selects all of them.
        zooniverse_subject_id : int or sequence of int, optional
            Zooniverse subject ids, which are unique. If both are given, a row must match both.

        Returns
        -------
        xarray.Dataset
            Lazy, in the order of the ids, each row once. It has the dimension ``subject`` even
            for a single row.

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
            Position in degrees, ICRS; or one SkyCoord: ``cone(position, radius=...)``.
        radius : float or Quantity
            A number is in arcsec. A subject at exactly this distance is selected.

        Returns
        -------
        xarray.Dataset
            Lazy, in the order of the store. Distances are angles on the sphere, so that cones at
            ra = 0 and at the poles work.

        Raises
        ------
        UsageError
            No subject is in the cone; the message has the distance to the nearest. Or an argument
            is not a position or an angle.
        """
        from gz3d_zarr.analysis import selection

        return selection.select_cone(self._dataset, ra, dec, radius)

    def healpix(self, pixels: Any, nside: int | None = None) -> xr.Dataset:
        """Select the subjects in HEALPix pixels, in NESTED numbering.

        Parameters
        ----------
        pixels : int or sequence of int
            Pixel numbers.
        nside : int, optional
            Resolution, a power of two; by default that of the coordinate ``healpix``. Coarser
            pixels are computed from the coordinate, finer pixels from `ra` and `dec`.

        Returns
        -------
        xarray.Dataset
            Lazy, in the order of the store.
        """
        from gz3d_zarr.analysis import selection

        return selection.select_pixels(self._dataset, pixels, nside)

    def votes(self, spiral: float | None = None, bar: float | None = None) -> xr.Dataset:
        """Select the subjects with at least this fraction of Galaxy Zoo votes.

        Parameters
        ----------
        spiral, bar : float, optional
            Minimum vote fraction, 0 to 1; if both are given, both apply. At 0.2 or more, the
            project asked volunteers to draw the structure. The flags -1.0 and -0.5, and NaN, are
            never selected.

        Returns
        -------
        xarray.Dataset
            Lazy, in the order of the store.
        """
        from gz3d_zarr.analysis import selection

        return selection.select_votes(self._dataset, {"spiral": spiral, "bar": bar})

    def asked(self, cls: str) -> xr.Dataset:
        """Select the subjects for which volunteers were asked to mark a class.

        Volunteers were asked for spiral arms, or a bar, only if at least a fifth of the votes were
        for one. Of other subjects, an empty mask says nothing.

        Parameters
        ----------
        cls : {'center', 'star', 'spiral', 'bar'}

        Returns
        -------
        xarray.Dataset
            Lazy, in the order of the store: the subjects whose ``classifications`` of this class
            are above 0.

        Raises
        ------
        UsageError
            The class does not exist, or nobody was asked about it for any subject.
        """
        from gz3d_zarr.analysis import masks

        return masks.select_asked(self._dataset, cls)

    def vote_fraction(self) -> xr.DataArray:
        """Fractions of Galaxy Zoo votes, without flags.

        Returns
        -------
        xarray.DataArray
            float32 (subject, class): the variable ``vote_fraction`` with NaN in place of its flags
            -1.0 (center and star, which have no votes) and -0.5 (no classifications).
        """
        from gz3d_zarr.analysis import masks

        return masks.known_votes(self._dataset)

    def crossmatch(
        self, table: Any, radius: Any, *, ra: str = "ra", dec: str = "dec", prefix: str = "table_"
    ) -> xr.Dataset:
        """Join each subject with its nearest row of another catalogue.

        Parameters
        ----------
        table : astropy.table.Table, pandas.DataFrame or SkyCoord
            The other catalogue, with positions in a SkyCoord column or in two columns.
        radius : float or Quantity
            Maximum separation; a number is in arcsec. Subjects without a row in this radius are
            left out.
        ra, dec : str
            Names of the position columns, in any case; ICRS, in degrees unless they have a unit.
        prefix : str
            Added to the name of a column if the Dataset already has that name; not empty.

        Returns
        -------
        xarray.Dataset
            Lazy: the matched subjects in the order of the store. Along ``subject``, it also has
            the columns of the table, ``separation`` (float64, arcsec) and ``table_row`` (int64,
            position of the row). A row may match several subjects, such as those with the same
            MaNGA id. Masked values become NaN or empty text. If an integer column has values
            beyond 2^53, such as SDSS ids, it stays an integer column with 0 for masked values, and
            ``<name>_masked`` marks them.

        Raises
        ------
        UsageError
            Nothing matches; the table has no positions, or two columns with the same name; or
            `prefix` is empty.

        Warns
        -----
        LeftOutWarning
            Lists columns that are neither numbers nor text, such as times. They are left out.
        """
        from gz3d_zarr.analysis import crossmatch

        return crossmatch.crossmatch(self._dataset, table, radius, ra=ra, dec=dec, prefix=prefix)

    def mask(self, cls: str | None = None, threshold: float = THRESHOLD) -> xr.DataArray:
        """Where more than `threshold` volunteers marked a class.

        Parameters
        ----------
        cls : {'center', 'star', 'spiral', 'bar'}, optional
            By default all, along the dimension ``class``.
        threshold : float
            0 to 254. Counts must exceed it, as in the analysis of Masters et al. 2021. With 0,
            every mark counts.

        Returns
        -------
        xarray.DataArray
            Boolean (subject, [class,] y, x), a dask array; False if the status is not ok.

        Raises
        ------
        UsageError
            The class does not exist, or the threshold is out of range.
        """
        from gz3d_zarr.analysis import masks

        return masks.class_mask(self._dataset, cls, threshold)

    def other(self, threshold: float = THRESHOLD) -> xr.DataArray:
        """Where no class is marked by more than `threshold` volunteers.

        All four classes count; Marvin's ``other_mask_spaxel`` ignores stars.

        Parameters
        ----------
        threshold : float
            As for `mask`.

        Returns
        -------
        xarray.DataArray
            Boolean (subject, y, x), a dask array; False if the status is not ok, and where a count
            is unknown, such as outside the image after `reproject`.

        Raises
        ------
        UsageError
            The Dataset does not have all four classes, or the threshold is out of range.
        """
        from gz3d_zarr.analysis import masks

        return masks.no_class_mask(self._dataset, threshold)

    def fraction(
        self, cls: str | None = None, of: Literal["volunteers", "marks"] = "volunteers"
    ) -> xr.DataArray:
        """Counts as a fraction of the volunteers, or of the marks.

        Parameters
        ----------
        cls : {'center', 'star', 'spiral', 'bar'}, optional
            By default all, along the dimension ``class``.
        of : {'volunteers', 'marks'}
            'volunteers': divide by ``classifications``, the number of volunteers who were asked
            about this subject and class; the result exceeds 1 where a volunteer's marks overlap.
            'marks': divide by the highest count of the subject and class, which is a lower limit
            for the number of marks; the result is 0 to 1, and 0 if nothing was marked.

        Returns
        -------
        xarray.DataArray
            float32 (subject, [class,] y, x), a dask array; NaN where nobody was asked, or the
            status is not ok.

        Raises
        ------
        UsageError
            The class does not exist, or `of` has another value.
        """
        from gz3d_zarr.analysis import masks

        return masks.marked_fraction(self._dataset, cls, of)

    def area(
        self,
        cls: str | None = None,
        threshold: float = THRESHOLD,
        *,
        unasked: float = math.nan,
    ) -> xr.DataArray:
        """Area of a class's mask.

        Parameters
        ----------
        cls, threshold
            As for `mask`.
        unasked : float
            Value where nobody was asked about the class, such as 0. Volunteers were asked for
            spiral arms, or a bar, only if at least a fifth of the votes were for one.

        Returns
        -------
        xarray.DataArray
            float64 (subject, [class]) in arcsec2, a dask array; NaN if the status is not ok. The
            area of a pixel is `scale` squared; over the 52 arcsec of an image, the projection
            changes it by 1e-7.

        Raises
        ------
        UsageError
            As for `mask`.
        """
        from gz3d_zarr.analysis import masks

        return masks.class_area(self._dataset, cls, threshold, unasked)
