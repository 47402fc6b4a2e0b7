"""A suite at the terminal: a table that changes as the runs go on; plain lines where there is no terminal."""

from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from imf_jax.suite.folder import RunStatus, SuiteFolder
from imf_jax.terminal import PlainLines, make_console, make_table

SHOWN = 20
"""Runs in the table, at most."""

UNITS = {"training": "steps", "evaluation": "episodes", "demonstrations": "demonstrations", "features": ""}


class SuiteView:
    """Progress of a suite; use it as a context manager.

    Args:
        folder: of the suite.
        console: where to write; stdout by default.
    """

    def __init__(self, folder: SuiteFolder, console: Console | None = None) -> None:
        self._folder = folder
        self._console = console or make_console()
        self._live = Live(console=self._console, get_renderable=self._table, auto_refresh=False, transient=True)
        self._lines = PlainLines(self._console)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line)

    def refresh(self) -> None:
        """Show the status of the suite's folder."""
        if self._console.is_terminal:
            self._live.refresh()
        elif self._lines.is_due():
            running = [f"{name} {done_text(status)}" for name, status in self._running()]
            self.say(f"{counts_line(list(self._folder.status.values()))}; {'; '.join(running)}")

    def _running(self) -> list[tuple[str, RunStatus]]:
        return [(name, status) for name, status in self._folder.status.items() if status.state == "running"]

    def _table(self) -> RenderableType:
        rows = [
            (name, done_text(status), time_text(status.elapsed_s), time_text(time_left(status)), where_text(status))
            for name, status in self._running()[:SHOWN]
        ]
        table = make_table(("run", "done", "time", "time left", "where"), rows)
        return Group(table, Text(counts_line(list(self._folder.status.values()))))

    def __enter__(self) -> "SuiteView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()


def counts_line(statuses: Sequence[RunStatus]) -> str:
    """How many runs are in which state."""
    counts = Counter(status.state for status in statuses)
    order = ("done", "running", "waiting", "failed", "skipped", "interrupted")
    return f"{len(statuses)} runs: " + ", ".join(f"{counts[state]} {state}" for state in order if counts[state])


def done_text(status: RunStatus) -> str:
    """How far a run is."""
    if not status.total:
        return ""
    rate = f", {status.rate:.1f}/s" if status.rate else ""
    return f"{status.done:,}/{status.total:,} {UNITS[status.kind]}{rate}"


def time_left(status: RunStatus) -> float | None:
    """Time that a training run still needs at its rate [s]; None where it is not known."""
    return (status.total - status.done) / status.rate if status.rate and status.done else None


def time_text(seconds: float | None) -> str:
    """A duration as hours and minutes, or minutes and seconds; empty if it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def where_text(status: RunStatus) -> str:
    """Device, process or job of a run."""
    if status.job_id is not None:
        return f"job {status.job_id}"
    return f"process {status.pid}" + (f", GPU {status.device}" if status.device is not None else "")
