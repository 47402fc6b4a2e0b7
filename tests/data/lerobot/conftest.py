"""Recordings with known content: two small cameras, a scene state of 7 channels."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from transfer_task import SPACES

from imf_jax.data.lerobot.features import Feature, robot_features

FPS = 50
CAMERAS = {"front": (32, 32), "top": (16, 24)}


@pytest.fixture
def features() -> dict[str, Feature]:
    return robot_features(SPACES, CAMERAS, 7)


@pytest.fixture
def constants() -> dict[str, Any]:
    return {"success": True, "seed": 3, "scene": 7}


@pytest.fixture
def make_frames() -> Callable[..., Iterator[dict[str, Any]]]:
    """`make_frames(count, seed)`: frames whose pictures brighten by 12 per step, starting at `seed`."""

    def make(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(seed)
        for step in range(count):
            yield {
                "observation.state": rng.normal(size=16).astype(np.float32),
                "action": rng.normal(size=16).astype(np.float32),
                "observation.environment_state": rng.normal(size=7).astype(np.float32),
                "next.reward": float(step),
                "intervention": step % 2 == 1,
                "observation.images.front": np.full((32, 32, 3), seed + 12 * step, np.uint8),
                "observation.images.top": np.full((16, 24, 3), 255 - 12 * step, np.uint8),
            }

    return make
