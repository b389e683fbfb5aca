"""The group of all commands: what they share, from options to exit status."""

from __future__ import annotations

import functools
import json
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

import gz3d_zarr
from gz3d_zarr.cli.options import (
    SectionGroup,
)
from gz3d_zarr.datamodel.limits import MAX_LIST
from gz3d_zarr.errors import GZ3DError, UsageError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SUBJECTS_FAILED = 3
EXIT_INTERRUPTED = 130
Command = Callable[..., Any]


def gather(options: dict[str, Any]) -> dict[str, Any]:
    """Turn what click gives into keyword arguments of the Python functions."""
    storage = options["storage_options"]
    for name in ("endpoint_url", "profile", "anon", "backend"):
        value = options.pop(name)
        if value:
            storage[name] = value
    region = options.pop("region")
    if region:
        more = storage.get("client_kwargs", {})
        if not isinstance(more, dict):
            raise UsageError("the storage option client_kwargs is a value, expected names in it")
        storage["client_kwargs"] = {**more, "region_name": region}
    file = options.get("ids")
    if file is not None:
        try:
            text = file.read(MAX_LIST + 1)
        except UnicodeDecodeError:
            raise UsageError(f"{file.name} is not text; expected one id per line") from None
        if len(text) > MAX_LIST:
            raise UsageError(f"{file.name} has more than {MAX_LIST // 2**20} MiB; expected ids")
        lines = [line.partition("#")[0].split() for line in text.splitlines()]
        options["ids"] = [word for words in lines for word in words]
    return options


def print_result(result: Any, as_json: bool) -> None:
    """Print a report for people, or its summary as JSON."""
    click.echo(json.dumps(result.summary(), indent=1) if as_json else result.to_text())


def handle_errors(command: Command) -> Command:
    """Turn an error into one line and an exit status; with --json, also into JSON on stdout."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except GZ3DError as error:
            if kwargs.get("as_json"):
                click.echo(json.dumps({"error": str(error), "type": type(error).__name__}))
            click.echo(f"Error: {error}", err=True)
            sys.exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED)
        except KeyboardInterrupt:
            hint = " To continue, run the same command with --resume." if "resume" in kwargs else ""
            click.echo(f"Interrupted.{hint}", err=True)
            sys.exit(EXIT_INTERRUPTED)

    return run


class _Messages(logging.Handler):
    """Log lines of this package, printed with the other messages, above a bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            click.echo(record.getMessage(), err=True)


@click.group(
    cls=SectionGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(gz3d_zarr.__version__, prog_name="gz3d-zarr")
def main() -> None:
    """Galaxy Zoo: 3D as one cloud-native Zarr store."""
    # Dask reports every lost connection of a closing cluster; our own errors say what matters.
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
    ours = logging.getLogger("gz3d_zarr")
    ours.setLevel(logging.INFO)
    ours.handlers = [_Messages()]
    # As clean an end as Ctrl-C, which a shell's background jobs ignore.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
