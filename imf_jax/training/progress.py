"""Progress of training at the terminal: steps, loss, speed, time left; plain lines where there is no terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from imf_jax.terminal import make_console

LINE_INTERVAL = 30.0
"""Time between two plain lines where there is no terminal [s]."""


@contextmanager
def stage_progress(title: str, total: int, console: Console | None = None) -> Iterator[Callable[[int], None]]:
    """Progress of a long stage before training, which yields a function that takes how much of `total` is done."""
    console = console or make_console()
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("time left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    last_line = started = time.perf_counter()

    with Progress(*columns, console=console, refresh_per_second=2, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)

        def update(done: int) -> None:
            nonlocal last_line
            bar.update(task, completed=done)
            now = time.perf_counter()
            if bar.disable and now - last_line >= LINE_INTERVAL:
                last_line = now
                minutes, seconds = divmod(round((now - started) * (total - done) / max(done, 1)), 60)
                console.print(f"{title} {done}/{total}, time left {minutes}:{seconds:02d}")

        yield update


class TrainingProgress:
    """Progress bar of training; use it as a context manager.

    Args:
        first_step: step at which the run starts; not 0 if it was resumed.
        max_steps: step at which it ends.
        console: where to write; stdout by default.
    """

    def __init__(self, first_step: int, max_steps: int, console: Console | None = None) -> None:
        self._console = console or make_console()
        columns = (
            TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}", markup=False),
            TextColumn("time left"), TimeRemainingColumn(),
        )  # fmt: skip
        # Drawing takes time from the training on a small machine: twice a second is enough.
        self._bar = Progress(
            *columns, console=self._console, refresh_per_second=2, disable=not self._console.is_terminal
        )
        self._task = self._bar.add_task("train", total=max_steps, completed=first_step, text="compiling")
        self._max_steps = max_steps
        self._last_line = time.perf_counter()

    def update(self, step: int, loss: float, steps_per_s: float) -> None:
        """Show the steps taken; `loss` is their mean."""
        text = f"loss {loss:.4f}, {steps_per_s:.1f} steps/s"
        self._bar.update(self._task, completed=step, text=text)
        now = time.perf_counter()
        if self._bar.disable and now - self._last_line >= LINE_INTERVAL:
            self._last_line = now
            minutes, seconds = divmod(round((self._max_steps - step) / max(steps_per_s, 1e-9)), 60)
            self.say(f"train {step}/{self._max_steps}, {text}, time left {minutes}:{seconds:02d}")

    def busy(self, text: str) -> None:
        """Show that other work than training goes on."""
        self._bar.update(self._task, text=text)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line)

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
