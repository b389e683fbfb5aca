"""Options of entry points, declared once: fields of a dataclass that carry their help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from gz3d_zarr.errors import UsageError

Group = TypeVar("Group")


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """What the command line needs to know about an option, besides its name and default.

    Attributes
    ----------
    help : str
        One sentence or two.
    type : type
        Of one value. A mapping is given as KEY=VALUE pairs, a list as a file.
    metavar : str
        Placeholder of the value in help pages.
    choices : tuple of str
        All values, where they are few.
    """

    help: str
    type: type = str
    metavar: str = ""
    choices: tuple[str, ...] = ()


def option(
    default: Any,
    help: str,  # noqa: A002 - click's name for it
    type: type = str,  # noqa: A002
    metavar: str = "",
    *,
    choices: tuple[str, ...] = (),
    repr: bool = True,  # noqa: A002 - the name that dataclasses have
) -> Any:
    """Declare a field of a group of options."""
    spec = OptionSpec(help, type, metavar, choices)
    return field(default=default, repr=repr, metadata={"option": spec})


def option_specs(group: type) -> dict[str, tuple[OptionSpec, Any]]:
    """Spec and default of each option of a group, by name."""
    return {f.name: (f.metadata["option"], f.default) for f in fields(group)}


def check_options(function: Callable[..., Any], options: Mapping[str, Any], *groups: type) -> None:
    """Refuse keyword arguments that are in none of the groups.

    Raises
    ------
    UsageError
        Names the unknown options, and lists those that `function` takes.
    """
    known = [f.name for group in groups for f in fields(group)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        parameters = inspect.signature(function).parameters.values()
        named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        raise UsageError(
            f"unknown option {', '.join(unknown)} for {function.__name__}; its options are "
            f"{', '.join([*known, *named])}"
        )


def take_options(group: type[Group], options: Mapping[str, Any]) -> Group:
    """Make a group from those of the keyword arguments that are its fields."""
    names = option_specs(group)
    return group(**{name: value for name, value in options.items() if name in names})
