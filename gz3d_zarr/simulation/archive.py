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
from numpy.typing import NDArray

from gz3d_zarr.datamodel.file_names import CATALOGUE_NAME, parse_name
from gz3d_zarr.datamodel.subject import BUNDLE_ARCSEC, CRPIX, SIDE, SubjectMetadata
from gz3d_zarr.errors import SourceError, plural
from gz3d_zarr.progress import Progress
from gz3d_zarr.simulation.hdus import Marks, flatten, make_hdus
from gz3d_zarr.simulation.volunteers import FloatArray, cluster_marks, draw_marks, draw_outlines

SCALE_ARCSEC = 0.099
SHA1_LIST_NAME = "manga_morphology_galaxyzoo3d_v4_0_0.sha1sum"
ASKED_FRACTION = 0.2
"""Vote fraction from which volunteers mark a structure; below, HDU 9 or 10 is empty."""
CYCLE = 16
FIRST_ID = 14_000_000
"""Zooniverse id of subject 0."""
BUNDLES = {fibers: width for fibers, width in BUNDLE_ARCSEC.items() if fibers > 7}
"""Bundles for galaxies; those of 7 fibers are for calibration stars."""
GRAIN_STEPS = (1, 2, 2, 3)
GRAIN_COUNTS = np.float32(2.4)
"""Smoothing and strength of the sky noise, chosen so that files compress like the reference files:
350 KB, of which the codecs leave 0.98 and 0.76 (reference: 0.99 and 0.74)."""
UNFINISHED = ".gz3d-simulate"
"""Empty file in an archive that is not finished: simulating it may resume."""
MARK = "SIMULATE"
"""Card in the catalogue of a simulated archive; only such an archive may be overwritten."""
MAGENTA = (255, 0, 255)


class EdgeCase:
    """Subjects, modulo `CYCLE`, that have an edge case of the real archive."""

    RA_NEAR_0 = 1
    RA_NEAR_360 = 2
    REPEATED_MANGA_ID = 3
    NO_CLASSIFICATIONS = 4
    COUNTS_ABOVE_15 = 5
    OVERLAPPING_PATHS = 6


@dataclass(frozen=True)
class Galaxy:
    """Shape of a simulated galaxy; lengths in pixels, angles in radians."""

    scale_length: float
    axis_ratio: float
    angle: float
    pitch: float
    arm_phase: float
    bar_length: float
    has_arms: bool
    has_bar: bool
    stars: tuple[tuple[float, float, float], ...]
    bundle: int


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
    progress: Callable[[Progress], None] | None = None,
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
    progress : callable, optional
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
    report = progress or (lambda _: None)
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
    galaxy = _draw_galaxy(rng, metadata)
    volunteers = 60 if case == EdgeCase.COUNTS_ABOVE_15 else int(rng.integers(12, 17))
    marks = Marks(
        draw_marks(rng, [np.full(2, CRPIX)], volunteers, 1.5),
        draw_marks(rng, [np.array(star[:2]) for star in galaxy.stars], volunteers, 1.0),
        None,
        None,
    )
    repeats = 3 if case == EdgeCase.OVERLAPPING_PATHS else 1
    if _asked(metadata.spiral_votes, metadata.total_classifications):
        outlines = [_arm_outline(galaxy, side) for side in (0, 1)] if galaxy.has_arms else []
        marks = replace(marks, spirals=draw_outlines(rng, outlines, volunteers, repeats))
    if _asked(metadata.bar_votes, metadata.total_classifications):
        outlines = [_bar_outline(galaxy)] if galaxy.has_bar else []
        marks = replace(marks, bars=draw_outlines(rng, outlines, volunteers, repeats))
    centers = cluster_marks(flatten(marks.centers))
    stars = cluster_marks(flatten(marks.stars))
    metadata = replace(
        metadata, number_galaxy_centers=len(centers), number_foreground_stars=len(stars)
    )
    hdus = make_hdus(_draw_image(rng, galaxy), metadata, marks, (centers, stars), index)
    buffer = io.BytesIO()
    hdus.writeto(buffer)
    subject_id = FIRST_ID + index
    name = f"gz3d_{metadata.manga_id}_{metadata.ifu_design_size}_{subject_id}.fits.gz"
    data = bytes(deflate.gzip_compress(buffer.getvalue(), 5))
    return SimulatedSubject(name, data, metadata, subject_id, observed)


def _asked(votes: int, total: int) -> bool:
    return total > 0 and votes / total >= ASKED_FRACTION


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
    number = index - 1 if case == EdgeCase.REPEATED_MANGA_ID else index
    bundles = list(BUNDLES)
    metadata = SubjectMetadata(
        manga_id=f"1-{600_000 + number}",
        iauname=f"J{ra:06.2f}{dec:+06.1f}",
        ra=ra,
        dec=dec,
        scale=SCALE_ARCSEC / 3600,
        ifu_design_size=bundles[index % len(bundles)],
        manga_tile_id=int(rng.integers(1, 9000)),
        nsa_id=int(rng.integers(1, 700_000)),
        explorer_link="http://skyserver.sdss.org/dr13/en/tools/chart/navi.aspx"
        f"?ra={ra:.5f}&dec={dec:.5f}",
        total_classifications=total,
        spiral_votes=spiral,
        bar_votes=bar,
        sample=("original", "extra", "stripe82_coadd_1")[int(rng.integers(3))],
        number_galaxy_centers=0,
        number_foreground_stars=0,
    )
    return metadata, bool(rng.random() < 0.35)


def _draw_galaxy(rng: np.random.Generator, metadata: SubjectMetadata) -> Galaxy:
    length = rng.uniform(26, 46)
    count = int(rng.poisson(0.8))
    stars = [(*rng.uniform(40, SIDE - 40, 2), rng.uniform(80, 250)) for _ in range(count)]
    return Galaxy(
        scale_length=length,
        axis_ratio=rng.uniform(0.45, 1.0),
        angle=rng.uniform(0, np.pi),
        pitch=np.radians(rng.uniform(14, 26)),
        arm_phase=rng.uniform(0, 2 * np.pi),
        bar_length=length * rng.uniform(0.9, 1.4),
        has_arms=_asked(metadata.spiral_votes, metadata.total_classifications),
        has_bar=_asked(metadata.bar_votes, metadata.total_classifications),
        stars=tuple((float(x), float(y), float(peak)) for x, y, peak in stars),
        bundle=metadata.ifu_design_size,
    )


def _to_pixels(galaxy: Galaxy, radius: FloatArray, angle: FloatArray) -> FloatArray:
    """Polar coordinates in the plane of the disk to pixels, shape (n, 2)."""
    u, v = radius * np.cos(angle), radius * np.sin(angle) * galaxy.axis_ratio
    cos, sin = np.cos(galaxy.angle), np.sin(galaxy.angle)
    return np.column_stack([CRPIX + cos * u - sin * v, CRPIX + sin * u + cos * v])


def _arm_outline(galaxy: Galaxy, side: int) -> FloatArray:
    """Closed outline around one logarithmic arm."""
    inner, outer = galaxy.bar_length * 0.9, galaxy.scale_length * 4
    radius = np.geomspace(inner, outer, 14)
    angle = galaxy.arm_phase + side * np.pi + np.log(radius / inner) / np.tan(galaxy.pitch)
    return np.concatenate(
        [_to_pixels(galaxy, radius * 1.12, angle), _to_pixels(galaxy, radius * 0.88, angle)[::-1]]
    )


def _bar_outline(galaxy: Galaxy) -> FloatArray:
    """Closed outline around the bar, which ends where the arms begin."""
    half, width = galaxy.bar_length * 0.95, galaxy.bar_length * 0.28
    x = np.array([-half, 0, half, half, 0, -half])
    y = np.array([-width, -width, -width, width, width, width])
    return _to_pixels(galaxy, np.hypot(x, y), np.arctan2(y, x) + galaxy.arm_phase)


def _draw_image(rng: np.random.Generator, galaxy: Galaxy) -> NDArray[np.uint8]:
    """A gri image: disk, arms, bar, bulge, stars, and sky noise as smooth as in a JPEG."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    dx, dy = x - np.float32(CRPIX), y - np.float32(CRPIX)
    cos, sin = np.float32(np.cos(galaxy.angle)), np.float32(np.sin(galaxy.angle))
    u, v = cos * dx + sin * dy, (cos * dy - sin * dx) / np.float32(galaxy.axis_ratio)
    radius, angle = np.hypot(u, v) + np.float32(1e-3), np.arctan2(v, u)
    disk = 190 * np.exp(-radius / galaxy.scale_length)
    old = disk * np.float32(0.7) + 150 * np.exp(-radius / (galaxy.scale_length * 0.22))
    young = disk * np.float32(0.6)
    if galaxy.has_arms:
        inner = galaxy.bar_length * 0.9
        turn = angle - galaxy.arm_phase - np.log(radius / inner) / np.tan(galaxy.pitch)
        young *= 0.6 + 2.4 * np.exp(5 * (np.cos(2 * turn) - 1)) * (radius > inner)
    if galaxy.has_bar:
        along = angle - galaxy.arm_phase
        p, q = radius * np.cos(along), radius * np.sin(along)
        old += 110 * np.exp(
            -((p / (0.6 * galaxy.bar_length)) ** 4) - (q / (0.15 * galaxy.bar_length)) ** 2
        )
    for star_x, star_y, peak in galaxy.stars:
        old += peak * np.exp(-((x - star_x) ** 2 + (y - star_y) ** 2) / 18)
    image = np.empty((SIDE, SIDE, 3), np.float32)
    for channel, (share_old, share_young) in enumerate([(1.0, 0.55), (0.78, 0.7), (0.5, 1.0)]):
        image[..., channel] = share_old * old + share_young * young + 11
    image += _grain(rng)
    image[_hexagon(dx, dy, galaxy.bundle)] = MAGENTA
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _grain(rng: np.random.Generator) -> NDArray[np.float32]:
    """Sky noise, partly shared between channels and as smooth as in an enlarged JPEG."""
    shape = (SIDE + sum(GRAIN_STEPS), SIDE + sum(GRAIN_STEPS))
    shared = rng.standard_normal(shape, np.float32)
    layers = [shared + np.float32(0.6) * rng.standard_normal(shape, np.float32) for _ in range(3)]
    grain = np.stack(layers, axis=-1)
    for step in GRAIN_STEPS:
        grain = grain[step:] + grain[:-step]
        grain = grain[:, step:] + grain[:, :-step]
    grain *= np.float32(GRAIN_COUNTS / grain.std())
    return grain


def _hexagon(dx: FloatArray, dy: FloatArray, bundle: int) -> NDArray[np.bool_]:
    """Outline of the bundle, three pixels wide."""
    reach = BUNDLES[bundle] / SCALE_ARCSEC / 2
    height = np.sqrt(3) / 2 * reach
    slanted = (np.sqrt(3) * np.abs(dx) + np.abs(dy)) / 2
    distance = np.maximum(np.abs(dy), slanted) - height
    outline: NDArray[np.bool_] = np.abs(distance) < 1.5
    return outline


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
