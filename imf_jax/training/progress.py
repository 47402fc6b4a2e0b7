"""Progress of training at the terminal: steps, loss, speed, time left; plain lines where there is no terminal."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from imf_jax.terminal import PlainLines, clock_time, make_console


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
        self._lines = PlainLines(self._console)

    def update(self, step: int, loss: float, steps_per_s: float) -> None:
        """Show the steps taken; `loss` is their mean."""
        text = f"loss {loss:.4f}, {steps_per_s:.1f} steps/s"
        self._bar.update(self._task, completed=step, text=text)
        if self._lines.is_due():
            left = (self._max_steps - step) / max(steps_per_s, 1e-9)
            self.say(f"train {step}/{self._max_steps}, {text}, time left {clock_time(left)}")

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
