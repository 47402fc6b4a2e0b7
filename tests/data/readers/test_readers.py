"""Every reader keeps the same promises."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from foreign_datasets import BRIGHTER, STEPS, write_act, write_robomimic

from imf_jax.data.inspection import inspect_folder
from imf_jax.data.picture_cache import StoredPictures, cached_pictures
from imf_jax.data.pictures import find_pictures
from imf_jax.data.playback import contact_sheet, open_episode
from imf_jax.data.readers.recognise import open_reader
from imf_jax.data.selection import select
from imf_jax.data.windows import load_demonstrations
from imf_jax.errors import UserError


def test_all_formats_keep_the_same_promises(dataset: Path) -> None:
    reader = open_reader(dataset)
    assert len(reader) >= 3
    assert len(reader.cameras) == 1
    camera = reader.cameras[0]
    selection = select(reader)
    for index in (0, 2):
        info = reader.info(index)
        assert (info.number, info.steps, info.cameras) == (index, STEPS, (camera,))
        columns = reader.read(index, reader.columns)
        widths = {name: len(column.names) for name, column in reader.columns.items()}
        assert {name: values.shape for name, values in columns.items()} == {n: (STEPS, w) for n, w in widths.items()}
        frames = list(reader.pictures(index, camera))
        np.testing.assert_allclose([frame.mean() for frame in frames], BRIGHTER * np.arange(STEPS) + index, atol=3)
        some = list(reader.pictures(index, camera, 3, 5))
        assert [np.array_equal(a, b) for a, b in zip(some, frames[3:5], strict=True)] == [True, True]
        assert reader.picture_size(index, camera) == frames[0].shape[:2]
        assert selection.read(index).action.dtype == np.float32
        assert reader.problems(index) == []
    assert reader.fingerprint((camera,)) == open_reader(dataset).fingerprint((camera,))
    with pytest.raises(UserError, match=r"no pictures of camera 'nose' \(cameras: "):
        list(reader.pictures(0, "nose"))
    assert contact_sheet(open_episode(dataset, 1), 3)
    assert inspect_folder(dataset).kind == reader.kind


def test_pictures_are_resized_once_into_a_cache(dataset: Path) -> None:
    reader = open_reader(dataset)
    if reader.fixed_size:
        pytest.skip("ours are drawn in the size that is needed")
    found = find_pictures(dataset, reader.cameras, 16)
    progress: list[int] = []
    stored, path = cached_pictures(found, progress.append)
    assert found.resized
    assert (stored.shape, progress[-1]) == ((len(reader) * STEPS, 1, 16, 16, 3), len(reader) * STEPS)
    np.testing.assert_array_equal(stored[np.arange(STEPS)], found.read(0))
    before = path.stat().st_mtime_ns
    again, _ = cached_pictures(find_pictures(dataset, reader.cameras, 16))
    assert path.stat().st_mtime_ns == before
    np.testing.assert_array_equal(again[np.array([STEPS])], found.read(1, 0, 1))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="cut off"):
        StoredPictures(path)
    cached_pictures(found)
    assert StoredPictures(path).shape == stored.shape


@pytest.mark.parametrize("compress", [True, False])
def test_episodes_of_act(tmp_path: Path, compress: bool) -> None:
    reader = open_reader(write_act(tmp_path / "act", compress=compress))
    assert reader.columns["action"].names[:2] == ("left_waist", "left_shoulder")
    assert reader.roles == {"action": ("action",), "state": ("observations/qpos",), "env_state": ()}
    assert set(reader.columns) == {"action", "observations/qpos", "observations/qvel", "observations/effort"}
    assert [reader.picture_size(index, "cam_high") for index in range(2)] == [(32, 48), (24, 24)]
    data, statistics = load_demonstrations(tmp_path / "act")
    assert (data.action.shape, data.env_state.shape, statistics.num_episodes) == ((27, 14), (27, 0), 3)
    with pytest.raises(UserError, match=r"episode_1\.hdf5: 'observations/qvel' is missing"):
        reader.read(1, ["observations/qvel"])


def test_a_robomimic_file(tmp_path: Path) -> None:
    reader = open_reader(write_robomimic(tmp_path / "lift.hdf5"))
    assert (reader.robot, reader.tasks, reader.info(11).hz) == ("Panda", ("Lift",), 20.0)
    state = ("obs/robot0_eef_pos", "obs/robot0_eef_quat", "obs/robot0_gripper_qpos")
    assert reader.roles == {"action": ("actions",), "state": state, "env_state": ("obs/object",)}
    assert [reader.info(index).held_out for index in range(12)] == [False] * 10 + [True] * 2
    assert select(reader).spaces().state_names[3] == "obs/robot0_eef_quat0"
    assert len(open_reader(tmp_path)) == 12
    np.testing.assert_allclose(reader.read(10, ["actions"])["actions"][2], 2.1)


def test_hostile_hdf5_is_not_followed(tmp_path: Path) -> None:
    write_act(tmp_path / "act")
    with h5py.File(tmp_path / "act" / "episode_2.hdf5", "r+") as file:
        del file["observations/qpos"]
        file["observations/qpos"] = h5py.ExternalLink(str(tmp_path / "act/episode_0.hdf5"), "action")
    reader = open_reader(tmp_path / "act")
    with pytest.raises(UserError, match="is a link and not data"):
        select(reader).read(2)
    (tmp_path / "act" / "episode_0.hdf5").write_bytes(b"no HDF5")
    with pytest.raises(UserError, match=r"episode_0\.hdf5: cannot be read"):
        open_reader(tmp_path / "act").info(0)
