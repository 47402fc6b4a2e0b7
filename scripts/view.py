"""Look at an episode in Rerun: the scene in 3-D, paths, chunks, curves and pictures on one timeline."""

from imf_jax.commands.view import run

if __name__ == "__main__":
    run()
