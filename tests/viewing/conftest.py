"""Demonstrations whose scene is known at every step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transfer_task import SPACES

from imf_jax.data.episodes import Episode, write_episodes
from imf_jax.viewing.episode import scene_of

STEPS = 6


@pytest.fixture
def demonstration() -> Callable[..., Episode]:
    """Make an episode of a robot that moves all joints, and of a box that rises."""

    def make(episode: int, images: dict[str, np.ndarray] | None = None) -> Episode:
        scene, steps = scene_of("transfer"), np.arange(STEPS, dtype=np.float32)[:, None]
        joints, grippers = 0.1 * steps * np.ones(14, np.float32), np.full((STEPS, 2), 0.03, np.float32)
        box = np.tile(np.array([0.5, 0.1, 0.1, 1, 0, 0, 0], np.float32), (STEPS, 1))
        box[:, 2] += 0.01 * steps[:, 0]
        state = scene.robot.read_state(np.asarray(scene.qpos(joints, grippers, box[:, None])))
        action = np.tile(np.array([0.4, 0.3, 0.2, 1, 0, 0, 0, 0.04], np.float32), (STEPS, 2))
        action[:, 0] += 0.02 * steps[:, 0]
        return Episode(
            action, state, box, steps[:, 0], 0 * action, 0, episode, "transfer", 50.0, True, SPACES,
            images=images or {},
        )  # fmt: skip

    return make


@pytest.fixture
def demos(script: Callable[..., Any], demonstration: Callable[..., Episode]) -> Path:
    """Two demonstrations in the folder of the script; the picture of a step is of brightness 40 times its number."""
    front = np.arange(STEPS, dtype=np.uint8)[:, None, None, None] * np.full((32, 48, 3), 40, np.uint8)
    write_episodes(Path("demos"), [demonstration(number, {"front": front}) for number in range(2)])
    return Path("demos")
