"""Settings of a suite's arms: short names become fields of a configuration, and flags that a user could type."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from imf_jax.config import KINDS, TYPE_KEY, TrainConfig, from_dict, require, to_dict, with_kind
from imf_jax.errors import ArgumentError, UserError
from imf_jax.presets import load_preset
from imf_jax.settings_file import nearest

GIVEN = ("out", "resume", "seed", "data", "tracker", "tracker_mode", "tracker_group")
"""Fields that are no settings of an arm: the suite has another key or flag for them, or sets them itself."""

UNPREFIXED = {f"policy.{name}" for name in ("prefix_training", "prefix_noise", "prefix_dropout", "delay_training")}
"""Fields of groups whose flags do not name the group."""


class Built(NamedTuple):
    """A configuration, and the words of the command line that makes it."""

    config: TrainConfig
    flags: tuple[str, ...]


def build_config(preset: str, layers: Sequence[Mapping[str, Any]], where: str) -> Built:
    """Build the configuration of an arm as the command line of `train.py` would.

    Args:
        preset: what it starts from.
        layers: settings by name; of those given several times the last one counts.
        where: what they are of, for messages.

    Raises:
        ArgumentError: a name is not known or may mean several fields, or a value cannot work; one line.
    """
    settings = [(str(key), value) for layer in layers for key, value in layer.items()]
    flags = [preset]
    try:
        config: TrainConfig = load_preset(preset)
        kinds = {key.removeprefix("policy."): value for key, value in settings if key.removeprefix("policy.") in KINDS}
        for group, kind in kinds.items():
            config = dataclasses.replace(config, policy=with_kind(config.policy, group, str(kind)))
            flags += [f"--policy.{group}", str(kind)]
        values = to_dict(config)
        fields = leaf_fields(values)
        changes = {
            find_field(key, fields): value for key, value in settings if key.removeprefix("policy.") not in kinds
        }
        for field, value in changes.items():
            *groups, name = field.split(".")
            place = values
            for part in groups:
                place = place[part]
            place[name] = value
        config = from_dict(TrainConfig, values)
    except UserError as error:
        raise ArgumentError(f"{where}: {error}") from None
    for field, value in changes.items():
        flags += as_flag(field, value)
    return Built(config, tuple(flags))


def leaf_fields(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields of a stored configuration that are no groups."""
    names = []
    for name, value in values.items():
        if isinstance(value, dict):
            names += leaf_fields(value, f"{prefix}{name}.")
        elif name != TYPE_KEY:
            names.append(prefix + name)
    return names


def find_field(key: str, fields: Sequence[str]) -> str:
    """Find the field that a name means: its dotted name, or the end of it where only one field ends so.

    The columns of datasets have names that others have too; they are meant by their dotted names only.

    Raises:
        ArgumentError: there is none, or more than one, or it is none of an arm.
    """
    name = key.replace("-", "_")
    found = [name] if name in fields else [field for field in fields if field.endswith(f".{name}")]
    found = [field for field in found if field == name or not field.startswith("columns.")]
    if not found:
        known = [field for field in fields if field not in GIVEN]
        short = [*known, *(field.rpartition(".")[2] for field in known), *KINDS, "demonstrations", "preset"]
        hint = nearest(key, sorted(set(short)))
        hint = hint if hint.startswith("; did") else "; see `train.py PRESET --help` for the settings of this policy"
        raise ArgumentError(f"{key!r} is no setting{hint}")
    require(len(found) == 1, f"{key!r} may mean {' or '.join(found)}; name the one you mean")
    instead = {"seed": "; give seeds under grid", "data": "; name the folder as demonstrations"}
    require(found[0] not in GIVEN, f"{key!r} is given by the suite itself{instead.get(found[0], '')}")
    return found[0]


def as_flag(field: str, value: Any) -> list[str]:
    """The words of a command line that set a field.

    Args:
        field: dotted name.
        value: plain types.
    """
    name = (field.rpartition(".")[2] if field in UNPREFIXED else field).replace("_", "-")
    if isinstance(value, bool):
        group, _, last = name.rpartition(".")
        return [f"--{name}" if value else f"--{group}{'.' if group else ''}no-{last}"]
    return [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}", str(value)]
