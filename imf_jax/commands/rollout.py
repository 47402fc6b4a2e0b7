"""Roll out and record. Example: python scripts/rollout.py --strategy episodic --expert --dataset data/rollout_first"""

from typing import NoReturn

import tyro

from imf_jax.cli import run_main
from imf_jax.config.recording import RolloutConfig
from imf_jax.interrupts import stop_on_interrupt
from imf_jax.jax_settings import set_precision
from imf_jax.terminal import make_console

console = make_console()


def main() -> int:
    """Parse the command line, roll out and record."""
    config = tyro.cli(RolloutConfig, description=__doc__)
    set_precision(config.precision)
    # Imported late, so that help and mistyped flags are answered without waiting for the simulator to load.
    from imf_jax.evaluation.statistics import wilson_interval

    with stop_on_interrupt() as should_stop:
        if config.dagger.rounds is not None:
            from imf_jax.recording.rounds import run_rounds as run
        else:
            from imf_jax.recording.run import run_strategy as run
        summary = run(
            config,
            should_stop=should_stop,
            on_note=lambda line: console.print(line),
            show_progress=True,
        )
    count, successes = len(summary.records), sum(record.status == "success" for record in summary.records)
    if count:
        low, high = wilson_interval(successes, count)
        supervised = " under supervision" if config.strategy == "dagger" else ""
        console.print(
            f"success{supervised} {successes}/{count} (95 % interval {100 * low:.1f}-{100 * high:.1f} %); "
            f"{summary.control_steps:,} control steps in {summary.wall_s:.1f} s"
        )
    for line in summary.errors:
        console.print(f"not recorded: {line}", style="yellow")
    if summary.failed is not None:
        console.print(summary.failed, style="red")
    return summary.exit_code


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_main(main)
