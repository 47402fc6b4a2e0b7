"""Train a policy: `python scripts/train.py PRESET [flags]`; the flags override single values of the preset."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from imf_jax.cli import run_main
from imf_jax.commands.preset_command import PresetCommand
from imf_jax.config import TrainConfig
from imf_jax.errors import EXIT_FAILED
from imf_jax.jax_settings import set_precision
from imf_jax.presets import DIRECTORY
from imf_jax.training.tracker_guard import left_behind

COMMAND = PresetCommand("train.py", "Train a policy on demonstrations.", TrainConfig, DIRECTORY)


def parse(arguments: Sequence[str]) -> TrainConfig:
    """Parse a command line to a configuration, see `PresetCommand.parse`."""
    return COMMAND.parse(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and train."""
    config = parse(sys.argv[1:] if arguments is None else arguments)
    set_precision(config.precision)
    # Imported late, so that help and mistyped flags are answered without waiting for the simulator to load.
    from imf_jax.training.loop import train

    return train(config)


def leave_hanging_trackers(code: int) -> None:
    """End the process at once if a tracker hangs: everything is written, and its library might hang at exit as well."""
    if left_behind():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_tracked(main)


def run_tracked(main: Callable[[], int]) -> NoReturn:
    """Run a command whose runs have trackers, and exit with its code."""
    try:
        run_main(main)
    except SystemExit as stopped:
        leave_hanging_trackers(stopped.code if isinstance(stopped.code, int) else EXIT_FAILED)
        raise


if __name__ == "__main__":  # suites start `python -m imf_jax.commands.train`
    run()
