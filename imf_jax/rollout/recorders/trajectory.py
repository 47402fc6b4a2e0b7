"""`trajectory.npz`: the commanded actions and the executed motion of the end effectors, per episode."""

import io
import math
from pathlib import Path

import numpy as np
from typing_extensions import override

from imf_jax.config import CaptureConfig
from imf_jax.files import write_bytes
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.plan_program import CHUNK, CHUNK_BEGIN
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
    return TrajectoryRecorder(context.folder, context.backend.task.robot.spaces, extra_bytes(context))


def extra_bytes(context: RecorderContext) -> float:
    """Memory per control step of positions and chunks [bytes]."""
    return 4 * context.backend.model.nq + context.chunk_bytes


class TrajectoryRecorder(Recorder):
    """Writes one archive per episode of T steps; world frame, quaternions wxyz.

    `step` int64 (T,) step of the episode; `reward` float32 (T,); `raw_action` float32 (T, A) as planned; and per end
    effector, read after the step, `executed_<name>_pos` float32 (T, 3) [m] and `executed_<name>_quat` float32 (T, 4).
    Likewise after the step: `state` float32 (T, S), `stage` int32 (T,), and `qpos` float32 (T, nq), from which the
    scene of the task can be drawn.

    Where a policy keeps its chunks, for each of P plans: `chunk` float32 (P, H, A), `chunk_step` int64 (P,) the control
    step before which it was made, and `chunk_begin` int32 (P,) the step of its first action, counted from that one.

    Where stages are timed also, for the call of the loop that made a step, together with other steps and episodes:
    `obs_read_ms`, `preprocess_ms`, `inference_ms`, `env_step_ms`, `loop_total_ms` float64 (T,) [ms]; `call` and
    `call_steps` int64 (T,) its number and the control steps it made over all episodes.

    Args:
        folder: the evaluation folder.
        spaces: of the robot.
        extra_bytes: memory per control step of what depends on scene and planner, see `extra_bytes` [bytes].
    """

    name = "trajectory"

    def __init__(self, folder: Path, spaces: RobotSpaces, extra_bytes: float = 0.0) -> None:
        self._folder, self._spaces, self._extra_bytes = folder, spaces, extra_bytes
        self._buffer = EpisodeBuffer()

    @override
    def bytes_per_episode(self, max_steps: int) -> int:
        """Memory [bytes] of the arrays, those of timing included, and of the archive that is made of them."""
        spaces = self._spaces
        numbers = 2 + spaces.action_dim + spaces.state_dim + 7 * len(spaces.effectors)
        return 2 * math.ceil(4 * numbers + 8 * 7 + self._extra_bytes) * max_steps

    @override
    def on_reset(self, reset: ResetBatch) -> None:
        for episode in reset.episodes.tolist():
            self._buffer.start(episode)

    @override
    def on_steps(self, steps: StepBatch) -> None:
        output = steps.output
        pose, reward = np.asarray(output.end_effector), np.asarray(output.reward)
        after = {name: np.asarray(getattr(output, name)) for name in ("state", "stage", "qpos")}
        for row, (episode, count) in enumerate(zip(steps.episodes.tolist(), steps.count.tolist(), strict=True)):
            self._buffer.append(
                episode,
                reward=reward[row, :count],
                raw_action=steps.actions[row, :count],
                **self._executed(pose[row, :count]),
                **{name: values[row, :count] for name, values in after.items()},
                **{name: np.repeat(value[row], count) for name, value in steps.timing.items()},
                **self._planned(steps, row),
            )

    def _planned(self, steps: StepBatch, row: int) -> dict[str, np.ndarray]:
        """The chunk of the plan that these steps execute, and their number."""
        if CHUNK not in steps.notes:
            return {}
        kept = {name: steps.notes[name][row : row + 1] for name in (CHUNK, CHUNK_BEGIN)}
        return {**kept, "chunk_step": steps.count[row : row + 1]}

    def _executed(self, poses: np.ndarray) -> dict[str, np.ndarray]:
        """Positions and orientations of each end effector from poses (T, E, 7)."""
        executed = {}
        for index, name in enumerate(self._spaces.effectors):
            executed[f"executed_{name}_pos"] = poses[:, index, :3]
            executed[f"executed_{name}_quat"] = poses[:, index, 3:]
        return executed

    @override
    def finish(self, record: EpisodeRecord) -> dict[str, str]:
        arrays = self.arrays(record.episode)
        if not record.steps:
            return {}
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        path = f"{episode_folder(record.episode)}/trajectory.npz"
        write_bytes(self._folder / path, content.getvalue())
        return {"trajectory": path}

    def arrays(self, episode: int) -> dict[str, np.ndarray]:
        """Remove an episode and return its arrays, as in the archive; empty if it had no step."""
        arrays = self._buffer.pop(episode)
        if "chunk_step" in arrays:  # so far, the steps that each plan was followed for
            arrays["chunk_step"] = np.cumsum(arrays["chunk_step"]) - arrays["chunk_step"]
        return {"step": np.arange(len(arrays["reward"])), **arrays} if arrays else {}

    @override
    def discard(self, episode: int) -> None:
        self._buffer.pop(episode)
