"""What is legal but looks wrong is found, and what is right is not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imf_jax.data.doctor import (
    ActionLag,
    EntryRange,
    length_finding,
    rate_finding,
    timing_problems,
)
from imf_jax.data.episodes import Episode, write_episodes
from imf_jax.data.inspection import inspect_folder
from imf_jax.data.lerobot.export import export_demonstrations


def test_gaps_and_steps_back_in_time_are_problems() -> None:
    times = np.arange(20) / 50
    assert timing_problems(times, 50.0) == ([], pytest.approx(50))
    late = times + 0.06 * (np.arange(20) > 7)
    assert timing_problems(late, 50.0)[0] == [
        "1 gaps in the time stamps, about 3 frames are missing (the first: 0.080 s after step 7)"
    ]
    assert "do not increase after step 3" in timing_problems(np.where(np.arange(20) == 4, 0, times), 50.0)[0][0]
    assert timing_problems(times * np.nan, 50.0)[0] == ["time stamps are not finite"]
    assert timing_problems(times[:1], 50.0) == ([], None)


def test_drift_is_measured() -> None:
    assert rate_finding([49.9, 50.1], 50.0) == []
    assert rate_finding([48.0, 47.9], 50.0) == ["time stamps are 47.95 steps per second apart on average, not 50"]


def test_odd_lengths_are_named() -> None:
    assert length_finding(["a", "b", "c"], [90, 100, 200]) == []
    assert length_finding(["a", "b", "c", "d"], [100, 100, 20, 310]) == [
        "odd lengths, usual is 100 steps: c (20), d (310)"
    ]


def entries(names: tuple[str, ...], *episodes: np.ndarray) -> list[str]:
    ranges = EntryRange(names)
    for episode in episodes:
        ranges.add(episode)
    return ranges.findings("state")


def test_constant_and_stuck_entries_are_named_over_all_episodes() -> None:
    smooth = np.sin(np.arange(40) / 3)[:, None]
    still, stuck = np.full((40, 1), 2.0), np.clip(smooth, -1, 0.2)
    first = np.hstack([smooth, still, stuck])
    assert entries(("a", "b", "c"), first, first) == [
        "state: 'b' never changes", "state: 'c' is at an end of its range in up to 42 % of the steps",
    ]  # fmt: skip
    assert "never changes" not in entries(("a", "b", "c"), first, first + np.array([0, 1, 0]))[0]


@pytest.mark.parametrize(
    ("low", "high", "guess"),
    [(0, 0.08, "metres"), (0, 1, "share"), (-1, 1, "-1 to 1"), (0, 100, "percent"), (0, 255, "cannot be guessed")],
)
def test_grippers_have_a_range_and_a_guess(low: float, high: float, guess: str) -> None:
    values = np.linspace(low, high, 9)[:, None]
    assert guess in entries(("gripper.pos",), values)[0]
    assert "two values only" in entries(("gripper.pos",), np.where(values > values.mean(), high, low))[0]


def test_degrees_are_guessed() -> None:
    assert "in degrees" in entries(("elbow.pos",), np.linspace(-90, 45, 9)[:, None])[0]
    assert entries(("elbow.pos",), np.linspace(-3, 3, 9)[:, None]) == []


@pytest.mark.parametrize(
    ("shift", "offset", "words"),
    [
        (0, 0, None),
        (3, 0, "3 steps later"),
        (-2, 0, "2 steps before: are they shifted"),
        (0, 90, "differ by a constant"),
    ],
)
def test_actions_are_compared_with_states(shift: int, offset: float, words: str | None) -> None:
    path = np.cumsum(np.random.default_rng(0).normal(size=(120, 2)), axis=0)
    lag = ActionLag()
    lag.add(path[20 + shift : 100 + shift] + offset, path[20:100])
    found = lag.findings(("a", "b"))
    assert [line for line in found if words is None or words in line] == found
    assert bool(found) == (words is not None)


def test_missing_frames_of_a_dataset_are_a_problem(tmp_path: Path, make_episode: Callable[..., Episode]) -> None:
    write_episodes(tmp_path / "demos", [make_episode(number, steps=30) for number in range(2)])
    export_demonstrations(tmp_path / "demos", tmp_path / "export")
    assert inspect_folder(tmp_path / "export").exit_code == 0
    path = tmp_path / "export/data/chunk-000/file-001.parquet"
    table = pq.read_table(path)
    skipped = np.arange(30) + 2 * (np.arange(30) >= 12)
    for name, values in (("frame_index", skipped), ("timestamp", (skipped / 50).astype(np.float32))):
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, path)
    found = inspect_folder(tmp_path / "export")
    assert found.exit_code == 1
    assert "does not count its frames from 0 without gaps (row 12 is frame 14)" in found.episodes[1].problems[0]


def test_pictures_that_do_not_decode_are_a_problem(tmp_path: Path, make_episode: Callable[..., Episode]) -> None:
    images = {"front": np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), np.uint8)}
    write_episodes(tmp_path / "demos", [make_episode(number, steps=30, images=images) for number in range(2)])
    export_demonstrations(tmp_path / "demos", tmp_path / "export")
    path = tmp_path / "export/videos/observation.images.front/chunk-000/file-001.mp4"
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 8
    content[start : start + 20_000] = bytes(20_000)
    path.write_bytes(content)
    found = inspect_folder(tmp_path / "export")
    assert [bool(episode.problems) for episode in found.episodes] == [False, True]
