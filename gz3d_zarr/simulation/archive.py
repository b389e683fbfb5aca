"""Simulate plausible GZ3D archives, for demos, tests and benchmarks without a network.

Files have the eleven HDUs, headers and column types of the producer; the catalogue and the sha1
list are in the same folder. Subject `i` of a seed does not depend on the number of subjects, and
the edge cases of the real archive repeat every sixteen subjects (`EdgeCase`).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import deflate
import numpy as np
from astropy.io import fits
from astropy.table import Table

from gz3d_zarr.datamodel.file_names import CATALOGUE_NAME, parse_name
from gz3d_zarr.datamodel.subject import BUNDLE_ARCSEC, SubjectMetadata
from gz3d_zarr.errors import SourceError, plural
from gz3d_zarr.progress import Progress, ProgressOption, choose_progress
from gz3d_zarr.simulation.galaxies import (
    CENTER,
    SCALE_ARCSEC,
    Galaxy,
    arm_outline,
    bar_outline,
    draw_galaxy,
)
from gz3d_zarr.simulation.hdus import Marks, flatten, make_hdus
from gz3d_zarr.simulation.images import draw_image
from gz3d_zarr.simulation.volunteers import cluster_marks, draw_marks, draw_outlines

SHA1_LIST_NAME = "manga_morphology_galaxyzoo3d_v4_0_0.sha1sum"
ASKED_FRACTION = 0.2
"""Vote fraction from which volunteers are asked for marks; below, HDU 9 or 10 has no rows."""
CYCLE = 16
FIRST_ID = 14_000_000
"""Zooniverse id of subject 0."""
BUNDLES = [fibers for fibers in BUNDLE_ARCSEC if fibers > 7]
"""Bundles for galaxies; those of 7 fibers are for calibration stars."""
VOLUNTEERS = (12, 14, 15, 15, 15, 15, 15, 16)
"""Numbers of volunteers of a task: 15 in most cases."""
_LISTS = ("sdss_lost_set,original", "stripe82,stripe82")
SAMPLES = ("", "", "original", "extra", "stripe82_coadd_1", *_LISTS)
"""Target samples; the column is empty, or a list joined by commas."""
UNFINISHED = ".gz3d-simulate"
"""Empty file in an archive that is not finished: simulating it may resume."""
MARK = "SIMULATE"
"""Card in the catalogue of a simulated archive; only such an archive may be overwritten."""


class EdgeCase:
    """Subjects, modulo `CYCLE`, that have an edge case of the real archive."""

    RA_NEAR_0 = 1
    RA_NEAR_360 = 2
    REPEATED_MANGA_ID = 3
    NO_CLASSIFICATIONS = 4
    COUNTS_ABOVE_15 = 5
    OVERLAPPING_PATHS = 6
    ASKED_WITHOUT_VOTES = 10  # HDUs 9 and 10 have a row for each volunteer, with an empty list


@dataclass(frozen=True, eq=False)
class SimulatedSubject:
    """One subject: the bytes of its file, and its row of the catalogue."""

    file_name: str
    data: bytes
    metadata: SubjectMetadata
    zooniverse_subject_id: int
    observed: bool


def simulate_archive(
    count: int,
    folder: str | Path,
    *,
    seed: int = 0,
    progress: ProgressOption = None,
) -> list[Path]:
    """Write an archive of `count` subject files with catalogue and sha1 list.

    Parameters
    ----------
    count : int
        At least 1.
    folder : str or Path
        Created if it does not exist.
    seed : int
        The same seed gives the same bytes.
    progress : callable or bool, optional
        Called with a `Progress` at the start and after every file.

    Returns
    -------
    list of Path
        The subject files.

    Raises
    ------
    SourceError
        `folder` cannot be written to, or holds subject files of another archive.
    """
    folder = Path(folder).expanduser()
    with choose_progress(progress) as report:
        return _write_archive(count, folder, seed, report)


def _write_archive(
    count: int, folder: Path, seed: int, report: Callable[[Progress], None]
) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_others(folder, count)
        (folder / UNFINISHED).touch()
        subjects, paths = [], []
        report(Progress(0, count, 0, 0))
        for index in range(count):
            subject = simulate_subject(index, seed=seed)
            path = folder / subject.file_name
            path.write_bytes(subject.data)
            paths.append(path)
            report(Progress(index + 1, count, 1, 0))
            subjects.append((hashlib.sha1(subject.data).hexdigest(), replace(subject, data=b"")))  # noqa: S324
        lines = "".join(f"{digest}  {subject.file_name}\n" for digest, subject in subjects)
        (folder / SHA1_LIST_NAME).write_text(lines)
        _catalogue([subject for _, subject in subjects]).writeto(
            folder / CATALOGUE_NAME, overwrite=True
        )
        (folder / UNFINISHED).unlink()
    except OSError as error:
        raise SourceError(f"no archive can be written to {folder}: {error}") from error
    return paths


def _refuse_others(folder: Path, count: int) -> None:
    """Refuse a folder with an archive whose catalogue and sha1 list would be replaced."""
    files = [parse_name(path.name) for path in folder.iterdir()]
    others = [
        file.name
        for file in files
        if file and file.zooniverse_subject_id not in range(FIRST_ID, FIRST_ID + count)
    ]
    catalogue = folder / CATALOGUE_NAME
    ours = (folder / UNFINISHED).exists() or (
        catalogue.is_file() and fits.getheader(catalogue).get(MARK, False)
    )
    if others or ((any(files) or catalogue.exists()) and not ours):
        raise SourceError(
            f"{folder} holds an archive that is not a simulated one of {plural(count, 'subject')}"
            f"{f' (first other file {min(others)})' if others else ''}, and its files would be "
            "replaced; choose an empty folder"
        )


def simulate_subject(index: int, *, seed: int = 0) -> SimulatedSubject:
    """Simulate subject `index` of the archive with this seed."""
    rng = np.random.default_rng([seed, index])
    case = index % CYCLE
    metadata, observed = _draw_metadata(rng, index, case)
    has_arms = _has_votes(metadata.spiral_votes, metadata.total_classifications)
    has_bar = _has_votes(metadata.bar_votes, metadata.total_classifications)
    galaxy = draw_galaxy(rng, metadata.ifu_design_size, has_arms=has_arms, has_bar=has_bar)
    marks = _draw_all_marks(rng, galaxy, case)
    centers = cluster_marks(flatten(marks.centers))
    stars = cluster_marks(flatten(marks.stars))
    metadata = replace(
        metadata, number_galaxy_centers=len(centers), number_foreground_stars=len(stars)
    )
    hdus = make_hdus(
        draw_image(rng, galaxy, metadata.ifu_design_size), metadata, marks, (centers, stars), index
    )
    buffer = io.BytesIO()
    hdus.writeto(buffer)
    subject_id = FIRST_ID + index
    name = f"gz3d_{metadata.manga_id}_{metadata.ifu_design_size}_{subject_id}.fits.gz"
    data = bytes(deflate.gzip_compress(buffer.getvalue(), 5))
    return SimulatedSubject(name, data, metadata, subject_id, observed)


def _has_votes(votes: int, total: int) -> bool:
    return total > 0 and votes / total >= ASKED_FRACTION


def _draw_all_marks(rng: np.random.Generator, galaxy: Galaxy, case: int) -> Marks:
    """Marks of three tasks, each with its own volunteers: HDU 8, HDU 9 and HDU 10."""
    counts = [60 if case == EdgeCase.COUNTS_ABOVE_15 else int(n) for n in rng.choice(VOLUNTEERS, 3)]
    repeats = 3 if case == EdgeCase.OVERLAPPING_PATHS else 1
    always = case == EdgeCase.ASKED_WITHOUT_VOTES
    arms = [arm_outline(galaxy, side) for side in (0, 1)] if galaxy.has_arms else []
    bars = [bar_outline(galaxy)] if galaxy.has_bar else []
    stars = [np.array([star.x, star.y]) for star in galaxy.stars]
    return Marks(
        draw_marks(rng, [np.full(2, CENTER)], counts[0], 1.5),
        draw_marks(rng, stars, counts[0], 1.0),
        draw_outlines(rng, arms, counts[1], repeats) if arms or always else None,
        draw_outlines(rng, bars, counts[2], repeats) if bars or always else None,
    )


def _draw_metadata(rng: np.random.Generator, index: int, case: int) -> tuple[SubjectMetadata, bool]:
    ra, dec = rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-0.2, 0.9)))
    if case == EdgeCase.RA_NEAR_0:
        ra = 0.0002
    elif case == EdgeCase.RA_NEAR_360:
        ra = 359.9998
    ra, dec = float(np.float32(ra)), float(np.float32(dec))  # as HDU 5 has them
    total = 0 if case == EdgeCase.NO_CLASSIFICATIONS else int(rng.integers(20, 90))
    spiral = round(total * rng.beta(0.8, 1.6)) if index % 3 else round(total * 0.6)
    bar = round(total * rng.beta(0.6, 2.4)) if index % 4 else round(total * 0.4)
    if case == EdgeCase.ASKED_WITHOUT_VOTES:
        spiral = bar = 0
    number = index - 1 if case == EdgeCase.REPEATED_MANGA_ID else index
    metadata = SubjectMetadata(
        manga_id=f"1-{600_000 + number}",
        iauname=f"J{ra:06.2f}{dec:+06.1f}",
        ra=ra,
        dec=dec,
        scale=SCALE_ARCSEC / 3600,
        ifu_design_size=BUNDLES[index % len(BUNDLES)],
        manga_tile_id=int(rng.integers(1, 9000)),
        nsa_id=int(rng.integers(1, 700_000)),
        explorer_link="http://skyserver.sdss.org/dr13/en/tools/chart/navi.aspx"
        f"?ra={ra:.5f}&dec={dec:.5f}",
        total_classifications=total,
        spiral_votes=spiral,
        bar_votes=bar,
        sample=SAMPLES[int(rng.integers(len(SAMPLES)))],
        number_galaxy_centers=0,
        number_foreground_stars=0,
    )
    return metadata, bool(rng.random() < 0.35)


def _catalogue(subjects: Sequence[SimulatedSubject]) -> fits.HDUList:
    """``gz3d_metadata.fits``: names without ``gz3d_`` and ``.gz``, as the archive has them."""
    metadata = [subject.metadata for subject in subjects]
    names = [s.file_name.removeprefix("gz3d_").removesuffix(".gz") for s in subjects]
    table = Table(
        {
            "file_name": names,
            "zooniverse_subject_id": [s.zooniverse_subject_id for s in subjects],
            "number_galaxy_centers": [m.number_galaxy_centers for m in metadata],
            "number_foreground_stars": [m.number_foreground_stars for m in metadata],
            "observed": [s.observed for s in subjects],
            "ra": [m.ra for m in metadata],
            "dec": [m.dec for m in metadata],
            "MANGAID": [m.manga_id for m in metadata],
            "IAUNAME": [m.iauname for m in metadata],
            "IFUDESIGNSIZE": [float(m.ifu_design_size) for m in metadata],
            "MANGA_TILEID": [float(m.manga_tile_id) for m in metadata],
            "nsa_id": [m.nsa_id for m in metadata],
            "explorer_link": [m.explorer_link for m in metadata],
            "GZ_total_classifications": [m.total_classifications for m in metadata],
            "GZ_bar_votes": [m.bar_votes for m in metadata],
            "GZ_spiral_votes": [m.spiral_votes for m in metadata],
            "sample": [m.sample for m in metadata],
        }
    )
    primary = fits.PrimaryHDU()
    primary.header[MARK] = (True, "written by gz3d-zarr simulate")
    return fits.HDUList([primary, fits.table_to_hdu(table)])
