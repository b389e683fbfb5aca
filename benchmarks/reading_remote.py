"""Measure reads over HTTP and S3 on loopback, by our readers and by xarray with each pipeline.

    python benchmarks/reading_remote.py [--count 256] [--delay 0.05] [--rounds 3] [--source DIR]

The S3 server (moto, which keeps objects in memory) and a proxy, which delays every answer and
counts requests, run in a separate process on the same cores. Over HTTP, the same objects are read
by their addresses, without signatures. Every method reads the same subjects; methods take turns.
Each cell has the fewest seconds, and the number of requests. The first subject is one of a shard of
which nothing was read; the second is of the same shard. Values are compared with a local store.
Needs the extras ``test`` and ``obstore``. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from measuring import describe_machine, find_originals, link
from reading import DEFAULT_PIPELINE
from s3 import SECRETS, TESTS

import gz3d_zarr
from gz3d_zarr.backends import codec_pipeline

Open = Callable[[], xr.Dataset]
NEAR = slice(64, 128)
"""Subjects of one shard."""
SCATTERED = 40
"""Random subjects."""

NOT_TAKEN = (
    ImportError,
    UserWarning,
    AttributeError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What zarr raises where a pipeline is not installed, or does not take a store."""


@dataclass
class Server:
    """The servers' process, and where they are."""

    process: subprocess.Popen[str]
    endpoint: str
    bucket: str

    def count(self) -> int:
        """Requests since the last call."""
        print("count", file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds before every answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--source", type=Path, help="a folder of subject files")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.delay)
        return
    if options.count < NEAR.stop:
        raise SystemExit(f"--count is {options.count}, expected at least {NEAR.stop}")
    os.environ |= SECRETS
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="gz3d-benchmark-") as scratch:
        folder = Path(scratch)
        source = link(find_originals(options.source, folder), folder / "source", options.count)
        gz3d_zarr.build(source, folder / "g.zarr", workers=2, order="name")
        with start_servers(folder / "g.zarr", options.delay) as server:
            print(
                f"{describe_machine()}; {options.count} subjects, "
                f"{1e3 * options.delay:.0f} ms before each answer\n"
            )
            expected = gz3d_zarr.open_store(folder / "g.zarr", chunks=None)
            print_table(server, expected, options.rounds)


def make_ways(server: Server) -> dict[str, Open]:
    """Name of each method, and how it opens the store."""
    s3, http = f"s3://{server.bucket}/g.zarr", f"{server.endpoint}/{server.bucket}/g.zarr"
    fsspec_options: dict[str, Any] = {"endpoint_url": server.endpoint}
    obstore_options = {
        **fsspec_options, "backend": "obstore", "key": "testing", "secret": "testing",
        "client_kwargs": {"region_name": "us-east-1"},
    }  # fmt: skip
    places = {"S3, s3fs": (s3, fsspec_options), "HTTP": (http, None)}
    ours = {**places, "S3, obstore": (s3, obstore_options)}
    ways: dict[str, Open] = {}
    for name, (url, options) in ours.items():
        for chunks in ("shards", None):
            ways[f"{name}: open_store(chunks={chunks!r})"] = (
                lambda url=url, options=options, chunks=chunks: gz3d_zarr.open_store(
                    url, storage_options=options, chunks=chunks
                )
            )
    for pipeline in (DEFAULT_PIPELINE, *codec_pipeline.PIPELINES):
        for name, (url, options) in places.items():

            def opened(pipeline: str = pipeline, url: str = url, options: Any = options) -> Any:
                with zarr.config.set({"codec_pipeline.path": pipeline}):
                    return xr.open_zarr(url, storage_options=options, chunks=None)

            ways[f"{name}: xr.open_zarr(chunks=None), {pipeline.rpartition('.')[2]}"] = opened
    return ways


def print_table(server: Server, expected: xr.Dataset, rounds: int) -> None:
    """Measure all methods, and print seconds and requests."""
    rows = np.random.default_rng(0).choice(expected.sizes["subject"], SCATTERED, replace=False)
    reads: dict[str, Any] = {
        "first subject": 1, "second subject": 2, "64 near pictures": NEAR,
        f"{SCATTERED} random pictures": np.sort(rows),
    }  # fmt: skip
    ways = make_ways(server)
    best: dict[str, list[tuple[float, int]]] = {}
    for _ in range(rounds):
        for name, open_ in list(ways.items()):
            try:
                found = measure(server, open_, reads, expected)
            except (
                ImportError,
                UserWarning,
                ValueError,
                TypeError,
                RuntimeError,
                KeyError,
            ) as error:
                ways.pop(name)
                print(f"- {name}: not measured, {type(error).__name__}: {error!s:.90}")
                continue
            best[name] = [min(pair) for pair in zip(found, best.get(name, found), strict=True)]
    print()
    print("| method | open | " + " | ".join(reads) + " |")
    print("|" + " --- |" * (2 + len(reads)))
    for name, cells in best.items():
        print(f"| {name} | " + " | ".join(f"{s:.2f} ({n})" for s, n in cells) + " |")


def measure(
    server: Server, open_: Open, reads: dict[str, Any], expected: xr.Dataset
) -> list[tuple[float, int]]:
    """Seconds and requests of opening, and of each read."""
    server.count()
    start = time.perf_counter()
    dataset = open_()
    found = [(time.perf_counter() - start, server.count())]
    for rows in reads.values():
        names = ("image", "segmentation") if isinstance(rows, int) else ("image",)
        chosen = dataset.isel(subject=rows)
        start = time.perf_counter()
        values = [chosen[name].values for name in names]
        found.append((time.perf_counter() - start, server.count()))
        for name, value in zip(names, values, strict=True):
            if not np.array_equal(value, expected[name].isel(subject=rows)):
                raise SystemExit(f"other values of {name}")
    return found


@contextmanager
def start_servers(store: Path, delay: float) -> Iterator[Server]:
    """Serve a copy of a store from a separate process."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(store), "--delay", str(delay)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Server(process, *json.loads(process.stdout.readline()))
    finally:
        process.communicate("")  # it ends with its standard input
        process.wait()


def serve(store: Path, delay: float) -> None:
    """Serve until standard input ends; tell the number of requests at each of its lines."""
    sys.path.insert(0, str(TESTS))
    from object_stores import run_moto, run_proxy

    with run_moto() as moto, run_proxy(moto) as proxy:
        moto.allow_everybody_to_read()
        for path in store.rglob("*"):
            if path.is_file():
                moto.put(f"g.zarr/{path.relative_to(store).as_posix()}", path.read_bytes())
        proxy.delay = delay
        print(json.dumps([proxy.server.endpoint, moto.bucket]), flush=True)
        for _ in sys.stdin:
            print(sum(proxy.count().values()), flush=True)
            proxy.forget()


if __name__ == "__main__":
    main()
