"""Small demonstrations with known content."""

from collections.abc import Callable

import numpy as np
import pytest
from transfer_task import SPACES

from imf_jax.data.episodes import Episode

ENV_STATE_DIM = 7


def smooth(steps: int, width: int, phase: float) -> np.ndarray:
    """Sinusoids of different frequency per channel, float32 (steps, width)."""
    time = np.linspace(0, 1, steps)[:, None]
    return np.sin(time * (1 + np.arange(width)) + phase).astype(np.float32)


@pytest.fixture
def make_episode() -> Callable[..., Episode]:
    def make(episode: int = 0, steps: int = 20, **changes: object) -> Episode:
        values = {
            "action": smooth(steps, 16, episode),
            "state": smooth(steps, 16, episode + 0.5),
            "env_state": smooth(steps, ENV_STATE_DIM, episode + 1.0),
            "reward": np.arange(steps, dtype=np.float32) // 5,
            "noise": smooth(steps, 16, episode + 1.5) / 100,
            "seed": 3,
            "episode": episode,
            "task": "transfer",
            "control_hz": 50.0,
            "success": True,
            "spaces": SPACES,
        }
        return Episode(**(values | changes))

    return make
