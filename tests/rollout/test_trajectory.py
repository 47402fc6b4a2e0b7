"""`trajectory.npz`: names, shapes, and poses read after the step."""

from pathlib import Path
from typing import Any

import numpy as np
from transfer_task import SPACES

from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.recorders.base import OnlyEpisodes
from imf_jax.rollout.recorders.trajectory import TrajectoryRecorder


def roll(folder: Path, backend: Any, planner: Any, recorder: Any) -> dict[int, Any]:
    records: list[Any] = []
    result = Rollout(
        backend, planner, range(6), seed=0, max_steps=40, num_envs=4, on_record=records.append, recorders=[recorder]
    ).run()
    assert not result.capture_errors
    return {record.episode: record for record in records}


def test_contents(tmp_path: Path, chunk_backend: Any, straight_planner: Any) -> None:
    planner = straight_planner({5: 99.0})
    records = roll(tmp_path, chunk_backend, planner, TrajectoryRecorder(tmp_path, SPACES))
    for episode, record in records.items():
        assert record.artifacts == {"trajectory": f"episodes/ep_{episode:06d}/trajectory.npz"}
        with np.load(tmp_path / record.artifacts["trajectory"]) as file:
            arrays = {name: file[name] for name in file.files}
        assert {name: array.shape[1:] for name, array in arrays.items()} == {
            "step": (), "reward": (), "raw_action": (16,),
            "executed_left_link7_pos": (3,), "executed_left_link7_quat": (4,),
            "executed_right_link7_pos": (3,), "executed_right_link7_quat": (4,),
            "state": (16,), "stage": (), "qpos": (6,),
        }  # fmt: skip
        assert {len(array) for array in arrays.values()} == {record.steps}
        assert arrays["step"].tolist() == list(range(record.steps))
        # In this backend the arm is where it was sent once the step is over.
        np.testing.assert_array_equal(arrays["executed_left_link7_pos"], arrays["raw_action"][:, :3])
        assert arrays["reward"].sum(dtype=np.float64) == np.float64(record.return_)
    assert records[5].status == "error"
    assert records[5].steps == 9


def test_only_chosen_episodes(tmp_path: Path, point_backend: Any, straight_planner: Any) -> None:
    records = roll(
        tmp_path, point_backend, straight_planner(), OnlyEpisodes(TrajectoryRecorder(tmp_path, SPACES), [1, 4, 99])
    )
    assert sorted(episode for episode, record in records.items() if record.artifacts) == [1, 4]
    assert sorted(path.name for path in (tmp_path / "episodes").iterdir()) == ["ep_000001", "ep_000004"]
