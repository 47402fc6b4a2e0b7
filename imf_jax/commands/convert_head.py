"""Convert an IMF-AttnRes policy head from a PyTorch checkpoint; see `imf_jax.conversion.imf_head`."""

from typing import NoReturn

from imf_jax.cli import run_main


def main() -> None:
    """Parse the command line and do what it says."""
    # Imported late: JAX, which it needs, must find its settings in order first.
    from imf_jax.conversion.imf_head import main as convert

    convert()


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_main(main)
