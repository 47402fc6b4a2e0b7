"""Evaluate a policy in batched rollouts. Example: python scripts/eval.py --checkpoint runs/transfer --save-images"""

from imf_jax.commands.eval import run

if __name__ == "__main__":
    run()
