"""Options of the command line, and help pages that show them in sections.

Options that Python functions take too are fields of `SelectionOptions`, `LayoutOptions`,
`FetchOptions`, `FailurePolicy` and `PictureOptions`, which give their names, types, defaults and
help.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import click

from gz3d_zarr.analysis.picture_options import PictureOptions
from gz3d_zarr.cli.help_examples import EXAMPLES
from gz3d_zarr.datamodel.layout import LayoutOptions
from gz3d_zarr.datamodel.option_fields import OptionSpec, option_specs
from gz3d_zarr.datamodel.subject import CLASSES
from gz3d_zarr.locations import refuse_irregular
from gz3d_zarr.pipeline.failure_policy import FailurePolicy
from gz3d_zarr.sources.options import FetchOptions, SelectionOptions

Command = Callable[..., Any]
SECTIONS = (
    "Picture",
    "Page",
    "Spaxels",
    "Selection",
    "Layout",
    "Source",
    "Store and S3",
    "Workers",
    "Recovery",
    "Other",
)
_TEXT = frozenset({"key", "secret", "token", "password", "username"})
"""Options that are text, even if they have only digits."""


class RegularFile(click.File):
    """A text file, or - for standard input; a named pipe could be waited for without end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Open it; a usage error if it is a pipe, a socket or a device."""
        if isinstance(value, str) and value != "-":
            try:
                refuse_irregular(value)
            except OSError as error:
                self.fail(f"{value}: {error.strerror}; use - for standard input", param, ctx)
        return super().convert(value, param, ctx)


class SectionOption(click.Option):
    """An option that a help page lists under the title of its section."""

    def __init__(self, *args: Any, section: str = "Other", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionCommand(click.Command):
    """A command with a help page of titled sections, and examples at its end."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Explain what to do if the shell has expanded a glob to many names.

        With --json, a usage error is also JSON on standard output.
        """
        as_json = "--json" in args and any(p.name == "as_json" for p in self.params)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if type(error) is click.UsageError and "extra arg" in error.message:
                hint = "(put quotes around a glob, so that the shell does not expand it)"
                error = click.UsageError(f"{error.message} {hint}", ctx)
            if as_json:
                found = {"error": error.format_message(), "type": "UsageError"}
                click.echo(json.dumps(found))
            raise error from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write options section by section."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in SECTIONS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and record is not None:
                sections[getattr(parameter, "section", "Other")].append(record)
        filled = {title: records for title, records in sections.items() if records}
        for title, records in filled.items():
            with formatter.section("Options" if len(filled) == 1 else title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each on a line of its own."""
        with formatter.section("Examples"):
            for example in EXAMPLES.get(self.name or "", ()):
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")
        super().format_epilog(ctx, formatter)


class SectionGroup(click.Group):
    """A group of such commands."""

    command_class = SectionCommand

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; globs are left to it on Windows too, where click would expand them."""
        return super().main(*args, **{"windows_expand_args": False, **kwargs})


def nest(_: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE pairs to a mapping; dots in KEY nest, and VALUE is parsed as JSON if it can be."""
    options: dict[str, Any] = {}
    for number, pair in enumerate(pairs, 1):  # not repeated in messages: it may be a secret
        key, separator, text = pair.partition("=")
        *parents, last = key.split(".")
        inner = options
        if not separator or not all((*parents, last)):
            raise click.BadParameter(f"value {number} is not KEY=VALUE", param=param)
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise click.BadParameter(
                    f"value {number} nests in a KEY which already has a value", param=param
                )
        is_text = last.lower() in _TEXT or "headers" in parents
        inner[last] = _parse_value(text, is_text=is_text)
    return options


def parse_cone(
    _: click.Context, param: click.Parameter, text: str | None
) -> tuple[float, float, float] | None:
    """RA,DEC,RADIUS to three numbers."""
    if text is None:
        return None
    try:
        ra, dec, radius = (float(part) for part in text.split(","))
    except ValueError:
        ra = dec = radius = math.nan
    if not (math.isfinite(ra) and -90 <= dec <= 90 and 0 < radius <= 180 * 3600):
        raise click.BadParameter(
            f"{text!r} is not RA,DEC,RADIUS: degrees, degrees, arcseconds", param=param
        )
    return ra, dec, radius


def _parse_value(text: str, *, is_text: bool) -> Any:
    """JSON if it is; for text, only a quoted string or an object (gcsfs takes such tokens)."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if is_text and not isinstance(value, str | dict) else value


def all_of(*options: Command) -> Callable[[Command], Command]:
    """Make one decorator of several."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def in_section(section: str, *names: str, **attributes: Any) -> Command:
    """Declare an option that belongs to a section."""
    return click.option(*names, cls=SectionOption, section=section, **attributes)


def declare_options(
    group: type, section: str, *names: str, hidden: Sequence[str] = ()
) -> Callable[[Command], Command]:
    """Options for fields of a group, for all or for some of them."""
    specs = option_specs(group)
    return all_of(
        *(
            in_section(section, *_names(name, *specs[name]), hidden=name in hidden, **kwargs)
            for name in names or specs
            for kwargs in [_click_arguments(*specs[name])]
        )
    )


def _names(name: str, spec: OptionSpec, default: Any) -> tuple[str, ...]:
    flag = (name.removesuffix("s") if spec.type is dict else name).replace("_", "-")
    if default is True:
        return f"--{flag}/--no-{flag}", name
    return *(f"--{given}" for given in spec.flags or (flag,)), name


def _click_arguments(spec: OptionSpec, default: Any) -> dict[str, Any]:
    shared = {"help": spec.help, "metavar": spec.metavar or None}
    if spec.type is bool:
        return {"help": spec.help, "is_flag": True, "default": default}
    if spec.type is dict:
        return {**shared, "multiple": True, "callback": nest}
    kind: Any = RegularFile("r") if spec.type is list else spec.type
    kind = click.Choice(spec.choices) if spec.choices else kind
    if spec.type is tuple:
        return {**shared, "type": kind, "multiple": True, "callback": _none_if_empty}
    return {**shared, "type": kind, "default": default, "show_default": default is not None}


def _none_if_empty(
    _: click.Context, __: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Option was not given: as its default in Python."""
    return names or None


selection_options = declare_options(
    SelectionOptions,
    "Selection",
    "limit",
    "tiny",
    "ids",
    "missing_ids",
    "ids_table",
    "min_vote_fraction",
    "order",
)
ids_option = declare_options(SelectionOptions, "Selection", "ids")
layout_options = declare_options(LayoutOptions, "Layout")
catalogue_option = declare_options(SelectionOptions, "Source", "catalogue")
source_options = all_of(catalogue_option, declare_options(FetchOptions, "Source"))
plan_source_options = all_of(
    catalogue_option,
    declare_options(FetchOptions, "Source", hidden=("cache", "connections", "trust_names")),
)
store_options = all_of(
    in_section("Store and S3", "--endpoint-url", metavar="URL", help="S3 endpoint of the store."),
    in_section("Store and S3", "--profile", metavar="NAME", help="Profile of AWS credentials."),
    in_section("Store and S3", "--region", metavar="NAME", help="Region of the bucket."),
    in_section(
        "Store and S3",
        "--store-backend",
        "backend",
        type=click.Choice(["s3fs", "obstore"]),
        help="S3 client. [default: s3fs; obstore is faster]",
    ),
    in_section(
        "Store and S3", "--anon", is_flag=True, help="Use no credentials, for public buckets."
    ),
    in_section(
        "Store and S3",
        "--storage-option",
        "storage_options",
        metavar="KEY=VALUE",
        multiple=True,
        callback=nest,
        help="Option for the store's file system; dots in KEY nest. Repeatable.",
    ),
)
destination_option = in_section(
    "Store and S3",
    "--destination-option",
    "destination_options",
    metavar="KEY=VALUE",
    multiple=True,
    callback=nest,
    help="Like --storage-option, for the destination only. Repeatable.",
)
worker_options = all_of(
    in_section(
        "Workers", "--workers", type=int, metavar="N", help="Local processes. [default: cores]"
    ),
    in_section(
        "Workers", "--scheduler", metavar="ADDRESS", help="Dask scheduler, such as tcp://host:8786."
    ),
)
memory_option = in_section(
    "Workers",
    "--max-memory",
    metavar="SIZE",
    help="Memory that each worker may use, such as 2GB.",
)
mode_options = all_of(
    in_section(
        "Recovery", "--resume", is_flag=True, help="Resume an unfinished build, or start a new one."
    ),
    in_section(
        "Recovery",
        "--overwrite",
        is_flag=True,
        help="Replace the existing store, unless good subjects of it would be lost. An object "
        "store is deleted first: files that turn out to be damaged are noticed too late.",
    ),
    in_section("Recovery", "--update", is_flag=True, help="Add new subjects to a complete store."),
    in_section("Recovery", "--retry-failed", is_flag=True, help="Read the failed subjects again."),
)
failure_options = declare_options(FailurePolicy, "Recovery")
unused_failure_options = declare_options(
    FailurePolicy, "Recovery", hidden=("on_error", "max_failures")
)
"""Accepted by `plan`, so that a command's ``build`` can be replaced by ``plan``."""
cone_option = in_section(
    "Selection",
    "--cone",
    metavar="RA,DEC,RADIUS",
    callback=parse_cone,
    help="Only subjects within RADIUS arcseconds of a position in degrees.",
)
min_vote_fraction_option = declare_options(SelectionOptions, "Selection", "min_vote_fraction")
table_option = in_section(
    "Selection",
    "--table",
    metavar="FILE",
    help="Only subjects whose MaNGA ids are in a table, such as DRPall: FITS, CSV, ECSV, VOTable "
    "or Parquet. With it, --ids may have plate-IFUs.",
)
row_options = all_of(ids_option, cone_option, min_vote_fraction_option, table_option)
ROW_OPTIONS = ("ids", "cone", "min_vote_fraction", "table")
"""Which subjects of a store, as `RowRules` has them."""
class_option = in_section(
    "Selection",
    "--class",
    "classes",
    type=click.Choice(CLASSES),
    multiple=True,
    help="Only marks of this class. Repeatable. [default: all]",
)
picture_options = all_of(
    in_section(
        "Picture",
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="Image file: .png, .pdf, .svg or .jpg.",
    ),
    declare_options(PictureOptions, "Picture"),
)
json_option = in_section("Other", "--json", "as_json", is_flag=True, help="Print JSON.")
