"""`suite.html` and `results.csv`: what a suite has found so far, and how sure that is."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from imf_jax.evaluation.report.charts import CURVE_COLOURS, Series, line_chart
from imf_jax.evaluation.report.page import render_page
from imf_jax.evaluation.statistics import wilson_interval
from imf_jax.files import write_bytes
from imf_jax.suite.folder import SuiteFolder
from imf_jax.suite.results import (
    ComparedResult,
    Result,
    arm_costs,
    compare_results,
    read_results,
    report_links,
)
from imf_jax.suite.statistics import Outcomes
from imf_jax.suite.view import counts_line, done_text, time_text, where_text

PAGE, TABLE = "suite.html", "results.csv"

ALL_SEEDS = "all"

WIDE_AXIS = 10.0
"""An axis whose largest value is so many times its smallest is drawn logarithmically."""


class Curve(NamedTuple):
    """Curve of success over an axis: colour of the style sheet, its name."""

    colour: int
    name: str


def write_suite_report(folder: SuiteFolder) -> None:
    """Write `suite.html` and `results.csv` of what is done.

    Raises:
        UserError: the page cannot be written.
        OSError: the table cannot be written.
    """
    plan = folder.plan
    results = read_results(plan)
    compared = compare_results(plan, results)
    costs = arm_costs(plan, folder.status)
    write_bytes(folder.path / TABLE, results_table(results, compared, costs).encode())
    statuses = list(folder.status.values())
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.case[1], []).append(result)
    runs: list[dict[str, Any]] = [
        {
            "name": run.name,
            "status": folder.status[run.name],
            "done": done_text(folder.status[run.name]),
            "time": time_text(folder.status[run.name].elapsed_s),
            "where": where_text(folder.status[run.name]) if folder.status[run.name].started else "",
            "links": _run_links(folder, run.name),
        }
        for run in plan.runs
    ]
    render_page(
        folder.path / PAGE,
        "suite.html.j2",
        title=f"Suite {plan.suite.name}",
        subtitle=f"{len(plan.arms)} arms, training seeds {', '.join(map(str, plan.seeds))}; {counts_line(statuses)}",
        groups=[(variant.name, found[variant.name]) for variant in plan.variants if variant.name in found],
        links={result.case: _quoted(report_links(result, folder.path)) for result in results},
        compared=compared,
        uncompared=plan.suite.control is None,
        curves=success_curves(results),
        costs=[{**row, "train": time_text(row["train_s"])} for row in costs],
        runs=runs,
        failed=[run for run in runs if run["status"].state == "failed"],
        wilson=seed_rate,
    )


def results_table(
    results: Sequence[Result], compared: Sequence[ComparedResult], costs: Sequence[Mapping[str, Any]]
) -> str:
    """The table as CSV: a row for every result over all training seeds, and one for each seed.

    Differences are in percentage points; `p_holm` is corrected for the results that have the same control.
    """
    axes = list(dict.fromkeys(axis for result in results for axis in result.axes))
    by_case = {one.result.case: one for one in compared}
    by_arm = {row["arm"]: row for row in costs}
    cost_names = ("train_s", "steps_per_s", "parameters", "peak_host_memory", "peak_device_memory")
    rows = []
    for result in results:
        names = {"arm_name": result.case[0], "evaluation_name": result.case[1]}
        shared = {**names, **{f"axis_{axis}": value for axis, value in result.axes.items()}}
        cost = {name: by_arm[result.case[0]][name] for name in cost_names}
        successes, episodes = result.counts
        percent, low, high = result.rate
        row = {
            **shared, "training_seed": ALL_SEEDS, "n_episodes": episodes, "n_success": successes, "pc_success": percent,
            "pc_success_low": low, "pc_success_high": high, "unable_to_rank": result.unable_to_rank, **cost,
            **result.figures,
        }  # fmt: skip
        one = by_case.get(result.case)
        if one:
            found = one.difference
            row |= {
                "control": one.control.label, "difference": found.mean, "difference_low": found.low,
                "difference_high": found.high, "p": found.p_value, "p_holm": one.p_value_holm,
                "conclusion": one.conclusion,
            }  # fmt: skip
        rows.append(row)
        differences = {each.seed: each for each in one.difference.by_seed} if one else {}
        for seed, outcomes in result.outcomes.items():
            percent, low, high, successes, episodes = seed_rate(outcomes)
            row = {
                **shared, "training_seed": seed, "n_episodes": episodes, "n_success": successes, "pc_success": percent,
                "pc_success_low": low, "pc_success_high": high,
            }  # fmt: skip
            if seed in differences:
                row |= {"difference": 100 * differences[seed].difference, "p": differences[seed].p_value}
            rows.append(row)
    columns = [
        "arm_name", "evaluation_name", *(f"axis_{axis}" for axis in axes), "training_seed", "n_episodes", "n_success",
        "pc_success", "pc_success_low", "pc_success_high", "unable_to_rank", "control", "difference",
        "difference_low", "difference_high", "p", "p_holm", "conclusion", *cost_names, "control_steps_per_s", "plan_ms",
    ]  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def seed_rate(outcomes: Outcomes) -> tuple[float, float, float, int, int]:
    """Success of one training seed with its Wilson interval [%], successes, and episodes."""
    successes, episodes = sum(outcomes.values()), len(outcomes)
    low, high = wilson_interval(successes, episodes)
    return 100 * successes / episodes, 100 * low, 100 * high, successes, episodes


def success_curves(results: Sequence[Result]) -> list[tuple[str, Markup, list[Curve]]]:
    """Charts of success over every axis of numbers: its name, the chart, and the names of the curves.

    Results that differ in nothing but this axis make a curve.
    """
    charts = []
    for axis in dict.fromkeys(axis for result in results for axis in result.axes):
        curves: dict[str, list[Result]] = {}
        for result in results:
            if type(result.axes.get(axis)) in (int, float):
                others = {name: value for name, value in result.axes.items() if name != axis}
                curves.setdefault(", ".join(str(value) for value in others.values()), []).append(result)
        curves = {
            name: sorted(found, key=lambda one: one.axes[axis]) for name, found in curves.items() if len(found) > 1
        }
        if curves:
            series = [_series(name, axis, found) for name, found in curves.items()]
            title = f"success over {axis.replace('_', ' ')} [%]"
            values = np.concatenate([curve.x for curve in series])
            wide = bool(values.min() > 0 and values.max() >= WIDE_AXIS * values.min())
            chart = line_chart(series, title=title, x_label=axis.replace("_", " "), y_range=(0, 100), log_x=wide)
            charts.append((title, chart, [Curve(number % CURVE_COLOURS, name) for number, name in enumerate(curves)]))
    return charts


def _series(name: str, axis: str, results: Sequence[Result]) -> Series:
    rates = np.array([result.rate for result in results])
    x = np.array([result.axes[axis] for result in results], np.float64)
    return Series(name, x, rates[:, 0], marked=True, interval=rates[:, 1:])


def _run_links(folder: SuiteFolder, name: str) -> list[tuple[str, str]]:
    run = next(run for run in folder.plan.runs if run.name == name)
    status = folder.status[name]
    places = [("log", status.log)] if status.log and (folder.path / status.log).is_file() else []
    if run.kind == "training" and run.folder.is_dir():
        places.append(("folder", run.folder.relative_to(folder.path).as_posix()))
        pages = sorted(run.folder.glob("validation/step_*/report.html"), key=lambda page: page.stat().st_mtime)
        places += [("validation", page.relative_to(folder.path).as_posix()) for page in pages[-1:]]
    return _quoted(places) + list(status.tracker.items())


def _quoted(links: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(text, quote(address)) for text, address in links]
