"""Configurations and other dataclasses as JSON, in checkpoints, manifests and records, and read again by type."""

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar

from cattrs import AttributeValidationNote, BaseValidationError, Converter, ForbiddenExtraKeysError
from cattrs.cols import homogenous_tuple_structure_factory
from cattrs.gen import make_dict_structure_fn
from cattrs.strategies import configure_union_passthrough

from imf_jax.config.policy import PolicyConfig
from imf_jax.errors import UserError

TYPE_KEY = "type"
"""Names the class of a dataclass that is stored where several are possible."""

T = TypeVar("T")
Structure = Callable[[Any, Any], Any]


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON types (paths become strings); `from_dict` reads it."""
    values: dict[str, Any] = _CONVERTER.unstructure(config)
    return values


def flat_flags(values: dict[str, Any]) -> dict[str, Any]:
    """What `to_dict` made of a configuration, with the fields of its groups beside the others, as flags are."""
    flags: dict[str, Any] = {}
    for name, value in values.items():
        flags |= value if isinstance(value, dict) else {name: value}
    return flags


def from_dict(kind: type[T], values: Any) -> T:
    """The dataclass that `to_dict` wrote. Absent fields take their defaults, so older files stay readable.

    Args:
        kind: the dataclass.
        values: what `to_dict` made of an instance.

    Raises:
        UserError: a field is missing or not known, or its value is of another type; one line that names the field.
        ArgumentError: a value cannot work.
    """
    try:
        return _CONVERTER.structure(values, kind)
    except (BaseValidationError, TypeError) as error:
        raise _refusal(error, kind, values) from None


def _refusal(error: BaseException, hint: Any, value: Any) -> Exception:
    """The first mistake of a group as one line: the path of the field, what came, and what is expected."""
    path = ""
    while isinstance(error, BaseValidationError):
        value = _upgraded(value, hint)
        located, others = error.group_exceptions()  # type: ignore[attr-defined]
        if others:
            return _unknown_field(others[0], path) if isinstance(others[0], ForbiddenExtraKeysError) else others[0]
        error, note = located[0]
        is_field = isinstance(note, AttributeValidationNote)
        name = note.name if is_field else note.index
        path += f".{name}" if is_field else f"[{name!r}]"
        if isinstance(value, dict) and name not in value:
            return UserError(f"field {path.removeprefix('.')} is missing")
        hint, value = note.type, value[name]
    where = f"field {path.removeprefix('.')}" if path else hint.__name__
    return UserError(f"{where} is {value!r:.100}; it must be {_expected(hint)}")


def _unknown_field(error: ForbiddenExtraKeysError, path: str) -> UserError:
    name = min(map(str, error.extra_fields))
    close = difflib.get_close_matches(name, [field.name for field in dataclasses.fields(error.cl)], n=1)
    why = f"did you mean {close[0]}?" if close else "it was written by another version"
    return UserError(f"field {f'{path}.{name}'.removeprefix('.')} is not known; {why}")


def _expected(hint: Any) -> str:
    """What a type hint allows, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _expected(arguments[0])
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if _is_tagged(hint):
        return f"a mapping with {TYPE_KEY} {' or '.join(repr(choice.__name__) for choice in arguments)}"
    if origin in (typing.Union, UnionType):
        return " or ".join(map(_expected, arguments))
    return "a mapping" if dataclasses.is_dataclass(hint) else _WORDS[origin or hint]


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    Path: "a path",
    tuple: "a list",
    dict: "a mapping",
    NoneType: "null",
}


def _is_tagged(hint: Any) -> bool:
    """Whether a type hint leaves the choice between dataclasses."""
    is_union = typing.get_origin(hint) in (typing.Union, UnionType)
    return is_union and all(map(dataclasses.is_dataclass, typing.get_args(hint)))


_ONCE_ELSEWHERE: dict[type, dict[str, tuple[str, ...]]] = {
    PolicyConfig: {
        "head": ("action_dim", "obs_horizon", "pred_horizon", "num_action_steps"),
        "objective": ("prefix_training",),
    }
}
"""Of a dataclass: fields that older versions stored within one of its groups."""


def _upgraded(value: Any, hint: Any) -> Any:
    """Stored fields where today's version has them."""
    if not isinstance(value, dict):
        return value
    for group, names in _ONCE_ELSEWHERE.get(hint, {}).items() if isinstance(hint, type) else ():
        stored = value.get(group)
        if isinstance(stored, dict):
            moved = {name: stored[name] for name in names if name in stored and name not in value}
            rest = {name: stored[name] for name in stored if name not in moved}
            value = {**value, group: rest, **moved}
    return value


def _only(*kinds: type, then: Structure = lambda value, hint: value) -> Structure:
    """Refuse what has not one of these JSON types before looking into it: a text is no list of letters."""

    def structure(value: Any, hint: Any) -> Any:
        if type(value) not in kinds:  # exactly: in Python a bool is an int
            raise TypeError
        return then(value, hint)

    return structure


def _finite(value: float, hint: Any) -> float:
    if not math.isfinite(value):
        raise TypeError
    return value  # a whole number stays one: what is written again is what was read


def _tagged(value: dict[str, Any], hint: Any) -> Any:
    choices = {choice.__name__: choice for choice in typing.get_args(hint)}
    # A field that had only one type when it was written names none: it was the first of today's.
    tag = value.get(TYPE_KEY, next(iter(choices)))
    if tag not in choices:
        raise TypeError
    return _CONVERTER.structure({name: value[name] for name in value if name != TYPE_KEY}, choices[tag])


def _make_converter() -> Converter:
    """Cattrs as strict as JSON allows: lists become tuples and texts become paths, nothing else is converted."""
    converter = Converter(forbid_extra_keys=True, unstruct_collection_overrides={tuple: list})
    configure_union_passthrough(int | str | None, converter)
    for hint in (bool, int, str):
        converter.register_structure_hook(hint, _only(hint))
    converter.register_structure_hook(float, _only(int, float, then=_finite))
    converter.register_structure_hook_func(_is_tagged, _only(dict, then=_tagged))
    converter.register_unstructure_hook_factory(
        _is_tagged,
        lambda hint: lambda value: {TYPE_KEY: type(value).__name__, **converter.unstructure(value)},
    )

    @converter.register_structure_hook_factory(dataclasses.is_dataclass)
    def mapping(hint: Any) -> Structure:
        structure = make_dict_structure_fn(hint, converter)
        return _only(dict, then=lambda value, hint: structure(_upgraded(value, hint), hint))

    @converter.register_structure_hook_factory(lambda hint: typing.get_origin(hint) is tuple)
    def sequence(hint: Any) -> Structure:
        return _only(list, tuple, then=homogenous_tuple_structure_factory(hint, converter))

    return converter


_CONVERTER = _make_converter()
