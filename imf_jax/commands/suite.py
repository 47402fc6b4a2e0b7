"""Run a suite of trainings and evaluations from a file: python scripts/suite.py suites/objectives.yaml --dry-run"""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import tyro

from imf_jax.cli import print_note, run_main
from imf_jax.config.suite import SuiteConfig
from imf_jax.errors import EXIT_OK, ArgumentError, UserError
from imf_jax.interrupts import stop_on_interrupt
from imf_jax.terminal import make_console, make_table

if TYPE_CHECKING:
    from imf_jax.suite.folder import SuiteFolder
    from imf_jax.suite.launch import Launcher
    from imf_jax.suite.plan import Plan

console = make_console()

REPORT_INTERVAL = 120.0
"""Time between two reports of a suite that is under way, at least; all records are read for one [s]."""


def main() -> int:
    """Parse the command line and run the suite."""
    config = tyro.cli(SuiteConfig, description=__doc__)
    import jax

    # This process computes nothing: the devices are for the runs, each of which is a process of its own.
    jax.config.update("jax_platforms", "cpu")
    # Imported late, so that help and mistyped flags are answered without waiting for the libraries.
    from imf_jax.suite.folder import only_suite, require_startable
    from imf_jax.suite.plan import make_plan
    from imf_jax.suite.spec import read_suite

    plan = make_plan(read_suite(config.file), config.folder, tracker=config.tracker, tracker_mode=config.tracker_mode)
    absent = missing_work(plan)
    if config.dry_run:
        say_plan(plan)
        for line in absent:
            print_note(f"before it can run: {line}")
        return EXIT_OK
    require_startable(plan, resume=config.resume)
    if absent:
        raise ArgumentError(absent[0])
    require_trackers(config)
    launcher = make_launcher(config, plan)
    with only_suite(plan.out):
        return run_plan(plan, launcher)


def missing_work(plan: "Plan") -> list[str]:
    """What a suite needs and does not make itself, as far as it is not there."""
    from imf_jax.suite.demonstrations import missing

    return missing([arm.config for arm in plan.arms], [arm.collection is not None for arm in plan.arms])


def require_trackers(config: SuiteConfig) -> None:
    """Refuse trackers whose libraries are not installed.

    Raises:
        UserError: says how to install it.
    """
    if config.tracker:
        from imf_jax.training.tracker_backends import make_trackers

        make_trackers(config.tracker, config.tracker_mode)


def make_launcher(config: SuiteConfig, plan: "Plan") -> "Launcher":
    """What starts the runs: this machine, or a cluster.

    Raises:
        ArgumentError: the machine has not so many GPUs, or there is no such cluster here.
        UserError: submitit is not installed.
    """
    from imf_jax.suite.cluster import make_cluster
    from imf_jax.suite.folder import LOGS
    from imf_jax.suite.machine import this_machine

    if config.cluster is None:
        return this_machine(config.workers)
    return make_cluster(config.cluster, plan.out / LOGS, plan.suite.name, config.cluster_options, config.workers)


def run_plan(plan: "Plan", launcher: "Launcher") -> int:
    """Run what is missing of a suite, with a view at the terminal; returns the exit code."""
    from imf_jax.suite.folder import SuiteFolder
    from imf_jax.suite.runner import Runner
    from imf_jax.suite.view import SuiteView, counts_line

    folder = SuiteFolder(plan)
    folder.open()
    with stop_on_interrupt() as should_stop, SuiteView(folder, console) as view:
        report = report_writer(folder, view.say)
        runner = Runner(folder, launcher, should_stop, view.say, view.refresh, report)
        code = runner.run()
        report_writer(folder, view.say, every_s=0.0)()
    say_results(plan)
    console.print(counts_line(list(folder.status.values())), style="bold")
    for name, status in folder.status.items():
        if status.state == "failed":
            console.print(f"{name} failed: {' | '.join(status.last_lines)} (log: {folder.path / str(status.log)})")
    console.print(f"results in {plan.out}: suite.html, results.csv, status.json; notes.md is yours")
    return code


def say_results(plan: "Plan") -> None:
    """Print success of every arm, and its difference to the control, as far as evaluations are complete."""
    from imf_jax.suite.results import compare_results, read_results

    results = read_results(plan)
    compared = {one.result.case: one for one in compare_results(plan, results)}
    rows = []
    for result in results:
        (successes, episodes), (percent, low, high) = result.counts, result.rate
        one = compared.get(result.case)
        rows.append((
            *result.case, f"{successes}/{episodes}", f"{percent:.1f} ({low:.1f}-{high:.1f})",
            one and f"{one.difference.mean:+.1f} ({one.difference.low:+.1f} to {one.difference.high:+.1f})",
            one and f"{one.p_value_holm:.2g}",
            one.conclusion if one else result.unable_to_rank and f"unable to rank: {result.unable_to_rank}",
        ))  # fmt: skip
    if rows:
        heads = ("arm", "evaluation", "success", "% (95 % interval)", "difference to control [points]", "p (Holm)", "")
        console.print(make_table(heads, rows))


def report_writer(
    folder: "SuiteFolder", say: Callable[[str], None], every_s: float = REPORT_INTERVAL
) -> Callable[[], None]:
    """A function that writes the report of what there is so far; one that cannot be written stops no run."""
    from imf_jax.suite.report import write_suite_report

    written = -math.inf

    def write() -> None:
        nonlocal written
        if time.monotonic() - written < every_s:
            return
        written = time.monotonic()
        try:
            write_suite_report(folder)
        except (UserError, OSError) as error:
            say(f"the report could not be written: {error}")

    return write


def say_plan(plan: "Plan") -> None:
    """Print the runs of a suite, with their time as far as it is known."""
    from imf_jax.suite.estimate import estimate
    from imf_jax.suite.folder import STATUS
    from imf_jax.suite.progress import read_if_there
    from imf_jax.suite.sizes import num_parameters
    from imf_jax.suite.view import UNITS, time_text

    status = read_if_there(plan.out / STATUS).get("runs", {})
    seconds = estimate(plan, status)
    sizes = {arm.name: num_parameters(arm.config) for arm in plan.arms}
    rows = []
    for run in plan.runs:
        size = sizes.get(run.arm or "")
        parameters = f"{size:,}" if size and run.kind == "training" else None
        amount = f"{run.total:,} {UNITS[run.kind]}" if run.total else None
        known, done = seconds[run.name], status.get(run.name, {}).get("state") == "done"
        rows.append((run.name, amount, parameters, "done" if done else time_text(known) or "unknown"))
    console.print(make_table(("run", "amount", "parameters", "time"), rows))
    arms, seeds, variants = len(plan.arms), len(plan.seeds), len(plan.variants)
    console.print(
        f"{arms} arm{'s' * (arms != 1)} x {seeds} training seed{'s' * (seeds != 1)}, "
        f"{variants} evaluation{'s' * (variants != 1)}: {len(plan.runs)} runs into {plan.out}"
    )
    found = [value for value in seconds.values() if value is not None]
    unknown = len(seconds) - len(found)
    if unknown == len(seconds):
        console.print(
            "their time is not known: no run of these policies has been finished here or under runs/; once the first "
            "ones of the suite are done, --dry-run with the same --out tells"
        )
    else:
        rest = f", and {unknown} runs of which nothing tells" if unknown else ""
        console.print(f"on one worker {time_text(sum(found))}, by the rates of finished runs{rest}")


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_main(main)
