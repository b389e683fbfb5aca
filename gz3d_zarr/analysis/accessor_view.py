"""The method of the accessor ``ds.gz3d`` that shows a store in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr

    from gz3d_zarr.viewer.server import ViewServer


class ViewMethods:
    """Methods of `GZ3DAccessor` for the page."""

    _dataset: xr.Dataset

    def view(self, subject: str | int | None = None, port: int = 0) -> ViewServer:
        """Show the store that the Dataset was opened from in a browser on this machine.

        Parameters
        ----------
        subject : str or int, optional
            The subject that the page shows first; see `GZ3DAccessor`.
        port : int
            Port on loopback; by default, a free one.

        Returns
        -------
        gz3d_zarr.viewer.server.ViewServer
            Its ``link``, which it also prints as, is the address of the page; a notebook shows the
            page itself. It ends with the process, or by ``close()``. The page has all subjects of
            the store, also where the Dataset is a selection.

        Raises
        ------
        UsageError
            The Dataset does not say which store it was opened from, or the port cannot be used.
        StoreError
            Its store cannot be read any more.
        """
        from gz3d_zarr.analysis import selection
        from gz3d_zarr.backends.store import find_object_store
        from gz3d_zarr.viewer.page_files import subject_fragment
        from gz3d_zarr.viewer.view import serve_store

        store = find_object_store(self._dataset, "the page shows a store")
        fragment = ""
        if subject is not None:
            one = selection.one_subject(self._dataset, subject)
            fragment = subject_fragment(one["zooniverse_subject_id"].item())
        return serve_store(store, port, fragment)
