"""Looking into folders: the same questions to demonstrations and to LeRobot datasets."""

import io
import json

import av
import numpy as np
import pytest
from PIL import Image

from imf_jax.data.episodes import write_episodes
from imf_jax.data.inspection import inspect_folder
from imf_jax.data.lerobot.export import export_demonstrations
from imf_jax.data.lerobot.maintenance import rewrite_statistics
from imf_jax.data.playback import contact_sheet, open_episode, write_video
from imf_jax.data.statistics import write_statistics
from imf_jax.errors import ArgumentError, UserError


@pytest.fixture
def demos(tmp_path, make_episode):
    """Three demonstrations of 10 steps, one of them failed; pictures brighten by 20 per step."""
    images = {
        "front": np.full((10, 32, 48, 3), 20 * np.arange(10).reshape(-1, 1, 1, 1), np.uint8),
        "top": np.full((10, 16, 16, 3), 255 - 20 * np.arange(10).reshape(-1, 1, 1, 1), np.uint8),
    }
    episodes = [make_episode(number, steps=10, images=images, success=number != 1) for number in range(3)]
    write_episodes(tmp_path / "demos", episodes)
    write_statistics(tmp_path / "demos")
    return tmp_path / "demos"


@pytest.fixture(params=["hdf5", "lerobot"])
def folder(request, demos, tmp_path):
    if request.param == "hdf5":
        return demos
    export_demonstrations(demos, tmp_path / "export")
    return tmp_path / "export"


def test_both_kinds_say_the_same(folder, make_episode):
    found = inspect_folder(folder)
    assert (found.exit_code, found.problems, found.hz) == (0, [], 50.0)
    assert [episode.steps for episode in found.episodes] == [10, 10, 10]
    assert [episode.success for episode in found.episodes] == [True, False, True]
    assert found.episodes[0].cameras == {"front": (32, 48), "top": (16, 16)}
    actions = np.concatenate([make_episode(number, steps=10).action for number in range(3)])
    np.testing.assert_allclose(found.ranges["action"]["max"], actions.max(0), atol=1e-6)
    np.testing.assert_allclose(found.ranges["action"]["std"], actions.std(0), atol=1e-6)
    assert found.num_bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_damaged_and_odd_demonstrations_are_named(demos, make_episode):
    paths = sorted(demos.glob("*.hdf5"))
    paths[0].write_bytes(paths[0].read_bytes()[:2000])
    write_episodes(demos, [make_episode(3, control_hz=20.0), make_episode(4, task="insert"), make_episode(5)])
    found = inspect_folder(demos)
    assert found.exit_code == 1
    assert [bool(episode.problems) for episode in found.episodes] == [True, False, False, True, True, True]
    assert "cannot be read" in found.episodes[0].problems[0]
    assert "control_hz is 20.0, but 50.0" in found.episodes[3].problems[0]
    assert "task 'insert'" in found.episodes[4].problems[0]
    assert "other cameras" in found.episodes[5].problems[0]
    for path in paths[1:]:
        path.unlink()
    for number in (3, 4, 5):
        (demos / f"episode_{number:06d}.hdf5").unlink()
    assert inspect_folder(demos).exit_code == 1


def test_statistics_of_other_data_are_a_problem_of_the_folder(demos, make_episode):
    write_episodes(demos, [make_episode(3, steps=10)])
    (demos / "episode_000000.hdf5").unlink()
    for path in demos.glob("*.hdf5"):
        if path.name != "episode_000003.hdf5":
            path.unlink()
    found = inspect_folder(demos)
    assert found.exit_code == 1
    assert "num_episodes 3" in found.problems[0]


def test_a_cut_off_recording_is_a_problem_of_the_dataset(demos, tmp_path):
    export_demonstrations(demos, tmp_path / "export")
    info = tmp_path / "export" / "meta" / "info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"total_episodes": 2}))
    found = inspect_folder(tmp_path / "export")
    assert found.exit_code == 1
    assert "info.json counts 2 episodes, there are 3" in found.problems[0]


def test_statistics_of_a_dataset_can_be_written_again(demos, tmp_path):
    export_demonstrations(demos, tmp_path / "export")
    path = tmp_path / "export" / "meta" / "stats.json"
    before = json.loads(path.read_text())
    path.unlink()
    shown = rewrite_statistics(tmp_path / "export")
    after = json.loads(path.read_text())
    assert after["action"] == before["action"]
    assert shown["action"]["mean"] == before["action"]["mean"]
    np.testing.assert_allclose(  # of pictures that went through the encoder
        after["observation.images.front"]["mean"], before["observation.images.front"]["mean"], atol=0.02
    )


def test_contact_sheet_shows_the_first_and_the_last_picture(folder):
    episode = open_episode(folder, 0)
    assert (episode.steps, episode.cameras) == (10, ("front", "top"))
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(episode, 4)))).astype(int)
    row = sheet[2 * 18 + 18 + 80]  # through the middle of the pictures of the first camera
    shown = [row[6 + column * (240 + 6) + 120] for column in range(4)]  # 32x48 pictures are drawn 160x240
    np.testing.assert_allclose(shown, np.outer([0, 60, 120, 180], np.ones(3)), atol=3)


def test_video_shows_all_cameras_side_by_side(folder, tmp_path):
    write_video(tmp_path / "v.mp4", open_episode(folder, 2))
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.streams.video[0].average_rate == 50
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 10
    assert frames[0].shape == (32, 48 + 32, 3)
    np.testing.assert_allclose([f[:, 4:44].mean() for f in frames], 20 * np.arange(10), atol=4)
    np.testing.assert_allclose([f[:, 52:].mean() for f in frames], 255 - 20 * np.arange(10), atol=4)
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_episodes_without_pictures_or_out_of_range_say_so(folder, tmp_path, make_episode):
    with pytest.raises(ArgumentError, match=r"--episode 3 must be in \[0, 2\]"):
        open_episode(folder, 3)
    write_episodes(tmp_path / "plain", [make_episode()])
    with pytest.raises(UserError, match=r"episode_000000.hdf5, transfer, success has no pictures"):
        open_episode(tmp_path / "plain", 0)
    with pytest.raises(UserError, match="is not a folder"):
        inspect_folder(tmp_path / "absent")
