"""JSON documents that prove to be as they were written, and records with fields of their types."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Record = TypeVar("Record")
_DIGEST = "sha256"
"""Key of the digest of all other keys."""
PARSE_ERRORS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What content that is not as expected raises where it is read from JSON."""


def seal(content: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """Serialize, with a digest by which `unseal` finds any change."""
    return json.dumps(
        {**content, _DIGEST: _digest(content)}, allow_nan=False, indent=indent
    ).encode()


def unseal(data: bytes) -> dict[str, Any]:
    """Parse what `seal` gives; one of `PARSE_ERRORS` where it is anything else."""
    content: dict[str, Any] = json.loads(data)
    if content.pop(_DIGEST) != _digest(content):
        raise ValueError("it is not as it was written (SHA-256)")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def check_fields(record: Record) -> Record:
    """Return a dataclass whose fields have the types that it declares; TypeError otherwise."""
    cls: Any = type(record)  # typeshed: type[T] is not Hashable
    for name, has_type in _field_checks(cls).items():
        if not has_type(getattr(record, name)):
            raise TypeError(f"{name} has a wrong type or is out of range")
    return record


@functools.cache
def _field_checks(cls: type) -> Mapping[str, Callable[[Any], bool]]:
    return {name: _type_check(hint) for name, hint in get_type_hints(cls).items()}


def _type_check(hint: Any) -> Callable[[Any], bool]:
    if get_origin(hint) is tuple:
        of_item = _type_check(get_args(hint)[0])
        return lambda value: isinstance(value, tuple) and all(map(of_item, value))
    if isinstance(hint, UnionType):
        checks = [_type_check(part) for part in get_args(hint)]
        return lambda value: any(check(value) for check in checks)
    if hint is int:
        return lambda value: type(value) is int and -(2**63) <= value < 2**63  # no bool
    if hint is float:
        return lambda value: type(value) in (int, float)
    return lambda value: isinstance(value, hint)
