"""Noise on observations."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from typing_extensions import override

from imf_jax import seeds
from imf_jax.rollout.perturbations.base import Array, PerturbedProgram, normal, step_keys

STATE_NOISE = 0.01
"""Standard deviation on each number of a state at level 1: [m], [rad], or that of a quaternion or a gripper."""

STREAMS = {"state": 0, "env_state": 1, "images": 2}
"""Random numbers of each entry of an observation."""

PICTURE_NOISE = 10.0
"""Standard deviation on each number of a picture at level 1, out of 255."""


@dataclass(frozen=True)
class ObservationNoise(PerturbedProgram):
    """o' = o + level sigma e, e ~ N(0, I) for every control step anew; pictures are rounded and clipped to 0..255."""

    @override
    def observe(self, keys: Array, steps: Array, level: Array, observations: dict[str, Array]) -> dict[str, Array]:
        noisy = {}
        for name, values in observations.items():
            own = jax.vmap(lambda key, stream=STREAMS[name]: seeds.fold_in(key, stream))(keys)
            noise = level * normal(step_keys(own, steps), values.shape[2:])
            if name == "images":
                noisy[name] = jnp.clip(jnp.round(values + PICTURE_NOISE * noise), 0, 255).astype(values.dtype)
            else:
                noisy[name] = values + STATE_NOISE * noise
        return noisy
