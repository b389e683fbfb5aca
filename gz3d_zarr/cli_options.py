"""Options of the command line, each declared once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]
_TEXT = frozenset({"key", "secret", "token", "password", "username"})
"""Options that are text, even where they have digits only."""


def nest(_: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE pairs to a mapping; dots in the key nest, and the value is JSON where it can be."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        *parents, last = key.split(".")
        place = options
        if not separator or not all((*parents, last)):
            shown = re.split(r"[^\w.]", pair, maxsplit=1)[0]  # behind that may be a secret
            more = "" if shown == pair else "..."
            raise click.BadParameter(f"{shown!r}{more} is not KEY=VALUE", param=param)
        for i, parent in enumerate(parents, 1):
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise click.BadParameter(
                    f"{key!r} nests in {'.'.join(parents[:i])!r}, which has a value already",
                    param=param,
                )
        is_text = last.lower() in _TEXT or "headers" in parents
        place[last] = _value(text, is_text=is_text)
    return options


def _value(text: str, *, is_text: bool) -> Any:
    """JSON where it is; of a text, only a quoted one and an object (gcsfs takes such tokens)."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if is_text and not isinstance(value, str | dict) else value


def all_of(options: list[Command]) -> Callable[[Command], Command]:
    """One decorator of several."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


store_options = all_of(
    [
        click.option("--endpoint-url", metavar="URL", help="S3 endpoint of the store."),
        click.option("--profile", metavar="NAME", help="Profile in the AWS credential files."),
        click.option("--region", metavar="NAME", help="Region of the bucket."),
        click.option(
            "--store-backend",
            "backend",
            type=click.Choice(["s3fs", "obstore"]),
            help="Client that writes to S3; obstore is quicker. [default: s3fs]",
        ),
        click.option("--anon", is_flag=True, help="No credentials: for public buckets."),
        click.option(
            "--storage-option",
            "storage_options",
            metavar="KEY=VALUE",
            multiple=True,
            callback=nest,
            help="More for the store's file system; a dotted KEY nests. Repeatable.",
        ),
    ]
)
destination_option = click.option(
    "--destination-option",
    "destination_options",
    metavar="KEY=VALUE",
    multiple=True,
    callback=nest,
    help="As --storage-option, and for the destination only. Repeatable.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
worker_options = [
    click.option("--workers", type=int, metavar="N", help="Local processes. [default: cores]"),
    click.option(
        "--scheduler", metavar="ADDRESS", help="Run on this dask scheduler: tcp://host:8786."
    ),
]
source_options = [
    click.option(
        "--catalogue",
        metavar="FILE",
        help="gz3d_metadata.fits, if not beside the files; 'none': do without.",
    ),
    click.option("--cache", metavar="DIR", help="Keep the files that are fetched in DIR."),
    click.option(
        "--connections",
        type=int,
        metavar="N",
        default=8,
        show_default=True,
        help="To the source's server at the most, over all workers.",
    ),
    click.option(
        "--source-option",
        "source_options",
        metavar="KEY=VALUE",
        multiple=True,
        callback=nest,
        help="For the source's file system; a dotted KEY nests. Repeatable.",
    ),
]
ids_option = click.option(
    "--ids",
    type=click.File("r"),
    metavar="FILE",
    help="Only these MaNGA or Zooniverse ids, one a line; - for standard input.",
)
plan_options = all_of(
    [
        click.option("--limit", type=int, metavar="N", help="Only the first N subjects."),
        click.option("--tiny", is_flag=True, help="Only the first 5 subjects."),
        ids_option,
        click.option(
            "--min-vote-fraction",
            type=float,
            metavar="F",
            help="Only subjects whose spiral or bar fraction reaches F.",
        ),
        click.option(
            "--order",
            type=click.Choice(["healpix", "name"]),
            help="Order of subjects. [default: healpix where positions are known]",
        ),
        click.option("--shard-size", type=int, metavar="N", help="Subjects a shard. [default: 64]"),
        click.option(
            "--codec",
            type=click.Choice(["portable", "compact"]),
            help="portable: any Zarr 3 library reads it; compact: a quarter smaller. "
            "[default: portable]",
        ),
        click.option(
            "--nside",
            type=int,
            metavar="N",
            help="HEALPix resolution of the coordinate healpix. [default: 16]",
        ),
        *worker_options,
        *source_options,
        click.option("--max-memory", metavar="SIZE", help="Of each worker, such as 2GB."),
        store_options,
        click.option("--resume", is_flag=True, help="Go on with a build that has not ended."),
        click.option("--overwrite", is_flag=True, help="Replace the store that stands there."),
        click.option("--update", is_flag=True, help="Add new subjects to a complete store."),
        click.option(
            "--retry-failed", is_flag=True, help="Read again the subjects that are not ok."
        ),
        json_option,
    ]
)
rule_options = all_of(
    [
        click.option(
            "--on-error",
            type=click.Choice(["skip", "raise"]),
            default="skip",
            show_default=True,
            help="skip: flag a subject that cannot be read; raise: stop at it.",
        ),
        click.option(
            "--max-failures", type=int, metavar="N", help="Stop after more bad subjects than N."
        ),
    ]
)
