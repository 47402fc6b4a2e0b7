"""Schedule of a rollout: the order in which episodes start, and where each scene is planned or simulated."""

from collections import deque
from collections.abc import Sequence

import numpy as np


class EpisodeQueue:
    """Pending episodes, handed out so that few planning batches are needed.

    A scene is planned in row `episode % rows`, and two scenes in the same row need two planning batches. The
    queue therefore hands out the first pending episode of the least occupied row. Results of an episode do not
    depend on the order, so the fastest one is chosen.
    """

    def __init__(self, episodes: Sequence[int], rows: int) -> None:
        self._rows = rows
        self._pending: list[deque[tuple[int, int]]] = [deque() for _ in range(rows)]
        for position, episode in enumerate(episodes):
            self._pending[episode % rows].append((position, episode))
        self._left = len(episodes)

    def __len__(self) -> int:
        return self._left

    def take(self, count: int, active: np.ndarray) -> list[int]:
        """Remove and return up to `count` episodes; `active`: (A,) episodes that are running."""
        occupancy = np.bincount(active % self._rows, minlength=self._rows)
        taken = []
        for _ in range(min(count, self._left)):
            row = min(
                (row for row in range(self._rows) if self._pending[row]),
                key=lambda row: (occupancy[row], self._pending[row][0]),
            )
            taken.append(self._pending[row].popleft()[1])
            occupancy[row] += 1
            self._left -= 1
        return taken


class RowSchedule:
    """Episodes in the rows of a compiled batch, whose shape never changes: B rows until they are gathered into fewer.

    Free rows and pending episodes are taken in their order, so that equal episodes always run in equal rows.

    Args:
        episodes: the pending episodes, at least one.
        num_rows: rows of the batch.
        refill: give the next episode to a row as soon as it is free; else only when all of them are.

    Attributes:
        episodes: uint32 (B,) episode of each row; one that has none repeats another's and does not run.
        slots: int64 (B,) number of the row in the whole batch, which it keeps when rows are gathered.
        running: bool (B,) the episode has not ended.
        steps: int64 (B,) control steps of the episode so far.
    """

    def __init__(self, episodes: Sequence[int], num_rows: int, *, refill: bool = True) -> None:
        self._pending, self._refill = deque(episodes), refill
        self.episodes = np.full(num_rows, episodes[0], np.uint32)
        self.slots = np.arange(num_rows)
        self.running = np.zeros(num_rows, bool)
        self.steps = np.zeros(num_rows, np.int64)

    def fill(self) -> np.ndarray:
        """Start pending episodes in free rows; returns these rows, bool (B,)."""
        fresh = np.zeros(len(self.running), bool)
        if self._refill or not self.running.any():
            rows = np.flatnonzero(~self.running)[: len(self._pending)]
            self.episodes[rows] = [self._pending.popleft() for _ in rows]
            self.steps[rows] = 0
            fresh[rows] = self.running[rows] = True
        return fresh

    def fits(self, num_rows: int) -> bool:
        """True if nothing is pending and so few rows do for what runs."""
        return not self._pending and 0 < int(self.running.sum()) <= num_rows < len(self.running)

    def gather(self, num_rows: int) -> np.ndarray:
        """Keep only so many rows, all that run among them; returns their indices, int64 (num_rows,)."""
        rows = np.argsort(~self.running, kind="stable")[:num_rows]
        self.episodes, self.slots = self.episodes[rows], self.slots[rows]
        self.running, self.steps = self.running[rows], self.steps[rows]
        return rows


def planning_batches(episodes: np.ndarray, rows: int) -> list[np.ndarray]:
    """Assign scenes to planning batches of fixed size, each scene always in row `episode % rows`.

    Args:
        episodes: (A,) distinct episodes of the active scenes.
        rows: rows of a planning batch.

    Returns:
        One int64 array (rows,) per batch: the index of the active scene that is planned in each row, -1 if the
        row is padding.
    """
    row = episodes % rows
    order = np.argsort(row, kind="stable")
    # Scenes of one row are consecutive in `order`; their rank among them is the batch they go to.
    sorted_rows = row[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_rows, sorted_rows)
    batches = np.full((int(rank.max()) + 1, rows), -1, np.int64)
    batches[rank, sorted_rows] = order
    return list(batches)
