"""Action and state of a robot as ordered, named parts: what every other room needs to know about a robot.

The parts say where quaternions, joints and grippers lie in the flat arrays of actions (..., A) and states (..., S), so
that policies, delays, demonstrations and datasets handle any robot without knowing it. How a robot is built and how its
actions become servo targets is `imf_jax.sim.robots`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from imf_jax.config import from_dict, to_dict
from imf_jax.errors import UserError

Kind = Literal["position", "quaternion", "joint", "gripper", "value"]
"""position: of an end effector in the world; quaternion: wxyz, its orientation there; joint: angles or targets of
joints; gripper: an opening; value: numbers whose meaning nobody says, in data from elsewhere."""

ENTRIES: dict[Kind, tuple[str, ...]] = {
    "position": ("x", "y", "z"),
    "quaternion": ("qw", "qx", "qy", "qz"),
}
"""Names of the entries of parts of these kinds."""


@dataclass(frozen=True)
class Part:
    """A part of an action or a state: `dim` entries that belong together.

    Attributes:
        name: unique among the parts, for example "left_arm".
        dim: number of entries.
        kind: what they are, see `Kind`.
        unit: of each entry, for people: "m", "rad", "" for pure numbers.
        effector: index of the end effector that it belongs to.
        entries: names of the entries; by default made of the name and the kind.
        low: smallest value of each entry; empty where there is no limit.
        high: largest value.
    """

    name: str
    dim: int
    kind: Kind
    unit: str
    effector: int = 0
    entries: tuple[str, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def entry_names(self) -> tuple[str, ...]:
        """The name of each entry."""
        if self.entries:
            return self.entries
        if self.kind in ENTRIES:
            return tuple(f"{self.name}_{entry}" for entry in ENTRIES[self.kind])
        return (self.name,) if self.dim == 1 else tuple(f"{self.name}{i + 1}" for i in range(self.dim))


@dataclass(frozen=True)
class RobotSpaces:
    """Name, action, state and end effectors of a robot.

    Attributes:
        name: of the robot, as datasets call it.
        action: the parts of an action, in order.
        state: the parts of a state, in order.
        effectors: identifiers of the end effectors, whose poses are measured, drawn and recorded.
        effector_names: their names for people.
        action_text: what an action is, in one line for people.
        state_text: what a state is.
    """

    name: str
    action: tuple[Part, ...]
    state: tuple[Part, ...]
    effectors: tuple[str, ...]
    effector_names: tuple[str, ...]
    action_text: str = ""
    state_text: str = ""

    @cached_property
    def action_dim(self) -> int:
        """Entries A of an action."""
        return sum(part.dim for part in self.action)

    @cached_property
    def state_dim(self) -> int:
        """Entries S of a state."""
        return sum(part.dim for part in self.state)

    @cached_property
    def action_parts(self) -> tuple[tuple[Part, slice], ...]:
        """The parts of an action with the place of each."""
        return _placed(self.action)

    @cached_property
    def state_parts(self) -> tuple[tuple[Part, slice], ...]:
        """The parts of a state with the place of each."""
        return _placed(self.state)

    @cached_property
    def quaternions(self) -> tuple[slice, ...]:
        """Places of the quaternions of an action."""
        return tuple(place for part, place in self.action_parts if part.kind == "quaternion")

    @cached_property
    def action_names(self) -> tuple[str, ...]:
        """Names of the entries of an action."""
        return tuple(name for part in self.action for name in part.entry_names())

    @cached_property
    def state_names(self) -> tuple[str, ...]:
        """Names of the entries of a state."""
        return tuple(name for part in self.state for name in part.entry_names())

    def fits(self, other: "RobotSpaces") -> bool:
        """Whether actions and states of both have the same entries in the same order."""
        return (self.action_names, self.state_names) == (other.action_names, other.state_names)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, see `from_json`."""
        return to_dict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RobotSpaces":
        """Read what `to_json` made.

        Raises:
            UserError: a field is missing, not known or of another type, or a part does not fit its kind, its names and
                limits, or the end effectors.
        """
        spaces = from_dict(cls, dict(values))
        for part in (*spaces.action, *spaces.state):
            dim = len(ENTRIES[part.kind]) if part.kind in ENTRIES else part.dim
            lengths = {len(listed) for listed in (part.entries, part.low, part.high) if listed}
            if part.dim < 1 or part.dim != dim or lengths - {dim}:
                raise UserError(f"part {part.name!r} of robot {spaces.name!r} does not have {dim} entries")
            if not 0 <= part.effector < len(spaces.effectors):
                raise UserError(f"part {part.name!r} of robot {spaces.name!r} belongs to no end effector")
        return spaces


def _placed(parts: tuple[Part, ...]) -> tuple[tuple[Part, slice], ...]:
    placed, start = [], 0
    for part in parts:
        placed.append((part, slice(start, start + part.dim)))
        start += part.dim
    return tuple(placed)
