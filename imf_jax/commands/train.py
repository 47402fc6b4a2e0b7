"""Train a policy: `python scripts/train.py PRESET [flags]`; the flags override single values of the preset."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import tyro

from imf_jax.cli import run_main
from imf_jax.config import TrainConfig
from imf_jax.errors import EXIT_FAILED, EXIT_OK, ArgumentError
from imf_jax.jax_settings import set_precision
from imf_jax.presets import load_preset, preset_description, preset_path, preset_paths
from imf_jax.training.tracker_guard import left_behind

USAGE = "python scripts/train.py PRESET [flags]"


def parse(arguments: Sequence[str]) -> TrainConfig:
    """Parse a command line to a configuration; prints help and exits if that is requested.

    Raises:
        ArgumentError: no preset or an unknown one is named, or a value cannot work.
    """
    if arguments and arguments[0] in ("-h", "--help"):
        print(overview())
        raise SystemExit(EXIT_OK)
    if not arguments or arguments[0].startswith("-"):
        raise ArgumentError(f"name a preset first: {USAGE}; presets are: {', '.join(preset_paths())}")
    name, flags = arguments[0], arguments[1:]
    preset = load_preset(name)
    return tyro.cli(
        TrainConfig,
        default=preset,
        args=flags,
        prog=f"train.py {name}",
        description=preset_description(preset_path(name)),
        # The preset chooses the kind of encoder; flags change its settings.
        config=(tyro.conf.AvoidSubcommands,),
    )


def overview() -> str:
    """Text of `--help` before a preset is named."""
    lines = [f"usage: {USAGE}", "", "Train a policy on demonstrations. Presets:", ""]
    lines += [f"  {name:<18} {preset_description(path).splitlines()[0]}" for name, path in preset_paths().items()]
    return "\n".join([*lines, "", "All flags, with units and defaults: python scripts/train.py PRESET --help"])


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
    try:
        run_main(main)
    except SystemExit as stopped:
        leave_hanging_trackers(stopped.code if isinstance(stopped.code, int) else EXIT_FAILED)
        raise
