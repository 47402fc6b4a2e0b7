"""Convert the LEWM encoder and projector from a PyTorch checkpoint; neither PyTorch nor the classes are needed."""

from imf_jax.commands.convert_lewm import run

if __name__ == "__main__":
    run()
