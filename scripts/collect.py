"""Collect scripted demonstrations of a task, many scenes at once. Example: python scripts/collect.py --episodes 200"""

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from imf_jax.cli import run_main
from imf_jax.config import CollectConfig


def main() -> None:
    config = tyro.cli(CollectConfig, description=__doc__)
    from imf_jax.data.collection import check_expert, collect  # after the arguments are known to be good
    from imf_jax.rollout.statistics import wilson_interval

    console = Console(soft_wrap=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[line]}"),
    )  # fmt: skip
    title = f"expert on {config.task}" if config.check_expert else f"demonstrations of {config.task}"
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(title, total=config.episodes, line="")
        work = check_expert if config.check_expert else collect
        summary = work(config, lambda done, line: progress.update(bar, completed=done, line=line))
    if summary.attempted:
        low, high = wilson_interval(summary.succeeded, summary.attempted)
        console.print(
            f"expert: {summary.succeeded}/{summary.attempted} scenes succeeded "
            f"({summary.succeeded / summary.attempted:.1%}, 95 % interval {low:.1%} to {high:.1%}), "
            f"{summary.control_steps / summary.wall_s:,.0f} control steps/s, "
            f"{summary.attempted / summary.wall_s:.1f} scenes/s"
        )
    if not config.check_expert:
        console.print(f"{summary.recorded} demonstrations in {config.out} ({summary.wall_s:.1f} s)")


if __name__ == "__main__":
    run_main(main)
