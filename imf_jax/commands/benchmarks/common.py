"""What the subcommands share."""

from imf_jax.config import require
from imf_jax.terminal import make_console

SIZES = ("128/4",)
"""Policy of `make demo`."""

JSON = "rollouts.json"
"""Figures in the folder of `rollouts --out`."""

console = make_console()


def parse_size(size: str) -> tuple[int, int]:
    """Parse width and layers of a head written as "256/6"."""
    width, _, layers = size.partition("/")
    require(width.isdigit() and layers.isdigit(), f"--sizes {size!r} must be width/layers, for example 256/6")
    return int(width), int(layers)
