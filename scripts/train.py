"""Train a policy: `python scripts/train.py PRESET [flags]`; the flags override single values of the preset."""

from imf_jax.commands.train import run

if __name__ == "__main__":
    run()
