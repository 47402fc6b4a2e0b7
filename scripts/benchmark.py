"""Measure speed, as ratios of sides that take turns in one process. Example: python scripts/benchmark.py policy"""

from imf_jax.commands.benchmark import run

if __name__ == "__main__":
    run()
