"""Compare builds to S3 on loopback with builds to disk, and s3fs with obstore, in one run.

    python benchmarks/s3.py [--count 1024] [--delay 0.05] [--rounds 2] [--source DIR]

The S3 server (moto, which keeps objects in memory) and a proxy that delays every answer run in a
separate process, on the same cores as the build. Each target is built in turn, and the best build
is reported. Then one process puts the shards of one build again, with s3fs and with obstore, four
at a time, directly and through the delaying proxy. Needs the extra ``test``. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from measuring import describe_machine, find_originals, link, run

TESTS = Path(__file__).parents[1] / "tests"
SECRETS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1024)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds before every answer")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--source", type=Path, help="a folder of subject files")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.delay)
        return
    os.environ |= SECRETS
    with (
        tempfile.TemporaryDirectory(prefix="gz3d-benchmark-") as scratch,
        servers(options.delay) as (direct, delayed),
    ):
        folder = Path(scratch)
        source = link(find_originals(options.source, folder), folder / "source", options.count)
        slow = f"S3, {1e3 * options.delay:.0f} ms before each answer"
        ways = {
            "disk": (None, "s3fs"), "S3": (direct, "s3fs"), slow: (delayed, "s3fs"),
            "S3, obstore": (direct, "obstore"), f"{slow}, obstore": (delayed, "obstore"),
        }  # fmt: skip
        print(f"{describe_machine()}; {options.count} subjects\n")
        print("| store | seconds | subjects/s | relative to disk | inside the build | peak MB |")
        print("|" + " --- |" * 6)
        best: dict[str, tuple[float, float, int]] = {}
        for _ in range(options.rounds):
            for name, (endpoint, backend) in ways.items():
                found = build(source, folder / "g.zarr", endpoint, backend, options)
                best[name] = min(found, best.get(name, found))
        for name, (seconds, inside, peak) in best.items():
            print(
                f"| {name} | {seconds:.1f} | {options.count / seconds:.0f} "
                f"| {best['disk'][0] / seconds:.2f} | {inside:.0f} | {peak / 1e6:.0f} |"
            )
        compare_clients(source, folder / "g.zarr", direct, delayed, options)


def build(
    source: Path, path: Path, endpoint: str | None, backend: str, options: argparse.Namespace
) -> tuple[float, float, int]:
    """Build once and delete it: seconds of the command, its own rate, peak bytes."""
    command = [sys.executable, "-m", "gz3d_zarr", "build", str(source)]
    target = [str(path)]
    if endpoint is not None:
        target = ["s3://gz3d/g.zarr", "--endpoint-url", endpoint, "--store-backend", backend]
    measured, output = run([*command, *target, "--workers", str(options.workers), "--json"])
    report = json.loads(output)
    if report["ok"] != options.count:
        raise SystemExit(f"{report['failures']}")
    if endpoint is None:
        shutil.rmtree(path)
    else:
        file_system(endpoint).rm("gz3d/g.zarr", recursive=True)
    return measured.seconds, report["subjects_per_second"], measured.peak_bytes


def compare_clients(
    source: Path, path: Path, direct: str, delayed: str, options: argparse.Namespace
) -> None:
    """Put the same shards with s3fs and with obstore."""
    from obstore.store import S3Store

    build_arguments = [str(source), str(path), "--workers", str(options.workers)]
    run([sys.executable, "-m", "gz3d_zarr", "build", *build_arguments])
    shards = [path.read_bytes() for path in sorted(path.glob("image/c/*/0/0/0"))]
    megabytes = sum(map(len, shards)) / 1e6
    print(f"\n{len(shards)} shards of pictures, {megabytes:.0f} MB, four at a time\n")
    print("| client | endpoint | seconds | MB/s | CPU seconds |")
    print("|" + " --- |" * 5)
    for where, endpoint in (("S3", direct), ("S3, delayed", delayed)):
        fs = file_system(endpoint)
        store = S3Store(
            "gz3d", endpoint=endpoint, access_key_id="testing", secret_access_key="testing",
            region="us-east-1", client_options={"allow_http": True},
        )  # fmt: skip
        puts: dict[str, Callable[[str, bytes], Any]] = {
            "s3fs": lambda key, data, fs=fs: fs.pipe_file(f"gz3d/{key}", data),
            "obstore": lambda key, data, store=store: store.put(key, data, use_multipart=False),
        }
        for name, put in puts.items():
            times = []
            for _ in range(options.rounds):
                start, used = time.perf_counter(), time.process_time()
                with ThreadPoolExecutor(4) as executor:
                    keys = [f"{name}/{i}" for i in range(len(shards))]
                    list(executor.map(put, keys, shards))
                times.append((time.perf_counter() - start, time.process_time() - used))
                fs.rm(f"gz3d/{name}", recursive=True)
            seconds, used = min(times)
            print(f"| {name} | {where} | {seconds:.2f} | {megabytes / seconds:.0f} | {used:.2f} |")


def file_system(endpoint: str) -> Any:
    """s3fs as the package uses it."""
    return fsspec.filesystem(
        "s3", endpoint_url=endpoint, max_concurrency=1, use_listings_cache=False
    )


@contextmanager
def servers(delay: float) -> Iterator[tuple[str, str]]:
    """Endpoints of a server, direct and with a delay, in a separate process."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", "--delay", str(delay)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        direct, delayed = json.loads(process.stdout.readline())
        yield direct, delayed
    finally:
        process.communicate("")  # it ends with its standard input
        process.wait()


def serve(delay: float) -> None:
    """Serve until standard input ends."""
    sys.path.insert(0, str(TESTS))
    from object_stores import run_moto, run_proxy

    with run_moto() as moto, run_proxy(moto) as proxy:
        proxy.delay = delay
        print(json.dumps([moto.endpoint, proxy.server.endpoint]), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
