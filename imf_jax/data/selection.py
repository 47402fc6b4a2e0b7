"""The part of a dataset that a policy learns from: its columns in their roles, and the cameras that it sees."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imf_jax.data.readers.base import ROLES, DatasetReader, EpisodeInfo
from imf_jax.data.readers.recognise import open_reader
from imf_jax.errors import UserError


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
    """

    reader: DatasetReader
    columns: dict[str, tuple[str, ...]]

    def read(self, index: int, info: EpisodeInfo | None = None) -> Steps:
        """All steps of an episode; `info`: its description, if it is known already.

        Raises:
            UserError: it cannot be read, or holds a value that is not finite.
        """
        info = info or self.reader.info(index)
        columns = self.reader.read(index, [name for role in ROLES for name in self.columns[role]])
        joined = {role: _join([columns[name] for name in self.columns[role]], info.steps) for role in ROLES}
        for role, values in joined.items():
            if not np.isfinite(values).all():
                step = int(np.argwhere(~np.isfinite(values))[0][0])
                raise UserError(
                    f"{self.reader.path}: {' '.join(self.columns[role])} of {info.name} is not finite at step {step}; "
                    "look into it with: python scripts/data.py inspect"
                )
        tasks = info.tasks if self.reader.tasks is None else self.reader.tasks
        return Steps(info.number, "; ".join(tasks), joined["action"], joined["state"], joined["env_state"])


def select(source: "Path | DatasetReader | Selection") -> Selection:
    """The columns and cameras of a dataset that have a role by their names; a selection is returned as it is.

    Raises:
        UserError: the dataset cannot be opened.
    """
    if isinstance(source, Selection):
        return source
    reader = open_reader(source) if isinstance(source, Path) else source
    return Selection(reader, reader.roles)


def _join(columns: list[np.ndarray], steps: int) -> np.ndarray:
    """Columns side by side, float32 (T, D)."""
    if not columns:
        return np.zeros((steps, 0), np.float32)
    with np.errstate(over="ignore"):  # a double too large for float32 becomes infinite, and is refused as such
        converted = [np.asarray(values, np.float32) for values in columns]
    return converted[0] if len(converted) == 1 else np.concatenate(converted, axis=1)
