"""Configurations as JSON, in checkpoints and manifests."""

import dataclasses
import typing
from pathlib import Path
from typing import Any, TypeVar

from imf_jax.errors import UserError

TYPE_KEY = "type"
"""Names the class of a dataclass that is stored where several are possible."""


def _choices(hint: Any) -> tuple[type, ...]:
    """The dataclasses that a type hint allows, in order."""
    options = typing.get_args(hint) or (hint,)
    return tuple(option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option))


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON types (paths become strings); `from_dict` reads it."""

    def plain(value: Any, hint: Any = None) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            hints = typing.get_type_hints(type(value))
            fields = {f.name: plain(getattr(value, f.name), hints[f.name]) for f in dataclasses.fields(value)}
            return ({TYPE_KEY: type(value).__name__} if len(_choices(hint)) > 1 else {}) | fields
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    return plain(config)


T = TypeVar("T")


def from_dict(kind: type[T], values: Any) -> T:
    """The configuration that `to_dict` wrote. Absent fields take their defaults, so older files stay readable.

    Args:
        kind: the dataclass.
        values: what `to_dict` made of an instance.

    Raises:
        UserError: a field is not known, or has a value of another kind.
        ArgumentError: a value cannot work.
    """
    return _read(kind, values, "")


def _read(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"configuration {where or kind.__name__} must be an object, not {values!r}")
    hints = typing.get_type_hints(kind)
    arguments = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"configuration field {where}{name} is not known; it was written by another version")
        hint, choices = hints[name], _choices(hints[name])
        if choices and value is not None:
            # A field that had only one type when it was written names none: it was the first of today's.
            content = dict(value) if isinstance(value, dict) else value
            tag = content.pop(TYPE_KEY, choices[0].__name__) if isinstance(content, dict) else choices[0].__name__
            chosen = next((choice for choice in choices if choice.__name__ == tag), None)
            if chosen is None:
                raise UserError(f"configuration field {where}{name} names the unknown type {tag!r}")
            arguments[name] = _read(chosen, content, f"{where}{name}.")
        elif value is not None and (hint is Path or Path in typing.get_args(hint)):
            arguments[name] = Path(value)
        elif isinstance(value, list):
            arguments[name] = tuple(value)
        else:
            arguments[name] = value
    try:
        return kind(**arguments)
    except TypeError as error:
        raise UserError(f"configuration {where or kind.__name__} holds a value of the wrong kind: {error}") from None
