"""Success against the delay of plans. Example: python scripts/latency.py --checkpoint runs/transfer --delays 0 2 4 8"""

from imf_jax.commands.latency import run

if __name__ == "__main__":
    run()
