"""The part of a dataset that a policy learns from: its columns in their roles, and the cameras that it sees."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imf_jax.config import ColumnsConfig, nearest_known, require
from imf_jax.data.readers.base import ROLES, DatasetReader, EpisodeInfo
from imf_jax.data.readers.recognise import open_reader
from imf_jax.errors import UserError
from imf_jax.spaces import Part, RobotSpaces


@dataclass
class Steps:
    """All control steps of an episode.

    Attributes:
        episode: its number.
        task: what is done in it.
        action: float32 (T, A).
        state: float32 (T, S).
        env_state: float32 (T, E).
    """

    episode: int
    task: str
    action: np.ndarray
    state: np.ndarray
    env_state: np.ndarray


@dataclass(frozen=True)
class Selection:
    """Columns and cameras of a dataset.

    Attributes:
        reader: the dataset.
        columns: role (see `ROLES`) -> names of columns, which are joined in this order.
        cameras: what the dataset calls the cameras of the policy, in its order; empty where it calls them the same.
    """

    reader: DatasetReader
    columns: dict[str, tuple[str, ...]]
    cameras: tuple[str, ...] = ()

    def source_cameras(self, cameras: tuple[str, ...]) -> tuple[str, ...]:
        """What the dataset calls these cameras.

        Raises:
            ArgumentError: as many names are not given.
        """
        require(
            len(self.cameras) in (0, len(cameras)),
            f"--columns.cameras names {len(self.cameras)} cameras, but {len(cameras)} are read "
            f"({', '.join(cameras)}); name as many, or choose them with --policy.encoder.cameras or --model.cameras",
        )
        return self.cameras or cameras

    def names(self, role: str) -> tuple[str, ...]:
        """Names of the entries of a role."""
        return tuple(name for column in self.columns[role] for name in self.reader.columns[column].names)

    def width(self, role: str) -> int:
        """Entries of a role."""
        return len(self.names(role))

    def spaces(self) -> RobotSpaces:
        """The robot as the dataset tells it: a part per column, whose entries have the names of the dataset."""
        parts: dict[str, tuple[Part, ...]] = {}
        for role in ("action", "state"):
            columns = [(name, self.reader.columns[name]) for name in self.columns[role]]
            parts[role] = tuple(
                Part(name, len(column.names), "value", column.unit, entries=column.names) for name, column in columns
            )
        text = {role: "; ".join(part.name for part in parts[role]) for role in parts}
        name = self.reader.robot or "unknown"
        return RobotSpaces(name, parts["action"], parts["state"], (name,), (name,), text["action"], text["state"])

    def read(self, index: int, info: EpisodeInfo | None = None) -> Steps:
        """All steps of an episode; `info`: its description, if it is known already.

        Raises:
            UserError: it cannot be read, or holds a value that is not finite.
        """
        info = info or self.reader.info(index)
        joined = self.read_roles(index, info.steps)
        for role, values in joined.items():
            if not np.isfinite(values).all():
                step = int(np.argwhere(~np.isfinite(values))[0][0])
                raise UserError(
                    f"{self.reader.path}: {' '.join(self.columns[role])} of {info.name} is not finite at step {step}; "
                    "look into it with: python scripts/data.py inspect"
                )
        tasks = info.tasks if self.reader.tasks is None else self.reader.tasks
        return Steps(info.number, "; ".join(tasks), joined["action"], joined["state"], joined["env_state"])

    def read_roles(self, index: int, steps: int) -> dict[str, np.ndarray]:
        """Role -> its values in an episode of T `steps`, float32 (T, D), whether finite or not; D is 0 without columns.

        Raises:
            UserError: it cannot be read.
        """
        columns = self.reader.read(index, [name for role in ROLES for name in self.columns[role]])
        return {role: _join([columns[name] for name in self.columns[role]], steps) for role in ROLES}


def select(source: "Path | DatasetReader | Selection", columns: ColumnsConfig | None = None) -> Selection:
    """The columns and cameras of a dataset that have a role; a selection is returned as it is.

    Args:
        source: where it is, or the opened dataset.
        columns: names for what has another name than usual in the format.

    Raises:
        ArgumentError: a column is not there.
        UserError: the dataset cannot be opened.
    """
    if isinstance(source, Selection):
        return source
    jpeg_order = ColumnsConfig.jpeg_order if columns is None else columns.jpeg_order
    reader = open_reader(source, jpeg_order) if isinstance(source, Path) else source
    roles = dict(reader.roles)
    if columns is None:
        return Selection(reader, roles)
    for role in ROLES:
        for name in getattr(columns, role):
            known = reader.columns
            require(
                name in known, f"--columns.{role}: {reader.path} has no column {name!r}; {nearest_known(name, known)}"
            )
        roles[role] = getattr(columns, role) or roles[role]
    for role in ("action", "state"):
        known = reader.columns
        require(
            bool(roles[role]),
            f"{reader.path}: it cannot be told which column is the {role}; name it with --columns.{role} "
            f"(there are: {', '.join(known) or 'none'})",
        )
    return Selection(reader, roles, columns.cameras)


def _join(columns: list[np.ndarray], steps: int) -> np.ndarray:
    """Columns side by side, float32 (T, D)."""
    if not columns:
        return np.zeros((steps, 0), np.float32)
    with np.errstate(over="ignore"):  # a double too large for float32 becomes infinite, and is refused as such
        converted = [np.asarray(values, np.float32) for values in columns]
    return converted[0] if len(converted) == 1 else np.concatenate(converted, axis=1)
