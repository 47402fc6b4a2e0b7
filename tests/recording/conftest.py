"""Rollouts for strategies in both loops, and datasets of tiny pictures: what is tested here is what gets recorded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from point_world import MAX_STEPS, PointBackend, PointTask, Straight
from transfer_task import SPACES

from imf_jax.data.lerobot.features import robot_features
from imf_jax.data.lerobot.writer import LeRobotWriter
from imf_jax.recording.base import Frame, Strategy, StrategyRecorder
from imf_jax.recording.recording import Recording
from imf_jax.rollout.compiled import CompiledRollout
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.experts.transfer import ExpertState, TransferExpert, to_action

SIZE = 16


def take_pictures(qpos: np.ndarray) -> np.ndarray:
    """A picture whose colour says where the hand is."""
    colour = (255 * np.clip(np.asarray(qpos)[:, None, None, None, :3], 0, 1)).astype(np.uint8)
    return np.broadcast_to(colour, (len(colour), 1, SIZE, SIZE, 3)).copy()


def straight(**settings: Any) -> ProgramPlanner:
    return ProgramPlanner(Straight(**settings), (), 4)


@pytest.fixture
def roll() -> Callable[..., dict[int, EpisodeRecord]]:
    """Roll out for a strategy, in either loop; its records by episode."""

    def run(
        strategy: Strategy | None,
        *,
        compiled: bool = False,
        planner: Any = None,
        episodes: Any = range(10),
        errors: list[str] | None = None,
    ) -> dict[int, EpisodeRecord]:
        records: list[EpisodeRecord] = []
        loop: Any = CompiledRollout if compiled else Rollout
        result = loop(
            PointBackend(), planner or straight(), list(episodes), seed=7, max_steps=MAX_STEPS, num_envs=4,
            on_record=records.append, recorders=[StrategyRecorder(strategy)] if strategy else [],
            should_stop=strategy.wants_to_stop if strategy else lambda: False,
        ).run()  # fmt: skip
        if strategy is not None:
            strategy.finish()
        if errors is None:
            assert not result.capture_errors
        else:
            errors += result.capture_errors
        return {record.episode: record for record in sorted(records, key=lambda record: record.episode)}

    return run


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Recording]:
    """Create or resume a dataset under a name."""

    def make(name: str = "rollout_test", *, cameras: bool = False, resume: bool = False) -> Recording:
        features = robot_features(SPACES, {"front": (SIZE, SIZE)} if cameras else {}, 3)
        open_writer = LeRobotWriter.resume if resume else LeRobotWriter.create
        writer = open_writer(tmp_path / name, features, 50, **({} if resume else {"robot_type": SPACES.name}))
        return Recording(writer, "point", 7, (lambda: take_pictures) if cameras else None)

    return make


@pytest.fixture
def make_planner() -> Callable[..., ProgramPlanner]:
    return straight


class PointExpert:
    """Moves the left hand by 10 cm per step towards the target, from the last command on."""

    def start(self, output: StepOutput) -> ExpertState:
        count = output.state.shape[0]
        command = jnp.zeros((count, 2, 4)).at[:, :, :3].set(output.end_effector[..., :3])
        return ExpertState(jnp.zeros(count, jnp.int32), command, jnp.zeros((count, 2)), jnp.zeros(count, jnp.int32))

    def act(self, state: ExpertState, output: StepOutput) -> tuple[ExpertState, jax.Array]:
        gap = output.env_state - state.command[:, 0, :3]
        length = jnp.linalg.norm(gap, axis=-1, keepdims=True)
        step = gap * jnp.minimum(1.0, 0.1 / jnp.maximum(length, 1e-6))
        state = state._replace(command=state.command.at[:, 0, :3].add(step), waited=state.waited + 1)
        return state, to_action(state.command, state.opening)

    def anchor(self, state: ExpertState, command: jax.Array) -> ExpertState:
        return TransferExpert().anchor(state, command)


@pytest.fixture
def point_expert(monkeypatch: pytest.MonkeyPatch, install_task: Callable[[str, str], None]) -> None:
    """The task of the analytic simulator is known by its name, and has an expert."""
    install_task("point", "point_world:PointTask")
    monkeypatch.setattr(PointTask, "expert", PointExpert)


class Listener(Strategy):
    """Keeps every frame."""

    name = "listener"

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def on_step(self, frames: Any) -> None:
        self.frames += frames


@pytest.fixture
def listener() -> Listener:
    return Listener()
