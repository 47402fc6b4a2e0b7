"""The transfer scene as a plain gymnasium environment on `mj_step`, as one would write it without this package.

Its action is the servo command, so that it is spared the inverse kinematics; its scenes and rewards are those of
`imf_jax.sim.tasks.transfer`. Workers of an `AsyncVectorEnv` import this module: it imports no JAX.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numpy as np

if TYPE_CHECKING:
    import mujoco
else:
    from imf_jax.sim import mujoco


class PlainScene(NamedTuple):
    """All that the environments share.

    Attributes:
        model: the compiled scene.
        qpos: float64 (E, nq) generalised positions at the start of each episode.
        ctrl: float64 (E, nu) servo commands at the start of each episode.
        substeps: physics steps of a control step.
        arms: addresses in qpos of the joint angles, (2, 7).
        fingers: addresses in qpos of the fingers, (2, 2).
        box: address in qpos of the pose of the box.
        touch: addresses in sensordata of the contacts of the fingers of both hands with the box, (2, 2).
        lifted_z: height above which the box is lifted [m].
        hold_steps: control steps for which the left hand must hold the box alone.
        workspace: ((x low, x high), (y low, y high)) [m]; outside the box is lost.
    """

    model: mujoco.MjModel
    qpos: np.ndarray
    ctrl: np.ndarray
    substeps: int
    arms: np.ndarray
    fingers: np.ndarray
    box: int
    touch: np.ndarray
    lifted_z: float
    hold_steps: int
    workspace: tuple[tuple[float, float], tuple[float, float]]


class PlainEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One scene; observation float32 (23,): per arm seven joint angles and the gripper opening, then the box's pose."""

    def __init__(self, scene: PlainScene) -> None:
        self.scene, self.data = scene, mujoco.MjData(scene.model)
        size = 2 * 8 + 7
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (scene.model.nu,), np.float32)
        self._held = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start episode `seed`."""
        scene, data = self.scene, self.data
        mujoco.mj_resetData(scene.model, data)
        data.qpos[:] = scene.qpos[seed or 0]
        data.ctrl[:] = scene.ctrl[seed or 0]
        mujoco.mj_forward(scene.model, data)
        self._held = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One control step under the servo commands `action`, float32 (nu,)."""
        self.data.ctrl[:] = action
        mujoco.mj_step(self.scene.model, self.data, self.scene.substeps)
        stage = self._stage()
        self._held = self._held + 1 if stage == 4 else 0
        (x_low, x_high), (y_low, y_high) = self.scene.workspace
        x, y = self.data.qpos[self.scene.box : self.scene.box + 2]
        lost = not (x_low <= x <= x_high and y_low <= y <= y_high)
        return self._observe(), float(stage), self._held >= self.scene.hold_steps or lost, False, {}

    def _stage(self) -> int:
        """Highest of the stages 1 to 4 of the transfer that holds now, or 0."""
        lifted = self.data.qpos[self.scene.box + 2] > self.scene.lifted_z
        (left_1, left_2), (right_1, right_2) = self.data.sensordata[self.scene.touch] > 0
        by_left, by_right = left_1 or left_2, right_1 or right_2
        if lifted and left_1 and left_2 and not by_right:
            return 4
        if lifted and by_left:
            return 3
        return 2 if by_right and lifted else int(by_right)

    def _observe(self) -> np.ndarray:
        qpos, scene = self.data.qpos, self.scene
        left, right = qpos[scene.arms]
        left_open, right_open = qpos[scene.fingers].sum(axis=1)
        box = qpos[scene.box : scene.box + 7]
        return np.concatenate([left, [left_open], right, [right_open], box], dtype=np.float32)
