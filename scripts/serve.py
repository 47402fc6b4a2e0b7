"""Serve a policy to robots and evaluations. Example: python scripts/serve.py --checkpoint runs/transfer --port 8000"""

from imf_jax.commands.serve import run

if __name__ == "__main__":
    run()
