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
from gz3d_zarr.analysis.accessor_save import SaveMethods
from gz3d_zarr.analysis.accessor_tables import TableMethods
from gz3d_zarr.analysis.accessor_view import ViewMethods
from gz3d_zarr.datamodel.subject import THRESHOLD


@xr.register_dataset_accessor("gz3d")
class GZ3DAccessor(MarkMethods, SaveMethods, TableMethods, ViewMethods):
    """Methods for a Dataset of Galaxy Zoo: 3D.

    Many methods take a ``subject``. Text such as ``"1-603114"`` is a MaNGA id. A number, or text
    that has only digits, is a Zooniverse subject id, never a position. Text such as
    ``"8623-12701"`` is a plate-IFU, known once a table that has them is joined. If an id has more
    than one row, UsageError lists the ids to choose from. Without ``subject``, the Dataset
    must have exactly one: ``ds.isel(subject=7).gz3d.wcs()``.

    Every method raises StoreError if the Dataset is not of Galaxy Zoo: 3D or lacks a variable, and
    UsageError if an argument is not valid or a selection would be empty.

    Parameters
    ----------
    dataset : xarray.Dataset
        From `open_store`, `open_source` or ``xr.open_zarr``, or a selection from one.
    """

    def sel(
        self, object_id: Any = None, zooniverse_subject_id: Any = None, *, plateifu: Any = None
    ) -> xr.Dataset:
        """Select subjects by id.

        Parameters
        ----------
        object_id : str or int, or sequence of them, optional
            MaNGA ids; or Zooniverse subject ids, as numbers or text; or plate-IFUs. An id with
            several rows selects all of them.
        zooniverse_subject_id : int or sequence of int, optional
            Zooniverse subject ids, which are unique in a store.
        plateifu : str or sequence of str, optional
            Plate-IFUs such as ``"8623-12701"``, once a table that has them is joined (`join`).

        Returns
        -------
        xarray.Dataset
            Lazy, in the order of the ids, each row once; rows that match all that is given. It has
            the dimension ``subject`` even for a single row.

        Raises
        ------
        UsageError
            An id is unknown; the message has near matches.
        """
        from gz3d_zarr.analysis import selection

        return selection.select_ids(self._dataset, object_id, zooniverse_subject_id, plateifu)

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

    def counts(self, cls: str | None = None) -> xr.DataArray:
        """Counts of a class: how many volunteers marked each pixel.

        Parameters
        ----------
        cls : {'center', 'star', 'spiral', 'bar'}, optional
            By default all, along the dimension ``class``.

        Returns
        -------
        xarray.DataArray
            uint8 (subject, [class,] y, x), as lazy as ``segmentation``, of which it is a part. For
            center and star, it counts marks in the cluster.

        Raises
        ------
        UsageError
            The class does not exist.
        """
        from gz3d_zarr.analysis import masks

        return masks.class_counts(self._dataset, cls)

    def picture(self, subject: str | int | None = None) -> xr.DataArray:
        """Picture of a subject that the volunteers saw.

        Parameters
        ----------
        subject : str or int, optional
            See `GZ3DAccessor`.

        Returns
        -------
        xarray.DataArray
            uint8 (y, x, channel), lazy, with row 0 at the top, ready for ``plt.imshow``.

        Raises
        ------
        UsageError
            The id is unknown, or the subject's status is not ok, so that it has no picture.
        """
        from gz3d_zarr.analysis import masks

        return masks.subject_picture(self._one(subject))

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

        For the mean over subjects, ``mean_mask(ds, cls, of="fractions")`` of `gz3d_zarr.recipes` is
        about three times faster: it holds no fractions of single subjects in memory.

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
