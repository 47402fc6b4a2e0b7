"""Pictures under other lights: brighter or darker, of more or less contrast, and of another tint."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from typing_extensions import override

from imf_jax import seeds
from imf_jax.rollout.perturbations.base import Array, PerturbedProgram

BRIGHTNESS, CONTRAST, TINT = 1.5, 1.5, 1.2
"""Largest factors at level 1."""


@dataclass(frozen=True)
class Lighting(PerturbedProgram):
    """p' = b t ((p - 1/2) k + 1/2) for pixels p in 0..1, clipped; one draw per episode, for all cameras and moments.

    b = 1.5^u brightness, k = 1.5^u contrast, t = 1.2^u of each colour; each u uniform in [-level, level].
    """

    @override
    def observe(self, keys: Array, steps: Array, level: Array, observations: dict[str, Array]) -> dict[str, Array]:
        draws = level * jax.vmap(lambda key: seeds.uniform(key, (5,), -1.0, 1.0))(keys)
        pictures = observations["images"]
        draws = draws.reshape(len(draws), *([1] * (pictures.ndim - 2)), 5)
        gain = BRIGHTNESS ** draws[..., :1] * TINT ** draws[..., 2:]
        changed = gain * ((pictures - 127.5) * CONTRAST ** draws[..., 1:2] + 127.5)
        return observations | {"images": jnp.clip(jnp.round(changed), 0, 255).astype(pictures.dtype)}
