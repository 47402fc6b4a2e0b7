"""The closed loop on an analytic backend: who is where when, what ends how, and that scenes run independently."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.outcome import chunk_outcome
from imf_jax.rollout.recorders.base import ResetBatch, StepBatch
from imf_jax.sim.backends.base import StepOutput

Roll = Callable[..., dict[int, EpisodeRecord]]


def result(record: EpisodeRecord) -> dict[str, Any]:
    """What a record says about the episode itself."""
    values = dataclasses.asdict(record)
    for name in ("env_slot", "start_step", "end_step", "artifacts"):
        values.pop(name)
    return values


def results(records: dict[int, EpisodeRecord]) -> dict[int, dict[str, Any]]:
    return {episode: result(records[episode]) for episode in sorted(records)}


@pytest.fixture
def reference(roll: Roll, point_backend: Any, straight_planner: Any) -> dict[int, dict[str, Any]]:
    return results(roll(point_backend, straight_planner()))


def test_outcomes(reference: dict[int, dict[str, Any]]) -> None:
    assert sorted(reference) == list(range(10))
    for episode, record in reference.items():
        if episode == 5:
            assert (record["status"], record["steps"], record["replans"]) == ("timeout", 40, 10)
            assert record["success_step"] is None
        else:
            assert record["status"] == "success"
            assert record["success_step"] == record["steps"] - 1
            assert record["replans"] == -(-record["steps"] // 4)
            assert record["max_reward"] > np.exp(-0.05)
    lengths = {record["steps"] % 4 for record in reference.values() if record["status"] == "success"}
    assert len(lengths) > 1, "episodes must end at different places of a chunk for these tests to mean anything"


@pytest.mark.parametrize("num_envs", [1, 3, 7, 50])
def test_results_do_not_depend_on_num_envs(
    roll: Roll, point_backend: Any, straight_planner: Any, reference: Any, num_envs: int
) -> None:
    assert results(roll(point_backend, straight_planner(), num_envs=num_envs)) == reference


def test_results_do_not_depend_on_order(roll: Roll, point_backend: Any, straight_planner: Any, reference: Any) -> None:
    for order in (range(9, -1, -1), [3, 9, 0, 6, 1, 8, 2, 7, 5, 4]):
        assert results(roll(point_backend, straight_planner(), order)) == reference


def test_fast_path_gives_the_same(roll: Roll, chunk_backend: Any, straight_planner: Any, reference: Any) -> None:
    assert results(roll(chunk_backend, straight_planner())) == reference


def test_other_seed_other_scenes(roll: Roll, point_backend: Any, straight_planner: Any, reference: Any) -> None:
    other = results(roll(point_backend, straight_planner(), seed=1))
    assert all(other[episode]["return_"] != reference[episode]["return_"] for episode in other)


def test_slots_have_a_gapless_time_line(roll: Roll, point_backend: Any, straight_planner: Any) -> None:
    records = roll(point_backend, straight_planner(), num_envs=3)
    for slot in range(3):
        clock = 0
        for record in sorted((r for r in records.values() if r.env_slot == slot), key=lambda r: r.start_step):
            assert record.start_step == clock
            assert record.end_step - record.start_step + 1 == record.steps
            clock = record.end_step + 1
        assert clock > 0


def test_only_running_scenes_are_stepped(roll: Roll, point_backend: Any, straight_planner: Any) -> None:
    roll(point_backend, straight_planner(), num_envs=50)
    assert point_backend.batch_sizes[-1] == 1
    assert max(point_backend.batch_sizes) == 10


def test_history_starts_with_the_first_observation_repeated(
    roll: Roll, point_backend: Any, straight_planner: Any
) -> None:
    planner = straight_planner()
    roll(point_backend, planner, [0], num_envs=1)
    seen = planner.seen[0][1:]  # the first plan is the warm-up
    assert seen[0].tolist() == [0, 0]
    assert 0 < seen[1][0] < seen[1][1] == seen[1].max()


@pytest.mark.parametrize(
    ("fault", "status", "steps", "message"),
    [
        (99.0, "error", 9, "the physics is not finite after step 9"),
        (6.0, "failure", 10, None),
        (np.nan, "error", 8, "plan 2 is not finite"),
    ],
)
@pytest.mark.parametrize("num_envs", [1, 4])
def test_a_bad_scene_ends_alone(
    roll: Roll, point_backend: Any, straight_planner: Any, reference: Any, num_envs: int,
    fault: float, status: str, steps: int, message: str | None,
) -> None:  # fmt: skip
    found = results(roll(point_backend, straight_planner({5: fault}), num_envs=num_envs))
    bad = found.pop(5)
    assert (bad["status"], bad["steps"], bad["error"]) == (status, steps, message)
    assert np.isfinite(bad["return_"])
    assert found == {episode: record for episode, record in reference.items() if episode != 5}


def test_scene_that_diverges_in_its_reset(roll: Roll, point_backend: Any, straight_planner: Any) -> None:
    reset = point_backend.reset

    def broken(keys: np.ndarray) -> Any:
        state, output = reset(keys)
        return state, output._replace(finite=output.env_state[:, 0] < 0.7)

    point_backend.reset = broken
    records = roll(point_backend, straight_planner())
    bad = [record for record in records.values() if record.status == "error"]
    assert 0 < len(bad) < 10
    for record in bad:
        assert (record.steps, record.replans, record.end_step) == (0, 0, record.start_step - 1)
        assert record.error == "the scene after its reset is not finite"
        EpisodeRecord.from_json(record.to_json())


def test_stop_keeps_finished_records(point_backend: Any, straight_planner: Any) -> None:
    records: list[EpisodeRecord] = []
    rollout = Rollout(
        point_backend, straight_planner(), range(10), seed=0, max_steps=40, num_envs=2,
        on_record=records.append, should_stop=lambda: len(records) >= 3,
    )  # fmt: skip
    outcome = rollout.run()
    assert outcome.interrupted
    assert 3 <= len(records) <= 4


def test_chunk_outcome_takes_the_first_end() -> None:
    flags = np.zeros((5, 4), bool)
    success, failure, finite = flags.copy(), flags.copy(), ~flags
    success[0, 2] = failure[0, 3] = True
    finite[1, 0], success[1, 1] = False, True
    failure[2, 3] = True
    blank = np.zeros((5, 4))
    output = StepOutput(blank, blank, blank, blank, blank, success, failure, finite, blank, blank, flags)
    outcome = chunk_outcome(output, steps=np.array([0, 0, 0, 7, 2]), max_steps=10)
    assert outcome.steps.tolist() == [3, 0, 4, 3, 4]
    assert outcome.ended.tolist() == [True, True, True, True, False]
    assert outcome.success.tolist() == [True, False, False, False, False]
    assert outcome.diverged.tolist() == [False, True, False, False, False]
    assert outcome.failure.tolist() == [False, False, True, False, False]


class Spy:
    """Counts what a recorder is told, and keeps the last positions of every episode."""

    name = "spy"

    def __init__(self) -> None:
        self.steps: dict[int, int] = {}
        self.last: dict[int, np.ndarray] = {}
        self.closed = False
        self.ready = False

    def setup(self, qpos: np.ndarray) -> None:
        assert qpos.shape == (6,)
        self.ready = True

    def bytes_per_episode(self, max_steps: int) -> int:
        return max_steps

    def on_reset(self, reset: ResetBatch) -> None:
        assert self.ready
        self.steps.update(dict.fromkeys(reset.episodes.tolist(), 0))

    def on_steps(self, steps: StepBatch) -> None:
        for row, (episode, count) in enumerate(zip(steps.episodes.tolist(), steps.count.tolist(), strict=True)):
            self.steps[episode] += count
            self.last[episode] = steps.output.qpos[row, count - 1]

    def on_ended(self, episodes: Sequence[int]) -> None:
        assert set(episodes) <= set(self.steps)

    def finish(self, record: EpisodeRecord) -> dict[str, str]:
        if record.episode == 2:
            raise OSError("disk full")
        return {"spy": str(record.episode)}

    def discard(self, episode: int) -> None:
        raise AssertionError("nothing was missed")

    def close(self) -> None:
        self.closed = True

    def abandon(self) -> None:
        raise AssertionError("nothing hangs")


def test_recorders_see_exactly_the_episode_and_change_nothing(
    chunk_backend: Any, straight_planner: Any, reference: Any
) -> None:
    spy, records = Spy(), []
    rollout = Rollout(
        chunk_backend, straight_planner(), range(10), seed=0, max_steps=40, num_envs=4,
        on_record=records.append, recorders=[spy],
    )  # fmt: skip
    outcome = rollout.run()
    assert spy.closed
    assert outcome.capture_errors == ["episode 2, spy: disk full"]
    assert results({record.episode: record for record in records}) == reference
    for record in records:
        assert spy.steps[record.episode] == record.steps
        assert record.artifacts == ({} if record.episode == 2 else {"spy": str(record.episode)})
        position, target = spy.last[record.episode][:3], spy.last[record.episode][3:]
        assert (np.linalg.norm(position - target) < 0.05) == (record.status == "success")
