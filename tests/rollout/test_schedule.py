"""Order of episodes and assignment of scenes to planning batches."""

import numpy as np

from imf_jax.rollout.schedule import EpisodeQueue, planning_batches


def test_every_scene_sits_in_its_own_row() -> None:
    episodes = np.array([9, 4, 1, 13, 5, 2])
    batches = planning_batches(episodes, 4)
    # Rows of the episodes: 1, 0, 1, 1, 1, 2; four of them share row 1.
    assert len(batches) == 4
    planned = []
    for batch in batches:
        assert batch.shape == (4,)
        for row in np.flatnonzero(batch >= 0):
            assert episodes[batch[row]] % 4 == row
            planned.append(batch[row])
    assert sorted(planned) == list(range(6))


def test_scenes_without_collision_take_one_batch() -> None:
    (batch,) = planning_batches(np.array([6, 3, 1]), 4)
    assert batch.tolist() == [-1, 2, 0, 1]


def test_queue_hands_out_every_episode_once_and_keeps_to_the_order_when_rows_are_free() -> None:
    queue = EpisodeQueue(range(10), rows=4)
    assert queue.take(4, np.array([], np.int64)) == [0, 1, 2, 3]
    rest = queue.take(99, np.array([0, 1, 2, 3]))
    assert sorted(rest) == list(range(4, 10))
    assert len(queue) == 0
    assert queue.take(3, np.array([], np.int64)) == []


def test_queue_fills_the_row_that_has_become_free() -> None:
    queue = EpisodeQueue(range(4, 12), rows=4)
    assert queue.take(1, np.array([0, 1, 3])) == [6]
    assert queue.take(2, np.array([1, 6])) == [4, 7]
