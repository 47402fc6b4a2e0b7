"""Consoles and tables of the command line: text appears as it is, and no file or pipe gets less than all of it."""

import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNLIMITED = 10**6
"""Columns of an output that is no terminal: nothing is ever cut or wrapped there."""


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
