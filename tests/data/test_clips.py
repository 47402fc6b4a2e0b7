"""Clips: frames at equal distances within one episode, the actions between them, and the split of episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imf_jax.data.clips import (
    ClipData,
    action_statistics,
    action_steps,
    clip_starts,
    draw_frames,
    frame_steps,
    split_episodes,
)
from imf_jax.data.windows import Demonstrations
from imf_jax.errors import UserError


def demonstrations(*lengths: int) -> Demonstrations:
    ends = np.cumsum(lengths)
    total = int(ends[-1])
    rows = jnp.arange(total, dtype=jnp.float32)[:, None]
    first, last = (np.repeat(values, lengths).astype(np.int32) for values in (ends - lengths, ends - 1))
    return Demonstrations(rows, rows, rows, jnp.asarray(first), jnp.asarray(last))


def test_clips_hold_every_frame_and_the_actions_that_follow_it() -> None:
    frames = frame_steps(jnp.array([2, 20]), history=3, frameskip=4)
    assert frames.tolist() == [[2, 6, 10, 14], [20, 24, 28, 32]]
    assert action_steps(frames, 4)[0].tolist() == [[2, 3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 13]]


def test_clips_stay_within_their_episode() -> None:
    data = demonstrations(20, 13, 5)
    starts = clip_starts(data, np.arange(38), 12)
    assert starts.tolist() == [*range(8), 20]
    clips = ClipData(data.action, jnp.asarray(starts))
    frames = np.asarray(draw_frames(clips, jax.random.key(0), 64, history=3, frameskip=4))
    assert set(frames[:, 0]) == set(starts.tolist())
    first = np.asarray(data.first)
    assert (first[frames[:, 0]] == first[frames[:, -1]]).all()


def test_demonstrations_that_are_too_short_are_refused() -> None:
    with pytest.raises(UserError, match="no demonstration is longer than 12 control steps"):
        clip_starts(demonstrations(12, 10), np.arange(22), 12)


def test_whole_episodes_are_held_out_and_the_seed_says_which() -> None:
    data = demonstrations(*[7] * 20)
    split = split_episodes(data, 0.1, seed=3)
    assert (split.num_training, split.num_held_out) == (18, 2)
    assert sorted([*split.training, *split.held_out]) == list(range(140))
    first = np.asarray(data.first)
    assert not set(first[split.training]) & set(first[split.held_out])
    np.testing.assert_array_equal(split.held_out, split_episodes(data, 0.1, seed=3).held_out)
    assert any(split_episodes(data, 0.1, seed=s).held_out[0] != split.held_out[0] for s in range(5))
    assert split_episodes(demonstrations(5, 5), 0.1, 0).num_held_out == 1


def test_one_episode_is_refused() -> None:
    with pytest.raises(UserError, match="at least two"):
        split_episodes(demonstrations(30), 0.1, 0)


def test_statistics_are_unbiased_and_pass_over_unknown_actions() -> None:
    values = np.array([[1.0, 2.0], [3.0, 2.0], [np.nan, 5.0], [5.0, 2.0]], np.float32)
    found = action_statistics(values)
    assert found["mean"].tolist() == [3.0, 2.0]
    assert found["std"].tolist() == [2.0, 0.0]
