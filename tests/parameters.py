"""Sizes of networks."""

import jax
from flax import nnx


def count_parameters(module: nnx.Module) -> int:
    """Number of trainable values in a module."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
