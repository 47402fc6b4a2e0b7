"""Noise on actions."""

from dataclasses import dataclass

import jax.numpy as jnp
from typing_extensions import override

from imf_jax.rollout.perturbations.base import Array, PerturbedProgram, normal, step_keys
from imf_jax.sim.quaternions import multiply
from imf_jax.spaces import Kind

NOISE: dict[Kind, float] = {"position": 0.01, "quaternion": 0.03, "joint": 0.01}
"""Standard deviations at level 1: of each coordinate of a position [m], of a rotation about each axis of the world
[rad], of a joint target [rad or m]. Grippers have none: they would let go."""


@dataclass(frozen=True)
class ActionNoise(PerturbedProgram):
    """a' = a + level sigma e, e ~ N(0, I) for every control step anew; orientations are turned by level sigma e."""

    @override
    def act(self, keys: Array, steps: Array, level: Array, actions: Array, own: tuple[()]) -> tuple[Array, tuple[()]]:
        noise = level * normal(step_keys(keys, steps), (self.spaces.action_dim,))
        parts = []
        for part, place in self.spaces.action_parts:
            values, sigma = actions[..., place], NOISE.get(part.kind)
            if part.kind == "quaternion":
                # Three of the four numbers are a rotation vector; half of it is the quaternion's, to first order.
                half = 0.5 * NOISE["quaternion"] * noise[..., place][..., :3]
                turn = jnp.concatenate([jnp.ones_like(half[..., :1]), half], axis=-1)
                values = jnp.asarray(multiply(turn / jnp.linalg.norm(turn, axis=-1, keepdims=True), values))
            elif sigma is not None:
                values = values + sigma * noise[..., place]
            parts.append(values)
        return jnp.concatenate(parts, axis=-1), own
