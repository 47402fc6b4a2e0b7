"""Progress of a rollout: episodes, success so far, speed, time left; plain lines where there is no terminal."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from imf_jax.rollout.episode_log import RolloutProgress
from imf_jax.terminal import PlainLines, clock_time, make_console


class TimeLimit:
    """Limit on the time of a rollout. Its clock starts when it is first read, so that compilation does not count.

    Args:
        limit_s: the limit [s].
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._began: float | None = None

    def elapsed_s(self) -> float:
        """Time since the first call [s]."""
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        return now - self._began

    def is_over(self) -> bool:
        """True once the limit is reached."""
        return self.elapsed_s() >= self.limit_s


class ProgressBar:
    """Shows `RolloutProgress`; made by `progress_bar`."""

    def __init__(self, bar: Progress, task: TaskID, total: int | None, limit: TimeLimit | None) -> None:
        self._bar = bar
        self._lines = PlainLines(bar.console)
        self._task = task
        self._total = total
        self._limit = limit
        self._compiling = True

    def __call__(self, progress: RolloutProgress) -> None:
        """Show the progress of the rollout."""
        if self._compiling:  # the time left is estimated from now on
            self._bar.reset(self._task)
            self._compiling = False
        speed = progress.control_steps / progress.loop_s
        share = 0.0 if self._total is None else progress.share
        if self._limit is not None:
            share = max(share, min(1.0, self._limit.elapsed_s() / self._limit.limit_s))
        text = self._text(progress, speed)
        self._bar.update(self._task, completed=share, text=text)
        if not self._bar.disable and self._lines.is_due():
            (task,) = self._bar.tasks
            left = "" if task.time_remaining is None else f", time left {clock_time(task.time_remaining)}"
            self._bar.console.print(f"{task.description} {text}{left}")

    def _text(self, progress: RolloutProgress, speed: float) -> str:
        rate = f"{100 * progress.successes / progress.episodes:.0f} %" if progress.episodes else "-"
        if progress.unwritten:
            return f"{progress.episodes} episodes, success {rate}; making captures of {progress.unwritten} more"
        counted = progress.episodes if self._total is None else f"{progress.episodes}/{self._total}"
        text = f"{counted} episodes, success {rate}, {speed:,.0f} control steps/s"
        if self._limit is not None:
            elapsed = min(self._limit.elapsed_s(), self._limit.limit_s)  # the rollout ends there; only captures go on
            text += f", {clock_time(elapsed)} of {clock_time(self._limit.limit_s)}"
        return text


@contextmanager
def progress_bar(
    total: int | None,
    *,
    shown: bool,
    label: str = "evaluate",
    limit: TimeLimit | None = None,
    console: Console | None = None,
    auto_refresh: bool = True,
) -> Iterator[ProgressBar]:
    """Progress bar for `total` episodes, a context; it leaves the terminal's last line when the context ends.

    Args:
        total: episodes of the rollout; None if there is no end to them. Without a limit either, no time left is shown.
        shown: False keeps the terminal silent.
        label: description of the rollout.
        limit: time after which the rollout ends.
        console: where to write; stdout by default.
        auto_refresh: draw it between the calls, too.
    """
    columns = (
        TextColumn(label), BarColumn(), TextColumn("{task.fields[text]}", markup=False), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console or make_console(), auto_refresh=auto_refresh, disable=not shown) as bar:
        endless = total is None and limit is None
        task = bar.add_task(label, total=None if endless else 1.0, text="compiling")
        yield ProgressBar(bar, task, total, limit)
