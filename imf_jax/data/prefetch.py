"""Batches prepared by a thread while the step before runs."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

import jax
import numpy as np

from imf_jax.data.picture_cache import PictureRows

Item = TypeVar("Item")

AHEAD = 2
"""Items that wait to be taken, at most."""

POLL_S = 0.1
"""Time after which a thread that cannot hand over an item looks whether it should stop [s]."""

STEPS_DRAWN = 64
"""Steps whose windows are drawn at once: the device draws them, and would else be asked behind every step."""


class Prefetch(Generic[Item]):
    """Iterator over items that a thread makes in advance; a context manager, at whose end the thread has ended.

    Items come in their order. What goes wrong in the thread is raised by `__next__` after the items before it.

    Args:
        items: iterated by the thread.
        ahead: items that wait, at most.
    """

    def __init__(self, items: Iterable[Item], ahead: int = AHEAD) -> None:
        self._queue: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._items = items
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the thread, and wait until it has ended."""
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        """The iterator itself."""
        return self

    def __next__(self) -> Item:
        """The next item, waited for.

        Raises:
            BaseException: what making it raised; `StopIteration` after the last one.
        """
        item, error = self._queue.get()
        if error is not None:
            self._queue.put((None, error))  # the same again, however often it is asked for
            raise error
        return item  # type: ignore[return-value]

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._hand_over(item, None):
                    return
            self._hand_over(None, StopIteration())
        except BaseException as error:
            self._hand_over(None, error)

    def _hand_over(self, item: Item | None, error: BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put((item, error), timeout=POLL_S)
                return True
            except queue.Full:
                continue
        return False


def steps_drawn(steps_of: Callable[[np.ndarray], jax.Array], first: int, end: int) -> Iterator[tuple[int, np.ndarray]]:
    """What the training steps first .. end - 1 draw, see `picture_batches`: number of the step, and int32 (...)."""
    for block in range(first, end, STEPS_DRAWN):
        # Always as many steps, so that they are compiled once.
        rows = np.asarray(steps_of(np.arange(block, block + STEPS_DRAWN, dtype=np.int32)))
        yield from enumerate(rows[: end - block], block)


def picture_batches(
    images: PictureRows, steps_of: Callable[[np.ndarray], jax.Array], first: int, end: int
) -> Iterator[jax.Array]:
    """The pictures of the training steps first .. end - 1, on the default device.

    Args:
        images: uint8 (N, C, H, W, 3), in main memory or on the disk.
        steps_of: numbers of training steps int32 (n,) -> rows of `images` that each reads, int32 (n, ...).
        first: number of the first training step.
        end: number behind the last one.

    Yields:
        uint8 (..., C, H, W, 3).
    """
    for _, chosen in steps_drawn(steps_of, first, end):
        yield jax.device_put(images[chosen])
