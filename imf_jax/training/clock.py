"""Speed of training, and the share of the time that the compiled step takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class TrainingClock:
    """Accounts for the wall time of the loop.

    Time is either inside the compiled step, or set aside (compilation, validation, checkpoints), or overhead of the
    loop: logging, progress bar, dispatch. `step_share` is the step's part of all that is not set aside.
    """

    def __init__(self) -> None:
        self._total = _Span()
        self._since_line = _Span()
        self.last_rate = 0.0
        """Steps per second of the last call."""

    @contextmanager
    def stepping(self, count: int) -> Iterator[None]:
        """Time `count` steps; the body must wait for their result."""
        started = time.perf_counter()
        yield
        elapsed = time.perf_counter() - started
        self.last_rate = count / elapsed
        for span in (self._total, self._since_line):
            span.in_step += elapsed
            span.steps += count

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Set the time of this block aside: it counts neither for nor against the step."""
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            self._total.excluded += elapsed
            self._since_line.excluded += elapsed

    def line(self) -> dict[str, float]:
        """Figures `steps_per_s` and `step_share` since the last call."""
        figures = self._since_line.figures()
        self._since_line = _Span()
        return figures

    def total(self) -> dict[str, float]:
        """Figures `steps_per_s` and `step_share` since the beginning."""
        return self._total.figures()


class _Span:
    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.in_step = self.excluded = 0.0
        self.steps = 0

    def figures(self) -> dict[str, float]:
        active = time.perf_counter() - self.started - self.excluded
        return {
            "steps_per_s": self.steps / active if active > 0 else 0.0,
            "step_share": self.in_step / active if active > 0 else 0.0,
        }
