"""Make report.html of an evaluation again, from its records. Example: python scripts/report.py evals/my-evaluation"""

from pathlib import Path
from typing import Annotated

import tyro

from imf_jax.cli import run_main


def report(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    """Make report.html of an evaluation again, from what its folder holds.

    Args:
        folder: The folder of an evaluation (it holds episodes.jsonl).
    """
    from imf_jax.rollout.report import write_report

    print(write_report(folder))


def main() -> None:
    tyro.cli(report)


if __name__ == "__main__":
    run_main(main)
