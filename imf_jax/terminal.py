"""Consoles, tables and progress of the command line: text appears as it is, no file or pipe gets less than all."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

UNLIMITED = 10**6
"""Columns of an output that is no terminal: nothing is ever cut or wrapped there."""

LINE_INTERVAL = 30.0
"""Time between two plain lines of progress where there is no terminal [s]."""


def make_console(file: TextIO | None = None, *, stderr: bool = False) -> Console:
    """Make a console that shows brackets and colons as they are: [ms] is no markup and :key: no emoji.

    Args:
        file: where it writes; the standard output by default.
        stderr: write to the standard error instead.
    """
    target = file or (sys.stderr if stderr else sys.stdout)
    width = None if target.isatty() else UNLIMITED
    return Console(file=file, stderr=stderr, width=width, soft_wrap=True, highlight=False, markup=False, emoji=False)


def make_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, left: int | None = None) -> Table:
    """Make a table whose cells show what they hold as it is; a terminal that is too narrow folds them.

    Args:
        columns: heads.
        rows: the cells of each row; None leaves one empty.
        left: so many columns are aligned to the left, those behind them to the right; all to the left by default.
    """
    table = Table()
    for index, head in enumerate(columns):
        right = left is not None and index >= left
        table.add_column(Text(head), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return table


class PlainLines:
    """Says when long work is to print a line about its progress: every half a minute where no terminal shows a bar.

    Args:
        console: where progress is shown.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether to print one now; the next one is due `LINE_INTERVAL` later."""
        now = time.monotonic()
        if self._console.is_terminal or now - self._last < LINE_INTERVAL:
            return False
        self._last = now
        return True


def clock_time(seconds: float) -> str:
    """Format a duration as m:ss, or from an hour on as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class ShowDone(Protocol):
    """Shows how much of a stage is done."""

    def __call__(self, done: int, text: str = "", *, total: int | None = None) -> None:
        """Show it, and what else there is to say; `total` says how much is to be done if that was not known before."""


@contextmanager
def stage_progress(title: str, total: int | None = None, console: Console | None = None) -> Iterator[ShowDone]:
    """Progress of a long stage, of which `total` things are to be done; plain lines where there is no terminal."""
    console = console or make_console()
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("time left"),
        TimeRemainingColumn(), TextColumn("{task.fields[text]}", markup=False),
    )  # fmt: skip
    lines = PlainLines(console)
    known = total
    first: tuple[int, float] | None = None  # what was done before, and when that was
    with Progress(*columns, console=console, refresh_per_second=2, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, text="")

        def show(done: int, text: str = "", *, total: int | None = None) -> None:
            nonlocal first, known
            known = total or known
            bar.update(task, completed=done, total=known, text=text)
            now = time.monotonic()
            first = first or (done, now)
            if known is not None and lines.is_due():
                parts = [f"{title} {done}/{known}"]
                if done > first[0]:
                    parts.append(f"time left {clock_time((now - first[1]) * (known - done) / (done - first[0]))}")
                console.print(", ".join(parts + [text] * bool(text)))

        yield show
