"""Base of the compiled backends: MJX simulates, and reset and step are pure functions inside any program."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import mjx
from typing_extensions import override

from imf_jax import seeds
from imf_jax.config import RendererName
from imf_jax.sim.arrays import Array
from imf_jax.sim.backends.base import Backend, SimState, StepOutput
from imf_jax.sim.backends.task_scene import TaskScene, require_interpolation
from imf_jax.sim.batching import in_blocks, keep_rows
from imf_jax.sim.robots import Visual
from imf_jax.sim.tasks import Task


class MjxPhysics(NamedTuple):
    """Physics state of B scenes for MJX, and their last measurements.

    Attributes:
        qpos: float32 (B, nq) generalised positions; qvel: float32 (B, nv) velocities.
        qacc_warmstart: float32 (B, nv) where the constraint solver starts.
        hands: float32 (B, E, 7) poses of the end effectors, position [m] and quaternion wxyz.
        sensordata: float32 (B, nsensordata) of the last evaluation of the contacts.
        overflow: bool (B,) a buffer was too small for the contacts or constraints of the last steps.
    """

    qpos: jax.Array
    qvel: jax.Array
    qacc_warmstart: jax.Array
    hands: jax.Array
    sensordata: jax.Array
    overflow: jax.Array


class DeviceBackend(Backend, ABC):
    """Batched scenes of one task on MJX; see `imf_jax.sim.backends.base.Backend`.

    Inside `jax.jit`, `reset`, `step`, `run_chunk` and `pictures` take the batch as it is (scan `step` there). Called
    with concrete arrays, the first three accept any batch size: they run in blocks of a fixed number of rows, so that
    one program serves all, and give numpy arrays.

    Args:
        task: the task, or its name.
        visual: look of the robot in pictures.
        image_size: height and width of pictures [pixels].
        renderer: what makes the pictures.
        interpolation: servo commands per control step, see `TaskScene.commands`.
        devices: the devices of this process that will simulate; its first one by default.
    """

    name: str
    compiled = True

    def __init__(
        self,
        task: str | Task,
        *,
        visual: Visual = "mesh",
        image_size: int = 256,
        renderer: RendererName = "warp",
        interpolation: int = 1,
        devices: Sequence[jax.Device] = (),
    ) -> None:
        self._parts = TaskScene(task, visual, image_size, renderer)
        self.task, self.model = self._parts.task, self._parts.model
        self.cameras, self.control_dt = self.task.cameras, self.task.control_dt
        self._effectors = self._parts.robot.effectors
        require_interpolation(self.task, interpolation)
        self.renderer, self.image_size, self.interpolation = renderer, image_size, interpolation
        # MJX's own default is the first device of all processes, which may be out of reach of this one.
        self._devices = tuple(devices) or (jax.local_devices()[0],)
        self._mjx_model = self._load()
        # Compiled apart, so that reset, step and run_chunk share the one expensive program.
        self._sample = jax.jit(jax.vmap(self._parts.sample))
        self._targets = jax.jit(self._parts.targets)
        self._commands = jax.jit(self._parts.commands, static_argnums=3)
        self._simulate = jax.jit(self._simulate_scenes)
        self._conclude = jax.jit(self._conclude_step)
        self._place = jax.jit(self._place_scenes)

    @abstractmethod
    def _load(self) -> mjx.Model:
        """The model on the first device."""

    @abstractmethod
    def _blank(self, count: int) -> mjx.Data:
        """Data of one scene out of `count`, with nothing in it."""

    @abstractmethod
    def _overflow(self, data: mjx.Data) -> jax.Array:
        """Whether a buffer of a scene overflowed, bool (B,). `data`: of B scenes."""

    @abstractmethod
    def pictures(self, qpos: jax.Array, cameras: tuple[str, ...]) -> jax.Array:
        """Pictures of scenes at `qpos` (B, nq) inside a program: uint8 (B, n_cameras, H, W, 3)."""

    @abstractmethod
    def bytes_per_scene(self, cameras: tuple[str, ...]) -> int:
        """Device memory [bytes] that one more scene needs for its physics and, given cameras, its pictures."""

    @override
    def reset(self, keys: Array) -> tuple[SimState, StepOutput]:
        typed = jnp.asarray(keys)
        if not jnp.issubdtype(typed.dtype, jax.dtypes.prng_key):
            typed = seeds.typed_keys(typed)
        return self._reset(typed) if _traced(typed) else in_blocks(self._reset, typed)

    @override
    def step(self, state: SimState, action: Array) -> tuple[SimState, StepOutput]:
        state, output = self.run_chunk(state, action[:, None])
        return state, jax.tree.map(lambda leaf: leaf[:, 0], output)

    def run_chunk(self, state: SimState, actions: Array) -> tuple[SimState, StepOutput]:
        """Advance K control steps: `step` K times, with the inverse kinematics of the whole chunk in one call.

        Args:
            state: of B scenes.
            actions: float32 (B, K, A).

        Returns:
            the state after the last step, and outputs with leading axes (B, K).
        """
        if _traced((state, actions)):
            return self._run_chunk(state, jnp.asarray(actions))
        return in_blocks(self._run_chunk, state, np.asarray(actions, np.float32))

    @override
    def render(self, qpos: Array, cameras: tuple[str, ...]) -> np.ndarray:
        return self._parts.renderer(cameras).render(np.asarray(qpos))

    def _reset(self, keys: jax.Array) -> tuple[SimState, StepOutput]:
        joints, objects = self._sample(keys)
        count = joints.shape[0]
        qpos = jnp.asarray(self._parts.start_qpos(joints, objects))
        still = jnp.zeros((count, self.model.nv), jnp.float32)
        start = MjxPhysics(
            qpos,
            still,
            still,
            hands=jnp.zeros((count, len(self._effectors), 7), jnp.float32),
            sensordata=jnp.zeros((count, self.model.nsensordata), jnp.float32),
            overflow=jnp.zeros(count, bool),
        )
        ctrl = self._parts.controls(joints, self._parts.start_grippers(joints))
        # A first physics step evaluates the contacts of the start, and where it leads is forgotten.
        evaluated = self._simulate(self._mjx_model, start, ctrl, 1)
        hands = self._hands(self._place(self._mjx_model, qpos))
        physics = evaluated._replace(qpos=qpos, qvel=still, hands=hands)
        state = SimState(
            physics=physics,
            joint_target=joints,
            task=self.task.start(count, jnp),
            step=jnp.full(count, -1, jnp.int32),
        )
        return self._conclude(state, physics, joints, jnp.zeros((count, len(self._effectors)), jnp.float32))

    def _run_chunk(self, state: SimState, actions: jax.Array) -> tuple[SimState, StepOutput]:
        joints, grippers, ik_error = self._targets(jnp.asarray(state.joint_target), actions)
        outputs = []
        for k in range(actions.shape[1]):
            target = jnp.asarray(state.joint_target)
            after, overflow = state.physics, jnp.zeros(target.shape[0], bool)
            for ctrl in self._commands(target, joints[:, k], grippers[:, k], self.interpolation):
                after = self._simulate(self._mjx_model, after, ctrl, self.task.substeps // self.interpolation)
                overflow |= after.overflow
            after = after._replace(overflow=overflow)
            state, output = self._conclude(state, after, joints[:, k], ik_error[:, k])
            outputs.append(output)
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *outputs)

    def _simulate_scenes(
        self, model: mjx.Model, physics: MjxPhysics, ctrl: jax.Array, steps: jax.Array | int
    ) -> MjxPhysics:
        """`steps` physics steps under constant servo commands (B, nu), then the poses of the hands."""
        blank = self._blank(ctrl.shape[0])

        def prepare(qpos: jax.Array, qvel: jax.Array, warmstart: jax.Array, ctrl: jax.Array, sensors: jax.Array) -> Any:
            return blank.replace(qpos=qpos, qvel=qvel, qacc_warmstart=warmstart, ctrl=ctrl, sensordata=sensors)

        def advance(_: jax.Array, carry: tuple[mjx.Data, jax.Array]) -> tuple[mjx.Data, jax.Array]:
            data = jax.vmap(mjx.step, (None, 0))(model, carry[0])
            return data, carry[1] | self._overflow(data)

        with jax.default_matmul_precision("highest"):
            data = jax.vmap(prepare)(physics.qpos, physics.qvel, physics.qacc_warmstart, ctrl, physics.sensordata)
            start = data, jnp.zeros(ctrl.shape[0], bool)
            data, overflow = jax.lax.fori_loop(0, steps, advance, start)
            placed = jax.vmap(mjx.kinematics, (None, 0))(model, data)
        return MjxPhysics(data.qpos, data.qvel, data.qacc_warmstart, self._hands(placed), data.sensordata, overflow)

    def _place_scenes(self, model: mjx.Model, qpos: jax.Array) -> mjx.Data:
        """Scenes at `qpos` (B, nq), with the poses of all bodies."""
        blank = self._blank(qpos.shape[0])
        with jax.default_matmul_precision("highest"):
            data = jax.vmap(lambda row: blank.replace(qpos=row))(qpos)
            return jax.vmap(mjx.kinematics, (None, 0))(model, data)

    def _hands(self, placed: mjx.Data) -> jax.Array:
        bodies = self._effectors
        return jnp.concatenate([placed.xpos[:, bodies], placed.xquat[:, bodies]], axis=-1)

    def _conclude_step(
        self, before: SimState, after: MjxPhysics, joints: jax.Array, ik_error: jax.Array
    ) -> tuple[SimState, StepOutput]:
        """Put scenes that diverged back to where they were, and evaluate all."""
        numbers = jnp.concatenate([after.qpos, after.qvel], axis=-1)
        finite = (jnp.abs(numbers) < mujoco.mjMAXVAL).all(axis=-1)  # false for NaN
        physics = keep_rows(finite, after, before.physics)
        state = before._replace(
            physics=physics,
            joint_target=keep_rows(finite, joints, before.joint_target),
            step=before.step + 1,
        )
        robot, observation = self._parts.read(physics.qpos, physics.sensordata)
        return self._parts.evaluate(
            state,
            robot,
            observation,
            hands=physics.hands,
            finite=finite,
            ik_error=ik_error,
            qpos=physics.qpos,
            overflow=after.overflow,
        )


def _traced(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
