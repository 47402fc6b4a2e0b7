"""Planners, from which the closed loop gets actions: a policy, or any other function of the observations."""

from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from imf_jax.models.policy import Policy
from imf_jax.rollout.plan_program import PlanProgram, PolicyProgram, policy_program
from imf_jax.rollout.schedule import planning_batches
from imf_jax.rollout.timing import NO_CLOCK, NoClock, StageClock
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.batching import keep_rows

PLANS_KEPT = 64
"""Programs whose compiled plan is kept."""

Observations = dict[str, np.ndarray]
"""`state` float32 (A, obs_horizon, S) and `env_state` float32 (A, obs_horizon, E), oldest first; for a planner with
cameras also `images` uint8 (A, obs_horizon, C, H, W, 3)."""


@lru_cache(maxsize=PLANS_KEPT)
def compiled_plan(program: PlanProgram, structure: Any) -> Callable[..., tuple[jax.Array, Any]]:
    """Compile `PlanProgram.plan`; scenes whose episode has just begun (replan 0) get a new memory first.

    The result takes the arguments of `plan`, but the leaves of the weights, whose `structure` is given: to take the
    weights apart and to compare programs takes longer than to dispatch a plan. `output` may be None for a program that
    does not read it. Equal programs share what is compiled, once per batch size, also those of one policy at different
    training steps.
    """

    def plan_rows(
        leaves: list[jax.Array],
        memory: Any,
        observations: dict[str, jax.Array],
        output: Any,
        seed: jax.Array,
        episodes: jax.Array,
        replans: jax.Array,
    ) -> tuple[jax.Array, Any]:
        weights = jax.tree.unflatten(structure, leaves)
        memory = keep_rows(replans == 0, program.start(output), memory)
        return program.plan(weights, memory, observations, output, seed, episodes, replans)

    return jax.jit(plan_rows)


class ProgramPlanner:
    """Plans with a `PlanProgram` in compiled batches of one fixed size; keeps its memory by episode.

    Rounding of a matrix product depends on its size and on the row, so every scene is always planned in the same
    row of a batch of the same size; the rest is padding. One batch is one dispatch.

    Args:
        program: the program.
        weights: its weights.
        rows: rows of a planning batch.

    Attributes:
        program, weights, rows: as given. Episodes whose index is equal modulo `rows` are best not run at once.
        obs_horizon, num_action_steps, cameras: see `PlanProgram`.
        clock: measures the stages of a plan; set by the loop.
    """

    clock: StageClock | NoClock = NO_CLOCK

    def __init__(self, program: PlanProgram, weights: Any, rows: int) -> None:
        self.program, self.weights, self.rows = program, weights, rows
        self.obs_horizon, self.num_action_steps = program.obs_horizon, program.num_action_steps
        self.cameras = program.cameras
        self._episodes: list[int] = []
        self._memory: Any = None

    @cached_property
    def plan_rows(self) -> Callable[..., tuple[jax.Array, Any]]:
        """The compiled plan of `rows` scenes: a function of the arguments of `PlanProgram.plan` without the weights."""
        leaves, structure = jax.tree.flatten(self.weights)
        return partial(compiled_plan(self.program, structure), leaves)

    def plan(
        self, observations: Observations, output: StepOutput, seed: int, episodes: np.ndarray, replans: np.ndarray
    ) -> np.ndarray:
        """Plan for A scenes on the host.

        Args:
            observations: see `Observations`.
            output: output after the last step, numpy leaves (A, ...).
            seed: seed of the rollout.
            episodes: int64 (A,) episode of each scene.
            replans: int64 (A,) plans made before in the episode.

        Returns:
            float32 (A, num_action_steps, A) actions.
        """
        batches = planning_batches(episodes, self.rows)
        scenes = self._recall(output, episodes), observations, output
        dispatched = []
        for batch in batches:
            with self.clock.stage("preprocess_ms"):
                # Padding repeats a real scene: its result is dropped, and its values are harmless.
                source = np.where(batch >= 0, batch, batch.max())
                memory, seen, read = jax.tree.map(lambda leaf, source=source: np.asarray(leaf)[source], scenes)
            planned = self.plan_rows(
                memory,
                seen,
                read,
                np.uint32(seed),
                episodes[source].astype(np.uint32),
                replans[source].astype(np.uint32),
            )
            dispatched.append(self.clock.finished(planned))
        actions, memory = jax.tree.map(lambda *parts: _gather(batches, parts), *dispatched)
        self._episodes, self._memory = episodes.tolist(), memory
        return actions

    def notes(self, episodes: np.ndarray) -> dict[str, np.ndarray]:
        """Notes of the program about its last plan of these episodes (A,), name -> (A, num_action_steps, ...)."""
        notes = self.program.notes(self._memory)
        if not notes:
            return {}
        row_of = {episode: row for row, episode in enumerate(self._episodes)}
        rows = np.array([row_of[episode] for episode in episodes.tolist()])
        return {name: np.asarray(values)[rows] for name, values in notes.items()}

    def plan_error(self, episode: int, replan: int) -> str | None:
        """Why a plan is not finite, see `PlanProgram.plan_error`."""
        return self.program.plan_error(episode, replan)

    def _recall(self, output: StepOutput, episodes: np.ndarray) -> Any:
        """Memory of these episodes after their last plan; any values where an episode has just begun."""
        if self._memory is None:
            shapes = jax.eval_shape(self.program.start, output)
            return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        row_of = {episode: row for row, episode in enumerate(self._episodes)}
        rows = np.array([row_of.get(episode, 0) for episode in episodes.tolist()])
        return jax.tree.map(lambda leaf: leaf[rows], self._memory)


def _gather(batches: list[np.ndarray], parts: tuple[jax.Array, ...]) -> np.ndarray:
    """Gather rows of planning batches in the order of the scenes; see `planning_batches`."""
    values = np.empty((sum(int((batch >= 0).sum()) for batch in batches), *parts[0].shape[1:]), parts[0].dtype)
    for batch, part in zip(batches, parts, strict=True):
        used = batch >= 0
        values[batch[used]] = np.asarray(part)[used]
    return values


Execute = Callable[[PolicyProgram, nnx.State], tuple[PlanProgram, Any]]


def _as_it_is(program: PolicyProgram, weights: nnx.State) -> tuple[PlanProgram, Any]:
    return program, weights


class PolicyPlanner(ProgramPlanner):
    """Plans with an IMF-AttnRes policy: noise, normalisation, vision encoder and network are one compiled function.

    Args:
        policy: a trained policy.
        plan_batch: rows of a planning batch.
        execute: makes the executed program and weights from those of the policy; the same by default.

    Attributes:
        image_size: height and width of the pictures it reads [pixels].
    """

    def __init__(self, policy: Policy, plan_batch: int, execute: Execute | None = None) -> None:
        program, weights = policy_program(policy)
        super().__init__(*(execute or _as_it_is)(program, weights), plan_batch)
        self.image_size = policy.config.encoder.image_size
