"""Ring buffers stay within both limits, whatever comes in."""

from dataclasses import dataclass

import numpy as np

from imf_jax.recording.ring import RingBuffer


@dataclass(frozen=True)
class Sized:
    number: int
    num_bytes: int


def test_frames_of_changing_size_stay_within_the_bytes_and_are_counted_right() -> None:
    rng = np.random.default_rng(1)
    ring: RingBuffer[Sized] = RingBuffer(20, 1000)
    kept: list[Sized] = []
    fullest = 0
    for number, size in enumerate(rng.integers(1, 260, 500).tolist()):
        frame = Sized(number, size)
        ring.push(frame)
        kept.append(frame)
        while sum(f.num_bytes for f in kept) > 1000 or len(kept) > 20:
            kept.pop(0)
        assert ring.num_bytes == sum(f.num_bytes for f in kept) <= 1000
        assert len(ring) == len(kept)
        fullest = max(fullest, ring.num_bytes)
    assert fullest > 900, "eviction must not throw away more than it has to"
    assert ring.drain() == kept
    assert (len(ring), ring.num_bytes) == (0, 0)
    ring.push(frame)
    assert ring.drain() == [frame]


def test_time_bounds_it_too() -> None:
    ring: RingBuffer[Sized] = RingBuffer(3, 1000)
    for number in range(10):
        ring.push(Sized(number, 1))
    assert [frame.number for frame in ring.drain()] == [7, 8, 9]


def test_a_frame_that_alone_is_too_large_is_not_kept() -> None:
    ring: RingBuffer[Sized] = RingBuffer(3, 100)
    ring.push(Sized(0, 60))
    ring.push(Sized(1, 101))
    assert (len(ring), ring.num_bytes) == (0, 0)
    ring.push(Sized(2, 60))
    assert [frame.number for frame in ring.drain()] == [2]
