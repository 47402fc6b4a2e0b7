"""Code for numpy and JAX arrays alike: C MuJoCo gives the one, the compiled backends the other."""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


def array_module(array: Array) -> ModuleType:
    """The array module of an array: numpy, or jax.numpy for JAX arrays and tracers."""
    return np if isinstance(array, np.ndarray) else jnp
