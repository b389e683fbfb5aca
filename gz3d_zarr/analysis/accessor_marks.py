"""Methods of the accessor ``ds.gz3d`` for the volunteers' own marks, and clusters of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gz3d_zarr.analysis.accessor_sky import SkyMethods

if TYPE_CHECKING:
    import xarray as xr
    from astropy.table import QTable

    from gz3d_zarr.analysis.annotations import VolunteerMarks


class MarkMethods(SkyMethods):
    """Methods of `GZ3DAccessor` for marks and clusters, which are not in the Dataset itself.

    They are read from the store or the files that the Dataset, or what it was selected from, was
    opened from: its encoding says which. Without this encoding, they raise UsageError. For a store
    on S3 with options, use `open_store`.
    """

    def clusters(self, cls: str) -> QTable:
        """Clusters of the volunteers' marks of galaxy centers or foreground stars.

        Parameters
        ----------
        cls : {'center', 'star'}

        Returns
        -------
        astropy.table.QTable
            One row per cluster of the subjects of the Dataset, in their order: ``subject,
            zooniverse_subject_id``; ``x, y`` in pixels of the image, counted from 0, with
            ``var_x, var_y, var_x_y``; ``ra, dec`` in degrees, ICRS, with ``var_ra, var_dec,
            var_ra_dec``; ``count``, the marks in the cluster. Columns have units and descriptions.
            All values are those of the file, whose ``ra, dec`` count the first pixel as 1: they
            are one pixel (0.1 arcsec) in x and y from where `wcs` has ``x, y``.

        Raises
        ------
        UsageError
            The class has no clusters, or the Dataset does not say what it was opened from.
        """
        from gz3d_zarr.analysis import annotations

        return annotations.cluster_table(self._dataset, cls)

    def marks(self, subject: str | int | None = None, cls: str = "spiral") -> list[VolunteerMarks]:
        """Raw marks of every volunteer who was asked about a class of a subject.

        Parameters
        ----------
        subject : str or int, optional
            See `GZ3DAccessor`.
        cls : {'center', 'star', 'spiral', 'bar'}

        Returns
        -------
        list of VolunteerMarks
            In the order of the subject's file; empty if nobody was asked. Each has
            ``classification_id, time_stamp``, ``points`` (center, star) or ``paths`` (spiral, bar)
            as float64 arrays (n, 2) of x and y in pixels, and ``to_shapely()``.

        Raises
        ------
        UsageError
            The class does not exist, or the Dataset does not say what it was opened from.
        """
        from gz3d_zarr.analysis import annotations

        return annotations.read_volunteers(self._one(subject), cls)

    def redraw(
        self,
        cls: str,
        *,
        simple_only: bool = True,
        minimum_area: float = 0.0,
        weights: Mapping[int, float] | None = None,
        once_per_volunteer: bool = False,
    ) -> xr.DataArray:
        """Draw the masks of a class again, from the volunteers' marks.

        With the defaults, the published rules apply, and the result equals ``segmentation`` of the
        class: for spiral and bar, paths that do not cross themselves are counted at the integer
        pixel positions that they enclose; for center and star, clusters are drawn as 2-sigma
        ellipses with the number of their marks. The options are for spiral and bar.

        Parameters
        ----------
        cls : {'center', 'star', 'spiral', 'bar'}
        simple_only : bool
            False: also count paths that cross themselves. Pixels that a path winds around are
            enclosed (nonzero winding rule).
        minimum_area : float
            Leave out paths that enclose fewer pixels than this.
        weights : mapping of int to float, optional
            ``classification_id`` to the weight of this volunteer, from 0 on; 1 for others.
        once_per_volunteer : bool
            Count a volunteer once per pixel, however many of their paths enclose it.

        Returns
        -------
        xarray.DataArray
            (subject, y, x), a dask array in the chunks of ``segmentation``; uint8, at most 255, or
            float32 with `weights`. It is 0 where nobody was asked, or the status is not ok.

        Raises
        ------
        UsageError
            The class does not exist, an option is out of range or is not for this class, shapely
            or matplotlib is not installed (extra ``demo``), or the Dataset does not say what it
            was opened from.
        """
        from gz3d_zarr.analysis import redraw

        rules = redraw.PathRules(simple_only, minimum_area, weights, once_per_volunteer)
        return redraw.redraw(self._dataset, cls, rules)
