"""Policies from elsewhere in the closed loop: of a server, or a function. A plan that fails costs its episode only."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from imf_jax.chunks import require_within_chunk
from imf_jax.config import ExecutionConfig, require
from imf_jax.errors import one_line
from imf_jax.models.objectives.paths import Guide
from imf_jax.models.policy import Prefix
from imf_jax.rollout.delay import executed, require_prefix
from imf_jax.rollout.plan_program import ChunkProgram
from imf_jax.rollout.planner import Observations, ProgramPlanner
from imf_jax.spaces import RobotSpaces

Answer = np.ndarray | str
"""Actions (N, A), the first one for the time of the newest observation, or why there are none."""

Act = Callable[[dict[str, np.ndarray]], np.ndarray]
"""(observations) -> actions (B, N, A) or, of one step, (B, A); see `imf_jax.rollout.planner.Observations`."""


class OutsidePolicy(ABC):
    """A policy that JAX cannot trace, asked for whole chunks.

    Attributes:
        action_dim: entries A of an action.
        obs_horizon: observations that it reads, oldest first.
        chunk_steps: actions N of a chunk: for the time of the newest observation and later.
        num_action_steps: actions that are executed, unless the execution says otherwise.
        cameras: names of the cameras whose pictures it reads.
        delay_training: control steps by which its chunks can begin later than their observation.
        prefix_training: control steps whose actions, executed while it plans, it can be given.
    """

    action_dim: int
    obs_horizon: int
    chunk_steps: int
    num_action_steps: int
    cameras: tuple[str, ...]
    delay_training: int = 0
    prefix_training: int = 0

    def __init__(self) -> None:
        self._failed: dict[int, dict[int, str]] = {}

    @abstractmethod
    def answer(self, observations: Observations, seed: int, episodes: np.ndarray, replans: np.ndarray) -> list[Answer]:
        """Answer for B scenes, of which some may be repetitions; see `PlanProgram.plan` for the arguments.

        Observations of policies that have learned it also hold `delay` int32 (B,), at which their chunks begin, or
        `prefix` float32 (B, H, A), of which the first `prefix_steps`, int32 (B,), are given.
        """

    def chunks(self, observations: Observations, seed: Any, episodes: np.ndarray, replans: np.ndarray) -> np.ndarray:
        """Chunks, float32 (B, obs_horizon - 1 + N, A); not finite where there are none, see `error`."""
        observations = {name: np.asarray(values) for name, values in observations.items()}
        episodes, replans = np.asarray(episodes), np.asarray(replans)
        answers = self.answer(observations, int(seed), episodes, replans)
        shape = self.chunk_steps, self.action_dim
        chunks = np.full((len(answers), *shape), np.nan, np.float32)
        for row, answer in enumerate(answers):
            reason = answer if isinstance(answer, str) else chunk_problem(answer, shape)
            if reason is None:
                chunks[row] = answer
            else:
                self._failed.setdefault(int(episodes[row]), {})[int(replans[row])] = reason
        # What was before the newest observation is over; it is never executed.
        past = np.repeat(chunks[:, :1], self.obs_horizon - 1, axis=1)
        return np.concatenate([past, chunks], axis=1)

    def error(self, episode: int, replan: int) -> str | None:
        """Why the newest plan of an episode that failed did, if one did; `replan`: plans made before it, at most."""
        failed = {number: reason for number, reason in self._failed.get(episode, {}).items() if number <= replan}
        return failed[max(failed)] if failed else None

    @abstractmethod
    def close(self) -> None:
        """Let go of what it holds."""


def chunk_problem(actions: Any, shape: tuple[int, ...]) -> str | None:
    """What is wrong with actions that should be finite numbers of this shape; None if nothing is."""
    if not isinstance(actions, np.ndarray) or actions.dtype.kind not in "iuf":
        return "the answer holds no actions"
    if actions.shape != shape:
        return f"actions of shape {actions.shape} came where {shape} is needed"
    return None if np.isfinite(actions).all() else "the answer holds actions that are not finite"


class FunctionPolicy(OutsidePolicy):
    """A Python function of the observations of B scenes.

    Args:
        act: the function.
        action_dim: entries of an action of the robot.
        state_dim: entries of its state.
        env_state_dim: entries of the scene state.
        image_size: height and width of pictures [pixels].

    `act.obs_horizon`, 1 by default, and `act.cameras`, none by default, say what it reads. It is called once with
    zeros, to learn how many actions it plans.

    Raises:
        Exception: what the function raises.
    """

    def __init__(self, act: Act, action_dim: int, state_dim: int, env_state_dim: int, image_size: int) -> None:
        super().__init__()
        self._act, self.action_dim = act, action_dim
        self.obs_horizon, self.cameras = int(getattr(act, "obs_horizon", 1)), tuple(getattr(act, "cameras", ()))
        seen = {
            "state": np.zeros((1, self.obs_horizon, state_dim), np.float32),
            "env_state": np.zeros((1, self.obs_horizon, env_state_dim), np.float32),
        }
        if self.cameras:
            pictures = (1, self.obs_horizon, len(self.cameras), image_size, image_size, 3)
            seen["images"] = np.zeros(pictures, np.uint8)
        actions = np.asarray(act(seen))
        self.chunk_steps = self.num_action_steps = actions.shape[1] if actions.ndim == 3 else 1
        require(
            actions.shape in ((1, action_dim), (1, self.chunk_steps, action_dim)) and actions.size > 0,
            f"the function returns shape {actions.shape} for one scene; let it be (1, steps, {action_dim})",
        )

    @override
    def answer(self, observations: Observations, seed: int, episodes: np.ndarray, replans: np.ndarray) -> list[Answer]:
        rows = len(episodes)
        try:
            actions = np.asarray(self._act(observations), np.float32)
        except Exception as error:  # of others' code: it costs these episodes, not the run
            return [f"{type(error).__name__}: {one_line(error)}"] * rows
        if actions.shape == (rows, self.action_dim):
            actions = actions[:, None]
        if len(actions) != rows or actions.ndim != 3:
            return [f"shape {actions.shape} came for {rows} scenes"] * rows
        return list(actions)

    @override
    def close(self) -> None:
        pass


@dataclass(frozen=True)
class OutsideProgram(ChunkProgram):
    """Plan of a policy from elsewhere; it is called on the host from both loops.

    Attributes:
        policy: the policy.
        spaces: action and state of the robot.
        num_action_steps: actions that are executed before the next plan.
        keep_chunks: note each chunk as it was planned, for captures.
    """

    policy: OutsidePolicy
    spaces: RobotSpaces
    num_action_steps: int
    keep_chunks: bool = False

    @property
    @override
    def obs_horizon(self) -> int:
        return self.policy.obs_horizon

    @property
    @override
    def pred_horizon(self) -> int:
        return self.policy.obs_horizon - 1 + self.policy.chunk_steps

    @property
    @override
    def delay_training(self) -> int:
        return self.policy.delay_training

    @property
    @override
    def cameras(self) -> tuple[str, ...]:
        return self.policy.cameras

    @override
    def chunk(
        self,
        weights: tuple[()],
        observations: dict[str, jax.Array],
        seed: jax.Array,
        episodes: jax.Array,
        replans: jax.Array,
        prefix: Prefix | None = None,
        *,
        delay: jax.Array | None = None,
        guide: Guide | None = None,
    ) -> jax.Array:
        if delay is not None:
            observations = observations | {"delay": delay}
        if prefix is not None:
            steps = prefix.is_given.sum(axis=1, dtype=jnp.int32)
            observations = observations | {"prefix": prefix.actions, "prefix_steps": steps}
        shape = (episodes.shape[0], self.pred_horizon, self.spaces.action_dim)
        result = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jax.pure_callback(self.policy.chunks, result, observations, seed, episodes, replans)

    @override
    def plan_error(self, episode: int, replan: int) -> str | None:
        return self.policy.error(episode, replan)


def outside_planner(
    policy: OutsidePolicy,
    spaces: RobotSpaces,
    plan_batch: int,
    execution: ExecutionConfig,
    *,
    keep_chunks: bool = False,
) -> ProgramPlanner:
    """Make a planner whose plans reach the robot as `execution` says; for both loops and every backend.

    Args:
        policy: the policy.
        spaces: action and state of the robot.
        plan_batch: rows of a planning batch on the host.
        execution: latency and its remedies.
        keep_chunks: note each chunk as it was planned, see `ChunkProgram`.

    Raises:
        ArgumentError: the policy cannot be executed so; names the flag.
    """
    every = execution.replan_every or policy.num_action_steps
    horizon = f"chunk of {policy.chunk_steps} - 1"
    delay, latest = execution.delay_steps, policy.delay_training
    require_within_chunk(policy.chunk_steps, every, delay, execution.blend_steps, horizon, latest)
    if execution.prefix:
        require_prefix(policy.prefix_training, every, delay)
    require(
        execution.on_empty == "hold" or policy.chunk_steps > 1, "--on-empty continue needs chunks of 2 actions or more"
    )
    program = OutsideProgram(policy, spaces, every, keep_chunks)
    return ProgramPlanner(*executed(program, (), execution), plan_batch)


def distinct(episodes: np.ndarray, replans: np.ndarray) -> tuple[Sequence[int], np.ndarray]:
    """First rows of distinct (episode, replan), and for each row which of these it repeats."""
    _, first, inverse = np.unique(np.stack([episodes, replans]), axis=1, return_index=True, return_inverse=True)
    return first.tolist(), inverse.reshape(-1)
