"""The peers of the closed loop: the same scenes, physics and rewards, and a policy that replays actions."""

import sys
from typing import Any

import jax
import numpy as np
import pytest

from imf_jax.benchmark import peers
from imf_jax.benchmark.components import SEED
from imf_jax.benchmark.replay import actions_in_contact, replaying
from imf_jax.benchmark.rollouts import MeasuredPolicy
from imf_jax.benchmark.suite import untrained_policies
from imf_jax.errors import UserError
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.backends.task_scene import TaskScene

EPISODES, STEPS = 2, 128


@pytest.fixture(scope="module")
def held() -> np.ndarray:
    return actions_in_contact("transfer", EPISODES, STEPS)


@pytest.fixture(scope="module")
def outputs(held: np.ndarray) -> StepOutput:
    """What the closed loop's backend sees under these actions, leaves (EPISODES, STEPS, ...)."""
    backend = NativeBackend("transfer", visual="primitive")
    state, _ = backend.reset(scene_keys(SEED, range(EPISODES)))
    return backend.run_chunk(state, held)[1]


@pytest.fixture
def state() -> MeasuredPolicy:
    return untrained_policies([(16, 1)], None)[0]


def test_in_contact_the_hands_hold_the_box_and_no_episode_ends(held: np.ndarray, outputs: StepOutput) -> None:
    assert (np.mean(outputs.stage > 0, axis=1) > 0.4).all()
    assert outputs.stage[:, -1].tolist() == [3, 3], "both hands are at the box"
    assert not outputs.success.any()
    np.testing.assert_array_equal(held[:, -1], held[:, -2])


def test_a_replaying_policy_commands_the_recorded_actions(state: MeasuredPolicy, held: np.ndarray) -> None:
    policy = replaying(state, held, "in contact")
    assert policy.label == "state, 16/1, in contact"
    planner = policy.plan_with(2)
    seen = {"state": np.zeros((2, 2, 16), np.float32), "env_state": np.zeros((2, 2, 7), np.float32)}
    numbers = np.array([1, 0]), np.array([3, 5])
    found = planner.plan(seen, None, SEED, *numbers)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, [held[1, 24:32], held[0, 40:48]])
    broken = planner.plan(seen | {"state": np.full((2, 2, 16), np.nan, np.float32)}, None, SEED, *numbers)  # type: ignore[arg-type]
    assert np.isnan(broken[..., 0]).all(), "the network is computed, not dropped"


def test_the_plain_environment_is_the_same_scene(held: np.ndarray, outputs: StepOutput) -> None:
    from imf_jax.benchmark.plain_env import PlainEnv

    parts = TaskScene("transfer", "primitive")
    env = PlainEnv(peers.plain_scene(parts, EPISODES))
    commands = peers.servo_commands(parts, held)
    for episode in range(EPISODES):
        start, _ = env.reset(seed=episode)
        rewards = []
        assert env.observation_space.contains(start)
        for command in commands[episode]:
            observation, reward, ended, cut, _ = env.step(command)
            rewards.append(reward)
            assert not ended
            assert not cut
        expected = np.concatenate([outputs.state[episode, -1], outputs.env_state[episode, -1]])
        np.testing.assert_allclose(observation, expected, atol=1e-3)
        # Plain `mj_step` leaves the contacts of the physics step before: what is touched is seen a little later.
        assert np.mean(np.array(rewards) == outputs.reward[episode]) > 0.95


class Still:
    """Stands in for PyTorch's policy."""

    obs_horizon, num_action_steps, threads = 2, 8, 1
    planned = 0

    def __init__(self, policy: Any, batch: int) -> None:
        self.batch = batch

    def plan(self, observations: np.ndarray) -> np.ndarray:
        assert observations.shape == (self.batch, 2, 23)
        Still.planned += 1
        return np.zeros((self.batch, 8, 16), np.float32)


def test_all_sides_take_turns_in_both_conditions(state: MeasuredPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "require_peers", lambda: None)
    monkeypatch.setattr(peers, "TorchPolicy", Still)
    known: list[int] = []
    rows = peers.measure_peers(state, batch=2, steps=16, repeats=2, on_figures=lambda rows: known.append(len(rows)))
    assert [(row.condition, row.side) for row in rows] == [
        (condition, side)
        for condition in ("free air", "in contact")
        for side in (peers.OURS, "SyncVectorEnv, PyTorch", "AsyncVectorEnv, PyTorch")
    ]
    assert known == [3, 6]
    assert [row.ratio for row in rows if row.side == peers.OURS] == [1, 1]
    assert all(row.steps_per_s > 0 and row.ratio > 0 for row in rows)
    # Per condition and environment: one plan to warm up, and two for each of two rounds.
    assert Still.planned == 2 * 2 * (1 + 2 * 2)


def test_an_early_end_of_the_peer_is_refused() -> None:
    class Ending:
        def reset(self, seed: list[int]) -> Any:
            return np.zeros((2, 23), np.float32), {}

        def step(self, action: np.ndarray) -> Any:
            return np.zeros((2, 23), np.float32), np.zeros(2), np.array([False, True]), np.zeros(2, bool), {}

    with pytest.raises(UserError, match="ended after 1 of 8 control steps"):
        peers.run_peer(Ending(), Still(None, 2), np.zeros((2, 8, 18)), range(2), steps=8)  # type: ignore[arg-type]


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, state: MeasuredPolicy) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="torch is not installed; run `make parity`"):
        peers.measure_peers(state, batch=1, steps=8, repeats=1)


def test_workers_need_neither_jax_nor_torch() -> None:
    """64 workers that each import JAX would take a minute and 10 GB."""
    import subprocess

    code = "import sys, imf_jax.benchmark.plain_env; assert not {'jax', 'torch', 'warp'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_starts_are_those_of_the_loop() -> None:
    parts = TaskScene("transfer", "primitive")
    backend = NativeBackend("transfer", visual="primitive")
    _, output = backend.reset(np.asarray(jax.random.key_data(scene_keys(SEED, range(2)))))
    np.testing.assert_allclose(peers.plain_scene(parts, 2).qpos, output.qpos, atol=1e-6)
