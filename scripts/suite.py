"""Run a suite of trainings and evaluations from a file: python scripts/suite.py suites/objectives.yaml --dry-run"""

from imf_jax.commands.suite import run

if __name__ == "__main__":
    run()
