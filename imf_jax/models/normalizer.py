"""Affine scaling of actions and states by the statistics of the demonstrations."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from imf_jax.errors import UserError

Array = jax.Array

CONSTANT_RANGE = 1e-4
"""A dimension whose values span less than this [its own unit] is constant."""


class Statistic(nnx.Variable):
    """Data statistics: stored with the weights, never trained."""


class Normalizer(nnx.Module):
    """Affine normalisation y = (x - center) / scale per dimension.

    A constant dimension has scale 0: it normalises to 0 and always comes back as its constant, so neither noise in
    the data nor an inexact prediction is blown up. Until `set_statistics` is called the map is the identity.

    Args:
        dim: channels D.
        mode: "min_max" maps the range of the data to [-1, 1]; "mean_std" gives zero mean and unit variance.
    """

    def __init__(self, dim: int, mode: Literal["min_max", "mean_std"]) -> None:
        self.dim, self.mode = dim, mode
        self.center = Statistic(jnp.zeros((dim,), jnp.float32))
        self.scale = Statistic(jnp.ones((dim,), jnp.float32))

    def set_statistics(self, name: str, stats: Mapping[str, np.ndarray]) -> None:
        """Set the map from `min`, `max`, `mean`, `std`, each (D,) in the unit of the data.

        Raises:
            UserError: a statistic is absent, has another length, or is not finite; `name` says whose.
        """
        values = {}
        for key in ("min", "max", "mean", "std"):
            if key not in stats:
                raise UserError(f"statistics of {name} have no {key!r}; write them again with scripts/collect.py")
            value = np.asarray(stats[key], np.float64)
            if value.shape != (self.dim,) or not np.isfinite(value).all():
                raise UserError(
                    f"statistic {key!r} of {name} must be {self.dim} finite numbers, not shape {value.shape}"
                )
            values[key] = value
        if self.mode == "min_max":
            center, scale = (values["max"] + values["min"]) / 2, (values["max"] - values["min"]) / 2
        else:
            center, scale = values["mean"], values["std"]
        constant = values["max"] - values["min"] < CONSTANT_RANGE
        self.center[...] = jnp.asarray(np.where(constant, values["mean"], center), jnp.float32)
        self.scale[...] = jnp.asarray(np.where(constant, 0, scale), jnp.float32)

    def normalize(self, x: Float[Array | np.ndarray, "*batch {self.dim}"]) -> Float[Array, "*batch {self.dim}"]:
        """Normalise values (..., D) in physical units."""
        scale = self.scale[...]
        return jnp.where(scale > 0, (x - self.center[...]) / jnp.where(scale > 0, scale, 1), 0)

    def unnormalize(self, y: Float[Array, "*batch {self.dim}"]) -> Float[Array, "*batch {self.dim}"]:
        """Map normalised values (..., D) back to physical units."""
        return y * self.scale[...] + self.center[...]
