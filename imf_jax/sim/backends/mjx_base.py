"""Base of the compiled backends: MJX simulates, in pure functions that are part of any program.

Programs take what they need of the model as an argument. XLA would copy closed-over arrays into the code, and remake
what follows from them inside loops, for every physics step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import mjx
from typing_extensions import override

from imf_jax import seeds
from imf_jax.config import RendererName, VisualName
from imf_jax.sim.arrays import Array
from imf_jax.sim.backends.base import Backend, SimState, StepOutput
from imf_jax.sim.backends.task_scene import TaskScene, require_interpolation
from imf_jax.sim.batching import in_blocks, keep_rows
from imf_jax.sim.perturbations.base import Kick, SceneChanges, scaled
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Constants:
    """What programs read of a scene and never change, to be handed to them as an argument.

    Flat arrays: to take MJX's own classes apart costs milliseconds, at every call of a program.

    Attributes:
        arrays: those of the model, and of data of one scene with nothing in it.
        structure: how they belong together.
    """

    arrays: tuple[jax.Array, ...]
    structure: Any = field(metadata={"static": True})

    def unpack(self) -> tuple[mjx.Model, mjx.Data]:
        """The model and the blank data."""
        return jax.tree.unflatten(self.structure, self.arrays)


class DeviceBackend(Backend, ABC):
    """Batched scenes of one task on MJX; see `imf_jax.sim.backends.base.Backend`.

    `reset`, `step` and `run_chunk` are for the host: they accept any batch size, run in blocks of a fixed number of
    rows, so that one program serves all, and give numpy arrays. Inside `jax.jit`, `start`, `advance` (to be scanned)
    and `pictures` take the batch as it is. They work on data that `allocate` makes once: what is in it before a call
    does not matter.

    Args:
        task: the task, or its name.
        visual: look of the robot in pictures, see `TaskScene`.
        image_size: height and width of pictures [pixels].
        renderer: what makes the pictures.
        interpolation: servo commands per control step, see `TaskScene.commands`.
        devices: the devices of this process that will simulate; its first one by default.
        perturb: perturbations of the scenes, see `TaskScene`.
    """

    name: str
    compiled = True

    def __init__(
        self,
        task: str | Task,
        *,
        visual: Visual | VisualName = "mesh",
        image_size: int = 256,
        renderer: RendererName = "warp",
        interpolation: int = 1,
        devices: Sequence[jax.Device] = (),
        perturb: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._parts = TaskScene(task, visual, image_size, renderer, perturb)
        self.task, self.model = self._parts.task, self._parts.model
        self.cameras, self.control_dt = self.task.cameras, self.task.control_dt
        self._effectors = self._parts.robot.effectors
        require_interpolation(self.task, interpolation)
        self.renderer, self.visual, self.image_size, self.interpolation = renderer, visual, image_size, interpolation
        # MJX's own default is the first device of all processes, which may be out of reach of this one.
        self._devices = tuple(devices) or (jax.local_devices()[0],)
        self._mjx_model = self._load()
        # Compiled apart, so that reset, step and run_chunk share the one expensive program.
        self._sample = jax.jit(jax.vmap(self._parts.sample_perturbed))
        self._targets = jax.jit(self._parts.targets)
        self._commands = jax.jit(self._parts.commands, static_argnums=3)
        self._allocate = jax.jit(self.allocate, static_argnums=1)
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

    def _cleared(self, data: mjx.Data) -> mjx.Data:
        """`data` (of B scenes) without the flags that stay set until somebody clears them."""
        return data

    def constants(self, count: int) -> Constants:
        """The argument of programs over `count` scenes per device, on the first device."""
        arrays, structure = jax.tree.flatten((self._mjx_model, self._blank(count)))
        return Constants(tuple(arrays), structure)

    def allocate(self, constants: Constants, count: int) -> mjx.Data:
        """Data of `count` scenes to work on, inside a program."""
        _, blank = constants.unpack()
        return jax.vmap(lambda qpos: blank.replace(qpos=qpos))(jnp.zeros((count, self.model.nq), jnp.float32))

    def start(self, constants: Constants, data: mjx.Data, keys: jax.Array) -> tuple[SimState, StepOutput]:
        """Start B scenes, inside a program. `keys`: (B,) typed JAX keys."""
        model, _ = constants.unpack()
        return self._start(model, data, keys)

    def advance(
        self, constants: Constants, data: mjx.Data, state: SimState, action: jax.Array
    ) -> tuple[mjx.Data, SimState, StepOutput]:
        """Advance B scenes by one control step, inside a program. `action`: float32 (B, A). Carry `data` on."""
        model, _ = constants.unpack()
        targets = self._targets(state.joint_target, action[:, None])
        return self._control_step(model, data, state, *(leaf[:, 0] for leaf in targets))

    @abstractmethod
    def pictures(self, constants: Constants, data: mjx.Data, qpos: jax.Array, cameras: tuple[str, ...]) -> jax.Array:
        """Pictures of scenes at `qpos` (B, nq) inside a program: uint8 (B, n_cameras, H, W, 3)."""

    @abstractmethod
    def bytes_per_scene(self, cameras: tuple[str, ...]) -> int:
        """Device memory [bytes] that one more scene needs for its physics and, given cameras, its pictures."""

    @override
    def reset(self, keys: Array) -> tuple[SimState, StepOutput]:
        typed = jnp.asarray(keys)
        if not jnp.issubdtype(typed.dtype, jax.dtypes.prng_key):
            typed = seeds.typed_keys(typed)
        return in_blocks(self._reset, typed)

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
        return in_blocks(self._run_chunk, state, np.asarray(actions, np.float32))

    @override
    def render(self, qpos: Array, cameras: tuple[str, ...]) -> np.ndarray:
        return self._parts.renderer(cameras).render(np.asarray(qpos))

    def _reset(self, keys: jax.Array) -> tuple[SimState, StepOutput]:
        data = self._allocate(self.constants(len(keys)), len(keys))
        return self._start(self._mjx_model, data, keys, self._put)

    def _run_chunk(self, state: SimState, actions: np.ndarray) -> tuple[SimState, StepOutput]:
        count = len(actions)
        data = self._allocate(self.constants(count), count)
        state, actions = self._put((state, actions))
        targets = self._targets(state.joint_target, actions)
        outputs = []
        for k in range(actions.shape[1]):
            data, state, output = self._control_step(self._mjx_model, data, state, *(leaf[:, k] for leaf in targets))
            outputs.append(output)
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *outputs)

    def _put(self, tree: Any) -> Any:
        """Put arrays on the first device. JAX compiles anew for arrays of which it may choose the device."""
        return jax.device_put(tree, self._devices[0])

    def _start(
        self, model: mjx.Model, data: mjx.Data, keys: jax.Array, put: Callable[[Any], Any] = lambda tree: tree
    ) -> tuple[SimState, StepOutput]:
        joints, objects, changes = self._sample(keys)
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
        data, evaluated = self._simulate(model, data, *put((start, ctrl)), 1, _factors(changes))
        hands = self._hands(self._place(model, data, qpos))
        physics = evaluated._replace(qpos=qpos, qvel=still, hands=hands)
        state = SimState(
            physics=physics,
            joint_target=joints,
            task=self.task.start(count, jnp),
            step=jnp.full(count, -1, jnp.int32),
            changes=changes,
        )
        return self._conclude(state, physics, joints, jnp.zeros((count, len(self._effectors)), jnp.float32))

    def _control_step(
        self,
        model: mjx.Model,
        data: mjx.Data,
        state: SimState,
        joints: jax.Array,
        grippers: jax.Array,
        ik_error: jax.Array,
    ) -> tuple[mjx.Data, SimState, StepOutput]:
        """One control step towards joint targets (B, J) and gripper targets (B, G)."""
        target = jnp.asarray(state.joint_target)
        after, overflow = state.physics, jnp.zeros(target.shape[0], bool)
        if state.changes and state.changes.kick:
            after = after._replace(qvel=_kicked(after.qvel, state.step, state.changes.kick))
        for ctrl in self._commands(target, joints, grippers, self.interpolation):
            steps = self.task.substeps // self.interpolation
            data, after = self._simulate(model, data, after, ctrl, steps, _factors(state.changes))
            overflow |= after.overflow
        state, output = self._conclude(state, after._replace(overflow=overflow), joints, ik_error)
        return data, state, output

    def _simulate_scenes(
        self,
        model: mjx.Model,
        data: mjx.Data,
        physics: MjxPhysics,
        ctrl: jax.Array,
        steps: jax.Array | int,
        factors: dict[str, jax.Array],
    ) -> tuple[mjx.Data, MjxPhysics]:
        """`steps` physics steps under constant servo commands (B, nu), then the poses of the hands.

        `factors`: of fields of the model in each scene, see `SceneChanges`.
        """
        model, axes = _models(model, factors)

        def advance(_: jax.Array, carry: tuple[mjx.Data, jax.Array]) -> tuple[mjx.Data, jax.Array]:
            data = jax.vmap(mjx.step, (axes, 0))(model, carry[0])
            return data, carry[1] | self._overflow(data)

        data = self._cleared(data).replace(
            qpos=physics.qpos,
            qvel=physics.qvel,
            qacc_warmstart=physics.qacc_warmstart,
            ctrl=ctrl,
            sensordata=physics.sensordata,
        )
        with jax.default_matmul_precision("highest"):
            start = data, jnp.zeros(ctrl.shape[0], bool)
            data, overflow = jax.lax.fori_loop(0, steps, advance, start)
            placed = jax.vmap(mjx.kinematics, (axes, 0))(model, data)
        after = MjxPhysics(data.qpos, data.qvel, data.qacc_warmstart, self._hands(placed), data.sensordata, overflow)
        return placed, after

    def _place_scenes(self, model: mjx.Model, data: mjx.Data, qpos: jax.Array) -> mjx.Data:
        """Scenes at `qpos` (B, nq), with the poses of all bodies."""
        with jax.default_matmul_precision("highest"):
            return jax.vmap(mjx.kinematics, (None, 0))(model, data.replace(qpos=qpos))

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


def _factors(changes: SceneChanges | tuple[()]) -> dict[str, jax.Array]:
    return changes.factors if changes else {}


def _models(model: mjx.Model, factors: dict[str, jax.Array]) -> tuple[mjx.Model, Any]:
    """The models of B scenes that differ in some fields only, and the axes along which to map over them."""
    # Bounding volumes of bodies are something that C MuJoCo alone has.
    fields = {name: scaled(getattr(model, name), factor) for name, factor in factors.items() if hasattr(model, name)}
    if not fields:
        return model, None
    axes = jax.tree.map(lambda leaf: None, model)
    return model.tree_replace(fields), axes.tree_replace(dict.fromkeys(fields, 0))


def _kicked(qvel: jax.Array, step: Array, kick: Kick) -> jax.Array:
    """Velocities (B, nv) at the control steps `step` (B,) that come next."""
    return qvel + jnp.where(step == kick.step, 1.0, 0.0)[:, None] * kick.velocity


def count_colliding_meshes(model: mujoco.MjModel) -> int:
    """How many geoms of a scene are meshes that can collide."""
    collides = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
    collides[np.unique(np.concatenate([model.pair_geom1, model.pair_geom2]))] = True
    return int((collides & (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH)).sum())
