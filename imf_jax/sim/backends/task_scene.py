"""A task in its compiled scene: sampling, commands and observations that all backends share.

`read` and `evaluate` take numpy or JAX arrays and give the same kind back.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from imf_jax import seeds
from imf_jax.config import RendererName, VisualName
from imf_jax.errors import ArgumentError, one_line
from imf_jax.sim.arrays import Array, array_module
from imf_jax.sim.backends.base import SimState, StepOutput
from imf_jax.sim.perturbations.base import SceneChanges, ScenePerturbations
from imf_jax.sim.rendering.camera import camera_names
from imf_jax.sim.rendering.decimation import decimated_model
from imf_jax.sim.robots import BoundRobot, Visual
from imf_jax.sim.tasks import Task, TaskObservation, get_task

if TYPE_CHECKING:
    from imf_jax.sim.rendering.opengl_renderer import OpenGLRenderer
    from imf_jax.sim.rendering.warp_renderer import WarpRenderer


class TaskScene:
    """Scene of one task, with conversions between its flat arrays and the arrays of tasks and policies.

    Args:
        task: the task, or its name.
        visual: look of the robot; decimated is its mesh in all but pictures.
        image_size: height and width of pictures [pixels].
        renderer: what makes the pictures: the Warp ray tracer, or OpenGL where a machine has it.
        perturb: perturbations, name -> level; see `imf_jax.config.perturbation`. Only those of scenes count here.

    Raises:
        ArgumentError: the task and the model of its scene do not fit each other, or the task does not have what is
            perturbed.
        UserError: a package with assets is not installed or has changed.
    """

    def __init__(
        self,
        task: str | Task,
        visual: Visual | VisualName = "mesh",
        image_size: int = 256,
        renderer: RendererName = "warp",
        perturb: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.task = get_task(task) if isinstance(task, str) else task
        spec, geoms = self.task.make_spec("mesh" if visual == "decimated" else visual)
        touch = {
            name: [
                [_add_contact_sensors(spec, f"touch|{name}", (finger,), geoms[name]) for finger in fingers]
                for fingers in self.task.robot.fingers
            ]
            for name in self.task.objects
        }
        contacts = [_add_contact_sensors(spec, f"pair{i}", *pair) for i, pair in enumerate(self.task.contact_pairs)]
        self.model = spec.compile()
        self.robot = self.task.robot.bind(self.model)
        self._object_qpos = np.array([_free_joint(self.task, self.model, name) for name in self.task.objects])
        require_complete(self.task, self.model, self.robot)
        # Every entry of qpos and of ctrl belongs to the robot or to an object: gather instead of scatter.
        objects = (self._object_qpos[:, None] + np.arange(7)).ravel()
        self._qpos_order = np.argsort(np.concatenate([self.robot.qpos, objects]))
        self._ctrl_order = np.argsort(self.robot.ctrl)
        self._perturbations = ScenePerturbations(perturb, self.task, self.model)
        self._image_size = image_size
        self.renderer_name, self.visual = renderer, visual
        self._renderers: dict[tuple[str, ...], WarpRenderer | OpenGLRenderer] = {}
        address = {self.model.sensor(i).name: int(self.model.sensor_adr[i]) for i in range(self.model.nsensor)}
        self._touch = _touch_addresses(list(touch.values()), address)
        self._contacts = [np.array([address[name] for name in names]) for names in contacts]

    def sample(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Start of one scene, a pure function of its key: joint targets (J,) and object poses (n, 7)."""
        robot, objects = seeds.split(key)
        return self.robot.sample(robot), self.task.sample(objects)

    def sample_perturbed(self, key: jax.Array) -> tuple[jax.Array, jax.Array, SceneChanges | tuple[()]]:
        """The same under the perturbations of the scene, and its `SimState.changes`."""
        joints, poses = self.sample(key)
        return (joints, *self._perturbations.change(key, poses)) if self._perturbations else (joints, poses, ())

    def start_grippers(self, joints: Array) -> Array:
        """Gripper targets (B, G) at the start of scenes with joint targets (B, J)."""
        xp, start = array_module(joints), self.robot.start_grippers
        return xp.broadcast_to(xp.asarray(start), (joints.shape[0], len(start)))

    def start_qpos(self, joints: Array, objects: Array) -> Array:
        """Generalised positions (B, nq) at the start: joint targets (B, J), object poses (B, n, 7)."""
        return self.qpos(joints, self.start_grippers(joints), objects)

    def qpos(self, joints: Array, grippers: Array, objects: Array) -> Array:
        """Generalised positions (B, nq) from joint (B, J) and gripper targets (B, G), object poses (B, n, 7)."""
        robot = self.robot.positions(joints, grippers)
        poses = objects.reshape(joints.shape[0], -1)
        return array_module(joints).concatenate([robot, poses], axis=1)[:, self._qpos_order]

    def controls(self, joints: Array, grippers: Array) -> Array:
        """Servo commands (B, nu) for joint targets (B, J) and gripper targets (B, G)."""
        return self.robot.controls(joints, grippers)[:, self._ctrl_order]

    def commands(self, last: Array, joints: Array, grippers: Array, count: int) -> list[Array]:
        """Servo commands of one control step: `count` of them, evenly from the last joint targets to the new ones.

        The last one is always `controls(joints, grippers)`.

        Args:
            last: (B, J) joint targets of the control step before.
            joints: (B, J) joint targets of this control step.
            grippers: (B, G) gripper targets, commanded at once.
            count: servo commands per control step.

        Returns:
            `count` arrays (B, nu).
        """
        between = [last + (i / count) * (joints - last) for i in range(1, count)]
        return [self.controls(targets, grippers) for targets in [*between, joints]]

    def renderer(self, cameras: tuple[str, ...]) -> "WarpRenderer | OpenGLRenderer":
        """The renderer of these cameras, built at first use (importing Warp takes seconds).

        Raises:
            ArgumentError: an unknown camera.
            UserError: OpenGL is asked for and does not work here; the message names the packages to install.
        """
        if cameras not in self._renderers:
            from imf_jax.sim.rendering.opengl_renderer import OpenGLRenderer
            from imf_jax.sim.rendering.warp_renderer import WarpRenderer

            kind = OpenGLRenderer if self.renderer_name == "opengl" else WarpRenderer
            self._renderers[cameras] = kind(self.drawn_model, cameras, self._image_size, self._image_size)
        return self._renderers[cameras]

    @cached_property
    def drawn_model(self) -> mujoco.MjModel:
        """The scene that pictures show; its bodies, joints and cameras are those of `model`."""
        if self.visual != "decimated":
            return self.model
        return decimated_model(self.model, self.task.make_spec("mesh")[0])

    def targets(self, joint_target: jax.Array, actions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """A chunk of actions (B, K, A) as servo targets, starting from the last ones (B, J).

        Returns:
            joint targets (B, K, J), gripper targets (B, K, G) and clamped distances (B, K, E) [m].
        """

        def one(joints: jax.Array, action: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
            targets = self.robot.targets(joints, action)
            return targets[0], targets

        _, targets = jax.lax.scan(one, joint_target, jnp.swapaxes(actions, 0, 1))
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), targets)

    def read(self, qpos: Array, sensordata: Array) -> tuple[Array, TaskObservation]:
        """Robot state, float32 (B, S), and what the task sees, from qpos (B, nq) and sensordata (B, n)."""
        xp = array_module(qpos)
        qpos = qpos.astype(np.float32)
        state = self.robot.read_state(qpos)
        objects = qpos[:, self._object_qpos[:, None] + np.arange(7)]
        touch = xp.any(sensordata[:, self._touch] > 0, axis=-1)
        met = [xp.any(sensordata[:, group] > 0, axis=-1) for group in self._contacts]
        contacts = xp.stack(met, axis=-1) if met else xp.zeros((qpos.shape[0], 0), bool)
        return state, TaskObservation(objects, touch, contacts, state)

    def evaluate(
        self,
        state: SimState,
        robot: Array,
        observation: TaskObservation,
        *,
        hands: Array,
        finite: Array,
        ik_error: Array,
        qpos: Array,
        overflow: Array,
    ) -> tuple[SimState, StepOutput]:
        """The task's result on the scenes of `state`: the state with the task's progress, and the output."""
        progress, result = self.task.evaluate(state.task, observation)
        output = StepOutput(
            state=robot,
            env_state=self.task.env_state(observation, hands),
            end_effector=hands,
            reward=result.reward,
            stage=result.stage,
            success=result.success,
            failure=result.failure,
            finite=finite,
            ik_error=ik_error,
            qpos=qpos,
            overflow=overflow,
        )
        return state._replace(task=progress), output


def require_complete(task: Task, model: mujoco.MjModel, robot: BoundRobot) -> None:
    """Refuse a robot whose parts do not add up to the model.

    Raises:
        ArgumentError: says which numbers differ.
    """
    spaces, name = task.robot.spaces, task.robot.spaces.name
    free = model.nq - 7 * len(task.objects)
    found = sorted(robot.ctrl.tolist()), len(set(robot.qpos.tolist()))
    if found[0] != list(range(model.nu)):
        raise ArgumentError(
            f"robot {name!r} of task {task.name!r} commands {len(robot.ctrl)} actuators, but its scene has {model.nu}"
        )
    if found[1] != free or len(robot.qpos) != free:
        raise ArgumentError(
            f"robot {name!r} of task {task.name!r} has {len(robot.qpos)} joint positions, but its scene has {free} "
            f"besides the {len(task.objects)} objects"
        )
    if len(robot.effectors) != len(spaces.effectors):
        raise ArgumentError(
            f"robot {name!r} names {len(spaces.effectors)} end effectors, but finds {len(robot.effectors)} bodies"
        )
    _require_widths(task, model, robot)
    missing = [camera for camera in task.cameras if camera not in camera_names(model)]
    if missing or task.picture_camera not in task.cameras:
        camera = missing[0] if missing else task.picture_camera
        raise ArgumentError(f"task {task.name!r} names the camera {camera!r}, which its scene does not have")


def _require_widths(task: Task, model: mujoco.MjModel, robot: BoundRobot) -> None:
    """Refuse a robot that does not take and read what its spaces say; nothing is compiled for it."""
    spaces, name = task.robot.spaces, task.robot.spaces.name
    joints = jax.eval_shape(robot.sample, seeds.root_key(0, 0))
    last, action = (jax.ShapeDtypeStruct((1, size), jnp.float32) for size in (*joints.shape, spaces.action_dim))
    try:
        with jax.numpy_rank_promotion("allow"):  # whatever a user's JAX is set to
            found, *_ = jax.eval_shape(robot.targets, last, action)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"robot {name!r} cannot use the action of {spaces.action_dim} entries that it describes: {one_line(error)}"
        ) from error
    if found.shape != last.shape:
        raise ArgumentError(f"robot {name!r} makes joint targets {found.shape}, expected {last.shape}")
    width = robot.read_state(np.zeros((1, model.nq), np.float32)).shape[1]
    if width != spaces.state_dim:
        raise ArgumentError(
            f"robot {name!r} describes a state of {spaces.state_dim} entries, but what it reads has {width}"
        )


def require_interpolation(task: Task, interpolation: int) -> None:
    """Refuse a number of servo commands that does not divide the physics steps of a control step.

    Raises:
        ArgumentError: names the flag and what can be chosen.
    """
    choices = [count for count in range(1, task.substeps + 1) if task.substeps % count == 0]
    if interpolation not in choices:
        raise ArgumentError(
            f"--action-interpolation {interpolation} does not divide the {task.substeps} physics steps of a control "
            f"step; choose {' or '.join(map(str, choices))}"
        )


def _free_joint(task: Task, model: mujoco.MjModel, name: str) -> int:
    """Address in qpos of the free joint of an object."""
    body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
    joint = model.body_jntadr[body] if body >= 0 else -1
    if joint < 0 or model.jnt_type[joint] != mujoco.mjtJoint.mjJNT_FREE:
        raise ArgumentError(f"object {name!r} of task {task.name!r} is not a body with a free joint")
    return int(model.jnt_qposadr[joint])


def _touch_addresses(names: list[list[list[list[str]]]], address: dict[str, int]) -> np.ndarray:
    """Addresses of touch sensors, (objects, end effectors, fingers, geoms); short rows repeat their last one."""
    most = max((len(geoms) for hands in names for fingers in hands for geoms in fingers), default=0)
    rows = [
        [[[address[n] for n in (geoms + most * geoms[-1:])[:most]] for geoms in fingers] for fingers in hands]
        for hands in names
    ]
    return np.array(rows)


def _add_contact_sensors(spec: mujoco.MjSpec, prefix: str, firsts: Iterable[str], seconds: Iterable[str]) -> list[str]:
    """Sensors that read the numbers of contacts between two groups of geoms; returns their names."""
    names = []
    for first in firsts:
        for second in seconds:
            names.append(f"{prefix}|{first}|{second}")
            spec.add_sensor(
                name=names[-1],
                type=mujoco.mjtSensor.mjSENS_CONTACT,
                objtype=mujoco.mjtObj.mjOBJ_GEOM,
                objname=first,
                reftype=mujoco.mjtObj.mjOBJ_GEOM,
                refname=second,
                intprm=[1 << int(mujoco.mjtConDataField.mjCONDATA_FOUND), 0, 1],
            )
    return names
