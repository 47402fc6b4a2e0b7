"""A task and its expert in a file. Run: python scripts/eval.py --expert --task examples/own_task.py --out evals/own"""

from collections import namedtuple
from types import ModuleType

import jax
import jax.numpy as jnp
import mujoco

from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.robots.base import hold
from imf_jax.sim.robots.diana.model import GRASP_Z, MAX_OPENING
from imf_jax.sim.tasks import TableTask, TaskObservation, TaskResult

HALF_SIZE = (0.02, 0.11, 0.02)  # [m]
Memory = namedtuple("Memory", "waited")  # control steps since the fingers began to close, 0 before


class LiftExpert:
    def start(self, output: StepOutput) -> Memory:
        return Memory(jnp.zeros(len(output.state), jnp.int32))

    def act(self, memory: Memory, output: StepOutput) -> tuple[Memory, jax.Array]:
        action = hold(LiftStick.robot.spaces, output.state, output.end_effector)  # the left hand stays where it is
        gap = output.env_state[:, :3] - jnp.array([0, 0, GRASP_Z]) - output.end_effector[:, 1, :3]
        waited = jnp.where((jnp.abs(gap).max(-1) < 0.01) | (memory.waited > 0), memory.waited + 1, 0)
        down = jnp.where(jnp.abs(gap[:, :2]).max(-1) < 0.01, gap[:, 2], 0.0)
        gap = gap.at[:, 2].set(jnp.where(waited > 30, 0.02, down))
        action = action.at[:, 8:11].add(jnp.clip(gap, -0.02, 0.02)).at[:, 11:15].set(jnp.array([1.0, 0, 0, 0]))
        return Memory(waited), action.at[:, 15].set(jnp.where(waited > 0, 0.0, MAX_OPENING))

    def anchor(self, memory: Memory, command: jax.Array) -> Memory:
        return memory  # it acts on what it sees, not on what was commanded


class LiftStick(TableTask):
    """Reward 1 for a touch by the right hand, 2 for a lift by 10 cm, which is success; on numpy and on JAX arrays."""

    name, max_steps, env_state_dim, expert = "lift-stick", 300, 7, LiftExpert
    objects, stages = ("stick",), ("touch", "lift")

    def add_objects(self, spec: mujoco.MjSpec) -> dict[str, tuple[str, ...]]:
        body = spec.worldbody.add_body(name="stick", pos=[0.45, -0.3, HALF_SIZE[2]])
        body.add_freejoint(name="stick_joint")
        body.add_geom(name="stick", type=mujoco.mjtGeom.mjGEOM_BOX, size=HALF_SIZE, mass=0.1, contype=0, conaffinity=0)
        return {"stick": ("stick",)}

    def sample(self, key: jax.Array) -> jax.Array:
        pose = jnp.array([[0.4, -0.4, HALF_SIZE[2], 1, 0, 0, 0]])  # position [m], quaternion wxyz
        return pose.at[0, :2].add(0.1 * jax.random.uniform(key, (2,)))

    def start(self, batch: int, xp: ModuleType) -> tuple[()]:
        return ()

    def evaluate(self, progress: tuple[()], observation: TaskObservation) -> tuple[tuple[()], TaskResult]:
        touched = observation.touch[:, 0, 1].any(-1)
        lifted = touched & (observation.objects[:, 0, 2] > HALF_SIZE[2] + 0.1)
        stage = touched.astype("int32") + lifted.astype("int32")
        return (), TaskResult(stage.astype("float32"), stage, success=lifted, failure=lifted & False)
