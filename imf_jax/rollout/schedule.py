"""Schedule of a rollout: the order in which episodes start, and the planning batch and row of each scene."""

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
