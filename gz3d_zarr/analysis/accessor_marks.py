"""Methods of the accessor ``ds.gz3d`` for the volunteers' own marks, and clusters of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gz3d_zarr.analysis.accessor_sky import SkyMethods

if TYPE_CHECKING:
    from astropy.table import QTable

    from gz3d_zarr.analysis.annotations import VolunteerMarks


class MarkMethods(SkyMethods):
    """Methods of `GZ3DAccessor` that read other groups of the store.

    The Dataset must be from `open_store` or ``xr.open_zarr``, or a selection from one: its
    encoding has the location of the store. Otherwise, they raise UsageError. For S3 with options,
    use `open_store`.
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

        Raises
        ------
        UsageError
            The class has no clusters, or the Dataset was not opened from a store.
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
            The class does not exist, or the Dataset was not opened from a store.
        """
        from gz3d_zarr.analysis import annotations

        return annotations.read_volunteers(self._one(subject), cls)
