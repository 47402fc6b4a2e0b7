"""Interface of simulation backends: pure `reset`, `step` and `render` over a batch of scenes.

A backend owns the compiled model and no episode state. All state travels in a `SimState`, so the same
rollout code drives C MuJoCo threads on a CPU and the compiled MJX backends on an accelerator.
"""

from typing import Any, NamedTuple, Protocol

import mujoco
import numpy as np

from imf_jax.config import RendererName, VisualName
from imf_jax.sim.arrays import Array
from imf_jax.sim.robots.base import Visual
from imf_jax.sim.tasks.base import Task


class SimState(NamedTuple):
    """State of B scenes; every leaf has the leading axis B. Inputs of a call are never modified.

    Attributes:
        physics: what the backend needs to continue the physics (its own pytree).
        joint_target: float32 (B, J) last joint targets of the robot, see `imf_jax.sim.robots.base`. They are also
            the warm start of inverse kinematics, which therefore depends on commands alone.
        task: the task's own progress pytree (latched stages, counters).
        step: int32 (B,) control steps since reset.
        changes: what perturbations change of the scenes, see `imf_jax.sim.perturbations.base.SceneChanges`; empty
            without any.
    """

    physics: Any
    joint_target: Array
    task: Any
    step: Array
    changes: Any = ()


class StepOutput(NamedTuple):
    """Output of a reset or a control step of B scenes. World frame, quaternions wxyz.

    Attributes:
        state: float32 (B, S) state of the robot, see `RobotSpaces.state`.
        env_state: float32 (B, E) the task's scene state (object positions [m] and quaternions).
        end_effector: float32 (B, E, 7) poses of the end effectors, position [m] and quaternion.
        reward: float32 (B,) reward of the state just reached.
        stage: int32 (B,) highest stage that holds now, 0 if none.
        success: bool (B,) the task is done.
        failure: bool (B,) the task cannot be done any more (for example the object left the table).
        finite: bool (B,) False where the physics diverged; such a scene keeps its last finite state.
        ik_error: float32 (B, E) distance [m] between commanded and reachable position per end effector, the report
            of a pose that inverse kinematics had to clamp.
        qpos: float32 (B, nq) generalised positions: all that a picture of the scene needs.
        overflow: bool (B,) contacts or constraints did not all fit in their buffers during the step.
    """

    state: Array
    env_state: Array
    end_effector: Array
    reward: Array
    stage: Array
    success: Array
    failure: Array
    finite: Array
    ik_error: Array
    qpos: Array
    overflow: Array


class Backend(Protocol):
    """A batch simulator for one task. `B` is read from the arguments; no method modifies its inputs.

    Attributes:
        name: "native", "mjx" or "warp".
        compiled: it can be part of a compiled program, see `imf_jax.sim.backends.mjx_base`.
        task: the task of its scenes.
        model: the compiled scene.
        cameras: names of the cameras of the scene.
        renderer: what makes the pictures that policies see.
        visual: look of the robot in them.
        control_dt: seconds per control step [s].
    """

    name: str
    compiled: bool
    task: Task
    model: mujoco.MjModel
    cameras: tuple[str, ...]
    renderer: RendererName
    visual: Visual | VisualName
    control_dt: float

    def reset(self, keys: Array) -> tuple[SimState, StepOutput]:
        """Start B scenes. `keys`: (B,) typed JAX keys or (B, 2) uint32 key data, from `episode_keys`."""
        ...

    def step(self, state: SimState, action: Array) -> tuple[SimState, StepOutput]:
        """Advance one control step. `action`: float32 (B, A), see `RobotSpaces.action`."""
        ...

    def render(self, qpos: Array, cameras: tuple[str, ...]) -> np.ndarray:
        """Pictures, uint8 (B, n_cameras, H, W, 3), of scenes at `qpos` (B, nq); see `StepOutput.qpos`."""
        ...

    def bytes_per_scene(self, cameras: tuple[str, ...]) -> int:
        """About how much memory [bytes] one more scene needs, with the pictures that a planner sees."""
        ...
