"""Look into, convert and play demonstrations and recordings. Example: python scripts/data.py inspect demos/transfer"""

from imf_jax.commands.data import run

if __name__ == "__main__":
    run()
