"""`episode.rrd`: an episode as Rerun shows it, of all episodes, of those that did not succeed, or of the first ones."""

import numpy as np
from typing_extensions import override

from imf_jax.config import CaptureConfig
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.recorders.base import OnlyEpisodes, Recorder, RecorderContext, episode_folder
from imf_jax.rollout.recorders.trajectory import TrajectoryRecorder, extra_bytes
from imf_jax.sim.backends.task_scene import TaskScene
from imf_jax.viewing.rrd import require_rerun, write_recording
from imf_jax.viewing.trajectory import recorded_videos, trajectory_episode


def make_recorder(capture: CaptureConfig, context: RecorderContext) -> Recorder:
    """Make the recorder of --save-rerun.

    Raises:
        UserError: Rerun is not installed.
    """
    require_rerun()
    choice = capture.save_rerun
    recorder = RerunRecorder(context, failures_only=choice == "failures")
    return OnlyEpisodes(recorder, range(choice)) if isinstance(choice, int) else recorder


class RerunRecorder(TrajectoryRecorder):
    """Writes what a trajectory holds as a recording of Rerun, with the videos of the episode.

    Args:
        context: the evaluation.
        failures_only: keep only those of episodes that did not succeed.
    """

    name = "rerun"

    def __init__(self, context: RecorderContext, *, failures_only: bool = False) -> None:
        backend = context.backend
        super().__init__(context.folder, backend.task.robot.spaces, extra_bytes(context))
        self._task, self._hz, self._failures_only = backend.task, round(1 / backend.control_dt, 6), failures_only
        self._scene: TaskScene | None = None

    @override
    def setup(self, qpos: np.ndarray) -> None:
        """Compile the scene as it is drawn: with meshes, whatever simulates."""
        self._scene = TaskScene(self._task)

    @override
    def finish(self, record: EpisodeRecord) -> dict[str, str]:
        arrays = self.arrays(record.episode)
        if not record.steps or (self._failures_only and record.status == "success"):
            return {}
        path = f"{episode_folder(record.episode)}/episode.rrd"
        episode = trajectory_episode(
            f"episode {record.episode}, {record.status}",
            arrays,
            self._hz,
            scene=self._scene,
            cameras=recorded_videos((self._folder / path).parent, record.steps, self._hz),
            perturbations=record.perturbations,
        )
        write_recording(self._folder / path, [episode])
        return {"rerun": path}
