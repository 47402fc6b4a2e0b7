"""MJX-JAX: the physics as an XLA program, on any device that JAX runs on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import mjx

from imf_jax.config import RendererName
from imf_jax.sim.backends.base import Array, SimState, StepOutput
from imf_jax.sim.backends.task_scene import TaskScene
from imf_jax.sim.blocks import in_blocks
from imf_jax.sim.scene import CAMERAS, PHYSICS_DT, SUBSTEPS, Visual


class MjxPhysics(NamedTuple):
    """What MJX needs to continue B scenes, and what was measured of them last; float32.

    Attributes:
        qpos: (B, nq) generalised positions; qvel: (B, nv) velocities.
        qacc_warmstart: (B, nv) where the constraint solver starts.
        hands: (B, 2, 7) poses of link7, position [m] and quaternion wxyz.
        sensordata: (B, nsensordata) of the last evaluation of the contacts.
    """

    qpos: jax.Array
    qvel: jax.Array
    qacc_warmstart: jax.Array
    hands: jax.Array
    sensordata: jax.Array


class MjxBackend:
    """Batched scenes of one task on MJX-JAX; see `imf_jax.sim.backends.base.Backend`.

    `reset`, `step` and `run_chunk` accept any batch size: they run in blocks of a fixed number of rows, so that one
    program serves all, and give numpy arrays. `reset` and `step` can also be traced inside `jax.jit` (scan `step`
    there); then the batch is taken as it is.
    """

    name = "mjx"
    cameras = CAMERAS
    control_dt = PHYSICS_DT * SUBSTEPS

    def __init__(
        self, task: str, *, visual: Visual = "mesh", image_size: int = 256, renderer: RendererName = "warp"
    ) -> None:
        """Build the scene of a task; compilation happens at the first reset.

        Args:
            task: name of the task.
            visual: look of the arms in pictures.
            image_size: height and width of pictures [pixels].
            renderer: what makes the pictures.
        """
        self._parts = TaskScene(task, visual, image_size, renderer)
        self.task, self.scene, self.model = self._parts.task, self._parts.scene, self._parts.model
        self.renderer = renderer
        self._mjx_model = mjx.put_model(self.model, impl="jax")
        self._blank = mjx.make_data(self.model, impl="jax")
        # Compiled apart, so that reset, step and run_chunk share the one expensive program.
        self._sample = jax.jit(jax.vmap(self._parts.sample))
        self._targets = jax.jit(self._parts.targets)
        self._controls = jax.jit(self._parts.controls)
        self._simulate = jax.jit(self._simulate_scenes)
        self._conclude = jax.jit(self._conclude_step)

    def reset(self, keys: Array) -> tuple[SimState, StepOutput]:
        typed = jnp.asarray(keys)
        if not jnp.issubdtype(typed.dtype, jax.dtypes.prng_key):
            typed = jax.random.wrap_key_data(typed)
        return self._reset(typed) if _traced(typed) else in_blocks(self._reset, typed)

    def step(self, state: SimState, action: Array) -> tuple[SimState, StepOutput]:
        state, output = self.run_chunk(state, action[:, None])
        return state, jax.tree.map(lambda leaf: leaf[:, 0], output)

    def run_chunk(self, state: SimState, actions: Array) -> tuple[SimState, StepOutput]:
        """Advance K control steps: `step` K times, with the inverse kinematics of the whole chunk in one call.

        Args:
            actions: float32 (B, K, 16).

        Returns:
            the state after the last step, and outputs with leading axes (B, K).
        """
        if _traced((state, actions)):
            return self._run_chunk(state, jnp.asarray(actions))
        return in_blocks(self._run_chunk, state, np.asarray(actions, np.float32))

    def images(self, state: SimState, cameras: tuple[str, ...]) -> np.ndarray:
        return self._parts.renderer(cameras).render(self.qpos(state))

    def qpos(self, state: SimState) -> np.ndarray:
        """Generalised positions, float64 (B, nq)."""
        return np.asarray(state.physics.qpos, np.float64)

    def _reset(self, keys: jax.Array) -> tuple[SimState, StepOutput]:
        joints, objects = self._sample(keys)
        count = joints.shape[0]
        qpos = jnp.asarray(self._parts.start_qpos(joints, objects))
        still = jnp.zeros((count, self.model.nv), jnp.float32)
        unknown = jnp.zeros((count, 2, 7), jnp.float32), jnp.zeros((count, self.model.nsensordata), jnp.float32)
        openings = jnp.full((count, 2), 2 * self.model.actuator_ctrlrange[self.scene.index.finger_ctrl[0, 0], 1])
        ctrl = self._parts.controls(joints, openings.astype(jnp.float32))
        start = MjxPhysics(qpos, still, still, *unknown)
        placed = self._simulate(self._mjx_model, start, ctrl, 0)
        # A first physics step evaluates the contacts of the start, and where it leads is forgotten.
        evaluated = self._simulate(self._mjx_model, start, ctrl, 1)
        state = SimState(
            physics=placed._replace(qacc_warmstart=evaluated.qacc_warmstart, sensordata=evaluated.sensordata),
            joint_target=joints,
            task=self.task.start(count, jnp),
            step=jnp.full(count, -1, jnp.int32),
        )
        return self._conclude(state, state.physics, joints, jnp.zeros((count, 2), jnp.float32))

    def _run_chunk(self, state: SimState, actions: jax.Array) -> tuple[SimState, StepOutput]:
        joints, openings, ik_error = self._targets(jnp.asarray(state.joint_target), actions)
        outputs = []
        for k in range(actions.shape[1]):
            ctrl = self._controls(joints[:, k], openings[:, k])
            after = self._simulate(self._mjx_model, state.physics, ctrl, SUBSTEPS)
            state, output = self._conclude(state, after, joints[:, k], ik_error[:, k])
            outputs.append(output)
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *outputs)

    def _simulate_scenes(
        self, model: mjx.Model, physics: MjxPhysics, ctrl: jax.Array, steps: jax.Array | int
    ) -> MjxPhysics:
        """`steps` physics steps under constant servo commands (B, nu), then the poses of the hands."""
        link7 = self.scene.index.link7_body

        def prepare(qpos: jax.Array, qvel: jax.Array, warmstart: jax.Array, ctrl: jax.Array, sensors: jax.Array) -> Any:
            return self._blank.replace(qpos=qpos, qvel=qvel, qacc_warmstart=warmstart, ctrl=ctrl, sensordata=sensors)

        with jax.default_matmul_precision("highest"):
            data = jax.vmap(prepare)(physics.qpos, physics.qvel, physics.qacc_warmstart, ctrl, physics.sensordata)
            data = jax.lax.fori_loop(0, steps, lambda _, data: jax.vmap(mjx.step, (None, 0))(model, data), data)
            placed = jax.vmap(mjx.kinematics, (None, 0))(model, data)
        hands = jnp.concatenate([placed.xpos[:, link7], placed.xquat[:, link7]], axis=-1)
        return MjxPhysics(data.qpos, data.qvel, data.qacc_warmstart, hands, data.sensordata)

    def _conclude_step(
        self, before: SimState, after: MjxPhysics, joints: jax.Array, ik_error: jax.Array
    ) -> tuple[SimState, StepOutput]:
        """Put scenes that diverged back to where they were, and judge all."""
        numbers = jnp.concatenate([after.qpos, after.qvel], axis=-1)
        finite = (jnp.abs(numbers) < mujoco.mjMAXVAL).all(axis=-1)  # false for NaN

        def keep(new: jax.Array, old: Array) -> jax.Array:
            return jnp.where(finite.reshape(-1, *([1] * (new.ndim - 1))), new, old)

        state = before._replace(
            physics=jax.tree.map(keep, after, before.physics),
            joint_target=keep(joints, before.joint_target),
            step=before.step + 1,
        )
        robot, reading = self._parts.read(state.physics.qpos, state.physics.sensordata)
        return self._parts.judge(state, robot, reading, state.physics.hands, finite, ik_error)


def _traced(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
