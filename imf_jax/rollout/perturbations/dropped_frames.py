"""Observations that are lost on their way, so that older ones are seen again."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from typing_extensions import override

from imf_jax import seeds
from imf_jax.rollout.perturbations.base import Array, PerturbedProgram, step_keys

OLDEST = 10
"""Largest age of an observation [control steps]."""


@dataclass(frozen=True)
class DroppedFrames(PerturbedProgram):
    """Each control step's observation is lost with probability level, pictures and states together.

    In place of a lost one the newest is seen that arrived before, or the one `OLDEST` control steps older where none of
    those did. The first one of an episode always arrives. At level 1 all later ones are lost.
    """

    @property
    @override
    def obs_horizon(self) -> int:
        return self.inner.obs_horizon + OLDEST

    @override
    def observe(self, keys: Array, steps: Array, level: Array, observations: dict[str, Array]) -> dict[str, Array]:
        draws = jax.vmap(jax.vmap(seeds.uniform))(step_keys(keys, steps))
        arrived = (draws >= level) | (steps == 0)
        places = jnp.arange(self.obs_horizon)
        newest = jax.lax.cummax(jnp.where(arrived, places, 0), axis=1)
        chosen = jnp.maximum(newest, places - OLDEST)[:, OLDEST:]
        return {name: jax.vmap(lambda row, at: row[at])(values, chosen) for name, values in observations.items()}
