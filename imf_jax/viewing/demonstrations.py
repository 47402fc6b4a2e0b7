"""Episodes to look at from demonstrations and other datasets, whatever format they have."""

from functools import partial
from pathlib import Path

import numpy as np

from imf_jax.data.playback import find_episode
from imf_jax.data.readers.base import DatasetReader
from imf_jax.data.selection import select
from imf_jax.errors import UserError
from imf_jax.viewing.episode import ViewedEpisode, known_scene, positions_from_state

REWARDS = ("reward", "next.reward", "rewards")
"""Columns of the reward in our demonstrations, LeRobot and robomimic."""


def open_demonstration(path: Path, place: int, task: str | None = None) -> ViewedEpisode:
    """Open an episode of a dataset of any format that can be read.

    Args:
        path: folder or file, see `open_reader`.
        place: counted from 0 in the order of the dataset.
        task: whose scene it is; by default as the dataset says.

    Raises:
        ArgumentError: there is no such episode, or no such task.
        UserError: it cannot be read.
    """
    chosen = select(path)
    episode = find_episode(chosen.reader, place)
    info = chosen.reader.info(place)
    if not chosen.columns["action"]:
        raise UserError(
            f"{path}: there is no column of actions (columns: {', '.join(chosen.reader.columns) or 'none'}); view a "
            "dataset of a robot that acts"
        )
    values = chosen.read_roles(place, episode.steps)
    state, env_state = (values[role] if chosen.columns[role] else None for role in ("state", "env_state"))
    scene, notes = known_scene(info.tasks[0] if info.tasks else None, task)
    qpos, objects = None, False
    if scene is not None:
        qpos, objects, found = positions_from_state(scene, state, env_state)
        notes += found
    spaces = info.robot or (scene.task.robot.spaces if scene and qpos is not None else None)
    if not episode.cameras:
        notes += ("no pictures: it was recorded without cameras",)
    notes += ("no stages and no planned chunks: datasets do not hold them",)
    return ViewedEpisode(
        episode.title,
        episode.hz,
        values["action"],
        action_names=chosen.names("action"),
        state_names=chosen.names("state"),
        spaces=spaces,
        state=state,
        reward=_reward(chosen.reader, place),
        scene=scene,
        qpos=qpos,
        drawn_objects=objects,
        cameras={name: partial(episode.pictures, name) for name in episode.cameras},
        notes=notes,
    )


def _reward(reader: DatasetReader, place: int) -> np.ndarray | None:
    """Reward after each command (T,), where the dataset has one."""
    name = next((name for name in REWARDS if name in reader.columns), None)
    if name is None:
        return None
    values = reader.read(place, [name])[name]
    return values[:, 0] if values.shape[1] == 1 else None
