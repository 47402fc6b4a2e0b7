"""Output of benchmarks: tables on the terminal, the same as JSON and Markdown, and a plot."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from imf_jax.benchmark.scaling import ScalingFigures
from imf_jax.cores import usable_cores

FAILED = "Failed"
"""Title of the table of what could not be measured."""


class Table(NamedTuple):
    """Rows of measurements that share their columns.

    Attributes:
        title: what was measured, and how ratios are to be read.
        rows: column name -> value; None stands for nothing measured. Only a table with rows can be shown.
        upright: many columns and few rows, shown with the columns one below the other.
    """

    title: str
    rows: list[dict[str, Any]]
    upright: bool = False

    def cells(self) -> list[list[str]]:
        """The table as it is shown, names first."""
        lines = [list(self.rows[0]), *([format_cell(value) for value in row.values()] for row in self.rows)]
        return [list(line) for line in zip(*lines, strict=True)] if self.upright else lines


def machine() -> str:
    """Device, threads and JAX version, in a few words."""
    return f"{jax.local_devices()[0].device_kind}, {usable_cores()} CPU threads, jax {jax.__version__}"


def format_cell(value: Any) -> str:
    """Format a cell: numbers to three digits, nothing for what was not measured."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def markdown(tables: Sequence[Table]) -> str:
    """The tables as a Markdown page."""
    lines = [f"# Measured on {machine()}"]
    for table in tables:
        names, *cells = table.cells()
        lines += ["", f"{table.title}:", "", _line(names), _line(["---"] * len(names)), *map(_line, cells)]
    return "\n".join(lines) + "\n"


def json_content(tables: Sequence[Table]) -> dict[str, Any]:
    """The tables as plain JSON types."""
    return {"machine": machine(), "tables": [{"title": table.title, "rows": table.rows} for table in tables]}


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def scaling_plot(rows: Sequence[ScalingFigures]) -> bytes:
    """Control steps per second over the batch size, one line per policy, both axes logarithmic: an SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for policy in dict.fromkeys(row.policy for row in rows):
        points = [(row.batch, row.steps_per_s) for row in rows if row.policy == policy and row.steps_per_s]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=policy)
    axes.set_xscale("log", base=4)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("scenes at once")
    axes.set_ylabel("control steps per second")
    axes.set_title(f"Closed loop, {rows[0].backend}; {machine()}", fontsize="medium")
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()
