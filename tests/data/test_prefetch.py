"""The thread that prepares batches: their order, errors, and its end."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from imf_jax.data.prefetch import AHEAD, STEPS_DRAWN, Prefetch, picture_batches


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_items_come_in_order_and_a_few_in_advance() -> None:
    made = []

    def items() -> Iterator[int]:
        for n in range(20):
            made.append(n)
            yield n

    with Prefetch(items()) as stream:
        assert next(stream) == 0
        deadline = time.monotonic() + 10
        while len(made) < AHEAD + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(made) == AHEAD + 2, "those that wait, and one in the hands of the thread"
        assert list(stream) == list(range(1, 20))
        with pytest.raises(StopIteration):
            next(stream)
    assert not threads()


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with Prefetch(items()) as stream:
        assert next(stream) == 1
        for _ in range(2):
            with pytest.raises(ValueError, match="no more"):
                next(stream)
    assert not threads()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_thread_ends_when_its_reader_fails(error: type[BaseException]) -> None:
    def failing() -> None:
        with Prefetch(iter(range(1000))) as stream:
            next(stream)
            raise error

    with pytest.raises(error):
        failing()
    assert not threads()


def test_batches_are_the_pictures_of_their_steps() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 2, 4, 4, 3), np.uint8)

    def steps_of(steps: np.ndarray) -> np.ndarray:
        return np.stack([steps % 9, (steps + 1) % 9], axis=1)

    first, end = 3, 5 + STEPS_DRAWN
    batches = list(picture_batches(images, steps_of, first, end))
    assert len(batches) == end - first
    for step, batch in zip(range(first, end), batches, strict=True):
        np.testing.assert_array_equal(batch, images[[step % 9, (step + 1) % 9]])
