"""An analytic simulator for both loops, and what moves in it: no physics to wait for, and every outcome can be had."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imf_jax.rollout.plan_program import PlanProgram
from imf_jax.seeds import noise_keys
from imf_jax.sim.arrays import array_module
from imf_jax.sim.backends.base import SimState, StepOutput
from imf_jax.sim.tasks.transfer import Transfer

MAX_STEPS = 38
SIZE = 4


class PointTask(Transfer):
    """What loops and recordings ask a task for; its robot has the hands and the action of two arms."""

    name, max_steps, env_state_dim = "point", MAX_STEPS, 3
    cameras: tuple[str, ...] = ("front", "top")
    stages: tuple[str, ...] = ("near", "nearer")
    expert = None


class PointBackend:
    """The left hand goes where it is sent; it succeeds within 5 cm of its target; stages are its distance.

    A command above x = 10 m diverges, one above x = 5 m loses the object. Keys as an array are those of the host loop:
    it gets numpy, which compiles nothing.
    """

    name, compiled, image_size = "mjx", True, SIZE
    cameras = PointTask.cameras
    control_dt = 0.02
    renderer, visual = "warp", "mesh"
    task = PointTask()
    model = SimpleNamespace(nq=6)

    def reset(self, keys: Any) -> tuple[SimState, StepOutput]:
        typed = keys if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(jnp.asarray(keys))
        target: Any = jax.vmap(lambda key: jax.random.uniform(key, (3,), jnp.float32, 0.2, 1.0))(typed)
        if isinstance(keys, np.ndarray):
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

    def constants(self, count: int) -> tuple[()]:
        return ()

    def allocate(self, constants: Any, count: int) -> tuple[()]:
        return ()

    def start(self, constants: Any, data: Any, keys: jax.Array) -> tuple[SimState, StepOutput]:
        return self.reset(keys)

    def advance(
        self, constants: Any, data: Any, state: SimState, action: jax.Array
    ) -> tuple[Any, SimState, StepOutput]:
        return (data, *self.step(state, action))

    def pictures(self, constants: Any, data: Any, qpos: jax.Array, cameras: tuple[str, ...]) -> jax.Array:
        """Pictures whose colour says where the hand is."""
        colour = (255 * jnp.clip(qpos[:, None, None, None, :3], 0, 1)).astype(jnp.uint8)
        return jnp.broadcast_to(colour, (len(qpos), len(cameras), SIZE, SIZE, 3))

    def render(self, qpos: np.ndarray, cameras: tuple[str, ...]) -> np.ndarray:
        return np.asarray(self.pictures((), (), jnp.asarray(qpos), cameras))

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
            ik_error=xp.stack([0.1 * distance, 0 * distance], axis=1),
            qpos=physics,
            overflow=position[:, 1] > 0.3,
        )


@dataclass(frozen=True)
class Straight(PlanProgram):
    """Goes towards the target at a speed that depends on the episode; every seventh stands still, one may be faulty.

    With cameras it goes where the pictures say that it is; weights, if there are any, scale noise of its keys; `memory`
    counts its plans.
    """

    fault: float = 0.0
    cameras: tuple[str, ...] = ()
    obs_horizon: int = 2
    num_action_steps: int = 4

    def start(self, output: StepOutput) -> jax.Array:
        return jnp.zeros(output.state.shape[0], jnp.int32)

    def plan(
        self, weights: Any, memory: Any, observations: Any, output: Any, seed: Any, episodes: Any, replans: Any
    ) -> tuple[jax.Array, Any]:
        here, target = observations["state"][:, -1, :3], observations["env_state"][:, -1]
        if self.cameras:
            here = observations["images"][:, -1, 1, 2, 1].astype(jnp.float32) / 255
        speed = jnp.where(episodes % 7 == 5, 0.0, 0.03 + 0.01 * (episodes % 5))
        share = jnp.minimum(1.0, speed[:, None] * jnp.arange(1, 5) / jnp.linalg.norm(target - here, axis=1)[:, None])
        way = here[:, None] + share[..., None] * (target - here)[:, None]
        if not isinstance(weights, tuple):
            keys = noise_keys(seed, episodes, replans)
            way += weights * jax.vmap(lambda key: jax.random.normal(key, (1, 3)))(keys)
        actions = jnp.pad(way, ((0, 0), (0, 0), (0, 13))).at[:, :, 3].set(1).at[:, :, 11].set(1)
        broken = (episodes == 4) & (memory == 2) & (self.fault != 0)
        return actions.at[:, 1, 0].set(jnp.where(broken, self.fault, actions[:, 1, 0])), memory + 1

    def bytes_per_scene(self) -> int:
        return 1000
