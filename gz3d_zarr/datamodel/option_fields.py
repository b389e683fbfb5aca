"""Options of entry points, declared once: fields of a dataclass that carry their help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import PurePath
from types import FunctionType
from typing import Any, TypeVar

import numpy as np

from gz3d_zarr.errors import UsageError

Group = TypeVar("Group")


_EXPECTED: Mapping[type, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping with names as keys",
    list: "a list",
    tuple: "a name or several",
    FunctionType: "a function",
}


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """What the command line needs to know about an option, besides its name and default.

    Attributes
    ----------
    help : str
        One sentence or two.
    type : type
        Of one value. A mapping is given as KEY=VALUE pairs, a list as a file, a tuple of names by
        repeating the option.
    metavar : str
        Placeholder of the value in help pages.
    choices : tuple of str
        All values, where they are few.
    flags : tuple of str
        Names on the command line, where they are others; the first is the one to use.
    """

    help: str
    type: type = str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


def option(
    default: Any,
    help: str,  # noqa: A002 - click's name for it
    type: type = str,  # noqa: A002
    metavar: str = "",
    *,
    choices: tuple[str, ...] = (),
    flags: tuple[str, ...] = (),
    repr: bool = True,  # noqa: A002 - the name that dataclasses have
) -> Any:
    """Declare a field of a group of options."""
    spec = OptionSpec(help, type, metavar, choices, flags)
    return field(default=default, repr=repr, metadata={"option": spec})


def option_specs(group: type) -> dict[str, tuple[OptionSpec, Any]]:
    """Spec and default of each option of a group, by name."""
    return {f.name: (f.metadata["option"], f.default) for f in fields(group)}


def check_type(name: str, value: Any, kind: type, *, is_shown: bool = True) -> Any:
    """Return the value of an option as a plain Python object; None stays None.

    Parameters
    ----------
    name : str
    value : object
    kind : type
        As in `OptionSpec`; a str may be given as a path, a list as any iterable but text, a tuple
        as one name or any iterable of them.
    is_shown : bool
        False where the value may be a secret, which no message repeats.

    Raises
    ------
    UsageError
        It has another type.
    """
    if value is None:
        return None
    if isinstance(value, bool | np.bool_):
        if kind is bool:
            return bool(value)
    elif kind is int and isinstance(value, Integral):
        return int(value)
    elif kind is float and isinstance(value, Real):
        return float(value)
    if kind is FunctionType and callable(value):
        return value
    if kind is str and isinstance(value, str | PurePath) and "\0" not in str(value):
        return value
    if kind is dict and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return value
    if kind is list and isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return value
    if kind is tuple and isinstance(value, str):
        return (value,)
    if kind is tuple and isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        names = tuple(value)
        if all(isinstance(name, str) for name in names):
            return names
    shown = f"{value!r:.60}" if is_shown else f"a value of type {type(value).__name__}"
    raise UsageError(f"{name} is {shown}, expected {_EXPECTED[kind]}")


def check_types(group: Any) -> None:
    """Check the type of each option of a group, and make its value plain.

    Raises
    ------
    UsageError
        Names the first of another type.
    """
    for f in fields(group):
        kind = f.metadata["option"].type
        if getattr(group, f.name) is None and f.default is not None:
            raise UsageError(f"{f.name} is None, expected {_EXPECTED[kind]}")
        plain = check_type(f.name, getattr(group, f.name), kind, is_shown=f.repr)
        object.__setattr__(group, f.name, plain)


def check_options(function: Callable[..., Any], options: Mapping[str, Any], *groups: type) -> None:
    """Refuse keyword arguments that are in none of the groups.

    Raises
    ------
    UsageError
        Names the unknown options, and lists those that `function` takes.
    """
    known = [f.name for group in groups for f in fields(group) if f.init]
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
    names = {f.name for f in fields(group) if f.init}  # type: ignore[arg-type]
    return group(**{name: value for name, value in options.items() if name in names})
