"""The closed loop on the real scene: records do not depend on batch, order or captures, and the expert succeeds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx
from transfer_task import SPACES

from imf_jax.config import AttnResConfig, PolicyConfig
from imf_jax.models.policy import Policy
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.expert_planner import ExpertPlanner
from imf_jax.rollout.planner import PolicyPlanner
from imf_jax.rollout.recorders.trajectory import TrajectoryRecorder
from imf_jax.sim.backends.native import NativeBackend

pytestmark = pytest.mark.optimized

Roll = Callable[..., dict[int, EpisodeRecord]]

STEPS = 44
"""Long enough for several plans, and no multiple of the steps of a plan."""


class Wanderer(PolicyPlanner):
    """An untrained policy around a posture in reach, so that arms and box move in every scene."""

    centre = np.array([0.46, 0.2, 0.25, 1, 0, 0, 0, 0.05, 0.46, -0.25, 0.2, 1, 0, 0, 0, 0.05], np.float32)

    def plan(self, *arguments: Any) -> np.ndarray:
        return self.centre + 0.08 * np.tanh(super().plan(*arguments))


@pytest.fixture(scope="module")
def planner() -> PolicyPlanner:
    head = AttnResConfig(n_emb=32, n_layer=2, n_head=4, n_kv_head=2)
    return Wanderer(Policy(PolicyConfig(head=head), SPACES, 7, rngs=nnx.Rngs(0)), plan_batch=4)


@pytest.fixture
def paths(tmp_path: Path, transfer_backend: NativeBackend, planner: PolicyPlanner) -> Callable[..., dict]:
    """Roll out with trajectories written; all that happened, by episode, as comparable bytes."""

    def run(episodes: Any, *, planner: Any = planner, max_steps: int = STEPS, **options: Any):
        recorder = TrajectoryRecorder(tmp_path, SPACES)
        found: dict[int, tuple] = {}

        def keep(r: EpisodeRecord) -> None:
            with np.load(tmp_path / r.artifacts["trajectory"]) as file:
                arrays = {name: file[name].tobytes() for name in file.files}
            found[r.episode] = (r.status, r.steps, r.return_, r.max_ik_error, r.replans, r.success_step, arrays)

        Rollout(
            transfer_backend, planner, list(episodes), seed=0, max_steps=max_steps, on_record=keep,
            recorders=[recorder], **options,
        ).run()  # fmt: skip
        return found

    return run


def test_one_and_four_scenes_at_a_time_give_the_same_records(roll: Roll, transfer_backend: Any, planner: Any) -> None:
    def run(num_envs: int) -> dict[int, tuple]:
        records = roll(transfer_backend, planner, range(6), num_envs=num_envs, max_steps=STEPS)
        return {e: (r.status, r.steps, r.return_, r.max_reward, r.max_ik_error, r.replans) for e, r in records.items()}

    alone, four = run(1), run(4)
    assert alone == four
    assert alone.keys() == set(range(6))


def test_every_executed_pose_is_bit_equal_for_any_batch_order_and_capture(paths: Callable[..., dict]) -> None:
    alone = paths(range(5), num_envs=1)
    assert len({values[-1]["executed_left_link7_pos"] for values in alone.values()}) == 5
    assert paths(range(5), num_envs=4) == alone
    assert paths([3, 0, 4, 2, 1], num_envs=3) == alone


def test_expert_hands_over_in_any_company(paths: Callable[..., dict]) -> None:
    expert = ExpertPlanner("transfer")
    together = paths(range(4), planner=expert, num_envs=4, max_steps=700)
    assert {values[0] for values in together.values()} == {"success"}
    assert paths([2, 0], planner=expert, num_envs=1, max_steps=700) == {e: together[e] for e in (0, 2)}
    # One episode after the other in two slots: the memory must follow the episodes.
    assert paths([3, 1, 0, 2], planner=ExpertPlanner("transfer"), num_envs=2, max_steps=700) == together


class Replay:
    """Plays recorded actions back, 8 steps per plan."""

    obs_horizon, num_action_steps, rows = 2, 8, 4
    cameras = ()

    def __init__(self, actions: dict[int, np.ndarray]) -> None:
        self.actions = {e: np.concatenate([a, np.repeat(a[-1:], 8, axis=0)]) for e, a in actions.items()}

    def plan(self, observations: Any, output: Any, seed: int, episodes: np.ndarray, replans: np.ndarray) -> np.ndarray:
        return np.stack([self.actions[e][8 * n : 8 * n + 8] for e, n in zip(episodes, replans, strict=True)])

    def notes(self, episodes: np.ndarray) -> dict[str, np.ndarray]:
        return {}


def test_actions_planned_in_chunks_are_executed_at_their_steps(paths: Callable[..., dict]) -> None:
    """The expert's actions, recorded step by step and played back in chunks, hand over in the very same steps."""
    expert = paths(range(3), planner=ExpertPlanner("transfer"), num_envs=3, max_steps=700)
    actions = {e: np.frombuffer(values[-1]["raw_action"], np.float32).reshape(-1, 16) for e, values in expert.items()}
    replayed = paths(range(3), planner=Replay(actions), num_envs=2, max_steps=700)
    for episode, (status, steps, return_, ik_error, _, success_step, arrays) in replayed.items():
        assert (status, steps, return_, ik_error) == expert[episode][:4]
        assert success_step == steps - 1
        assert arrays == expert[episode][-1]
