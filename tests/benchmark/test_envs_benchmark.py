"""The vector environment beside Gymnasium's: the same scenes, and every side is timed."""

import numpy as np
import pytest

from imf_jax.benchmark import envs, peers
from imf_jax.benchmark.components import SEED
from imf_jax.benchmark.replay import actions_in_contact
from imf_jax.envs.vector import SceneVectorEnv
from imf_jax.errors import UserError
from imf_jax.sim.backends.task_scene import TaskScene


def test_all_sides_take_turns() -> None:
    rows = envs.measure_envs(batch=2, steps=4, repeats=2)
    assert [row.side for row in rows] == [envs.OURS, "SyncVectorEnv", "AsyncVectorEnv"]
    assert rows[0].ratio == 1
    assert all(row.steps_per_s > 0 and row.ratio > 0 for row in rows)


def test_both_sides_move_the_same_scenes() -> None:
    actions, parts = actions_in_contact("transfer", 2, 60), TaskScene("transfer", "primitive")
    ours = SceneVectorEnv(2, task="transfer", scene_seed=SEED, visual="primitive")
    seen = envs.run_env(ours, actions, range(2), steps=60)
    with peers.vector_envs(peers.plain_scene(parts, 2), 2) as plain:
        expected = envs.run_env(plain["SyncVectorEnv"], peers.servo_commands(parts, actions), range(2), steps=60)
    found = np.concatenate([seen["agent_pos"], seen["environment_state"]], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_an_early_end_is_refused() -> None:
    ours = SceneVectorEnv(1, task="transfer", scene_seed=SEED, visual="primitive", max_episode_steps=3)
    with pytest.raises(UserError, match="ended after 3 of 4 control steps"):
        envs.run_env(ours, actions_in_contact("transfer", 1, 4), range(1), steps=4)
