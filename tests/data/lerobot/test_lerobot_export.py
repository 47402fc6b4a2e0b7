"""Demonstrations as LeRobot datasets: what comes out, and what is left out with a reason."""

import json

import h5py
import numpy as np
import pytest
from transfer_task import SPACES

from imf_jax.data.episodes import write_episodes
from imf_jax.data.lerobot.export import export_demonstrations
from imf_jax.data.lerobot.reader import open_dataset
from imf_jax.errors import ArgumentError, UserError


@pytest.fixture
def folder(tmp_path, make_episode):
    """Two demonstrations of 10 steps with two cameras, one of 6 steps that was cut off while it was copied."""
    rng = np.random.default_rng(0)

    def images(steps):
        levels = rng.integers(0, 255, (steps, 1, 1, 3), np.uint8)
        return {
            "front": np.broadcast_to(levels, (steps, 32, 32, 3)),
            "top": np.broadcast_to(levels, (steps, 16, 16, 3)),
        }

    episodes = [make_episode(n, steps, images=images(steps), success=n != 4) for n, steps in ((0, 10), (4, 10), (5, 6))]
    damaged = write_episodes(tmp_path / "demos", episodes)[2]
    damaged.write_bytes(damaged.read_bytes()[:3000])
    return tmp_path / "demos", episodes


def test_demonstrations_come_out_whole(folder, tmp_path):
    source, episodes = folder
    summary = export_demonstrations(source, tmp_path / "export")
    assert (summary.episodes, summary.frames) == (2, 20)
    assert len(summary.refused) == 1
    assert "episode_000005.hdf5: cannot be read" in summary.refused[0]
    dataset = open_dataset(tmp_path / "export")
    assert (dataset.fps, dataset.tasks) == (50, ("transfer",))
    for row, episode in zip(dataset.episodes, episodes[:2], strict=True):
        assert dataset.problems(row) == []
        columns = dataset.columns(row)
        np.testing.assert_array_equal(columns["action"], episode.action)
        np.testing.assert_array_equal(columns["observation.state"], episode.state)
        np.testing.assert_array_equal(columns["observation.environment_state"], episode.env_state)
        np.testing.assert_array_equal(columns["next.reward"][:, 0], episode.reward)
        assert (columns["success"] == episode.success).all()
        assert (columns["scene"] == episode.episode).all()
        pictures = np.stack(list(dataset.pictures(row, "observation.images.front")))
        assert np.abs(pictures.astype(int) - episode.images["front"]).max() <= 6


def test_cameras_can_be_chosen(folder, tmp_path):
    export_demonstrations(folder[0], tmp_path / "export", cameras=("top",))
    assert open_dataset(tmp_path / "export").cameras == ("observation.images.top",)
    with pytest.raises(ArgumentError, match=r"no pictures of \['side'\]; it has \['front', 'top'\]"):
        export_demonstrations(folder[0], tmp_path / "other", cameras=("side",))
    assert not (tmp_path / "other").exists()


def test_episodes_unlike_the_first_are_left_out(tmp_path, make_episode):
    unlike = make_episode(1, images={"top": np.zeros((20, 16, 16, 3), np.uint8)})
    write_episodes(tmp_path / "demos", [make_episode(0), unlike, make_episode(2, control_hz=12.5)])
    summary = export_demonstrations(tmp_path / "demos", tmp_path / "export")
    assert summary.episodes == 1
    assert "other cameras" in summary.refused[0]
    assert "control_hz is 12.5" in summary.refused[1]
    assert open_dataset(tmp_path / "export").cameras == ()


def test_pictures_that_cannot_be_read_leave_out_their_episode(tmp_path, make_episode):
    images = {"top": np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), np.uint8)}
    paths = write_episodes(tmp_path / "demos", [make_episode(n, images=images) for n in range(2)])
    with h5py.File(paths[0]) as file:
        chunk = file["observations/images/top"].id.get_chunk_info(12)
    with open(paths[0], "r+b") as stream:
        stream.seek(chunk.byte_offset)
        stream.write(b"x" * chunk.size)
    summary = export_demonstrations(tmp_path / "demos", tmp_path / "export")
    assert summary.episodes == 1
    assert "episode_000000.hdf5: pictures of step 12 cannot be read" in summary.refused[0]


def test_nothing_to_export_is_said(tmp_path, make_episode):
    write_episodes(tmp_path / "demos", [make_episode(0, control_hz=12.5)])
    with pytest.raises(UserError, match="no demonstration that can be exported"):
        export_demonstrations(tmp_path / "demos", tmp_path / "export")


def test_demonstrations_of_older_versions_have_the_robot_of_their_task(tmp_path, make_episode):
    write_episodes(tmp_path / "demos", [make_episode(0, spaces=None), make_episode(1, spaces=None, task="juggle")])
    spaces_of = {"transfer": SPACES}.get
    summary = export_demonstrations(tmp_path / "demos", tmp_path / "export", spaces_of=spaces_of)
    assert summary.episodes == 1
    assert "episode_000001.hdf5 does not describe its robot, and task juggle is not known" in summary.refused[0]
    assert json.loads((tmp_path / "export/meta/info.json").read_text())["robot_type"] == "two_diana7"
