"""Functions as planners: both loops give them the same observations and execute what they say."""

from typing import Any

import jax
import numpy as np
import pytest
from point_world import MAX_STEPS
from point_world import PointBackend as CompiledPoint

from imf_jax.rollout.compiled import CompiledRollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.function_planner import FunctionPlanner


def towards(observations: dict[str, np.ndarray]) -> np.ndarray:
    """Half of the way to the target in two steps; NumPy alone, so JAX cannot trace it."""
    assert all(isinstance(values, np.ndarray) for values in observations.values())
    here, target = observations["state"][:, -1, :3], observations["env_state"][:, -1]
    actions = np.zeros((len(here), 2, 16), np.float32)
    for step, share in enumerate((0.25, 0.5)):
        actions[:, step, :3] = here + share * (target - here)
    return actions


@pytest.mark.parametrize("num_envs", [3, 10])
def test_a_function_drives_the_loop_whatever_the_batch(roll: Any, chunk_backend: Any, num_envs: int) -> None:
    planner = FunctionPlanner(towards, action_dim=16, num_action_steps=2, obs_horizon=2, rows=4)
    records = roll(chunk_backend, planner, num_envs=num_envs)
    assert {record.status for record in records.values()} == {"success"}
    one = roll(chunk_backend, planner, episodes=[7], num_envs=1)[7]
    assert (one.steps, one.return_) == (records[7].steps, records[7].return_)


def test_one_action_may_come_without_the_axis_of_time(roll: Any, chunk_backend: Any) -> None:
    records = roll(chunk_backend, FunctionPlanner(lambda seen: towards(seen)[:, 1], action_dim=16))
    assert {record.status for record in records.values()} == {"success"}


def test_the_compiled_loop_calls_it_too() -> None:
    records: list[EpisodeRecord] = []
    planner = FunctionPlanner(towards, action_dim=16, num_action_steps=2)
    CompiledRollout(
        CompiledPoint(), planner, range(4), seed=0, max_steps=MAX_STEPS, num_envs=4, on_record=records.append,
        devices=jax.local_devices()[:1],
    ).run()  # fmt: skip
    assert [record.status for record in records] == ["success"] * 4
