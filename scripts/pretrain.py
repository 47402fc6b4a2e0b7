"""Pre-train a LEWM encoder: `python scripts/pretrain.py PRESET [flags]`; the flags override values of the preset."""

from imf_jax.commands.pretrain import run

if __name__ == "__main__":
    run()
