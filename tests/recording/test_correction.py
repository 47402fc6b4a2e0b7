"""The expert takes over when it should, gives back when it can, and the recorder gets every frame of it."""

from typing import Any

import numpy as np
import pytest

from imf_jax.data.lerobot.reader import open_dataset
from imf_jax.recording.base import Frame
from imf_jax.recording.correction import CorrectedPlanner, InterventionRules, beta_of_round
from imf_jax.recording.dagger import DaggerStrategy
from imf_jax.recording.demonstrations import teachable

pytestmark = pytest.mark.usefixtures("point_expert")


def modes(frames: list[Frame], scene: int) -> str:
    return "".join("X" if frame.intervention else "." for frame in frames if frame.scene == scene)


@pytest.mark.parametrize("compiled", [False, True])
def test_without_a_reason_to_intervene_nothing_changes(
    roll: Any, make_planner: Any, listener: Any, compiled: bool
) -> None:
    plain = roll(None, compiled=compiled)
    planner = CorrectedPlanner(make_planner(), "point", InterventionRules(no_progress_steps=1000))
    supervised = roll(listener, compiled=compiled, planner=planner)
    for scene, record in plain.items():
        assert supervised[scene].status == record.status
        assert supervised[scene].steps == record.steps
        assert supervised[scene].return_ == pytest.approx(record.return_, rel=1e-5)
    assert not any(frame.intervention for frame in listener.frames)


@pytest.mark.parametrize("compiled", [False, True])
def test_no_progress_calls_the_expert_until_there_is_some(
    roll: Any, make_planner: Any, listener: Any, compiled: bool
) -> None:
    rules = InterventionRules(no_progress_steps=10, correction_steps=3)
    records = roll(listener, compiled=compiled, planner=CorrectedPlanner(make_planner(), "point", rules))
    told = modes(listener.frames, 5)  # it never moves by itself
    frames = [frame for frame in listener.frames if frame.scene == 5]
    assert told.index("X") == 10, "nine steps without progress, one of pause"
    rose = next(step for step, frame in enumerate(frames) if frame.before.stage > frames[0].before.stage)
    assert told[10 : rose + 10] == "X" * (rose - 10) + "." * 10, "then the policy may try again, as long as before"
    np.testing.assert_array_equal(frames[9].action, frames[8].action)  # the pause holds the last command
    moved = np.linalg.norm(np.diff([frame.action[:3] for frame in frames[9:12]], axis=0), axis=1)
    np.testing.assert_allclose(moved, 0.1, rtol=1e-4)  # and the expert goes on from there
    fast = [scene for scene in records if scene % 5 == 4]
    assert all("X" not in modes(listener.frames, scene) for scene in fast if records[scene].steps < 12)


def test_distance_calls_the_expert_and_agreement_ends_the_correction(
    roll: Any, make_planner: Any, listener: Any
) -> None:
    rules = InterventionRules(distance=0.05, correction_steps=4)
    records = roll(listener, planner=CorrectedPlanner(make_planner(), "point", rules))
    told = modes(listener.frames, 5)
    assert records[5].status == "success"
    assert "X" in told
    assert min(len(part) for part in told.strip(".").split(".") if part) >= 4 or told.count("X") < 4
    tolerant = CorrectedPlanner(make_planner(), "point", InterventionRules(distance=0.5))
    listener.frames.clear()
    roll(listener, planner=tolerant)
    assert not any(frame.intervention for frame in listener.frames)


def test_the_expert_has_its_share_of_the_stretches_whatever_the_batch(
    roll: Any, make_planner: Any, listener: Any
) -> None:
    rules = InterventionRules(beta=0.5, correction_steps=5)
    roll(listener, planner=CorrectedPlanner(make_planner(), "point", rules), episodes=range(20))
    everything = [frame.intervention for frame in listener.frames]
    assert 0.2 < np.mean(everything) < 0.8
    alone = modes(listener.frames, 12)
    listener.frames.clear()
    roll(listener, planner=CorrectedPlanner(make_planner(), "point", rules), episodes=[12])
    assert modes(listener.frames, 12) == alone
    listener.frames.clear()
    roll(listener, planner=CorrectedPlanner(make_planner(), "point", InterventionRules(beta=1.0)))
    assert {modes(listener.frames, scene)[1:] for scene in (1, 2)} == {
        "X" * (len(modes(listener.frames, scene)) - 1) for scene in (1, 2)
    }
    assert beta_of_round(0.5, 1) == 0.5
    assert beta_of_round(0.5, 3) == 0.125


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("save", ["corrections", "episodes"])
def test_every_frame_of_a_correction_is_recorded(
    roll: Any, record: Any, make_planner: Any, listener: Any, save: Any, compiled: bool
) -> None:
    rules = InterventionRules(no_progress_steps=6, correction_steps=3)
    recording, segments = record(cameras=True), []
    strategy = DaggerStrategy(recording, save=save, on_segment=lambda frames, *_: segments.append(frames))
    with recording.writer:
        records = roll(strategy, compiled=compiled, planner=CorrectedPlanner(make_planner(), "point", rules))
    roll(listener, compiled=compiled, planner=CorrectedPlanner(make_planner(), "point", rules))
    corrected = [frame for frame in listener.frames if frame.intervention]
    dataset = open_dataset(recording.writer.folder)
    columns = [dataset.columns(episode) for episode in dataset.episodes]
    assert strategy.frames == len(corrected) == sum(int(c["intervention"].sum()) for c in columns) > 0
    assert strategy.corrections == sum(
        len([part for part in modes(listener.frames, scene).split(".") if part]) for scene in records
    )
    if save == "episodes":
        assert sorted(len(c["action"]) for c in columns) == sorted(record.steps for record in records.values())
        assert not all(c["intervention"].all() for c in columns)
    else:
        assert len(columns) == strategy.corrections
        assert all(c["intervention"].all() for c in columns)
    assert [len(frames) for frames in segments] == [len(c["action"]) for c in columns]
    for scene in records:
        wanted = [f.action for f in listener.frames if f.scene == scene and (save == "episodes" or f.intervention)]
        saved = [c["action"] for c in columns if c["scene"][0, 0] == scene]
        np.testing.assert_allclose(np.concatenate([*saved, np.zeros((0, 16))]), np.reshape(wanted, (-1, 16)), atol=1e-6)


def test_what_a_policy_did_is_taught_only_where_it_succeeded(roll: Any, listener: Any) -> None:
    roll(listener, episodes=[0])
    frames = [frame._replace(intervention=flag == "X") for frame, flag in zip(listener.frames, ".XX..X", strict=False)]
    assert list(teachable(frames, True)) == [slice(0, 6)]
    assert list(teachable(frames, False)) == [slice(1, 3), slice(5, 6)]
    assert list(teachable(frames[:1], False)) == []
