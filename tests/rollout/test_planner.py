"""Planning with a real policy: fixed rows, keys inside the compiled call, one compilation."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from transfer_task import SPACES

from imf_jax.config import AttnResConfig, PolicyConfig
from imf_jax.models.policy import Policy
from imf_jax.rollout.planner import PolicyPlanner, compiled_plan
from imf_jax.rollout.timing import StageClock

pytestmark = pytest.mark.optimized

SIZES = PolicyConfig(AttnResConfig(n_emb=32, n_layer=2, n_head=4, n_kv_head=2), pred_horizon=8, num_action_steps=4)
ENV_STATE_DIM = 3


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(SIZES, SPACES, ENV_STATE_DIM, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def observations() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "state": generator.normal(size=(12, 2, 16)).astype(np.float32),
        "env_state": generator.normal(size=(12, 2, ENV_STATE_DIM)).astype(np.float32),
    }


def plan(
    planner: PolicyPlanner, observations: dict[str, np.ndarray], rows: list[int], *, seed: int = 3, replan: int = 0
) -> np.ndarray:
    """Plan for scene `r` in episode `10 + r`, for each r of `rows`."""
    chosen = {name: values[rows] for name, values in observations.items()}
    return planner.plan(chosen, None, seed, 10 + np.array(rows), np.full(len(rows), replan))


def test_plan_is_the_documented_function_of_policy_keys_and_slice(policy: Policy, observations: Any) -> None:
    planned = plan(PolicyPlanner(policy, plan_batch=4), observations, [6], replan=2)
    key = jax.random.key(3)
    for step in (16, 1, 2):
        key = jax.random.fold_in(key, step)
    noise = jax.random.normal(key, (1, SIZES.pred_horizon, 16))
    chunk = policy.plan({name: values[[6]] for name, values in observations.items()}, noise)
    np.testing.assert_allclose(planned, chunk[:, 1:5], atol=1e-5)
    assert planned.shape == (1, 4, 16)
    assert planned.dtype == np.float32


def test_plans_are_bit_equal_alone_in_company_and_in_any_order(policy: Policy, observations: Any) -> None:
    planner = PolicyPlanner(policy, plan_batch=4)
    everyone = list(range(12))
    together = plan(planner, observations, everyone)
    np.testing.assert_array_equal(together[::-1], plan(planner, observations, everyone[::-1]))
    for row in everyone:
        np.testing.assert_array_equal(together[[row]], plan(planner, observations, [row]))
    np.testing.assert_array_equal(together[[0, 4, 8, 9]], plan(planner, observations, [0, 4, 8, 9]))


def test_a_scene_without_finite_observation_harms_no_other(policy: Policy, observations: Any) -> None:
    planner = PolicyPlanner(policy, plan_batch=4)
    broken = {name: values.copy() for name, values in observations.items()}
    broken["state"][5] = np.nan
    rows = [3, 4, 5, 6, 7]
    good, bad = plan(planner, observations, rows), plan(planner, broken, rows)
    assert not np.isfinite(bad[2]).all()
    np.testing.assert_array_equal(np.delete(good, 2, axis=0), np.delete(bad, 2, axis=0))


def test_noise_depends_on_seed_episode_and_replan(policy: Policy, observations: Any) -> None:
    planner = PolicyPlanner(policy, plan_batch=4)
    same = {name: values[[0, 0]] for name, values in observations.items()}
    first = planner.plan(same, None, 3, np.array([0, 4]), np.array([0, 0]))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, planner.plan(same, None, 3, np.array([0, 4]), np.array([1, 1])))
    assert not np.array_equal(first, planner.plan(same, None, 4, np.array([0, 4]), np.array([0, 0])))


def test_number_of_scenes_seed_and_weights_share_one_compilation(observations: Any) -> None:
    compiled_plan.cache_clear()
    for seed, rows in ((0, [0]), (1, [0, 1]), (2, list(range(12)))):
        trained_further = Policy(SIZES, SPACES, ENV_STATE_DIM, rngs=nnx.Rngs(seed))
        planner = PolicyPlanner(trained_further, plan_batch=3)
        plan(planner, observations, rows, seed=seed)
    assert compiled_plan.cache_info().currsize == 1
    assert planner.plan_rows.func._cache_size() == 1  # type: ignore[attr-defined]


def test_closed_loop_records_are_equal_for_any_num_envs(
    policy: Policy, roll: Callable[..., Any], chunk_backend: Any
) -> None:
    """The untrained policy wanders; its noise and rounding show in the return of every episode."""

    def run(num_envs: int, episodes: Any = range(9)) -> dict[int, tuple]:
        records = roll(chunk_backend, PolicyPlanner(policy, 4), episodes, num_envs=num_envs)
        return {e: (r.status, r.steps, r.return_, r.max_reward, r.replans) for e, r in sorted(records.items())}

    alone = run(1)
    assert len({values[2] for values in alone.values()}) == 9
    assert run(4) == alone
    assert run(9, reversed(range(9))) == alone


def test_a_clock_tells_preparation_from_inference_and_changes_no_plan(policy: Policy, observations: Any) -> None:
    class Spy(StageClock):
        waited = 0

        def finished(self, values: Any) -> Any:
            self.waited += 1
            return super().finished(values)

    plain, timed = PolicyPlanner(policy, plan_batch=4), PolicyPlanner(policy, plan_batch=4)
    timed.clock = clock = Spy()
    rows = list(range(12))
    clock.start(0.0)
    with clock.stage("inference_ms"):
        planned = plan(timed, observations, rows)
    told = clock.end_call(48, 0.0)
    np.testing.assert_array_equal(planned, plan(plain, observations, rows))
    assert clock.waited == 3, "three batches, each finished before the next is prepared"
    assert told["preprocess_ms"] > 0
    assert told["inference_ms"] > 0
    assert told["preprocess_ms"] + told["inference_ms"] <= told["loop_total_ms"]
