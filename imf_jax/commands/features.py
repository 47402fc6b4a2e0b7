"""Cache what a frozen encoder makes of demonstrations, which training does too when it starts. For suites of runs.

`python -m imf_jax.commands.features PRESET [flags]`, with the flags of `train.py`.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from imf_jax.cli import run_main
from imf_jax.commands.train import parse
from imf_jax.config import require
from imf_jax.jax_settings import set_precision
from imf_jax.terminal import make_console


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and make the cache, unless it is there."""
    config = parse(sys.argv[1:] if arguments is None else arguments)
    set_precision(config.precision)
    # Imported late, so that help and mistyped flags are answered without waiting for the simulator to load.
    from imf_jax.data.pictures import find_pictures
    from imf_jax.data.windows import load_demonstrations
    from imf_jax.models.policy import build_policy
    from imf_jax.training.source import find_source
    from imf_jax.training.vision import with_vision

    config, source = find_source(config)
    encoder = config.policy.encoder
    policy = build_policy(config, source.spaces, source.env_state_dim)
    require(policy.frozen_encoder is not None, "the policy has no frozen encoder; there is nothing to cache")
    data, _ = load_demonstrations(source.selection, source.spaces)
    pictures = find_pictures(source.selection, encoder.cameras, encoder.image_size)
    with_vision(data, pictures, policy, make_console().print)


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_main(main)


if __name__ == "__main__":
    run()
