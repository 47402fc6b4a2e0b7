"""Pictures that are decoded as training needs them: a pool of stretches, filled by threads, in bounded memory.

Which pictures a training step reads follows from its number and the seed, never from the threads; see
`imf_jax.data.stretches`.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np

from imf_jax.data.pictures import PictureFolder
from imf_jax.data.stretches import Schedule
from imf_jax.errors import UserError


class DecodedRows:
    """Pictures that are decoded when they are first asked for, and kept; see `PictureRows`.

    For few rows that are read again and again.

    Args:
        pictures: of all steps.
    """

    def __init__(self, pictures: PictureFolder) -> None:
        self.shape = (pictures.num_steps, *pictures.step_shape)
        self._pictures = pictures
        self._kept: dict[int, np.ndarray] = {}

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Rows of any numbers, int (...), as uint8 (..., C, H, W, 3)."""
        numbers = np.asarray(rows)
        missing = np.array([row for row in np.unique(numbers).tolist() if row not in self._kept], np.int64)
        episodes, _ = self._pictures.locate(missing)
        apart = (np.diff(missing) != 1) | (np.diff(episodes) != 0)
        for run in np.split(missing, np.flatnonzero(apart) + 1):  # consecutive pictures are decoded together
            if len(run):
                self._kept.update(zip(run.tolist(), read_rows(self._pictures, run[0], len(run)), strict=True))
        found = np.empty((numbers.size, *self.shape[1:]), np.uint8)
        for place, row in enumerate(numbers.ravel().tolist()):
            found[place] = self._kept[row]
        return found.reshape(*numbers.shape, *self.shape[1:])


class PicturePool:
    """The pictures of the stretches that a `Schedule` names, and of those that come next; a context manager.

    One thread moves it on and takes pictures from it; threads of its own decode, and have ended when the context ends.

    Args:
        schedule: tells what is in the pool.
        pictures: of the dataset.
        rows: int (N,) row of `pictures` of each step that the schedule knows.
        room: pictures that may be held, those that are being decoded included; enough for the pool, see `pool_size`.
        threads: that decode.
    """

    def __init__(self, schedule: Schedule, pictures: PictureFolder, rows: np.ndarray, room: int, threads: int) -> None:
        self._schedule, self._pictures, self._rows, self._room = schedule, pictures, rows, room
        self._held: dict[int, Future[np.ndarray]] = {}
        self._taken = self._next = 0
        self._ready = -1
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(threads, "decode")

    @property
    def num_bytes(self) -> int:
        """Memory that is taken by pictures, or reserved for those that are being decoded [bytes]."""
        return self._taken * self._pictures.step_bytes

    def __enter__(self) -> Self:
        """The pool, empty."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `close`."""
        self.close()

    def close(self) -> None:
        """Stop decoding, and wait until the threads have ended; whoever waits for a picture gets an exception."""
        self._stop.set()
        self._threads.shutdown(cancel_futures=True)

    def move_to(self, step: int, on_progress: Callable[[int], None] = lambda pictures: None) -> None:
        """Drop the stretches that have left, have the next ones decoded, and wait for those in the pool.

        Args:
            step: number of the training step; not before that of the last call.
            on_progress: called with the number of pictures that are there, while they are waited for.

        Raises:
            UserError: a picture of a stretch in the pool cannot be decoded.
        """
        held = self._schedule.held(step)
        for number in [number for number in self._held if number < held.start]:
            del self._held[number]
            self._taken -= self._size(number)
        self._next = max(self._next, held.start)
        while self._taken + self._size(self._next) <= self._room:
            self._held[self._next] = self._threads.submit(self._decode, self._schedule.stretch(self._next))
            self._taken += self._size(self._next)
            self._next += 1
        there = 0
        for number in range(max(self._ready + 1, held.start), held.stop):
            there += len(self._held[number].result())
            self._ready = number
            on_progress(there)

    def take(self, step: int, places: np.ndarray, observed: Callable[[np.ndarray], np.ndarray]) -> tuple[Any, Any]:
        """Steps at some places of the pool, and the pictures of their windows; after `move_to` of the same step.

        Args:
            step: number of the training step.
            places: int (B,), see `Schedule.locate`.
            observed: steps int (B,) -> the steps that are observed at each, int (B, n), within its history.

        Returns:
            int64 (B,), and uint8 (B, n, C, H, W, 3).
        """
        numbers, steps = self._schedule.locate(step, places)
        seen = observed(steps)
        images = np.empty((*seen.shape, *self._pictures.step_shape), np.uint8)
        for place, number in enumerate(numbers.tolist()):
            first, _ = self._span(self._schedule.stretch(number))
            images[place] = self._held[number].result()[seen[place] - first]
        return steps, images

    def _span(self, stretch: int) -> tuple[int, int]:
        """First step of a stretch and of its history, and the number of both."""
        found = self._schedule.stretches
        history = int(found.history[stretch])
        return int(found.first[stretch]) - history, int(found.length[stretch]) + history

    def _size(self, number: int) -> int:
        return self._span(self._schedule.stretch(number))[1]

    def _decode(self, stretch: int) -> np.ndarray:
        first, count = self._span(stretch)
        return read_rows(self._pictures, int(self._rows[first]), count, self._stop.is_set)


def read_rows(
    pictures: PictureFolder, first: int, count: int, should_stop: Callable[[], bool] = lambda: False
) -> np.ndarray:
    """Decode the pictures of consecutive steps of an episode, uint8 (T, C, H, W, 3).

    Args:
        pictures: of all steps.
        first: row of the first one.
        count: T.
        should_stop: asked before every picture.

    Raises:
        UserError: one cannot be decoded; names episode, frame and camera.
        InterruptedError: it was asked to stop.
    """
    index, start = (int(value[0]) for value in pictures.locate(np.array([first])))
    found = np.empty((count, *pictures.step_shape), np.uint8)
    for c, source in enumerate(pictures.sources):
        done = 0
        try:
            for picture in pictures.read_camera(index, c, start, start + count):
                if should_stop():
                    raise InterruptedError("decoding was stopped")
                found[done, c] = picture
                done += 1
        except UserError as error:
            name = pictures.reader.info(index).name
            raise type(error)(f"frame {start + done} of {name}, camera {source!r}: {error}") from None
    return found
