"""Convert an IMF-AttnRes policy head from a PyTorch checkpoint; neither PyTorch nor the classes are needed."""

from imf_jax.commands.convert_head import run

if __name__ == "__main__":
    run()
