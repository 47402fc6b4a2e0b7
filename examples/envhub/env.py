"""The scenes of imf_jax for LeRobot's EnvHub: the file `env.py` of a repository on the hub, or of a folder.

LeRobot loads it and calls `make_env`. The package itself must be installed: pip install 'imf_jax[gymnasium]'.
Change the constants for another task, other cameras or another size of pictures.
"""

from functools import partial
from typing import Any

from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from imf_jax.envs.single import SceneEnv
from imf_jax.envs.vector import SceneVectorEnv

SCENE: dict[str, Any] = {
    "task": "transfer",
    "obs_type": "pixels_agent_pos",
    "cameras": ("top", "front"),
    "image_size": 128,
    "render_mode": "rgb_array",
}


def make_env(n_envs: int = 1, use_async_envs: bool = False, cfg: Any = None) -> VectorEnv[Any, Any, Any]:
    """Make the environment: one batched simulation of `n_envs` scenes, or with `use_async_envs` a process for each.

    The batched one is the faster one on few cores. `cfg` is what LeRobot was configured with; nothing of it is read.
    """
    if not use_async_envs:
        return SceneVectorEnv(n_envs, autoreset_mode=AutoresetMode.SAME_STEP, **SCENE)
    scenes: list[Any] = [partial(SceneEnv, **SCENE)] * n_envs
    # A fork would copy JAX's threads, which do not survive it.
    return AsyncVectorEnv(scenes, context="forkserver", autoreset_mode=AutoresetMode.SAME_STEP)
