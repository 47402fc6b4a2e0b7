"""The scenes as environments of Gymnasium: importing this package registers one for each task of this package.

    import gymnasium
    import imf_jax.envs

    env = gymnasium.make("imf_jax/transfer", obs_type="pixels_agent_pos", cameras=("top",))
    envs = gymnasium.make_vec("imf_jax/insert", num_envs=64)     # one batched simulation, not 64 environments

Tasks from outside are environments too: `imf_jax.envs.vector.SceneVectorEnv(8, task="package.module:Name")`.
"""

import importlib.util

from imf_jax.errors import UserError

if importlib.util.find_spec("gymnasium") is None:
    raise UserError("the environments need Gymnasium; install it: pip install 'imf_jax[gymnasium]'")

from gymnasium.envs.registration import register

TASKS = ("transfer", "insert", "aloha-transfer", "aloha-insertion")
"""Tasks that are registered, as `imf_jax/<name>`."""

for _task in TASKS:
    register(
        f"imf_jax/{_task}",
        entry_point="imf_jax.envs.single:SceneEnv",
        vector_entry_point="imf_jax.envs.vector:SceneVectorEnv",
        kwargs={"task": _task},
    )
