"""Examples at the end of help pages."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "build": (
        "gz3d-zarr build dr17 gz3d.zarr --cache files",
        "gz3d-zarr build files gz3d.zarr --resume",
        "gz3d-zarr build 'files/*_127_*' s3://bucket/gz3d.zarr --profile me",
    ),
    "plan": (
        "gz3d-zarr plan dr17 gz3d.zarr",
        "gz3d-zarr plan files gz3d.zarr --min-vote-fraction 0.5 --codec compact",
        "gz3d-zarr plan files s3://bucket/gz3d.zarr --update --json",
    ),
    "verify": (
        "gz3d-zarr verify gz3d.zarr",
        "gz3d-zarr verify gz3d.zarr --source files",
        "gz3d-zarr verify s3://bucket/gz3d.zarr --anon --json",
    ),
    "copy": (
        "gz3d-zarr copy gz3d.zarr /backup/gz3d.zarr",
        "gz3d-zarr copy gz3d.zarr s3://bucket/gz3d.zarr --profile me",
        "gz3d-zarr copy gz3d.zarr s3://bucket/gz3d.zarr --profile me --resume",
    ),
    "subset": (
        "gz3d-zarr subset gz3d.zarr sample.zarr --ids my_galaxies.txt",
        "gz3d-zarr subset s3://bucket/gz3d.zarr sample.zarr --anon --table drpall.fits",
        "gz3d-zarr subset gz3d.zarr spirals.zarr --min-vote-fraction 0.5 --resume",
    ),
    "info": (
        "gz3d-zarr info gz3d.zarr",
        "gz3d-zarr info gz3d.zarr --json",
        "gz3d-zarr info s3://bucket/gz3d.zarr --anon",
    ),
    "fits": (
        "gz3d-zarr export fits gz3d.zarr files",
        "gz3d-zarr export fits gz3d.zarr files --ids my_galaxies.txt",
        "gz3d-zarr export fits gz3d.zarr files --cone 233.23,43.53,600",
    ),
    "mmu": (
        "gz3d-zarr export mmu gz3d.zarr mmu",
        "gz3d-zarr export mmu gz3d.zarr mmu --ids my_galaxies.txt",
        "gz3d-zarr export mmu gz3d.zarr mmu --overwrite --workers 4",
    ),
    "marks": (
        "gz3d-zarr export marks gz3d.zarr marks.parquet",
        "gz3d-zarr export marks gz3d.zarr bars.parquet --class bar",
        "gz3d-zarr export marks gz3d.zarr marks.parquet --ids my_galaxies.txt",
    ),
    "table": (
        "gz3d-zarr export table gz3d.zarr subjects.parquet",
        "gz3d-zarr export table gz3d.zarr sample.fits --table drpall.fits",
        "gz3d-zarr export table gz3d.zarr spirals.csv --min-vote-fraction 0.5",
    ),
    "spaxels": (
        "gz3d-zarr export spaxels gz3d.zarr spaxels --table drpall-v3_1_1.fits",
        "gz3d-zarr export spaxels gz3d.zarr spaxels --table mine.csv --threshold 5",
        "gz3d-zarr export spaxels gz3d.zarr spaxels --table mine.csv --method marvin",
    ),
    "plot": (
        "gz3d-zarr plot gz3d.zarr 1-150042 -o galaxy.png",
        "gz3d-zarr plot gz3d.zarr 1-150042 14760036 -o sheet.pdf",
        "gz3d-zarr plot gz3d.zarr 1-150042 -o bar.pdf --panels masks --class bar",
    ),
    "view": (
        "gz3d-zarr view gz3d.zarr",
        "gz3d-zarr view s3://bucket/gz3d.zarr --profile me",
        "gz3d-zarr view https://host/gz3d.zarr --port 8080 --no-browser",
    ),
    "page": (
        "gz3d-zarr page s3://bucket/gz3d.zarr --profile me",
        "gz3d-zarr page s3://bucket/galaxies --store s3://bucket/gz3d.zarr --profile me",
        "gz3d-zarr page site --store https://host/gz3d.zarr",
    ),
    "simulate": (
        "gz3d-zarr simulate 64 archive",
        "gz3d-zarr simulate 64 archive --seed 1",
        "gz3d-zarr simulate 1000 archive && gz3d-zarr build archive gz3d.zarr",
    ),
    "demo": (
        "gz3d-zarr demo",
        "gz3d-zarr demo my-demo",
        "gz3d-zarr demo ~/gz3d",
    ),
}
"""Examples at the end of each help page, by command."""
