"""Statistics of a folder of demonstrations for the normalizer, `stats.json`.

Run as `python -m imf_jax.data.statistics FOLDER` it writes the file again, for demonstrations that came from elsewhere.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from imf_jax.config import from_dict
from imf_jax.data.episodes import list_episodes, read_episode
from imf_jax.errors import EXIT_OK, ArgumentError, UserError, one_line
from imf_jax.files import read_failure, write_json

FILE = "stats.json"
COLUMNS = {"action": "action", "qpos": "state", "env_state": "env_state"}
"""Key of `stats.json`, as in the HDF5 files -> column of an `Episode`."""
MOMENTS = ("min", "max", "mean", "std")

TOLERANCE = 1e-4
"""Largest deviation of a stored statistic from the data, relative to the range of its dimension."""


@dataclass(frozen=True)
class DatasetStatistics:
    """Statistics of a folder of demonstrations.

    Attributes:
        task: name of the task.
        num_episodes: demonstrations.
        num_steps: control steps of all demonstrations.
        arrays: `action`, `qpos`, `env_state` -> `min`, `max`, `mean`, `std` (population), each a list of D floats in
            the unit of the data, and `count`, the number of rows.
    """

    task: str
    num_episodes: int
    num_steps: int
    arrays: dict[str, dict[str, Any]]


class RecordedSteps(Protocol):
    """Interface of the steps of an episode.

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


class Accumulator:
    """Merges mean and sum of squared deviations of blocks (Chan, Golub and LeVeque, 1979), in float64."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, block: np.ndarray) -> None:
        """Add a block of rows (N, channels), N >= 1."""
        values = block.astype(np.float64)
        mean = values.mean(axis=0)
        squares = np.square(values - mean).sum(axis=0)
        if self.count == 0:
            self.count, self.mean, self.squares = len(values), mean, squares
            self.min, self.max = values.min(axis=0), values.max(axis=0)
            return
        total = self.count + len(values)
        delta = mean - self.mean
        self.squares = self.squares + squares + np.square(delta) * (self.count * len(values) / total)
        self.mean = self.mean + delta * (len(values) / total)
        self.count = total
        self.min = np.minimum(self.min, values.min(axis=0))
        self.max = np.maximum(self.max, values.max(axis=0))

    def result(self) -> dict[str, Any]:
        """`min`, `max`, `mean`, `std` of all rows as lists with an entry per channel, and their `count`."""
        std = np.sqrt(self.squares / self.count)
        values = zip(MOMENTS, (self.min, self.max, self.mean, std), strict=True)
        return {**{name: value.tolist() for name, value in values}, "count": self.count}


def compute_statistics(episodes: Iterable[RecordedSteps]) -> DatasetStatistics:
    """Statistics of demonstrations, one at a time, so that they need not fit in memory.

    Raises:
        UserError: there are none, or they belong to different tasks or have scene states of different widths.
    """
    accumulators = {key: Accumulator() for key in COLUMNS}
    num_episodes, task, width = 0, "", 0
    for episode in episodes:
        if num_episodes == 0:
            task, width = episode.task, episode.env_state.shape[1]
        require_alike(episode, task, width)
        num_episodes += 1
        for key, accumulator in accumulators.items():
            accumulator.add(getattr(episode, COLUMNS[key]))
    if num_episodes == 0:
        raise UserError("there are no demonstrations to compute statistics of; record some with scripts/collect.py")
    arrays = {key: accumulator.result() for key, accumulator in accumulators.items()}
    return DatasetStatistics(task, num_episodes, accumulators["action"].count, arrays)


def require_alike(episode: RecordedSteps, task: str, env_state_dim: int) -> None:
    """Refuse an episode of another task, or whose scene state has another width, than the first of its folder.

    Raises:
        UserError: see above.
    """
    if (episode.task, episode.env_state.shape[1]) != (task, env_state_dim):
        raise UserError(
            f"demonstration {episode.episode}: task {episode.task!r} with {episode.env_state.shape[1]} channels "
            f"of scene state, but the first one has {task!r} and {env_state_dim}; keep one task per folder"
        )


def write_statistics(directory: Path) -> DatasetStatistics:
    """Compute the statistics of a folder and write its `stats.json` atomically.

    Raises:
        UserError: the folder or a demonstration in it cannot be used.
    """
    statistics = compute_statistics(read_episode(path) for path in list_episodes(directory))
    write_json(directory / FILE, asdict(statistics))
    return statistics


def read_statistics(directory: Path) -> DatasetStatistics:
    """Read and validate the form of `stats.json`; `check_statistics` compares it with the demonstrations.

    Raises:
        UserError: the file is absent or damaged; the message names the key.
    """
    path = directory / FILE
    try:
        statistics = from_dict(DatasetStatistics, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise _bad(directory, "is missing") from None
    except OSError as error:
        raise read_failure(path, error, f"cannot be read ({one_line(error)})") from None
    except (ValueError, UserError) as error:
        raise _bad(directory, f"is damaged ({error})") from None
    for key in COLUMNS:
        if key not in statistics.arrays:
            raise _bad(directory, f"has no {key!r}")
        for name in MOMENTS:
            try:
                value = np.asarray(statistics.arrays[key].get(name), np.float64)
            except (TypeError, ValueError):
                raise _bad(directory, f"has something other than numbers under {key}.{name}") from None
            if value.ndim != 1 or not np.isfinite(value).all():
                raise _bad(directory, f"holds no list of finite numbers under {key}.{name}")
    return statistics


def check_statistics(directory: Path, found: DatasetStatistics) -> None:
    """Refuse a `stats.json` that was not made from the demonstrations beside it.

    Args:
        directory: the folder.
        found: statistics computed from its demonstrations.

    Raises:
        UserError: names the key that differs, and the command that mends it.
    """
    stored = read_statistics(directory)
    for name in ("task", "num_episodes", "num_steps"):
        if getattr(stored, name) != getattr(found, name):
            raise _bad(
                directory, f"says {name} {getattr(stored, name)!r}, the demonstrations have {getattr(found, name)!r}"
            )
    for key in COLUMNS:
        expected = {name: np.asarray(found.arrays[key][name]) for name in MOMENTS}
        allowed = TOLERANCE * (expected["max"] - expected["min"]) + 1e-6
        for name in MOMENTS:
            value = np.asarray(stored.arrays[key][name])
            if value.shape != expected[name].shape or (np.abs(value - expected[name]) > allowed).any():
                raise _bad(directory, f"does not fit the demonstrations at {key}.{name}")


def _bad(directory: Path, what: str) -> UserError:
    mend = f"write it again with: python -m imf_jax.data.statistics {directory}"
    return UserError(f"statistics {directory / FILE}: {what}; {mend}")


def main() -> int:
    """Write `stats.json` of the folder named on the command line."""
    if len(sys.argv) != 2:
        raise ArgumentError("usage: python -m imf_jax.data.statistics FOLDER")
    statistics = write_statistics(Path(sys.argv[1]))
    print(f"{Path(sys.argv[1]) / FILE}: {statistics.num_episodes} demonstrations, {statistics.num_steps} steps")
    return EXIT_OK


if __name__ == "__main__":
    from imf_jax.cli import run_main

    run_main(main)
