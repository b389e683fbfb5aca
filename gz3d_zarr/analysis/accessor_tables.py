"""Methods of the accessor ``ds.gz3d`` for tables: of the subjects, and other people's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import xarray as xr
    from astropy.table import QTable


class TableMethods:
    """Methods of `GZ3DAccessor` for tables of the subjects, and joins with other tables."""

    _dataset: xr.Dataset

    def table(self, columns: str | Sequence[str] | None = None) -> QTable:
        """Table of the subjects, one row each.

        Parameters
        ----------
        columns : str or sequence of str, optional
            Names of columns, or of variables with several columns, such as ``vote_fraction``. By
            default all.

        Returns
        -------
        astropy.table.QTable
            ``subject`` (MaNGA id, str) and ``zooniverse_subject_id``; then the small variables of
            the Dataset, one column per class as ``spiral_vote_fraction``; variables that were
            added or joined, with an axis as ``flux_0, flux_1``; and the text columns of the group
            ``catalogue``, if the Dataset was opened from a store that has them. ``status`` is
            text. Units are astropy's, each column has a description, and unknown values are
            masked. ``center_vote_fraction`` and ``star_vote_fraction`` do not exist. Variables
            with pixels are left out; others are computed.

            ``to_pandas()`` and ``write`` to FITS, ECSV, VOTable and Parquet work. astropy writes
            masks to Parquet as columns of their own: `gz3d_zarr.export.table.export_table` writes
            nulls.

        Raises
        ------
        UsageError
            There is no such column.
        StoreError
            The store of the text columns was replaced or cannot be read.

        Examples
        --------
        >>> ds.gz3d.table(["ra", "dec", "spiral_vote_fraction"]).write("sample.fits")
        """
        from gz3d_zarr.analysis import subject_table

        return subject_table.subject_table(self._dataset, columns)

    def join(
        self,
        table: Any,
        on: Literal["mangaid", "plateifu", "zooniverse_subject_id"] = "mangaid",
        how: Literal["left", "inner"] = "left",
        repeats: Literal["all", "first", "raise"] = "all",
        *,
        prefix: str = "table_",
    ) -> xr.Dataset:
        """Join the rows of a table, such as MaNGA's DRPall, to the subjects with the same ids.

        Parameters
        ----------
        table : astropy.table.Table, pandas.DataFrame, xarray.Dataset, FITS records or path
            With a column of ids. Its name may be in any case; text may be padded, or bytes;
            Zooniverse ids may be numbers or text. A path is read by `read_survey_table`.
        on : {'mangaid', 'plateifu', 'zooniverse_subject_id'}
            What to join on. The Dataset has plate-IFUs once a table with ``mangaid`` and
            ``plateifu`` is joined.
        how : {'left', 'inner'}
            'left': keep every subject of the Dataset, also those without a row of the table, as
            ``pandas.DataFrame.join``. 'inner': only subjects with a row. A row of the table without
            a subject has no pixels, and is counted in the warning.
        repeats : {'all', 'first', 'raise'}
            If a subject has several rows of the table, such as a galaxy under two plate-IFUs: keep
            them all, so that the subject has a row for each; keep the first; or raise.
        prefix : str
            Added to the name of a column if the Dataset already has that name in any case; not
            empty.

        Returns
        -------
        xarray.Dataset
            Lazy, in the order of the Dataset, then of the table; a row of the table that matches
            several subjects, which have the same MaNGA id, is with each. Along ``subject``, it also
            has the columns of the table under their own names, and ``table_row`` (int64, position
            of the row from 0; -1 where there is none). Values where there is none, and masked ones,
            are NaN or empty text. If an integer column has values beyond 2^53, such as SDSS ids, it
            stays an integer column with 0 for them, and ``<name>_masked`` marks them.

        Raises
        ------
        UsageError
            The table has no column of these ids (its columns are named), ids of different kinds,
            or no id of a subject; or a subject has several rows, with ``repeats="raise"``.

        Warns
        -----
        LeftOutWarning
            Counts rows of the table without a subject and, with ``how="left"``, subjects without a
            row; and lists columns that are neither numbers nor text, which are left out.

        Examples
        --------
        >>> sample = ds.gz3d.join(Table.read("drpall.fits"), how="inner")
        >>> sample.gz3d.sel(plateifu="8623-12701")
        """
        from gz3d_zarr.analysis import table_join

        return table_join.join(self._dataset, table, on=on, how=how, repeats=repeats, prefix=prefix)

    def crossmatch(
        self,
        table: Any,
        radius: Any,
        *,
        ra: str | None = None,
        dec: str | None = None,
        repeats: Literal["all", "first", "raise"] = "all",
        prefix: str = "table_",
    ) -> xr.Dataset:
        """Join each subject with the rows of another catalogue that are near on the sky.

        Parameters
        ----------
        table : astropy.table.Table, pandas.DataFrame, xarray.Dataset, SkyCoord or path
            The other catalogue, with positions in a SkyCoord column or in two columns.
        radius : float or Quantity
            Maximum separation; a number is in arcsec. Subjects without a row in this radius are
            left out.
        ra, dec : str, optional
            Names of the position columns, in any case; ICRS, in degrees unless they have a unit.
            By default ``ra, dec``, or else ``objra, objdec``, or else ``ifura, ifudec``.
        repeats : {'all', 'first', 'raise'}
            If a subject has several rows in the radius, such as a galaxy under two plate-IFUs:
            keep them all, so that the subject has a row for each; keep the nearest, of equal ones
            the first in the table; or raise.
        prefix : str
            As for `join`.

        Returns
        -------
        xarray.Dataset
            Lazy: the matched subjects in the order of the Dataset, then by distance. Along
            ``subject``, it also has the columns of the table as from `join`, ``separation``
            (float64, arcsec) and ``table_row``. A row may match several subjects, such as those
            with the same MaNGA id.

        Raises
        ------
        UsageError
            Nothing matches; the table has no positions, or two columns with the same name; a
            subject has several rows, with ``repeats="raise"``; or `prefix` is empty.

        Warns
        -----
        LeftOutWarning
            Lists columns that are neither numbers nor text, such as times. They are left out.
        """
        from gz3d_zarr.analysis import crossmatch

        return crossmatch.crossmatch(
            self._dataset, table, radius, ra=ra, dec=dec, repeats=repeats, prefix=prefix
        )
