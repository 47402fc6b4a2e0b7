"""LeRobot datasets: the files that readers expect, recordings that are resumed, cut off, and refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from transfer_task import SPACES

from imf_jax.data.lerobot.checks import require_free_space, require_recording_name
from imf_jax.data.lerobot.features import Feature, picture_feature, robot_features
from imf_jax.data.lerobot.reader import open_dataset
from imf_jax.data.lerobot.writer import LeRobotWriter
from imf_jax.errors import ArgumentError, UserError

create = partial(LeRobotWriter.create, robot_type=SPACES.name)


def record(folder, features, make_frames, constants, lengths, first=0, resume=False):
    start = LeRobotWriter.resume if resume else create
    with start(folder, features, 50) as writer:
        for number, length in enumerate(lengths, start=first):
            assert writer.add_episode("transfer", make_frames(length, number), constants) == number
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_files_are_the_ones_of_version_3(tmp_path, features, make_frames, constants):
    folder = record(tmp_path / "rollout_a", features, make_frames, constants, [10, 8])
    assert set(content(folder)) == {
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        *(f"meta/episodes/chunk-000/file-00{i}.parquet" for i in (0, 1)),
        *(f"data/chunk-000/file-00{i}.parquet" for i in (0, 1)),
        *(f"videos/observation.images.{c}/chunk-000/file-00{i}.mp4" for c in ("front", "top") for i in (0, 1)),
    }
    info = json.loads((folder / "meta/info.json").read_text())
    assert (info["codebase_version"], info["robot_type"]) == ("v3.0", "two_diana7")
    assert [info[f"total_{what}"] for what in ("episodes", "frames", "tasks")] == [2, 18, 1]
    assert info["splits"] == {"train": "0:2"}
    assert info["features"]["observation.images.top"]["shape"] == [16, 24, 3]
    assert info["features"]["observation.images.top"]["info"]["video.codec"] == "h264"
    tasks = pq.read_table(folder / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    assert tasks.to_pylist() == [{"task_index": 0, "task": "transfer"}]


def test_rows_hold_what_was_recorded(tmp_path, features, make_frames, constants):
    folder = record(tmp_path / "rollout_a", features, make_frames, constants, [10, 8])
    table = pq.read_table(folder / "data/chunk-000/file-001.parquet")
    expected = list(make_frames(8, 1))
    for name in ("observation.state", "action", "observation.environment_state"):
        np.testing.assert_array_equal(np.array(table[name].to_pylist(), np.float32), [f[name] for f in expected])
    assert table["intervention"].to_pylist() == [False, True] * 4
    assert table["next.reward"].to_pylist() == list(map(float, range(8)))
    assert table["success"].to_pylist() == [True] * 8
    assert table["index"].to_pylist() == list(range(10, 18))
    assert table["frame_index"].to_pylist() == list(range(8))
    np.testing.assert_allclose(table["timestamp"].to_pylist(), np.arange(8) / 50, atol=1e-6)
    row = pq.read_table(folder / "meta/episodes/chunk-000/file-001.parquet").to_pylist()[0]
    assert (row["dataset_from_index"], row["dataset_to_index"], row["data/file_index"]) == (10, 18, 1)
    assert row["videos/observation.images.front/to_timestamp"] == pytest.approx(8 / 50)


def test_videos_have_every_frame_at_its_time(tmp_path, features, make_frames, constants):
    folder = record(tmp_path / "rollout_a", features, make_frames, constants, [10])
    with av.open(str(folder / "videos/observation.images.front/chunk-000/file-000.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.format.name, stream.average_rate) == ("h264", "yuv420p", 50)
        frames = list(container.decode(stream))
    np.testing.assert_allclose([float(f.pts * f.time_base) for f in frames], np.arange(10) / 50, atol=1e-6)
    brightness = [frame.to_ndarray(format="rgb24").mean() for frame in frames]
    np.testing.assert_allclose(brightness, 12 * np.arange(10), atol=2)


def test_statistics_are_those_of_all_frames(tmp_path, features, make_frames, constants):
    folder = record(tmp_path / "rollout_a", features, make_frames, constants, [10, 6])
    stats = json.loads((folder / "meta/stats.json").read_text())
    frames = [*make_frames(10, 0), *make_frames(6, 1)]
    actions = np.array([frame["action"] for frame in frames], np.float64)
    for name, expected in {"mean": actions.mean(0), "std": actions.std(0), "min": actions.min(0)}.items():
        np.testing.assert_allclose(stats["action"][name], expected, atol=1e-9)
    assert stats["action"]["count"] == [16]
    pictures = np.array([frame["observation.images.front"] for frame in frames]) / 255
    for name, expected in {"mean": pictures.mean(), "std": pictures.std(), "max": pictures.max()}.items():
        np.testing.assert_allclose(stats["observation.images.front"][name], np.full((3, 1, 1), expected), atol=1e-9)
    assert set(stats) == set(json.loads((folder / "meta/info.json").read_text())["features"])


def test_reader_gives_back_frames_and_pictures(tmp_path, features, make_frames, constants):
    dataset = open_dataset(record(tmp_path / "rollout_a", features, make_frames, constants, [10, 8]))
    assert (dataset.num_frames, dataset.fps, dataset.tasks) == (18, 50, ("transfer",))
    assert dataset.cameras == ("observation.images.front", "observation.images.top")
    episode = dataset.episodes[1]
    assert dataset.problems(episode) == []
    np.testing.assert_array_equal(dataset.columns(episode)["action"], [frame["action"] for frame in make_frames(8, 1)])
    pictures = list(dataset.pictures(episode, "observation.images.front", start=3, count=4))
    assert pictures[0].shape == (32, 32, 3)
    np.testing.assert_allclose([p.mean() for p in pictures], 1 + 12 * np.arange(3, 7), atol=2)


def test_resumed_recording_equals_one_without_a_break(tmp_path, features, make_frames, constants):
    whole = record(tmp_path / "rollout_whole", features, make_frames, constants, [6, 5, 4])
    parts = record(tmp_path / "rollout_parts", features, make_frames, constants, [6])
    record(parts, features, make_frames, constants, [5, 4], first=1, resume=True)
    assert content(parts) == content(whole)


def test_episodes_of_many_scenes_grow_side_by_side(tmp_path, features, make_frames, constants):
    with create(tmp_path / "rollout_a", features, 50) as writer:
        episodes = [writer.open_episode("transfer") for _ in range(3)]
        for frames in zip(*(make_frames(5, seed) for seed in range(3)), strict=True):
            for episode, frame in zip(episodes, frames, strict=True):
                before = episode.num_bytes
                episode.add(frame)
                assert episode.num_bytes > before
        assert writer.save(episodes[2], constants) == 0
        episodes[0].discard()
        assert writer.save(episodes[1], constants) == 1
    dataset = open_dataset(tmp_path / "rollout_a")
    seeds = [round(next(dataset.pictures(e, "observation.images.front")).mean()) for e in dataset.episodes]
    assert seeds == [2, 1]


def test_threads_may_feed_and_save_episodes_at_once(tmp_path, features, make_frames, constants):
    with create(tmp_path / "rollout_a", features, 50) as writer, ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda n: writer.add_episode("transfer", make_frames(4 + n, n), constants), range(8)))
    assert sorted(numbers) == list(range(8))
    dataset = open_dataset(tmp_path / "rollout_a")
    for seed, number in enumerate(numbers):
        episode = dataset.episodes[number]
        assert dataset.problems(episode) == []
        expected = [frame["action"] for frame in make_frames(4 + seed, seed)]
        np.testing.assert_array_equal(dataset.columns(episode)["action"], expected)
    indices = np.concatenate([dataset.columns(episode)["index"][:, 0] for episode in dataset.episodes])
    np.testing.assert_array_equal(indices, np.arange(dataset.num_frames))


def test_a_second_task_gets_the_next_number(tmp_path, features, make_frames, constants):
    with create(tmp_path / "rollout_a", features, 50) as writer:
        for task in ("transfer", "insert", "transfer"):
            writer.add_episode(task, make_frames(2), constants)
    dataset = open_dataset(tmp_path / "rollout_a")
    assert dataset.tasks == ("transfer", "insert")
    assert [int(dataset.columns(e)["task_index"][0, 0]) for e in dataset.episodes] == [0, 1, 0]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("survived", range(7))
def test_a_kill_between_any_two_files_loses_at_most_the_open_episode(
    tmp_path, features, make_frames, constants, monkeypatch, survived
):
    """Saving an episode moves 7 files: 2 videos, rows, tasks, episode row, statistics, totals."""
    folder = tmp_path / "rollout_a"
    writer = create(folder, features, 50)
    writer.add_episode("transfer", make_frames(6, 0), constants)
    episode = writer.open_episode("insert")
    for frame in make_frames(5, 1):
        episode.add(frame)
    replace, calls = os.replace, []

    def replace_until_killed(source, target):
        if len(calls) == survived:
            raise Killed
        calls.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_until_killed)
    with pytest.raises(Killed):
        writer.save(episode, constants)
    monkeypatch.undo()
    os.close(writer._lock)  # as the system does when a process ends

    dataset = open_dataset(folder)
    saved = 2 if survived >= 5 else 1
    assert len(dataset.episodes) == saved
    assert dataset.total_episodes == 1
    assert all(dataset.problems(episode) == [] for episode in dataset.episodes)
    with LeRobotWriter.resume(folder, features, 50) as resumed:
        assert resumed.num_episodes == saved
        assert resumed.repaired
        if saved == 1:
            resumed.add_episode("insert", make_frames(5, 1), constants)
    with create(tmp_path / "rollout_whole", features, 50) as whole:
        whole.add_episode("transfer", make_frames(6, 0), constants)
        whole.add_episode("insert", make_frames(5, 1), constants)
    assert content(folder) == content(whole.folder)


def test_a_killed_process_leaves_the_finished_episodes(tmp_path):
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        import numpy as np
        from imf_jax.data.lerobot.features import Feature
        from imf_jax.data.lerobot.writer import LeRobotWriter
        writer = LeRobotWriter.create(
            Path(sys.argv[1]), {"action": Feature("float32", (2,), ())}, 10, robot_type="two_diana7"
        )
        writer.add_episode("transfer", [{"action": np.ones(2)}] * 3)
        writer.open_episode("transfer").add({"action": np.ones(2)})
        print("recording", flush=True)
        time.sleep(60)
    """)
    folder = tmp_path / "rollout_a"
    with subprocess.Popen([sys.executable, "-c", script, folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "recording\n"
        with pytest.raises(UserError, match="another process is recording"):
            LeRobotWriter.resume(folder, {"action": Feature("float32", (2,), ())}, 10)
        process.send_signal(signal.SIGKILL)
    with LeRobotWriter.resume(folder, {"action": Feature("float32", (2,), ())}, 10) as writer:
        assert writer.repaired == ["removed episodes that were not saved"]
        assert writer.num_episodes == 1


def test_a_full_disk_leaves_the_dataset_as_it_was(tmp_path, features, make_frames, constants, monkeypatch):
    folder = tmp_path / "rollout_a"
    with create(folder, features, 50) as writer:
        writer.add_episode("transfer", make_frames(6, 0), constants)
        before = content(folder)

        def full(source, target):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(UserError, match=r"No space left.*1 episodes in it are whole"):
            writer.add_episode("transfer", make_frames(5, 1), constants)
        monkeypatch.undo()
        assert writer.num_episodes == 1
    assert content(folder) == {name: bytes_ for name, bytes_ in before.items() if name != ".lock"}


def test_creating_over_a_dataset_is_refused(tmp_path, features, make_frames, constants):
    folder = record(tmp_path / "rollout_a", features, make_frames, constants, [3])
    with pytest.raises(ArgumentError, match="already holds a dataset; choose another folder"):
        create(folder, features, 50)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    with pytest.raises(ArgumentError, match="is not empty"):
        create(tmp_path / "notes", features, 50)
    with pytest.raises(ArgumentError, match="holds no dataset to resume"):
        LeRobotWriter.resume(tmp_path / "notes", features, 50)


def test_resuming_with_other_features_names_both_sides(tmp_path, features, make_frames, constants):
    folder = record(tmp_path / "rollout_a", features, make_frames, constants, [3])
    changed = robot_features(SPACES, {"front": (32, 32)}, 7) | {"action": Feature("float32", (14,), ())}
    with pytest.raises(ArgumentError) as caught:
        LeRobotWriter.resume(folder, changed, 20)
    message = str(caught.value)
    assert "fps is 50 in the dataset and 20 in the recording" in message
    assert "action is float32 (16,) in the dataset and float32 (14,) in the recording" in message
    assert "observation.images.top is video (16, 24, 3) in the dataset and absent in the recording" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.zeros(14)}, r"frame 0: action is float64 \(14,\), the dataset has float32 \(16,\)"),
        ({"action": np.full(16, np.nan)}, "frame 0: action is not finite"),
        ({"observation.images.top": np.zeros((16, 24, 3))}, "observation.images.top is float64"),
        ({"extra": 1.0}, r"unknown \['extra'\]"),
        ({"seed": 1}, r"unknown \['seed'\]"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused(tmp_path, features, make_frames, change, message):
    with create(tmp_path / "rollout_a", features, 50) as writer:
        episode = writer.open_episode("transfer")
        with pytest.raises(UserError, match=message):
            episode.add(next(make_frames(1)) | change)
        with pytest.raises(ArgumentError, match="without frames"):
            writer.save(episode, {"success": True, "seed": 0, "scene": 0})


def test_an_episode_needs_its_constants_and_ends_once(tmp_path, features, make_frames, constants):
    with create(tmp_path / "rollout_a", features, 50) as writer:
        episode = writer.open_episode("transfer")
        episode.add(next(make_frames(1)))
        with pytest.raises(ArgumentError, match=r"saved with \['success', 'seed', 'scene'\], not with \['seed'\]"):
            writer.save(episode, {"seed": 1})
        writer.save(episode, constants)
        with pytest.raises(ArgumentError, match="saved or discarded already"):
            episode.add(next(make_frames(1)))
    with pytest.raises(ArgumentError, match="is finished"):
        writer.open_episode("transfer")


def test_names_sizes_and_space_are_checked_first(tmp_path, features):
    require_recording_name(Path("data/rollout_x"))
    with pytest.raises(ArgumentError, match="starts with 'rollout_', for example data/rollout_x"):
        require_recording_name(Path("data/x"))
    with pytest.raises(ArgumentError, match="31x32 pixels"):
        picture_feature(31, 32)
    with pytest.raises(UserError, match="MiB are free"):
        require_free_space(tmp_path / "not" / "there", 2**70)
    with pytest.raises(ArgumentError, match="fps is 0"):
        create(tmp_path / "rollout_a", features, 0)
    with pytest.raises(ArgumentError, match=r"\['index'\] are filled in by the dataset"):
        create(tmp_path / "rollout_a", {"index": Feature("int64", (1,), ())}, 50)
    assert not (tmp_path / "rollout_a").exists()


def test_a_recording_does_not_start_on_a_disk_that_is_nearly_full(tmp_path, features, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    with pytest.raises(UserError, match=r"only 1 MiB are free for .*, a recording needs 512 MiB"):
        create(tmp_path / "rollout_a", features, 50)
    assert not (tmp_path / "rollout_a").exists()


def test_damage_is_named(tmp_path, features, make_frames, constants):
    folder = record(tmp_path / "rollout_a", features, make_frames, constants, [4, 4])
    video = folder / "videos/observation.images.top/chunk-000/file-001.mp4"
    video.write_bytes(video.read_bytes()[:50])
    rows = folder / "data/chunk-000/file-001.parquet"
    rows.write_bytes(rows.read_bytes()[:-8])
    dataset = open_dataset(folder)
    assert dataset.problems(dataset.episodes[0]) == []
    problems = dataset.problems(dataset.episodes[1])
    assert len(problems) == 2
    assert "file-001.parquet: cannot be read" in problems[0]
    assert "file-001.mp4: cannot be read as a video" in problems[1]
    video.unlink()
    with pytest.raises(UserError, match=r"file-001.mp4 of episode 1 is absent"):
        LeRobotWriter.resume(folder, features, 50)


def test_paths_out_of_the_folder_and_old_versions_are_refused(tmp_path, features, make_frames, constants):
    folder = record(tmp_path / "rollout_a", features, make_frames, constants, [2])
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"data_path": "../../secret.parquet"}))
    with pytest.raises(UserError, match="leads out of the dataset"):
        open_dataset(folder)
    path.write_text(json.dumps(info | {"codebase_version": "v1.6"}))
    with pytest.raises(UserError, match=r"version v1.6; let lerobot convert it"):
        open_dataset(folder)
    path.write_text("{")
    with pytest.raises(UserError, match=r"info.json: is damaged"):
        open_dataset(folder)


def test_a_missing_library_is_one_line_with_the_mend(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("imf_jax.data.lerobot")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"'av'.*pip install 'imf_jax\[datasets\]'"):
        import imf_jax.data.lerobot.writer  # noqa: F401
