"""Progress of a rollout at the terminal: episodes, success so far, speed, time left."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from imf_jax.rollout.ledger import RolloutProgress


class ProgressBar:
    """Shows `RolloutProgress`; made by `progress_bar`."""

    def __init__(self, bar: Progress, task: TaskID, total: int | None) -> None:
        self._bar = bar
        self._task = task
        self._total = total
        self._compiling = True

    def __call__(self, progress: RolloutProgress) -> None:
        """Show how far the rollout is."""
        if self._compiling:  # the time left is estimated from now on
            self._bar.reset(self._task)
            self._compiling = False
        speed = progress.control_steps / progress.loop_s
        self._bar.update(self._task, completed=progress.share, text=self._text(progress, speed))

    def _text(self, progress: RolloutProgress, speed: float) -> str:
        rate = f"{100 * progress.successes / progress.episodes:.0f} %" if progress.episodes else "-"
        if progress.unwritten:
            return f"{progress.episodes} episodes, success {rate}; making captures of {progress.unwritten} more"
        counted = progress.episodes if self._total is None else f"{progress.episodes}/{self._total}"
        return f"{counted} episodes, success {rate}, {speed:,.0f} control steps/s"


@contextmanager
def progress_bar(total: int | None, *, shown: bool, label: str = "evaluate", **options: Any) -> Iterator[ProgressBar]:
    """A progress bar for `total` episodes that goes away from the terminal's last line when the context ends.

    Args:
        total: episodes of the rollout; None if there is no end to them.
        shown: False keeps the terminal silent.
        label: what is going on.
        options: passed on to `rich.progress.Progress`.
    """
    columns = (TextColumn(label), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    with Progress(*columns, disable=not shown, **options) as bar:
        task = bar.add_task(label, total=1.0, text="compiling")
        yield ProgressBar(bar, task, total)
