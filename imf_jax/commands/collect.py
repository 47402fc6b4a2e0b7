"""Collect scripted demonstrations of a task, many scenes at once. Example: python scripts/collect.py --episodes 200"""

from typing import NoReturn

import tyro

from imf_jax.cli import run_main
from imf_jax.config import CollectConfig
from imf_jax.terminal import make_console, stage_progress


def main() -> None:
    """Parse the command line and collect demonstrations."""
    config = tyro.cli(CollectConfig, description=__doc__)
    # Imported late, so that help and mistyped flags are answered without waiting for the simulator to load.
    from imf_jax.evaluation.statistics import wilson_interval
    from imf_jax.recording.collection import collect, collection_folder

    console = make_console()
    with stage_progress(f"demonstrations of {config.task}", config.episodes, console) as show:
        summary = collect(config, show)
    console.print(f"{summary.recorded} demonstrations in {collection_folder(config)}")
    if summary.attempted:
        low, high = wilson_interval(summary.succeeded, summary.attempted)
        console.print(
            f"the expert succeeded under noise in {summary.succeeded} of {summary.attempted} scenes "
            f"(95 % interval {100 * low:.1f}-{100 * high:.1f} %); {summary.wall_s:.1f} s, "
            f"{summary.control_steps / summary.wall_s:,.0f} control steps/s"
        )


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_main(main)


if __name__ == "__main__":  # suites start `python -m imf_jax.commands.collect`
    run()
