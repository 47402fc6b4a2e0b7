"""Roll out and record. Example: python scripts/rollout.py --strategy episodic --expert --dataset data/rollout_first"""

from imf_jax.commands.rollout import run

if __name__ == "__main__":
    run()
