"""Where each array of a store comes from: HDUs and columns of a subject file, or the catalogue.

HDUs are counted from 0, as astropy does. "else the catalogue" means ``gz3d_metadata.fits``, for
subjects whose file cannot be read. What the attributes of the root say is here too.
"""

from __future__ import annotations

from collections.abc import Mapping

from gz3d_zarr.datamodel.annotations import CLUSTER_COLUMNS
from gz3d_zarr.datamodel.cluster_arrays import ROW_SIZES

_NAME = "name of the file"
_CLUSTER_HDUS = {"center": 6, "star": 7}


def _column(name: str) -> str:
    return f"HDU 5 `{name}`, else the catalogue"


ORIGINS: Mapping[str, str] = {
    "image": "HDU 0",
    "segmentation": "HDUs 1 to 4",
    "subject": _NAME,
    "class": "names of HDUs 1 to 4",
    "channel": "HDU 0, last axis",
    "zooniverse_subject_id": _NAME,
    "ra": _column("ra"),
    "dec": _column("dec"),
    "healpix": "`ra`, `dec`",
    "scale": "`PC1_1` and `CDELT1` of HDUs 0 to 4",
    "vote_fraction": "`spiral_votes` and `bar_votes` over `total_classifications`",
    "total_classifications": _column("GZ_total_classifications"),
    "spiral_votes": _column("GZ_spiral_votes"),
    "bar_votes": _column("GZ_bar_votes"),
    "ifu_design_size": "HDU 5 `IFUDESIGNSIZE`, else the name of the file",
    "classifications": "number of rows of HDUs 8, 8, 9, 10",
    "classifications_drawn": "rows of HDUs 8, 8, 9, 10 with a mark",
    "max_count": "HDUs 1 to 4",
    "marked_pixels": "HDUs 1 to 4",
    "marked_pixels_above_3": "HDUs 1 to 4",
    "manga_tile_id": _column("MANGA_TILEID"),
    "nsa_id": _column("nsa_id"),
    "sample": _column("sample"),
    "number_galaxy_centers": "number of rows of HDU 6, else the catalogue",
    "number_foreground_stars": "number of rows of HDU 7, else the catalogue",
    "observed": "the catalogue's `observed`",
    "saturated": "HDUs 1 to 4",
    "status": "outcome of reading the file",
    "catalogue/file_name": _NAME,
    "catalogue/source_sha1": "the file's bytes",
    "catalogue/source_size": "the file's bytes",
    "catalogue/manga_id": _column("MANGAID"),
    "catalogue/iauname": _column("IAUNAME"),
    "catalogue/explorer_link": _column("explorer_link"),
    "catalogue/sample_name": _column("sample"),
    "catalogue/reason": "outcome of reading the file",
    "thumbnail/image": "HDU 0",
    "marks/annotations": "HDUs 8 to 10, without user names",
    **{
        f"clusters/{size}": f"number of rows of HDU {_CLUSTER_HDUS[cls]}"
        for cls, (size, _) in ROW_SIZES.items()
    },
    **{
        f"clusters/{cls}_{column}": f"HDU {hdu} `{column}`"
        for cls, hdu in _CLUSTER_HDUS.items()
        for column in CLUSTER_COLUMNS
    },
}
"""Text for every array of a store, by its path in the store."""
ATTRIBUTES: Mapping[str, str] = {
    "Conventions": "conventions that the metadata follow",
    "appended": "subjects that updates have added, at the end",
    "codec": "portable or compact, see below",
    "complete": "1: the build has ended",
    "coordinates": "names of the coordinates, for xarray",
    "created": "when the root was written, in UTC",
    "fingerprint": "digest of the layout and the file names; builds that share it can be resumed",
    "generation": "changes when stored values may have changed",
    "group_arrays_sha256": "digest of the pack of small arrays of the other groups",
    "license": "license of the data",
    "manifest_digest": "digest of the names, sizes and sha1 of the files, in order",
    "nside": "HEALPix resolution of the coordinate `healpix`",
    "notes": "what the build found unusual",
    "order": "order of the subjects: healpix or name",
    "package": "the package that wrote the store",
    "package_version": "its version",
    "receipts_sha256": "digest of the receipts of all shards",
    "references": "what to cite",
    "release": "data release of the source, if known",
    "samples": "names of the bits of `sample`",
    "schema": "always gz3d",
    "schema_version": "see below",
    "shard_size": "subjects per shard",
    "small_arrays_sha256": "digest of the pack of small arrays of the root group",
    "source": "where the files came from; of a local folder, only its last name",
    "source_catalogue": "name of the catalogue that was used",
    "subjects": "rows of the store",
    "subjects_failed": "rows whose status is not ok",
    "subjects_ok": "rows whose status is ok",
    "summary": "what the store holds, in one sentence",
    "title": "Galaxy Zoo: 3D",
}
"""What each attribute of the root says, for the documentation."""
