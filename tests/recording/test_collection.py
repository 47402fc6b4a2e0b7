"""Collection of demonstrations: what is recorded, independence of the batch, resuming, refusals."""

from pathlib import Path

import numpy as np
import pytest

from imf_jax.config import CollectConfig
from imf_jax.data.episodes import list_episodes, read_episode
from imf_jax.data.statistics import read_statistics
from imf_jax.errors import ArgumentError, UserError
from imf_jax.recording.collection import collect, scenes_at_once

pytestmark = pytest.mark.optimized


def run(out: Path, **changes: object):
    return collect(CollectConfig(out=out, **{"episodes": 3, "num_envs": 2} | changes), lambda done, line: None)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demos")
    assert run(out).recorded == 3
    return out


def test_labels_are_clean_and_the_noise_is_recorded(collected: Path) -> None:
    for path in list_episodes(collected):
        episode = read_episode(path)
        assert episode.success
        assert episode.reward[-1] == 4
        arms = episode.noise.reshape(-1, 2, 8)
        assert 0 < arms[..., :3].std() < 0.01
        assert not arms[..., 7].any()  # grippers are not disturbed
        speed = np.linalg.norm(np.diff(episode.action.reshape(-1, 2, 8)[..., :3], axis=0), axis=-1)
        assert speed.max() < 0.0091  # the label moves as smoothly as the expert


def test_statistics_cover_the_recorded_episodes(collected: Path) -> None:
    statistics = read_statistics(collected)
    assert statistics.num_episodes == 3
    assert statistics.num_steps == sum(len(read_episode(path)) for path in list_episodes(collected))


def test_batch_size_and_interruption_leave_no_trace(collected: Path, tmp_path: Path) -> None:
    run(tmp_path, episodes=1, num_envs=1)
    (tmp_path / ".episode_000001.hdf5.0123abcd.partial").write_bytes(b"half")
    assert run(tmp_path, num_envs=5).recorded == 3
    assert [path.name for path in list_episodes(tmp_path)] == [path.name for path in list_episodes(collected)]
    assert not list(tmp_path.glob(".*"))
    for one, other in zip(list_episodes(tmp_path), list_episodes(collected), strict=True):
        np.testing.assert_array_equal(read_episode(one).state, read_episode(other).state)
        np.testing.assert_array_equal(read_episode(one).noise, read_episode(other).noise)


def test_a_damaged_file_is_recorded_again(collected: Path, tmp_path: Path) -> None:
    run(tmp_path)
    damaged = list_episodes(tmp_path)[1]
    damaged.write_bytes(damaged.read_bytes()[:1000])
    assert run(tmp_path).recorded == 3
    np.testing.assert_array_equal(read_episode(damaged).state, read_episode(list_episodes(collected)[1]).state)


def test_other_settings_are_refused(collected: Path) -> None:
    with pytest.raises(UserError, match=r"other settings.*position_noise"):
        run(collected, episodes=4, position_noise=0.001)
    with pytest.raises(UserError, match="seed"):
        run(collected, episodes=4, seed=9)


def test_pictures_are_recorded_when_asked_for(tmp_path: Path) -> None:
    run(tmp_path, episodes=1, num_envs=1, cameras=("front",), image_size=32)
    episode = read_episode(list_episodes(tmp_path)[0], images=True)
    assert episode.images["front"].shape == (len(episode.action), 32, 32, 3)
    assert episode.images["front"].std() > 10


def test_an_unknown_camera_is_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"camera 'back' is not in the scene.*front"):
        run(tmp_path / "new", cameras=("back",))
    assert not (tmp_path / "new").exists()


def test_pictures_of_running_scenes_fit_in_memory(tmp_path: Path) -> None:
    blind = CollectConfig(out=tmp_path, num_envs=64)
    assert scenes_at_once(blind, 700, 10**9) == 64
    sees = CollectConfig(out=tmp_path, num_envs=64, cameras=("top", "front"), image_size=100)
    assert scenes_at_once(sees, 700, None) == 64
    assert scenes_at_once(sees, 700, 10**12) == 64
    assert scenes_at_once(sees, 700, 10**9) == 9  # 42 MB a scene
    assert scenes_at_once(sees, 700, 10**6) == 1
