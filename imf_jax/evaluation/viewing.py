"""An episode of an evaluation folder to look at."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imf_jax.config import require
from imf_jax.errors import ArgumentError, UserError, one_line
from imf_jax.evaluation.folder import MANIFEST, RECORDS
from imf_jax.evaluation.report.load import Evaluation, read_evaluation
from imf_jax.rollout.recorders.base import episode_folder
from imf_jax.viewing.episode import ViewedEpisode, known_scene
from imf_jax.viewing.trajectory import recorded_videos, trajectory_episode

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError)
"""Errors that a damaged archive of numpy raises."""


def holds_evaluation(folder: Path) -> bool:
    """Whether a folder is that of an evaluation."""
    return (folder / MANIFEST).is_file() or (folder / RECORDS).is_file()


def open_evaluated(folder: Path, episode: int, task: str | None = None) -> ViewedEpisode:
    """Open an episode of an evaluation with trajectories.

    Args:
        folder: the evaluation folder.
        episode: its number, as in the records.
        task: whose scene it is; by default as the manifest says.

    Raises:
        ArgumentError: there is no such episode, or no such task.
        UserError: the evaluation kept no trajectories, or the file cannot be read.
    """
    return _open(read_evaluation(folder), episode, task)


def open_compared(
    first: Path, second: Path, episode: int, task: str | None = None
) -> tuple[ViewedEpisode, ViewedEpisode]:
    """Open the same scene of two evaluations; see `open_evaluated`.

    Raises:
        ArgumentError: they are not of the same scenes.
    """
    one, two = read_evaluation(first), read_evaluation(second)
    opened = _open(one, episode, task), _open(two, episode, task)
    scenes = [
        (evaluation.task, next(record.seed for record in evaluation.records if record.episode == episode))
        for evaluation in (one, two)
    ]
    require(
        scenes[0] == scenes[1],
        f"episode {episode} of {first} and of {second} are different scenes: task {scenes[0][0]}, seed {scenes[0][1]} "
        f"and task {scenes[1][0]}, seed {scenes[1][1]}; evaluate both with one --seed",
    )
    return opened


def _open(evaluation: Evaluation, episode: int, task: str | None) -> ViewedEpisode:
    folder = evaluation.folder
    records = {record.episode: record for record in evaluation.records}
    if episode not in records:
        numbers = f"{min(records)} to {max(records)}" if records else "none"
        raise ArgumentError(f"--episode {episode} is not in {folder}; its episodes: {numbers}")
    record = records[episode]
    path = folder / episode_folder(episode) / "trajectory.npz"
    require(record.steps > 0, f"--episode {episode} of {folder} ended without a step: {record.error}")
    if not path.is_file():
        raise UserError(
            f"{folder} holds no trajectory of episode {episode}; record it with: eval.py --save-trajectory "
            "(and --save-chunks, --record-video)"
        )
    scene, notes = known_scene(evaluation.task, task)
    hz = _control_hz(evaluation)
    try:
        return trajectory_episode(
            f"{folder.resolve().name}: {evaluation.label}, episode {episode}, {record.status}",
            _read(path),
            hz,
            scene=scene,
            cameras=recorded_videos(path.parent, record.steps, hz),
            perturbations=record.perturbations,
            notes=notes,
        )
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); evaluate that episode again") from None


def _control_hz(evaluation: Evaluation) -> float:
    hz: Any = evaluation.manifest.get("control_hz")
    if not isinstance(hz, int | float) or not 0 < hz < float("inf"):
        raise UserError(f"{evaluation.folder / MANIFEST} does not say the control frequency; evaluate again")
    return float(hz)


def _read(path: Path) -> Mapping[str, np.ndarray]:
    # Opened here, because numpy leaves damaged archives open.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
