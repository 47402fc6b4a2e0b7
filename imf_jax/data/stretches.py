"""Stretches of consecutive steps of episodes, and which of them are in the pool from which a batch is drawn.

Each epoch is a permutation of all stretches; the steps of one epoch after the other make one long sequence. At training
step t the pool is the part t B .. t B + W - 1 of this sequence, and the B windows of the batch are drawn from its W
steps: every step of the dataset is in the pool as long as any other, and is drawn once per epoch on average. Only the
first W steps of a run, which the pool begins with, are drawn less often in their first epoch.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

STREAM = 4
"""Of the random numbers of permutations, apart from other uses of a seed."""

STRETCHES = 256
"""Stretches that a pool should hold at least; a larger pool has longer ones, of which less is decoded in vain."""

SHORTEST, LONGEST = 16, 256
"""Limits of the length of stretches [steps]; episodes that are shorter are one stretch."""

AHEAD = 1 / 8
"""Share of the room that is for stretches which enter next."""

LEAST_BATCHES = 8
"""A pool holds the steps of so many batches at least."""


class PoolSize(NamedTuple):
    """Size of a pool.

    Attributes:
        stretch: steps of a stretch, at most.
        window: steps W that batches are drawn from.
        ahead: pictures that wait to enter, at least.
    """

    stretch: int
    window: int
    ahead: int


def pool_size(room: int, history: int, batch_size: int, num_steps: int) -> PoolSize | None:
    """The largest pool whose pictures always fit, or None if there is room for none.

    Args:
        room: pictures (of all cameras) that may be held, those that are being decoded included.
        history: observations before the newest one.
        batch_size: windows B of a batch.
        num_steps: steps of the dataset.
    """
    stretch = max(SHORTEST, 4 * history, min(room // STRETCHES, LONGEST))
    ahead = max(int(AHEAD * room), 2 * (stretch + history))
    # The pool covers a part of the stretch at each of its ends. Stretches that carry a history have half of the longest
    # length at least, because they are parts of an episode that is longer.
    window = int((room - ahead) / (1 + 2 * history / stretch)) - 2 * stretch
    window = min(window, max(num_steps, batch_size)) // batch_size * batch_size  # no step is in it longer than others
    return PoolSize(stretch, window, ahead) if window >= _least_window(batch_size, num_steps) else None


def least_room(history: int, batch_size: int, num_steps: int) -> int:
    """The smallest `room` for which there is a pool, see `pool_size`."""
    room = _least_window(batch_size, num_steps)
    while pool_size(room, history, batch_size, num_steps) is None:
        room += max(1, room // 1000)
    return room


def _least_window(batch_size: int, num_steps: int) -> int:
    return max(1, min(LEAST_BATCHES, num_steps // batch_size)) * batch_size


class Stretches(NamedTuple):
    """S stretches, in the order of the dataset.

    Attributes:
        first: int64 (S,) their first steps.
        length: int64 (S,).
        history: int64 (S,) steps before the first one that its first window observes; fewer where the episode begins.
    """

    first: np.ndarray
    length: np.ndarray
    history: np.ndarray


def cut_stretches(first: np.ndarray, last: np.ndarray, longest: int, history: int) -> Stretches:
    """Cut episodes into stretches of nearly the same length.

    Args:
        first: int (N,) first step of the episode of each step, see `Demonstrations`.
        last: int (N,) its last step.
        longest: steps of a stretch, at most.
        history: observations before the newest one.
    """
    starts, lengths, before = [], [], []
    for start in np.unique(first).astype(np.int64):
        steps = int(last[start]) + 1 - int(start)
        parts = -(-steps // longest)
        edges = np.arange(parts + 1) * steps // parts
        starts.append(start + edges[:-1])
        lengths.append(np.diff(edges))
        before.append(np.minimum(edges[:-1], history))
    return Stretches(*map(np.concatenate, (starts, lengths, before)))


class Schedule:
    """Tells which stretches are in the pool at a training step; they are numbered as they enter, from 0.

    Args:
        stretches: all.
        window: steps W in the pool.
        batch_size: windows B per training step, at most W.
        seed: of the run.
    """

    def __init__(self, stretches: Stretches, window: int, batch_size: int, seed: int) -> None:
        assert batch_size <= window, "some steps would never be in the pool"
        self.stretches, self.window, self._batch_size, self._seed = stretches, window, batch_size, seed
        self._count, self._steps = len(stretches.first), int(stretches.length.sum())
        self._epoch = lru_cache(4)(self._epoch_order)  # a window reaches over few epochs

    def stretch(self, number: int) -> int:
        """The stretch that enters as that number."""
        epoch, place = divmod(number, self._count)
        return int(self._epoch(epoch)[0][place])

    def held(self, step: int) -> range:
        """Numbers of the stretches that are in the pool at a training step, or a part of which is."""
        begin = step * self._batch_size
        numbers, _ = self._find(np.array([begin, begin + self.window - 1]))
        return range(int(numbers[0]), int(numbers[1]) + 1)

    def locate(self, step: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is at some places of the pool at a training step.

        Args:
            step: number of the training step.
            places: int (B,), each 0 <= place < W.

        Returns:
            numbers of the stretches, int64 (B,), and steps of the dataset, int64 (B,).
        """
        return self._find(step * self._batch_size + places.astype(np.int64))

    def _find(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        numbers, steps = np.empty_like(positions), np.empty_like(positions)
        epochs, within = np.divmod(positions, self._steps)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            order, ends = self._epoch(int(epoch))
            place = np.searchsorted(ends, within[chosen], side="right")
            stretch = order[place]
            numbers[chosen] = epoch * self._count + place
            begin = ends[place] - self.stretches.length[stretch]
            steps[chosen] = self.stretches.first[stretch] + within[chosen] - begin
        return numbers, steps

    def _epoch_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Stretches of an epoch in the order in which they enter, and where each ends among its steps; int64 (S,)."""
        order = np.random.default_rng((self._seed, STREAM, epoch)).permutation(self._count)
        return order, np.cumsum(self.stretches.length[order])
