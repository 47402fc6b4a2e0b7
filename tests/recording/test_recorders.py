"""What episodic, sentry and highlight leave in a dataset, frame by frame, and that the rollout does not notice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from imf_jax.data.lerobot import layout, writer
from imf_jax.data.lerobot.reader import open_dataset
from imf_jax.recording.base import Strategy
from imf_jax.recording.dagger import DaggerStrategy
from imf_jax.recording.episodic import EpisodicStrategy
from imf_jax.recording.events import EventRules
from imf_jax.recording.highlight import CLIPS, HighlightStrategy
from imf_jax.recording.recording import recorded_scenes, segment_bytes
from imf_jax.recording.sentry import SentryStrategy


def episodes_of(folder: Path) -> list[dict[str, np.ndarray]]:
    dataset = open_dataset(folder)
    return [dataset.columns(episode) for episode in dataset.episodes]


def by_scene(folder: Path) -> dict[int, list[dict[str, np.ndarray]]]:
    scenes: dict[int, list[dict[str, np.ndarray]]] = {}
    for columns in episodes_of(folder):
        scenes.setdefault(int(columns["scene"][0, 0]), []).append(columns)
    return scenes


@pytest.mark.parametrize("compiled", [False, True])
def test_a_frame_is_what_was_seen_then_done_then_gained(
    roll: Any, record: Any, listener: Any, compiled: bool, make_planner: Any
) -> None:
    expected = roll(None, compiled=compiled)
    recording = record(cameras=True)
    with recording.writer:
        records = roll(EpisodicStrategy(recording), compiled=compiled)
        assert records == expected, "a capture must not change what happens"
    roll(listener, compiled=compiled)
    scenes = by_scene(recording.writer.folder)
    assert scenes.keys() == records.keys()
    for scene, (columns,) in scenes.items():
        frames = [frame for frame in listener.frames if frame.scene == scene]
        record_ = records[scene]
        assert len(frames) == record_.steps == len(columns["action"])
        assert [frame.step for frame in frames] == list(range(len(frames)))
        np.testing.assert_array_equal(columns["action"], [frame.action for frame in frames])
        np.testing.assert_array_equal(columns["observation.state"][0], 0)
        # The hand is where the action before sent it.
        np.testing.assert_array_equal(columns["observation.state"][1:, :3], columns["action"][:-1, :3])
        assert columns["next.reward"].sum() == pytest.approx(record_.return_, rel=1e-5)
        assert columns["success"].all() == columns["success"].any() == (record_.status == "success")
        assert set(columns["seed"].ravel()) == {7}
        assert not columns["intervention"].any()
    dataset = open_dataset(recording.writer.folder)
    episode = dataset.episodes[0]
    pictures = list(dataset.pictures(episode, "observation.images.front"))
    state = dataset.columns(episode)["observation.state"]
    for picture, hand in zip(pictures, state[:, :3], strict=True):
        np.testing.assert_allclose(picture.reshape(-1, 3).mean(axis=0), 255 * np.clip(hand, 0, 1), atol=12)


def test_resuming_appends_what_is_missing_and_nothing_else(roll: Any, record: Any) -> None:
    first = record()
    with first.writer:
        roll(EpisodicStrategy(first), episodes=[0, 2, 5])
    before = episodes_of(first.writer.folder)
    assert recorded_scenes(first.writer.folder, 7) == {0, 2, 5}
    assert recorded_scenes(first.writer.folder, 8) == set()
    again = record(resume=True)
    with again.writer:
        roll(EpisodicStrategy(again), episodes=[1, 3, 4])
    after = episodes_of(first.writer.folder)
    assert len(after) == 6
    for old, new in zip(before, after, strict=False):
        assert all(np.array_equal(old[name], new[name]) for name in old)
    whole = record("rollout_whole")
    with whole.writer:
        roll(EpisodicStrategy(whole), episodes=range(6))
    for scene, (columns,) in by_scene(whole.writer.folder).items():
        (resumed,) = by_scene(first.writer.folder)[scene]
        for name in ("action", "observation.state", "next.reward", "timestamp", "frame_index"):
            # The last bit of an exponential may depend on how many scenes ran beside this one.
            np.testing.assert_allclose(columns[name], resumed[name], rtol=1e-6)


def cut_scenes(recording: Any) -> list[int]:
    """Scenes of the episodes that are marked as cut."""
    found = zip(open_dataset(recording.writer.folder).episodes, episodes_of(recording.writer.folder), strict=True)
    scenes = [int(columns["scene"][0, 0]) for episode, columns in found if episode.cut]
    assert len(scenes) == recording.num_cut
    return scenes


def test_a_sentry_cuts_without_losing_a_frame_and_the_policy_does_not_notice(roll: Any, record: Any) -> None:
    whole, cut = record("rollout_whole", cameras=True), record("rollout_cut", cameras=True)
    with whole.writer, cut.writer:
        records = roll(SentryStrategy(whole, shard_bytes=2**30))
        assert roll(SentryStrategy(cut, shard_bytes=3000)) == records
    segments = by_scene(cut.writer.folder)
    assert max(len(columns) for columns in segments.values()) >= 3
    for scene, (columns,) in by_scene(whole.writer.folder).items():
        for name in ("action", "observation.state", "next.reward"):
            np.testing.assert_array_equal(np.concatenate([segment[name] for segment in segments[scene]]), columns[name])
        told = [bool(segment["success"][0, 0]) for segment in segments[scene]]
        assert told == [False] * (len(told) - 1) + [records[scene].status == "success"]
    assert cut_scenes(whole) == []
    assert sorted(cut_scenes(cut)) == sorted(scene for scene, parts in segments.items() for _ in parts[:-1])


def test_a_sentry_stops_at_its_size_and_keeps_what_is_open(roll: Any, record: Any) -> None:
    recording = record()
    with recording.writer:
        strategy = SentryStrategy(recording, shard_bytes=2**30, max_bytes=9000)
        records = roll(strategy, episodes=range(40))
    frames = sum(len(columns["action"]) for columns in episodes_of(recording.writer.folder))
    assert 0 < len(records) < 40
    assert frames > sum(record.steps for record in records.values())
    assert recording.num_bytes >= 9000
    scenes = by_scene(recording.writer.folder)
    assert cut_scenes(recording) == [scene for scene in scenes if scene not in records] != []


@pytest.mark.parametrize("name", ["highlight", "dagger"])
def test_what_is_still_going_on_when_a_recording_is_stopped_is_marked_as_cut(
    roll: Any, record: Any, listener: Any, name: str
) -> None:
    roll(listener, episodes=[0])
    frames = [frame._replace(intervention=True) for frame in listener.frames]
    recording = record()
    with recording.writer:
        strategy: Any = DaggerStrategy(recording, save="corrections")
        if name == "highlight":
            strategy = highlight(recording, "reward_jump", rules={"reward_jump": 0.0}, post_frames=3)
        strategy.on_step(frames[:3])
        strategy.finish()
    assert cut_scenes(recording) == [0]


def test_datasets_of_older_versions_get_the_column_when_they_are_resumed(roll: Any, record: Any) -> None:
    first = record()
    with first.writer:
        roll(EpisodicStrategy(first), episodes=[0, 2])
    files = sorted(first.writer.folder.glob("meta/episodes/*/*"))
    for path in files:
        pq.write_table(pq.read_table(path).drop_columns(["cut"]), path)
    again = record(resume=True)
    with again.writer:
        assert again.writer.repaired == ["added the column cut to 2 files of meta/episodes that are older"]
        roll(EpisodicStrategy(again), episodes=[1])
    tables = [pq.read_table(path) for path in sorted(first.writer.folder.glob("meta/episodes/*/*"))]
    assert len({str(table.schema.remove_metadata()) for table in tables}) == 1, "LeRobot reads them as one table"
    assert [table["cut"].to_pylist() for table in tables] == [[None], [None], [False]]
    third = record(resume=True)
    assert third.writer.repaired == []
    third.writer.finish()


def test_a_save_that_fails_ends_the_recording_and_says_so(
    roll: Any, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = record()
    real, saved = layout.write_table, []

    def full(path: Path, table: Any) -> None:
        if "data/" in str(path):
            saved.append(path)
            if len(saved) == 3:
                raise OSError(28, "No space left on device")
        real(path, table)

    monkeypatch.setattr(writer.layout, "write_table", full)
    errors: list[str] = []
    with recording.writer:
        strategy = SentryStrategy(recording, shard_bytes=2**30)
        roll(strategy, episodes=range(20), errors=errors)  # may end before the thread that saves is at the third
        assert roll(strategy, episodes=range(20, 30), errors=errors) == {}, "nobody rolls out what is not recorded"
    assert strategy.failed is not None
    assert "No space left on device" in strategy.failed
    assert strategy.wants_to_stop()
    assert "the recording was stopped" in errors[0]
    assert len(episodes_of(recording.writer.folder)) == 2, "what was saved is whole, and nothing came after"
    assert not (recording.writer.folder / ".open").exists()


def test_the_size_is_measured_and_estimated_only_while_nothing_is_encoded(record: Any) -> None:
    features = record(cameras=True).writer.recorded
    row = 4 * (16 + 16 + 3 + 1) + 1
    assert segment_bytes(10 * row + 77, 10, features) == 10 * row + 77
    # 16 x 16 places of a picture at 0.1 bit each: its three channels do not count.
    assert segment_bytes(10 * row, 10, features) == 10 * row + round(10 * 16 * 16 * 0.1 / 8)
    plain = record("rollout_plain").writer.recorded
    assert segment_bytes(10 * row, 10, plain) == 10 * row


def highlight(recording: Any, *events: Any, **settings: Any) -> HighlightStrategy:
    limits = {"pre_frames": 6, "post_frames": 3, "ring_bytes": 2**20} | settings
    return HighlightStrategy(recording, EventRules(events, **limits.pop("rules", {})), **limits)


@pytest.mark.parametrize("compiled", [False, True])
def test_highlights_are_the_end_of_scenes_that_succeed_or_run_out_of_time(
    roll: Any, record: Any, compiled: bool
) -> None:
    recording = record(cameras=True)
    with recording.writer:
        records = roll(highlight(recording, "success", "failure"), compiled=compiled)
    clips = by_scene(recording.writer.folder)
    lines = [json.loads(line) for line in (recording.writer.folder / CLIPS).read_text().splitlines()]
    assert {line["scene"] for line in lines} == set(clips) == set(records)
    for line in lines:
        (columns,) = clips[line["scene"]]
        record_ = records[line["scene"]]
        event = "success" if record_.status == "success" else "failure"
        assert line["events"] == [{"event": event, "step": record_.steps - 1}]
        length = 7 if event == "success" else 6  # the event's own frame, and those before it
        assert len(columns["action"]) == min(length, record_.steps)
        assert line["first_step"] == record_.steps - len(columns["action"])
        assert columns["success"].all() == (event == "success")


def test_no_frame_is_in_two_clips_and_the_post_roll_goes_on_with_new_events(
    roll: Any, record: Any, listener: Any
) -> None:
    records = roll(listener, episodes=[5])  # stands still to the end
    jumps = [8, 10, 20, 25, 36]
    levels = np.cumsum([3.0 if step in jumps else 0.0 for step in range(len(listener.frames))])
    frames = [
        frame._replace(after=frame.after._replace(reward=np.float32(level)))
        for frame, level in zip(listener.frames, levels, strict=True)
    ]
    recording = record()
    with recording.writer:
        strategy = highlight(recording, "reward_jump", pre_frames=4, post_frames=3)
        for first in range(0, len(frames), 5):  # a clip begins and ends anywhere in what is handed over
            strategy.on_step(frames[first : first + 5])
        strategy.on_end(records[5])
        strategy.finish()
    lines = [json.loads(line) for line in (recording.writer.folder / CLIPS).read_text().splitlines()]
    assert [[event["step"] for event in line["events"]] for line in lines] == [[8, 10], [20], [25], [36]]
    spans = [(4, 14), (16, 24), (24, 29), (32, 38)]
    for (start, end), line, columns in zip(spans, lines, episodes_of(recording.writer.folder), strict=True):
        assert line["first_step"] == start
        np.testing.assert_array_equal(columns["next.reward"].ravel(), levels[start:end])


def test_what_is_not_finite_leaves_the_moments_before(roll: Any, record: Any, make_planner: Any) -> None:
    recording = record()
    with recording.writer:
        records = roll(highlight(recording, "non_finite"), planner=make_planner(fault=99.0))
    assert records[4].status == "error"
    (columns,) = by_scene(recording.writer.folder)[4]
    assert len(columns["action"]) == 6
    assert set(by_scene(recording.writer.folder)) == {4}


def test_the_bytes_of_the_ring_bound_the_pre_roll(roll: Any, record: Any, listener: Any) -> None:
    roll(listener, episodes=[0])
    size = listener.frames[0].num_bytes
    recording = record()
    with recording.writer:
        roll(highlight(recording, "success", pre_frames=30, ring_bytes=4 * size + 1), episodes=[0])
    (columns,) = episodes_of(recording.writer.folder)
    assert len(columns["action"]) == 5


def test_the_base_strategy_has_the_same_life_and_records_nothing(roll: Callable[..., Any], tmp_path: Path) -> None:
    strategy = Strategy()
    assert roll(strategy) == roll(None)
    assert not strategy.wants_to_stop()
    assert list(tmp_path.iterdir()) == []
