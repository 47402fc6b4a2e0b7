"""`trajectory.npz`: the commanded actions and the executed motion of the end effectors, per episode."""

import io
from pathlib import Path

import numpy as np
from typing_extensions import override

from imf_jax.config import CaptureConfig
from imf_jax.files import write_bytes
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.recorders.base import (
    EpisodeBuffer,
    Recorder,
    RecorderContext,
    ResetBatch,
    StepBatch,
    episode_folder,
)
from imf_jax.spaces import RobotSpaces


def make_recorder(capture: CaptureConfig, context: RecorderContext) -> "TrajectoryRecorder":
    """Make the recorder of --save-trajectory."""
    return TrajectoryRecorder(context.folder, context.backend.task.robot.spaces)


class TrajectoryRecorder(Recorder):
    """Writes one archive per episode of T steps; world frame, quaternions wxyz.

    `step` int64 (T,) step of the episode; `reward` float32 (T,); `raw_action` float32 (T, A) as planned; and per end
    effector, read after the step, `executed_<name>_pos` float32 (T, 3) [m] and `executed_<name>_quat` float32 (T, 4).

    Where stages are timed also, for the call of the loop that made a step, together with other steps and episodes:
    `obs_read_ms`, `preprocess_ms`, `inference_ms`, `env_step_ms`, `loop_total_ms` float64 (T,) [ms]; `call` and
    `call_steps` int64 (T,) its number and the control steps it made over all episodes.

    Args:
        folder: the evaluation folder.
        spaces: of the robot.
    """

    name = "trajectory"

    def __init__(self, folder: Path, spaces: RobotSpaces) -> None:
        self._folder, self._spaces = folder, spaces
        self._buffer = EpisodeBuffer()

    @override
    def bytes_per_episode(self, max_steps: int) -> int:
        """Memory [bytes] of the arrays, those of timing included, and of the archive that is made of them."""
        numbers = 1 + self._spaces.action_dim + 7 * len(self._spaces.effectors)
        return 2 * (4 * numbers + 8 * 7) * max_steps

    @override
    def on_reset(self, reset: ResetBatch) -> None:
        for episode in reset.episodes.tolist():
            self._buffer.start(episode)

    @override
    def on_steps(self, steps: StepBatch) -> None:
        pose, reward = np.asarray(steps.output.end_effector), np.asarray(steps.output.reward)
        for row, (episode, count) in enumerate(zip(steps.episodes.tolist(), steps.count.tolist(), strict=True)):
            self._buffer.append(
                episode,
                reward=reward[row, :count],
                raw_action=steps.actions[row, :count],
                **self._executed(pose[row, :count]),
                **{name: np.repeat(value[row], count) for name, value in steps.timing.items()},
            )

    def _executed(self, poses: np.ndarray) -> dict[str, np.ndarray]:
        """Positions and orientations of each end effector from poses (T, E, 7)."""
        executed = {}
        for index, name in enumerate(self._spaces.effectors):
            executed[f"executed_{name}_pos"] = poses[:, index, :3]
            executed[f"executed_{name}_quat"] = poses[:, index, 3:]
        return executed

    @override
    def finish(self, record: EpisodeRecord) -> dict[str, str]:
        arrays = self._buffer.pop(record.episode)
        if not record.steps:
            return {}
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, step=np.arange(record.steps), **arrays)
        path = f"{episode_folder(record.episode)}/trajectory.npz"
        write_bytes(self._folder / path, content.getvalue())
        return {"trajectory": path}

    @override
    def discard(self, episode: int) -> None:
        self._buffer.pop(episode)
