"""An analytic simulator for both loops, and datasets of tiny pictures: what is tested here is what gets recorded."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imf_jax.data.lerobot.features import robot_features
from imf_jax.data.lerobot.writer import LeRobotWriter
from imf_jax.rollout.compiled import CompiledRollout
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.sim.backends.base import SimState, StepOutput
from imf_jax.sim.tasks.base import array_module
from imf_jax.strategies.base import Frame, Strategy, StrategyRecorder
from imf_jax.strategies.recording import Recording

MAX_STEPS = 38
SIZE = 16


class PointBackend:
    """The left hand goes where it is sent; it succeeds within 5 cm of its target; stages are its distance."""

    name, compiled, image_size = "mjx", True, SIZE
    cameras = ("front", "top")
    control_dt = 0.02
    renderer = "warp"
    task = SimpleNamespace(name="point", max_steps=MAX_STEPS, env_state_dim=3)

    def reset(self, keys: Any) -> tuple[SimState, StepOutput]:
        typed = keys if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(jnp.asarray(keys))
        target: Any = jax.vmap(lambda key: jax.random.uniform(key, (3,), jnp.float32, 0.2, 1.0))(typed)
        if isinstance(keys, np.ndarray):  # the loop of the host: numpy compiles nothing
            target = np.asarray(target)
        xp, count = array_module(target), len(target)
        physics = xp.concatenate([xp.zeros_like(target), target], axis=1)
        state = SimState(physics, xp.zeros((count, 14), np.float32), {}, xp.zeros(count, np.int32))
        return state, self._read(physics, xp.ones(count, bool))

    def step(self, state: SimState, action: Any) -> tuple[SimState, StepOutput]:
        xp, finite = array_module(action), action[:, 0] < 10
        position = xp.where(finite[:, None], action[:, :3], state.physics[:, :3])
        physics = xp.concatenate([position, state.physics[:, 3:]], axis=1)
        return state._replace(physics=physics, step=state.step + 1), self._read(physics, finite)

    def _read(self, physics: Any, finite: Any) -> StepOutput:
        xp, position, target = array_module(physics), physics[:, :3], physics[:, 3:]
        distance = xp.linalg.norm(position - target, axis=1)
        count = len(physics)
        turned = xp.broadcast_to(np.array([1, 0, 0, 0], np.float32), (count, 2, 4))
        hands = xp.stack([position, xp.zeros_like(position)], axis=1)
        return StepOutput(
            state=xp.pad(position, ((0, 0), (0, 13))),
            env_state=target,
            end_effector=xp.concatenate([hands, turned], axis=-1),
            reward=xp.exp(-distance),
            stage=xp.where(distance < 0.3, 2, xp.where(distance < 0.6, 1, 0)).astype(np.int32),
            success=distance < 0.05,
            failure=position[:, 0] > 5,
            finite=finite,
            ik_error=xp.zeros((count, 2), np.float32),
            qpos=physics,
            overflow=xp.zeros(count, bool),
        )


def take_pictures(qpos: np.ndarray) -> np.ndarray:
    """A picture whose colour says where the hand is."""
    colour = (255 * np.clip(np.asarray(qpos)[:, None, None, None, :3], 0, 1)).astype(np.uint8)
    return np.broadcast_to(colour, (len(colour), 1, SIZE, SIZE, 3)).copy()


@dataclass(frozen=True)
class Straight:
    """Goes towards the target at a speed that depends on the episode; every seventh stands still, one may diverge."""

    fault: bool = False
    cameras: tuple[str, ...] = ()
    obs_horizon: int = 2
    num_action_steps: int = 4

    def start(self, output: StepOutput) -> tuple[()]:
        return ()

    def plan(
        self, weights: Any, memory: Any, observations: Any, output: Any, seed: Any, episodes: Any, replans: Any
    ) -> tuple[jax.Array, Any]:
        here, target = observations["state"][:, -1, :3], observations["env_state"][:, -1]
        speed = jnp.where(episodes % 7 == 5, 0.0, 0.03 + 0.01 * (episodes % 5))
        share = jnp.minimum(1.0, speed[:, None] * jnp.arange(1, 5) / jnp.linalg.norm(target - here, axis=1)[:, None])
        way = here[:, None] + share[..., None] * (target - here)[:, None]
        actions = jnp.pad(way, ((0, 0), (0, 0), (0, 13))).at[:, :, 3].set(1).at[:, :, 11].set(1)
        broken = self.fault & (episodes == 4) & (replans == 2)
        return actions.at[:, 1, 0].set(jnp.where(broken, 99.0, actions[:, 1, 0])), memory

    def bytes_per_scene(self) -> int:
        return 1000


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
        features = robot_features({"front": (SIZE, SIZE)} if cameras else {}, 3)
        open_writer = LeRobotWriter.resume if resume else LeRobotWriter.create
        writer = open_writer(tmp_path / name, features, 50)
        return Recording(writer, "point", 7, (lambda: take_pictures) if cameras else None)

    return make


@pytest.fixture
def make_planner() -> Callable[..., ProgramPlanner]:
    return straight


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
