"""Pre-train a LEWM encoder: `python scripts/pretrain.py PRESET [flags]`; the flags override values of the preset."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from imf_jax.commands.preset_command import PresetCommand
from imf_jax.commands.train import run_tracked
from imf_jax.config import PretrainConfig
from imf_jax.jax_settings import set_precision
from imf_jax.presets import PRETRAIN_DIRECTORY

COMMAND = PresetCommand(
    "pretrain.py", "Pre-train a LEWM encoder on demonstrations with pictures.", PretrainConfig, PRETRAIN_DIRECTORY
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and pre-train."""
    config = COMMAND.parse(sys.argv[1:] if arguments is None else arguments)
    set_precision(config.precision)
    # Imported late, so that help and mistyped flags are answered without waiting for the simulator to load.
    from imf_jax.training.pretraining import pretrain

    return pretrain(config)


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_tracked(main)
