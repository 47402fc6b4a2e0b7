"""An episode to look at, wherever it comes from."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from imf_jax.sim.backends.task_scene import TaskScene
from imf_jax.sim.tasks import get_task, task_names
from imf_jax.spaces import Part, RobotSpaces

SAME_STATE = 1e-3
"""By how much a state may differ from the one of the scene that was made from it [rad, m]."""

Pictures = Callable[[], Iterator[np.ndarray]]
"""Pictures of a camera, uint8 (H, W, 3) each, one for every state of the episode."""


class Chunks(NamedTuple):
    """Chunks of P plans as they were made.

    Attributes:
        actions: float32 (P, H, A).
        step: int (P,) control step before which a chunk was made.
        begin: int (P,) control step of its first action, counted from that one.
    """

    actions: np.ndarray
    step: np.ndarray
    begin: np.ndarray


@dataclass(frozen=True)
class ViewedEpisode:
    """Episode of T commands. Step t of its timeline is the time of command t, and what followed from it is at t + 1.

    Attributes:
        title: a line that says what it is.
        hz: control steps per second.
        action: (T, A) commands.
        action_names, state_names: of their entries; without names they are numbered.
        spaces: of the robot, if it is known.
        state: (T, S) state of the robot.
        first_state: step of the first state, position and picture: 0 if they were recorded before the command, else 1.
        reward: (T,) after the command.
        stage: (T,) likewise.
        scene: scene that can be drawn, if it is known.
        qpos: (T, nq) positions of that scene.
        drawn_objects: whether `qpos` tells where the objects are.
        executed: name of an end effector -> its positions (T, 3) [m]; of `qpos` where they were not recorded.
        chunks: plans of a policy.
        cameras: name -> pictures.
        notes: what cannot be shown, and why, one line each.
    """

    title: str
    hz: float
    action: np.ndarray
    action_names: tuple[str, ...] = ()
    state_names: tuple[str, ...] = ()
    spaces: RobotSpaces | None = None
    state: np.ndarray | None = None
    first_state: int = 0
    reward: np.ndarray | None = None
    stage: np.ndarray | None = None
    scene: TaskScene | None = None
    qpos: np.ndarray | None = None
    drawn_objects: bool = True
    executed: Mapping[str, np.ndarray] = field(default_factory=dict)
    chunks: Chunks | None = None
    cameras: Mapping[str, Pictures] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@lru_cache(maxsize=2)
def scene_of(task: str) -> TaskScene:
    """Scene of a task, see `get_task`; compiled once."""
    return TaskScene(get_task(task))


def known_scene(task: str | None, named: str | None) -> tuple[TaskScene | None, tuple[str, ...]]:
    """Scene of a task, if this version has it.

    Args:
        task: as the source names it. What a source names is not imported: it may come from others.
        named: as the user names it; counts before the other.

    Returns:
        the scene or None, and a note where there is none.

    Raises:
        ArgumentError: there is no task of the name that the user gives.
    """
    if named is not None:
        return scene_of(named), ()
    if task in task_names():
        return scene_of(task), ()
    unknown = f"task {task!r} is not known here" if task else "it does not say its task"
    return None, (f"robot and objects are not drawn: {unknown}; name it with --task",)


def positions_from_state(
    scene: TaskScene, state: np.ndarray | None, env_state: np.ndarray | None
) -> tuple[np.ndarray | None, bool, tuple[str, ...]]:
    """Positions of a scene from what a robot and its task observe.

    Args:
        scene: of the task.
        state: (T, S) of the robot; None if it was not recorded.
        env_state: (T, E) of the task, which begins with the poses of the objects; None if it was not recorded.

    Returns:
        qpos (T, nq) or None, whether it holds the objects, and notes.
    """
    if state is None:
        return None, False, ("robot and objects are not drawn: its state was not recorded",)
    spaces, objects = scene.task.robot.spaces, len(scene.task.objects)
    if state.shape[1] != spaces.state_dim:
        return None, False, (f"robot and objects are not drawn: the state has {state.shape[1]} entries, that of task "
                             f"{scene.task.name!r} {spaces.state_dim}",)  # fmt: skip
    known = env_state is not None and env_state.shape[1] >= 7 * objects
    poses = np.tile(np.array([0, 0, 0, 1, 0, 0, 0], np.float32), (len(state), objects, 1))
    if known:
        assert env_state is not None
        poses = env_state[:, : 7 * objects].reshape(len(state), objects, 7)
    joints, grippers = joints_and_grippers(spaces.state_parts, state)
    qpos = np.asarray(scene.qpos(joints, grippers, poses))
    # Put so that values which are not finite do not pass.
    if not (
        np.abs(scene.robot.read_state(qpos.astype(np.float32)) - state).max() <= SAME_STATE and np.isfinite(qpos).all()
    ):
        return None, False, ("robot and objects are not drawn: its state does not say where all joints are",)
    return qpos, known, () if known else ("objects are not drawn: their poses were not recorded",)


def joints_and_grippers(parts: tuple[tuple[Part, slice], ...], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints (T, J) and grippers (T, G) of states or actions (T, D)."""

    def of(kind: str) -> np.ndarray:
        found = [values[:, place] for part, place in parts if part.kind == kind]
        return np.concatenate([np.zeros((len(values), 0), values.dtype), *found], axis=1)

    return of("joint"), of("gripper")
