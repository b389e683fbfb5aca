"""The xarray engine ``gz3d``: one subject file as a Dataset, with the names of a store.

xarray imports this module whenever it looks for an engine, so this module imports no other of
ours until a file is opened.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

if TYPE_CHECKING:
    from gz3d_zarr.datamodel.layout import Layout
    from gz3d_zarr.datamodel.manifest import Entry


class GZ3DBackendEntrypoint(BackendEntrypoint):
    """Opens ``gz3d_{MANGAID}_{IFU}_{SUBJECTID}.fits.gz``: ``xr.open_dataset(path)``."""

    description = "Subject files of Galaxy Zoo: 3D"
    url = "https://www.sdss4.org/dr17/data_access/value-added-catalogs/"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "trust_names")

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        trust_names: bool = False,
    ) -> xr.Dataset:
        """Open one subject file.

        Parameters
        ----------
        filename_or_obj : str or Path
            A local path, or a URL.
        drop_variables : str or iterable of str, optional
            Names to leave out.
        trust_names : bool
            Accept a file whose MANGAID or bundle differs from its name.

        Returns
        -------
        xarray.Dataset
            The Dataset that `open_source` gives for this one file; the dimension ``subject`` has
            length 1. The file is read once, when one of its values is needed.

        Raises
        ------
        FileNotFoundError
            The file does not exist.
        UsageError
            The argument is not a path, or the file is not named like a subject file.
        SubjectError
            When values are read: the file is damaged, or is not the one that its name says.
        """
        return _open(_entry(filename_or_obj), drop_variables, trust_names)

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether the file is named like a subject file."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        name = os.fspath(filename_or_obj)
        if not isinstance(name, str) or not name.endswith(".fits.gz"):
            return False
        from gz3d_zarr.datamodel.file_names import parse_name

        return parse_name(name) is not None


def _entry(path: Any) -> Entry:
    """The entry that the name of a subject file describes."""
    from gz3d_zarr.datamodel.file_names import parse_name
    from gz3d_zarr.datamodel.manifest import Entry
    from gz3d_zarr.errors import UsageError
    from gz3d_zarr.locations import absolute, is_url

    if not isinstance(path, str | os.PathLike):
        raise UsageError(
            f"the engine gz3d opens paths of subject files, not a {type(path).__name__}"
        )
    text = absolute(os.fspath(path))
    file = parse_name(text)
    if file is None:
        raise UsageError(
            f"{text} is not named like a subject file: gz3d_MANGAID_IFU_SUBJECTID.fits.gz"
        )
    if not is_url(text) and not Path(text).exists():
        raise FileNotFoundError(f"file {text} does not exist")
    return Entry(file)


def _open(
    entry: Entry, drop_variables: str | Iterable[str] | None, trust_names: bool
) -> xr.Dataset:
    import dask.array as da
    from dask.delayed import delayed

    from gz3d_zarr.backends.annotations import FILES_ENCODING, FileAnnotations
    from gz3d_zarr.backends.assemble import assemble, define_variables
    from gz3d_zarr.datamodel.layout import Layout
    from gz3d_zarr.datamodel.schema import dataset_attrs

    layout, reader = Layout(1), _FileReader(entry, trust_names)

    def read(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        array = SubjectFileArray(reader, name, (1, *shape), dtype, layout)
        return indexing.LazilyIndexedArray(array)

    variables = define_variables([entry], layout, read)
    dataset = assemble(variables, dataset_attrs(entry.file.path, None, ""))
    dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
    dataset = dataset.drop_vars(dropped, errors="ignore")
    dataset.set_close(reader.close)
    drawn = da.from_delayed(delayed(reader.annotations)(), (1,), object, meta=np.empty(0, object))
    ids = np.array([entry.file.zooniverse_subject_id], np.int64)
    dataset.encoding[FILES_ENCODING] = FileAnnotations(ids, drawn)
    return dataset


class _FileReader:
    """Reads and decodes a subject file when it is first needed; pickles without the pixels."""

    def __init__(self, entry: Entry, trust_names: bool) -> None:
        self._entry = entry
        self._trust_names = trust_names
        self._lock = threading.Lock()
        self._read: Any = None

    def __reduce__(self) -> tuple[type[_FileReader], tuple[Entry, bool]]:
        return _FileReader, (self._entry, self._trust_names)

    def close(self) -> None:
        """Forget the pixels."""
        with self._lock:
            self._read = None

    def values(self, name: str, layout: Layout) -> np.ndarray[Any, Any]:
        """Values of one variable, with the dimension ``subject``."""
        from gz3d_zarr.datamodel.arrays import BIG_ARRAYS
        from gz3d_zarr.datamodel.variables import variable_values

        record, subject = self._decoded()
        if name in BIG_ARRAYS:
            pixels: np.ndarray[Any, Any] = getattr(subject, name)[np.newaxis]
            return pixels
        return variable_values(name, [record], layout)

    def annotations(self) -> np.ndarray[Any, Any]:
        """The `Annotations` of the file, with the dimension ``subject``."""
        drawn = np.empty(1, object)
        drawn[0] = self._decoded()[1].annotations
        return drawn

    def _decoded(self) -> Any:
        with self._lock:
            if self._read is None:
                self._read = self._decode()
            return self._read

    def _decode(self) -> Any:
        from gz3d_zarr.datamodel.variables import SubjectRecord
        from gz3d_zarr.errors import Status, SubjectError
        from gz3d_zarr.sources.download import decode_body, read_file

        path = self._entry.file.path
        body = read_file(path, None, {}, None)
        subject, outcome = decode_body(path, None, body, trust_names=self._trust_names)
        if outcome.status is not Status.OK:
            raise SubjectError(outcome.status, f"{path}: {outcome.reason}")
        return SubjectRecord(self._entry, outcome), subject


class SubjectFileArray(BackendArray):
    """One variable of a subject file."""

    def __init__(
        self,
        reader: _FileReader,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        layout: Layout,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._reader, self._name, self._layout = reader, name, layout

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._take
        )

    def _take(self, key: tuple[Any, ...]) -> Any:
        return self._reader.values(self._name, self._layout)[key]
