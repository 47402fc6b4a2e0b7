"""Training windows: the convention at both ends of an episode, and which windows are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imf_jax.data.episodes import episode_path, write_episodes
from imf_jax.data.statistics import write_statistics
from imf_jax.data.windows import load_demonstrations, pack, sample_windows, windows_at
from imf_jax.errors import UserError

TO, H = 3, 6


@pytest.fixture
def counted(make_episode):
    """Two episodes of 10 and 4 steps in which every number says its step; episode 1 counts from 100."""

    def numbered(number, steps):
        step = 100.0 * number + np.arange(steps, dtype=np.float32)
        arrays = {"action": (0, 16), "state": (0.25, 16), "env_state": (0.5, 7)}
        columns = {name: np.repeat(step[:, None] + shift, width, axis=1) for name, (shift, width) in arrays.items()}
        return make_episode(number, steps=steps, **columns)

    return pack([numbered(0, 10), numbered(1, 4)])


@pytest.mark.parametrize(
    ("step", "observed", "actions", "padding"),
    [
        (0, [0, 0, 0], [0, 0, 0, 1, 2, 3], [1, 1, 0, 0, 0, 0]),
        (1, [0, 0, 1], [0, 0, 1, 2, 3, 4], [1, 0, 0, 0, 0, 0]),
        (5, [3, 4, 5], [3, 4, 5, 6, 7, 8], [0, 0, 0, 0, 0, 0]),
        (9, [7, 8, 9], [7, 8, 9, 9, 9, 9], [0, 0, 0, 1, 1, 1]),
        (10, [100, 100, 100], [100, 100, 100, 101, 102, 103], [1, 1, 0, 0, 0, 0]),
        (12, [100, 101, 102], [100, 101, 102, 103, 103, 103], [0, 0, 0, 0, 1, 1]),
    ],
)
def test_convention(counted, step, observed, actions, padding):
    batch = windows_at(counted, jnp.array([step]), obs_horizon=TO, pred_horizon=H)
    np.testing.assert_array_equal(batch["observation"]["state"][0, :, 5], np.array(observed) + 0.25)
    np.testing.assert_array_equal(batch["observation"]["env_state"][0, :, 6], np.array(observed) + 0.5)
    np.testing.assert_array_equal(batch["action"][0, :, 0], actions)
    np.testing.assert_array_equal(batch["is_pad"][0], np.array(padding, bool))
    # The action at chunk index To-1 is the one taken when the newest observation was seen.
    assert batch["action"][0, TO - 1, 0] == observed[-1]


def test_shapes_and_types(counted):
    batch = sample_windows(counted, jax.random.key(0), 9, obs_horizon=TO, pred_horizon=H)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype.name), batch)
    assert shapes == {
        "observation": {"state": ((9, TO, 16), "float32"), "env_state": ((9, TO, 7), "float32")},
        "action": ((9, H, 16), "float32"),
        "is_pad": ((9, H), "bool"),
    }


def test_same_key_same_windows(counted):
    first, again, other = (
        sample_windows(counted, jax.random.key(seed), 32, obs_horizon=TO, pred_horizon=H)["action"]
        for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_every_step_is_drawn_equally_often(counted):
    count = 140_000
    batch = sample_windows(counted, jax.random.key(1), count, obs_horizon=1, pred_horizon=1)
    steps, drawn = np.unique(np.asarray(batch["action"][:, 0, 0]), return_counts=True)
    assert steps.tolist() == [*range(10), *range(100, 104)]
    expected = count / 14
    chi_square = np.sum(np.square(drawn - expected)) / expected
    assert chi_square < 34.5  # 13 degrees of freedom, p = 0.001


@pytest.fixture
def folder(tmp_path, make_episode):
    write_episodes(tmp_path, [make_episode(number, steps=5 + number) for number in range(3)])
    write_statistics(tmp_path)
    return tmp_path


def test_load_packs_all_episodes(folder, make_episode):
    data, statistics = load_demonstrations(folder)
    assert statistics.num_steps == len(data.action) == 18
    np.testing.assert_array_equal(data.state[5:11], make_episode(1, steps=6).state)
    assert data.first.tolist() == [0] * 5 + [5] * 6 + [11] * 7
    assert data.last.tolist() == [4] * 5 + [10] * 6 + [17] * 7
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(data))


def test_load_refuses_statistics_of_another_set(folder):
    episode_path(folder, 2).unlink()
    with pytest.raises(UserError, match="num_episodes"):
        load_demonstrations(folder)
