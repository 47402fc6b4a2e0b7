"""A task in its compiled scene: sampling, commands and observations that all backends share.

`read` and `evaluate` take numpy or JAX arrays and give the same kind back.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from imf_jax import seeds
from imf_jax.config import RendererName
from imf_jax.sim import control
from imf_jax.sim.backends.base import Array, SimState, StepOutput
from imf_jax.sim.scene import READY, Visual, build_scene
from imf_jax.sim.tasks import TaskObservation, get_task
from imf_jax.sim.tasks.base import array_module

if TYPE_CHECKING:
    from imf_jax.sim.rendering.opengl_renderer import OpenGLRenderer
    from imf_jax.sim.rendering.warp_renderer import WarpRenderer

START_JITTER = 0.02
"""Half width of the uniform spread of the starting joint angles around the ready posture [rad]."""


class TaskScene:
    """Scene of one task, with conversions between its flat arrays and the arrays of tasks and policies.

    Args:
        task: name of the task.
        visual: look of the arms in pictures.
        image_size: height and width of pictures [pixels].
        renderer: what makes the pictures: the Warp ray tracer, or OpenGL where a machine has it.
    """

    def __init__(
        self, task: str, visual: Visual = "mesh", image_size: int = 256, renderer: RendererName = "warp"
    ) -> None:
        self.task = get_task(task)
        self.scene = build_scene(self.task.add_objects, visual)
        self.arms = control.arm_model(self.scene)
        self._object_qpos = np.array([self.scene.index.object_qpos[name] for name in self.task.objects])
        index = self.scene.index
        # Every entry of qpos and of ctrl belongs to an arm joint, a finger or an object: gather instead of scatter.
        objects = (self._object_qpos[:, None] + np.arange(7)).ravel()
        self._qpos_order = np.argsort(np.concatenate([index.arm_qpos, index.finger_qpos.ravel(), objects]))
        self._ctrl_order = np.argsort(np.concatenate([index.arm_ctrl, index.finger_ctrl.ravel()]))
        self._image_size = image_size
        self.renderer_name = renderer
        self._renderers: dict[tuple[str, ...], WarpRenderer | OpenGLRenderer] = {}
        self._touch = np.stack([self.scene.index.touch_sensor[name] for name in self.task.objects])

    @property
    def model(self) -> mujoco.MjModel:
        """The compiled model."""
        return self.scene.model

    def sample(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Start of one scene, a pure function of its key: joint angles (14,) [rad] and object poses (n, 7)."""
        arms, objects = seeds.split(key)
        jitter = seeds.uniform(arms, (14,), -START_JITTER, START_JITTER)
        return jnp.tile(jnp.asarray(READY, jnp.float32), 2) + jitter, self.task.sample(objects)

    def start_qpos(self, joints: Array, objects: Array) -> Array:
        """Generalised positions (B, nq) with the arms at `joints` (B, 14), open grippers, `objects` (B, n, 7)."""
        xp, count = array_module(joints), joints.shape[0]
        open_fingers = xp.full((count, 4), control.MAX_OPENING / 2, np.float32)
        values = xp.concatenate([joints, open_fingers, objects.reshape(count, -1)], axis=1)
        return values[:, self._qpos_order]

    def controls(self, joints: Array, openings: Array) -> Array:
        """Servo commands (B, nu) for joint targets (B, 14) [rad] and gripper openings (B, 2) [m]."""
        xp = array_module(joints)
        fingers = 0.5 * xp.repeat(openings, 2, axis=1)
        return xp.concatenate([joints, fingers], axis=1)[:, self._ctrl_order]

    def commands(self, last: Array, joints: Array, openings: Array, count: int) -> list[Array]:
        """Servo commands of one control step: `count` of them, evenly from the last joint targets to the new ones.

        The last one is always `controls(joints, openings)`. Joint targets differ by at most `MAX_JOINT_STEP` from one
        control step to the next, so hands that follow them are within two millimetres of the straight line.

        Args:
            last: (B, 14) joint targets of the control step before [rad].
            joints: (B, 14) joint targets of this control step [rad].
            openings: (B, 2) gripper openings [m], commanded at once.
            count: servo commands per control step.

        Returns:
            `count` arrays (B, nu).
        """
        between = [last + (i / count) * (joints - last) for i in range(1, count)]
        return [self.controls(targets, openings) for targets in [*between, joints]]

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
            self._renderers[cameras] = kind(self.model, cameras, self._image_size, self._image_size)
        return self._renderers[cameras]

    def targets(self, joint_target: jax.Array, actions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """A chunk of actions (B, K, 16) as servo targets, starting from the last ones (B, 14).

        Returns:
            joint targets (B, K, 14) [rad], openings (B, K, 2) [m] and clamped distances (B, K, 2) [m].
        """

        def one(joints: jax.Array, action: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
            targets = control.action_to_targets(self.arms, joints, action)
            return targets[0], targets

        _, targets = jax.lax.scan(one, joint_target, jnp.swapaxes(actions, 0, 1))
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), targets)

    def read(self, qpos: Array, sensordata: Array) -> tuple[Array, TaskObservation]:
        """Robot state, float32 (B, 16), and what the task sees, from qpos (B, nq) and sensordata (B, n)."""
        index = self.scene.index
        xp = array_module(qpos)
        qpos = qpos.astype(np.float32)
        opening = qpos[:, index.finger_qpos].sum(axis=-1)
        robot = xp.concatenate([qpos[:, index.arm_qpos].reshape(-1, 2, 7), opening[..., None]], axis=-1)
        objects = qpos[:, self._object_qpos[:, None] + np.arange(7)]
        touch = xp.any(sensordata[:, self._touch] > 0, axis=-1)
        return robot.reshape(-1, 16), TaskObservation(objects, touch, opening)

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
            env_state=self.task.env_state(observation),
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
