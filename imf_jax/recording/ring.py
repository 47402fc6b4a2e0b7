"""Ring buffer of the last moments of a scene, bounded in time and in memory."""

from collections import deque
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Object of a known size in memory [bytes]."""

    @property
    def num_bytes(self) -> int:
        """Size in memory [bytes]."""
        ...


T = TypeVar("T", bound=Sized)


class RingBuffer(Generic[T]):
    """Keeps the newest frames, as many as both limits allow.

    Args:
        max_frames: most frames.
        max_bytes: most memory of all frames together [bytes].

    Attributes:
        num_bytes: memory of its frames [bytes].
    """

    def __init__(self, max_frames: int, max_bytes: int) -> None:
        self._max_frames, self._max_bytes = max_frames, max_bytes
        self._frames: deque[tuple[T, int]] = deque()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    def push(self, frame: T) -> None:
        """Add the newest frame; the oldest ones make room. One that alone is too large is not kept."""
        size = frame.num_bytes
        self._frames.append((frame, size))
        self.num_bytes += size
        while len(self._frames) > self._max_frames or self.num_bytes > self._max_bytes:
            _, evicted = self._frames.popleft()
            self.num_bytes -= evicted

    def drain(self) -> list[T]:
        """Remove and return all frames, oldest first."""
        frames = [frame for frame, _ in self._frames]
        self._frames.clear()
        self.num_bytes = 0
        return frames
