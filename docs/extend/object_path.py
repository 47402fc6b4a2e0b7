"""A recorder of your own: where the objects were, one archive per episode."""

import io
import sys
from pathlib import Path

import numpy as np

from imf_jax.evaluation.setup import make_rollout
from imf_jax.files import write_bytes
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.expert_planner import ExpertPlanner
from imf_jax.rollout.recorders.base import EpisodeBuffer, Recorder, ResetBatch, StepBatch, episode_folder
from imf_jax.sim.backends.native import NativeBackend


class ObjectPathRecorder(Recorder):
    """Writes `objects.npz`: `env_state` float32 (T, E), poses of the objects after each of T control steps."""

    name = "object path"

    def __init__(self, folder: Path) -> None:
        self._folder, self._buffer = folder, EpisodeBuffer()

    def bytes_per_episode(self, max_steps: int) -> int:
        return 2 * 4 * 7 * max_steps  # the arrays and the archive made of them

    def on_reset(self, reset: ResetBatch) -> None:
        for episode in reset.episodes.tolist():
            self._buffer.start(episode)

    def on_steps(self, steps: StepBatch) -> None:
        for row, (episode, count) in enumerate(zip(steps.episodes.tolist(), steps.count.tolist(), strict=True)):
            self._buffer.append(episode, env_state=np.asarray(steps.output.env_state)[row, :count])

    def finish(self, record: EpisodeRecord) -> dict[str, str]:
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **self._buffer.pop(record.episode))
        path = f"{episode_folder(record.episode)}/objects.npz"
        write_bytes(self._folder / path, content.getvalue())
        return {"objects": path}

    def discard(self, episode: int) -> None:
        self._buffer.pop(episode)


def main(folder: Path) -> list[EpisodeRecord]:
    records: list[EpisodeRecord] = []
    make_rollout(
        NativeBackend("transfer"),
        ExpertPlanner("transfer"),
        episodes=range(4),
        devices=(),
        seed=0,
        max_steps=700,
        num_envs=4,
        on_record=records.append,
        recorders=[ObjectPathRecorder(folder)],
    ).run()
    print(records[0])
    return records


if __name__ == "__main__":
    main(Path(sys.argv[1]))
