"""One scene of a task as an environment of Gymnasium."""

from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.vector import AutoresetMode

from imf_jax.envs.vector import EPISODES, SceneVectorEnv


class SceneEnv(gymnasium.Env[Any, np.ndarray]):
    """One scene; observations, actions, rewards and info are those of `SceneVectorEnv` without the leading axis.

    Args:
        settings: those of `SceneVectorEnv`, but how many scenes there are and when they begin anew.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 (as in `SceneVectorEnv`)

    def __init__(self, **settings: Any) -> None:
        self._scene = SceneVectorEnv(1, autoreset_mode=AutoresetMode.DISABLED, **settings)
        self.metadata = self.metadata | {"render_fps": self._scene.metadata["render_fps"]}
        self.render_mode = self._scene.render_mode
        self.observation_space, self.action_space = (
            self._scene.single_observation_space,
            self._scene.single_action_space,
        )
        self.task, self.task_description = self._scene.task, self._scene.task_description
        self._max_episode_steps = self._scene.max_episode_steps

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin episode `seed`; without it one that is drawn."""
        super().reset(seed=seed)
        episode = int(self.np_random.integers(EPISODES)) if seed is None else seed
        return _only(self._scene.reset(seed=[episode]))

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Advance by a control step; see `SceneVectorEnv.step`."""
        observation, reward, terminated, truncated, info = self._scene.step(np.asarray(action)[None])
        observation, info = _only((observation, info))
        return observation, float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> np.ndarray | None:
        """Picture of the scene, uint8 (H, W, 3); None without a render mode."""
        pictures = self._scene.render()
        return None if pictures is None else pictures[0]

    def close(self) -> None:
        """Release the simulation."""
        self._scene.close()


def _only(values: tuple[dict[str, Any], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Observation and info of the only scene."""
    observation, info = values
    shown = {name: leaf[0].item() if leaf[0].ndim == 0 else leaf[0] for name, leaf in info.items() if name[0] != "_"}
    return jax.tree.map(lambda leaf: leaf[0], observation), shown
