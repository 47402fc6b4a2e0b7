"""Perturbations of what a planner observes and of what becomes of its actions, for both loops and every backend.

Each wraps a program of plans in another one. What it draws follows from the key of the episode's scene, its own name
and the control step, never from the plan or from other episodes: an observation that two plans read is the same for
both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from imf_jax import seeds
from imf_jax.config.perturbation import PERTURBATIONS, active, require_noticed
from imf_jax.rollout.expert_planner import ExpertProgram
from imf_jax.rollout.plan_program import PlanProgram
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.perturbations.base import load_perturbation
from imf_jax.spaces import RobotSpaces

Array = jax.Array


class PerturbedWeights(NamedTuple):
    """Arguments that differ between runs of one compiled program.

    Attributes:
        inner: of the perturbed program.
        level: float32 scalar; one program serves every level.
    """

    inner: Any
    level: Any


class PerturbedMemory(NamedTuple):
    """Memory of the perturbed program, and of the perturbation itself."""

    inner: Any
    own: Any


@dataclass(frozen=True)
class PerturbedProgram(PlanProgram):
    """A program of plans under one perturbation, which by itself changes nothing.

    Attributes:
        inner: the program that is perturbed.
        name: of the perturbation.
        spaces: of the robot.
    """

    inner: PlanProgram
    name: str
    spaces: RobotSpaces

    @classmethod
    def wrap(
        cls,
        program: PlanProgram,
        weights: Any,
        name: str,
        level: float,
        spaces: RobotSpaces,
        fovy: Mapping[str, float],
    ) -> tuple[PlanProgram, PerturbedWeights]:
        """Perturb a program.

        Args:
            program: the program.
            weights: its weights.
            name: of the perturbation.
            level: above 0.
            spaces: of the robot.
            fovy: camera -> vertical field of view [degrees].

        Returns:
            the perturbed program and its weights.
        """
        own = cls.settings(program, level, fovy)
        return cls(program, name, spaces, *own), PerturbedWeights(weights, np.float32(level))

    @classmethod
    def settings(cls, program: PlanProgram, level: float, fovy: Mapping[str, float]) -> tuple[Any, ...]:
        """Values of the attributes that a perturbation adds, which are compiled in; see `wrap` for the arguments."""
        return ()

    @property
    @override
    def obs_horizon(self) -> int:
        return self.inner.obs_horizon

    @property
    @override
    def num_action_steps(self) -> int:
        return self.inner.num_action_steps

    @property
    @override
    def cameras(self) -> tuple[str, ...]:
        return self.inner.cameras

    def observe(self, keys: Array, steps: Array, level: Array, observations: dict[str, Array]) -> dict[str, Array]:
        """Change observations.

        Args:
            keys: (B,) typed keys of the episodes.
            steps: int32 (B, obs_horizon) control steps after which they were made; 0 is the start.
            level: float32 scalar, above 0.
            observations: see `imf_jax.rollout.planner.Observations`.
        """
        return observations

    def act(self, keys: Array, steps: Array, level: Array, actions: Array, own: Any) -> tuple[Array, Any]:
        """Change actions.

        Args:
            keys: (B,) typed keys of the episodes.
            steps: int32 (B, num_action_steps) their control steps; the first one is 0.
            level: float32 scalar, above 0.
            actions: float32 (B, num_action_steps, A).
            own: memory.

        Returns:
            the actions that are executed, and the next memory.
        """
        return actions, own

    def begin(self, output: StepOutput) -> Any:
        """Own memory of scenes that have just begun; empty by default."""
        return ()

    @override
    def start(self, output: StepOutput) -> PerturbedMemory:
        return PerturbedMemory(self.inner.start(output), self.begin(output))

    @override
    def plan(
        self,
        weights: PerturbedWeights,
        memory: PerturbedMemory,
        observations: dict[str, Array],
        output: StepOutput,
        seed: Array,
        episodes: Array,
        replans: Array,
    ) -> tuple[Array, PerturbedMemory]:
        keys = jax.vmap(lambda episode: seeds.perturbation_key(seeds.scene_key(seed, episode), self.name))(episodes)
        now = (replans * self.num_action_steps).astype(jnp.int32)[:, None]
        # The missing history is the first observation.
        seen = jnp.maximum(now + jnp.arange(1 - self.obs_horizon, 1), 0)
        observations = self.observe(keys, seen, weights.level, observations)
        actions, inner = self.inner.plan(weights.inner, memory.inner, observations, output, seed, episodes, replans)
        actions, own = self.act(keys, now + jnp.arange(actions.shape[1]), weights.level, actions, memory.own)
        return actions, PerturbedMemory(inner, own)

    @override
    def notes(self, memory: PerturbedMemory) -> dict[str, Array]:
        return self.inner.notes(memory.inner)

    @override
    def plan_error(self, episode: int, replan: int) -> str | None:
        return self.inner.plan_error(episode, replan)

    @override
    def chunk_bytes(self) -> int:
        return self.inner.chunk_bytes()

    @override
    def bytes_per_scene(self) -> int:
        return self.inner.bytes_per_scene()

    @override
    def encoder_bytes(self, num_scenes: int) -> int:
        return self.inner.encoder_bytes(num_scenes)


def step_keys(keys: Array, steps: Array) -> Array:
    """Keys (B, T) of the control steps (B, T) of episodes with keys (B,)."""
    return jax.vmap(lambda key, row: jax.vmap(lambda step: seeds.fold_in(key, step))(row))(keys, steps)


def normal(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal numbers, float32 (B, T, *shape), of keys (B, T)."""
    return jax.vmap(jax.vmap(lambda key: seeds.normal(key, shape)))(keys)


def perturbed_planner(
    planner: ProgramPlanner,
    perturb: Mapping[str, float],
    spaces: RobotSpaces,
    fovy: Mapping[str, float] = MappingProxyType({}),
) -> ProgramPlanner:
    """A planner under the perturbations that concern planners; itself if there are none.

    Args:
        planner: of a policy or an expert.
        perturb: name -> level.
        spaces: of the robot.
        fovy: vertical field of view of the cameras that the planner sees through [degrees].

    Raises:
        ArgumentError: the planner would not notice one of them, or its pictures would not show it.
    """
    program, weights = planner.program, planner.weights
    require_noticed(perturb, sees=bool(planner.cameras), scripted=isinstance(program, ExpertProgram))
    for name, level in active(perturb).items():
        if not PERTURBATIONS[name].of_scene:
            program, weights = load_perturbation(name).wrap(program, weights, name, level, spaces, fovy)
    return planner if program is planner.program else ProgramPlanner(program, weights, planner.rows)
