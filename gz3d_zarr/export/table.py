"""Export the subjects as a table: Parquet, FITS, CSV, ECSV or VOTable."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gz3d_zarr.analysis.indexing import isel_subjects
from gz3d_zarr.analysis.subject_table import subject_table
from gz3d_zarr.backends.store import find_object_store, open_dataset
from gz3d_zarr.datamodel.option_fields import check_type
from gz3d_zarr.errors import StoreError, UsageError, error_message, missing_extra_error, plural
from gz3d_zarr.export.one_file import open_file, partial_file
from gz3d_zarr.export.runner import ExportReport, share_options
from gz3d_zarr.export.subset import find_positions
from gz3d_zarr.locations import absolute
from gz3d_zarr.progress import Progress, ProgressOption, choose_progress
from gz3d_zarr.storage.object_store import open_object_store

if TYPE_CHECKING:
    import xarray as xr
    from astropy.table import QTable

    from gz3d_zarr.export.subset import Rows


FORMATS: Mapping[str, str] = {
    ".parquet": "parquet",
    ".fits": "fits",
    ".csv": "ascii.csv",
    ".ecsv": "ascii.ecsv",
    ".vot": "votable",
}
"""Format by the ending of the file's name, as astropy calls it; Parquet is written here."""


@dataclass(frozen=True)
class TableReport(ExportReport):
    """Result of an export of a table.

    Attributes
    ----------
    columns : int
        Number of columns.
    """

    columns: int

    def to_text(self) -> str:
        """The output of the command."""
        return f"{super().to_text()}\nIt has {plural(self.columns, 'column')}"


def export_table(
    store: str | Path | xr.Dataset,
    dest: str | Path,
    *,
    rows: Rows = None,
    columns: str | Sequence[str] | None = None,
    overwrite: bool = False,
    progress: ProgressOption = None,
    storage_options: Mapping[str, Any] | None = None,
    destination_options: Mapping[str, Any] | None = None,
) -> TableReport:
    """Write the table of the subjects, as ``ds.gz3d.table`` gives it, into one file.

    Subjects whose status is not ok are in the table too; its column ``status`` says so.

    Parameters
    ----------
    store : str, Path or Dataset
        A complete store; or a Dataset of one, for its subjects, rows and variables as they are,
        such as after ``ds.gz3d.join``.
    dest : str or Path
        Path or fsspec URL of the file, which ends in ``.parquet`` (extra ``marks``), ``.fits``,
        ``.csv``, ``.ecsv`` or ``.vot``. It is written under a temporary name and renamed. Masked
        values are nulls in Parquet, and empty in CSV.
    rows : sequence of int or bool, slice, Dataset, or RowRules, optional
        Subjects of a store, by default all.
    columns : str or sequence of str, optional
        As for ``ds.gz3d.table``.
    overwrite : bool
        Replace an existing file.
    progress : callable or bool, optional
        Called with a `Progress` at the start and at the end.
    storage_options : mapping, optional
        Options for fsspec, for those of `store` and `dest` that are URLs.
    destination_options : mapping, optional
        Additional options for `dest`.

    Returns
    -------
    TableReport

    Raises
    ------
    UsageError
        The ending of `dest` is unknown, pyarrow is not installed, a column does not exist, or no
        subject is selected.
    StoreError
        The store cannot be read, or `dest` exists or cannot be written.
    """
    import xarray as xr

    check_type("overwrite", overwrite, bool)
    place = None if isinstance(store, xr.Dataset) else store
    of_store, options = share_options(place, dest, storage_options, destination_options)
    form = _find_format(dest)
    url = None
    if isinstance(store, xr.Dataset):
        if rows is not None:
            raise UsageError("rows is for a store; select the subjects of the Dataset instead")
        chosen = store
        with contextlib.suppress(UsageError):  # it may be of no store, such as files
            url = find_object_store(store).url
    else:
        opened = open_object_store(store, of_store)
        dataset, url = open_dataset(opened), opened.url
        positions = find_positions(dataset, rows)
        if not len(positions):
            raise UsageError("no subject is selected")
        chosen = isel_subjects(dataset, positions)
    folder, name = open_file(dest, options, url, "subjects.parquet", overwrite=overwrite)
    start = time.monotonic()
    number = chosen.sizes.get("subject", 1)
    with choose_progress(progress) as report, partial_file(folder, name) as path:
        report(Progress(0, number, 0, 0))
        table = subject_table(chosen, columns)
        _write(table, path, form, f"{folder.url}/{name}")
        size = path.stat().st_size
        report(Progress(number, number, number, 0))
    seconds = time.monotonic() - start
    return TableReport(f"{folder.url}/{name}", len(table), 1, 0, size, seconds, len(table.colnames))


def _find_format(dest: str | Path) -> str:
    form = next((f for end, f in FORMATS.items() if str(dest).lower().endswith(end)), None)
    if form is None:
        absolute(str(dest))  # refuses a URL with a secret, which must not be shown
        raise UsageError(
            f"the ending of {str(dest)!r:.200} names no format, expected {', '.join(FORMATS)}"
        )
    if form == "parquet":
        _import_pyarrow()  # fail before any work
    return form


def _write(table: QTable, path: Path, form: str, target: str) -> None:
    if form == "parquet":
        _write_parquet(table, path)
        return
    from astropy.utils.exceptions import AstropyWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            table.write(path, format=form)
    except (TypeError, ValueError) as error:  # such as text that is not ASCII, in FITS
        raise StoreError(f"{target} cannot be written: {error_message(error)}") from error


def _write_parquet(table: QTable, path: Path) -> None:
    """Write Parquet with nulls, and with what astropy reads units and lengths of text from."""
    import pyarrow.parquet as pq
    from astropy.table import Table, meta

    pa = _import_pyarrow()
    arrays, fields = [], []
    described = Table()
    lengths: dict[str, str] = {}
    for name in table.colnames:
        column = table[name]
        mask = getattr(column, "mask", None)
        values = np.asarray(getattr(column, "unmasked", column))
        if values.dtype.kind == "U":
            lengths[f"table::len::{name}"] = str(max(1, values.dtype.itemsize // 4))
            array = pa.array(values.tolist(), pa.string())
        else:
            array = pa.array(values, mask=None if mask is None else np.asarray(mask))
        info = {"unit": str(column.unit or ""), "description": column.info.description or ""}
        fields.append(pa.field(name, array.type, metadata={k: v for k, v in info.items() if v}))
        arrays.append(array)
        described[name] = _without_values(column)
    yaml = "\n".join(meta.get_yaml_from_table(described))
    schema = pa.schema(fields, metadata={**lengths, "table_meta_yaml": yaml})
    texts = [field.name for field in fields if field.type == pa.string()]
    pq.write_table(pa.table(arrays, schema=schema), path, compression="zstd", use_dictionary=texts)


def _without_values(column: Any) -> Any:
    """A plain column of no rows with the type, unit and description of a column."""
    from astropy.table import Column

    return Column(np.empty(0, column.dtype), unit=column.unit, description=column.info.description)


def _import_pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise missing_extra_error("export table to Parquet", error, "marks") from error
    return pyarrow
