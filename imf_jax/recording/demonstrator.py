"""Scripted expert under noise, as it demonstrates a task.

The executed command is the expert's plus smooth noise; the `action` of a demonstration is the command without the
noise. The expert acts on the disturbed scene, so the demonstrations show how to come back (as in DART, Laskey et
al. 2017).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from typing_extensions import override

from imf_jax import seeds
from imf_jax.rollout.plan_program import PlanProgram
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.seeds import disturbance_key
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.batching import BLOCK_ROWS, keep_rows
from imf_jax.sim.tasks import get_expert, get_task
from imf_jax.spaces import RobotSpaces

NOISE_MEMORY = 0.93
"""Correlation of the noise from one control step to the next: it wanders with a time constant of about 0.3 s."""

CLEAN_ACTION = "clean_action"
"""Note about a plan: the expert's command before the noise."""


class Disturbance(NamedTuple):
    """Noise process of B scenes.

    Attributes:
        key: uint32 (B, 2) key data.
        scale: float32 (B, N) standard deviations of the noise, see `noise_scales`.
        value: float32 (B, N) current noise.
    """

    key: jax.Array
    scale: jax.Array
    value: jax.Array


class Demonstration(NamedTuple):
    """Memory of the demonstrator of B scenes.

    Attributes:
        expert: memory of the expert.
        disturbance: its noise.
        clean: float32 (B, A) the last command before the noise.
    """

    expert: Any
    disturbance: Disturbance
    clean: jax.Array


@dataclass(frozen=True)
class DemonstratorProgram(PlanProgram):
    """Expert of a task with noise on its commands; one control step per plan.

    Attributes:
        task: whose expert demonstrates.
        position_noise: largest standard deviation of the noise on hand positions [m]; each episode draws its share.
        yaw_noise: the same of the hands' yaw [rad].
        joint_noise: the same of joint targets [rad].
    """

    task: str
    position_noise: float
    yaw_noise: float
    joint_noise: float
    obs_horizon: int = 1
    num_action_steps: int = 1
    cameras: tuple[str, ...] = ()

    def start(self, output: StepOutput) -> Demonstration:
        """Memory of scenes that have just begun; the noise is drawn at their first plan, which knows the episode."""
        count = output.state.shape[0]
        zero = jnp.zeros((count, len(self._limits())), jnp.float32)
        disturbance = Disturbance(jnp.zeros((count, 2), jnp.uint32), zero, zero)
        return Demonstration(
            get_expert(self.task).start(output), disturbance, jnp.zeros((count, self._spaces.action_dim))
        )

    @override
    def plan(
        self,
        weights: tuple[()],
        memory: Demonstration,
        observations: dict[str, jax.Array],
        output: StepOutput,
        seed: jax.Array,
        episodes: jax.Array,
        replans: jax.Array,
    ) -> tuple[jax.Array, Demonstration]:
        fresh = replans == 0

        def draw(disturbance: Disturbance) -> Disturbance:
            keys = jax.vmap(lambda episode: disturbance_key(seed, episode))(episodes)
            return keep_rows(fresh, self._draw(seeds.key_data(keys)), disturbance)

        drawn = jax.lax.cond(fresh.any(), draw, lambda disturbance: disturbance, memory.disturbance)
        disturbance = evolve(drawn)
        expert, clean = get_expert(self.task).act(memory.expert, output)
        disturbed = disturb(clean, disturbance.value, self._spaces)
        return disturbed[:, None], Demonstration(expert, disturbance, clean)

    def notes(self, memory: Demonstration) -> dict[str, jax.Array]:
        """Notes about the last plan: the command before the noise, float32 (B, 1, A)."""
        return {CLEAN_ACTION: memory.clean[:, None]}

    @property
    def _spaces(self) -> RobotSpaces:
        return get_task(self.task).robot.spaces

    def _limits(self) -> list[float]:
        return noise_scales(self._spaces, self.position_noise, self.yaw_noise, self.joint_noise)

    def _draw(self, keys: jax.Array) -> Disturbance:
        """Draw the noise of fresh scenes, each a share of the largest standard deviations. `keys`: uint32 (B, 2)."""

        def strength(key: jax.Array) -> jax.Array:
            return seeds.uniform(seeds.typed_keys(key))

        limits = jnp.array(self._limits(), jnp.float32)
        scale = jax.vmap(strength)(keys)[:, None] * jnp.broadcast_to(limits, (keys.shape[0], len(limits)))
        return Disturbance(keys, scale, jnp.zeros_like(scale))


def evolve(disturbance: Disturbance) -> Disturbance:
    """Advance the noise by one control step: a first-order autoregressive process that keeps its standard deviation."""

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        after, now = seeds.split(seeds.typed_keys(key))
        return seeds.key_data(after), seeds.normal(now, disturbance.value.shape[1:])

    keys, normal = jax.vmap(draw)(disturbance.key)
    fresh = jnp.sqrt(1 - NOISE_MEMORY**2)
    value = NOISE_MEMORY * disturbance.value + fresh * disturbance.scale * normal
    return disturbance._replace(key=keys, value=value)


def noise_scales(spaces: RobotSpaces, position: float, yaw: float, joint: float) -> list[float]:
    """Largest standard deviations of the N entries of the noise of a robot, in the order of the parts of its action.

    A position has three [m], a quaternion one, the rotation about the vertical axis of the world [rad], joints one each
    [rad], grippers none.
    """
    entries = {"position": [position] * 3, "quaternion": [yaw], "gripper": []}
    return [scale for part in spaces.action for scale in entries.get(part.kind, [joint] * part.dim)]


def disturb(action: jax.Array, noise: jax.Array, spaces: RobotSpaces) -> jax.Array:
    """Disturb actions, float32 (B, A), by noise, float32 (B, N), see `noise_scales`."""
    parts, used = [], 0
    for part, place in spaces.action_parts:
        values = action[:, place]
        if part.kind == "quaternion":
            half = 0.5 * noise[:, used, None]
            cos, sin = jnp.cos(half), jnp.sin(half)
            w, x, y, z = (values[:, i : i + 1] for i in range(4))
            # (cos, 0, 0, sin) times the quaternion: a rotation in the world, whatever the hand's orientation.
            values = jnp.concatenate([cos * w - sin * z, cos * x - sin * y, cos * y + sin * x, sin * w + cos * z], 1)
            used += 1
        elif part.kind != "gripper":
            values = values + noise[:, used : used + part.dim]
            used += part.dim
        parts.append(values)
    return jnp.concatenate(parts, axis=1)


class Demonstrator(ProgramPlanner):
    """Plans with `DemonstratorProgram`; for both loops and every backend.

    Args:
        task: whose expert demonstrates.
        position_noise: see `DemonstratorProgram`.
        yaw_noise: see `DemonstratorProgram`.
        joint_noise: see `DemonstratorProgram`.

    Raises:
        ArgumentError: the task has no expert.
    """

    def __init__(self, task: str, *, position_noise: float, yaw_noise: float, joint_noise: float) -> None:
        get_expert(task)  # an unknown task is refused now
        super().__init__(DemonstratorProgram(task, position_noise, yaw_noise, joint_noise), (), BLOCK_ROWS)
