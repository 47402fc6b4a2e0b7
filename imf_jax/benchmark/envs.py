"""The vector environment of this package beside Gymnasium's own over plain MuJoCo environments of the same scene.

All sides execute the same recorded actions in the same scenes of the transfer, with the box in the hands. The plain
environments get servo commands: they are spared the inverse kinematics. Needs the extra `gymnasium`.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imf_jax.benchmark.components import SEED
from imf_jax.benchmark.peers import TASK, plain_scene, servo_commands, vector_envs
from imf_jax.benchmark.replay import actions_in_contact
from imf_jax.envs.vector import SceneVectorEnv
from imf_jax.errors import UserError
from imf_jax.sim.backends.task_scene import TaskScene

OURS = "imf_jax"


@dataclass(frozen=True)
class EnvFigures:
    """One side of the comparison.

    Attributes:
        side: this package, or the peer.
        batch: scenes at once.
        steps: control steps of an episode.
        steps_per_s: control steps, median over the rounds [1/s].
        ratio: median over the rounds of (time of this side / time of imf_jax); above 1 means that imf_jax is faster.
    """

    side: str
    batch: int
    steps: int
    steps_per_s: float
    ratio: float


def measure_envs(*, batch: int, steps: int, repeats: int) -> list[EnvFigures]:
    """Time all sides, which take turns.

    Args:
        batch: scenes at once.
        steps: control steps of an episode.
        repeats: rounds, each with other scenes.

    Raises:
        UserError: an episode ended early.
    """
    count = batch * repeats
    actions = actions_in_contact(TASK, count, steps)
    parts = TaskScene(TASK, "primitive")
    commands = servo_commands(parts, actions)
    with vector_envs(plain_scene(parts, count), batch) as peers:
        ours = SceneVectorEnv(batch, task=TASK, scene_seed=SEED, visual="primitive", backend="native")
        sides = {OURS: (ours, actions), **{name: (env, commands) for name, env in peers.items()}}
        for env, moves in sides.values():
            run_env(env, moves, range(batch), steps=2)
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for first in range(0, count, batch):
            for name, (env, moves) in sides.items():
                start = time.perf_counter()
                run_env(env, moves, range(first, first + batch), steps=steps)
                seconds[name].append(time.perf_counter() - start)
    return [
        EnvFigures(
            name,
            batch,
            steps,
            batch * steps / statistics.median(times),
            statistics.median(theirs / own for theirs, own in zip(times, seconds[OURS], strict=True)),
        )
        for name, times in seconds.items()
    ]


def run_env(envs: Any, moves: np.ndarray, episodes: Sequence[int], *, steps: int) -> Any:
    """Run one batch of episodes; the last observations.

    Args:
        envs: a vector environment of B scenes.
        moves: float32 (E, T, n) what is executed in the episodes 0 .. E - 1.
        episodes: B consecutive episodes.
        steps: control steps.

    Raises:
        UserError: an episode ended early.
    """
    observation, _ = envs.reset(seed=list(episodes))
    batch = moves[episodes[0] : episodes[-1] + 1]
    for step in range(steps):
        observation, _, ended, cut, _ = envs.step(batch[:, step])
        if ended.any() or cut.any():
            raise UserError(f"an episode ended after {step + 1} of {steps} control steps; choose fewer --steps")
    return observation
