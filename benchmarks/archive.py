"""Compare ``gz3d-zarr build`` from an HTTP server and from a local folder, in one run.

    python benchmarks/archive.py [--count 1024] [--source DIR] [--workers 2] [--delay 0.05]

The server is a separate process on loopback, on the same cores as the build. It serves the folder,
its index page, catalogue and sha1 list, once as fast as it can and once with a delay before every
answer. Subjects and measurements are the same as in ``build.py``. Each source is built
``--rounds`` times in turn, and the best build is reported. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from measuring import Measured, describe_machine, find_originals, link, run


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1024)
    parser.add_argument("--source", type=Path, help="a folder of subject files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds before every answer")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gz3d-benchmark-") as scratch:
        folder = Path(scratch)
        originals = find_originals(options.source, folder)
        source = link(originals, folder / "source", options.count)
        delayed = f"HTTP, {1e3 * options.delay:.0f} ms before each answer"
        with serve(source, 0) as fast, serve(source, options.delay) as slow:
            ways = {"local folder": str(source), "HTTP": fast, delayed: slow}
            found = measure(ways, folder / "gz3d.zarr", options)
        print(f"{describe_machine()}; {options.count} subjects")
        print()
        print("| source | seconds | subjects/s | inside the build | ratio | peak MB |")
        print("|" + " --- |" * 6)
        first = next(iter(found.values()))
        for name, (measured, report) in found.items():
            print(
                f"| {name} | {measured.seconds:.1f} | {options.count / measured.seconds:.0f} "
                f"| {report['subjects_per_second']:.0f} "
                f"| {first[0].seconds / measured.seconds:.2f} "
                f"| {measured.peak_bytes / 1e6:.0f} |"
            )


def measure(
    ways: dict[str, str], store: Path, options: argparse.Namespace
) -> dict[str, tuple[Measured, dict[str, Any]]]:
    """Build from each source in turn; the fastest build of each."""
    best: dict[str, tuple[Measured, dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for name, source in ways.items():
            command = [
                sys.executable, "-m", "gz3d_zarr", "build", source, str(store),
                "--workers", str(options.workers), "--json",
            ]  # fmt: skip
            measured, output = run(command)
            report = json.loads(output)
            if report["ok"] != options.count:
                raise SystemExit(f"{report['failures']}")
            shutil.rmtree(store)
            if name not in best or measured.seconds < best[name][0].seconds:
                best[name] = measured, report
    return best


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder with a delay."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, delay: float, directory: str) -> None:
        self.delay = delay
        super().__init__(*args, directory=directory)

    def do_GET(self) -> None:
        """Wait, then answer."""
        time.sleep(self.delay)
        super().do_GET()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Let the kernel copy files, as real servers do; index pages come from memory."""
        try:
            source.fileno()
        except OSError:
            super().copyfile(source, outputfile)
        else:
            outputfile.flush()
            self.connection.sendfile(source)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def run_server(folder: Path, delay: float, port: Any) -> None:
    """Serve until the process ends."""
    handler = functools.partial(Handler, delay=delay, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        port.put(server.server_address[1])
        server.serve_forever()


@contextmanager
def serve(folder: Path, delay: float) -> Iterator[str]:
    """URL of a server in a separate process."""
    context = multiprocessing.get_context("spawn")
    port: Any = context.SimpleQueue()
    process = context.Process(target=run_server, args=(folder, delay, port), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port.get()}/"
    finally:
        process.terminate()
        process.join()


if __name__ == "__main__":
    main()
