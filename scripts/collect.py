"""Collect scripted demonstrations of a task, many scenes at once. Example: python scripts/collect.py --episodes 200"""

from imf_jax.commands.collect import run

if __name__ == "__main__":
    run()
