"""An episode of an evaluation to look at, from what `trajectory.npz` holds."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from imf_jax.errors import UserError
from imf_jax.sim.backends.task_scene import TaskScene
from imf_jax.viewing.episode import Chunks, Pictures, ViewedEpisode

SIZES = "object-size"
"""Perturbation that changes what is drawn."""


def trajectory_episode(
    title: str,
    arrays: Mapping[str, np.ndarray],
    hz: float,
    *,
    scene: TaskScene | None,
    cameras: Mapping[str, Pictures],
    perturbations: Mapping[str, float],
    notes: tuple[str, ...] = (),
) -> ViewedEpisode:
    """Make an episode from the arrays of a trajectory.

    Args:
        title: a line that says what it is.
        arrays: see `imf_jax.rollout.recorders.trajectory`; older versions recorded fewer.
        hz: control steps per second.
        scene: of its task, if it is known.
        cameras: name -> pictures after each step.
        perturbations: of the scene, name -> level.
        notes: what cannot be shown, as far as the caller knows.

    Raises:
        KeyError, ValueError: the arrays are not those of a trajectory.
        UserError: it is one of another task.
    """
    action = np.asarray(arrays["raw_action"])
    steps, found = len(action), list(notes)
    qpos = arrays.get("qpos")
    if scene is not None and qpos is None:
        found.append("robot and objects are not drawn: this trajectory was recorded before it held joint positions")
    if scene is not None and qpos is not None and qpos.shape != (steps, scene.model.nq):
        raise UserError(
            f"{title}: it is not one of task {scene.task.name!r}: its scene has {scene.model.nq} positions, and the "
            f"trajectory holds {qpos.shape}; name its task with --task"
        )
    if perturbations.get(SIZES):
        found.append("objects are drawn in their usual size, but the scene was perturbed in it")
    chunks = None
    if "chunk" in arrays:
        chunks = Chunks(arrays["chunk"], arrays["chunk_step"], arrays["chunk_begin"])
    else:
        found.append("planned chunks were not kept (--save-chunks); commands are shown as they were executed")
    if not cameras:
        found.append("no pictures: no videos were recorded (--record-video)")
    executed = {
        name.removeprefix("executed_").removesuffix("_pos"): values
        for name, values in arrays.items()
        if name.startswith("executed_") and name.endswith("_pos")
    }
    return ViewedEpisode(
        title,
        hz,
        action,
        spaces=scene.task.robot.spaces if scene else None,
        state=arrays.get("state"),
        first_state=1,
        reward=arrays["reward"],
        stage=arrays.get("stage"),
        scene=scene,
        qpos=qpos,
        executed=executed,
        chunks=chunks,
        cameras=cameras,
        notes=tuple(found),
    )


def recorded_videos(folder: Path, steps: int, hz: float) -> dict[str, Pictures]:
    """Pictures of the videos of an episode: camera -> a frame after each of `steps` control steps."""

    def pictures(path: Path) -> Iterator[np.ndarray]:
        from imf_jax.video import probe_video, read_frames  # they need the extra `video`

        start = probe_video(path).start
        return read_frames(path, (start + np.arange(steps) / hz).tolist(), 0.25 / hz)

    return {path.stem: partial(pictures, path) for path in sorted(folder.glob("[!.]*.mp4"))}
