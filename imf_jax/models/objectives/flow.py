"""Flow matching: regression onto the velocity of straight paths from noise to data, which Euler steps follow.

With z_t = (1 - t) x + t e the loss is the mean of |f(z_t, t) - (e - x)|^2 over t, e and x, and a plan integrates f from
t = 1 to t = 0 in N steps.

Formulas: Lipman et al., "Flow Matching for Generative Modeling" (2023); Liu et al., "Flow Straight and Fast" (2023).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from imf_jax import seeds
from imf_jax.config import FlowConfig
from imf_jax.models.objectives.paths import (
    Chunk,
    Guide,
    Network,
    Time,
    Velocity,
    draw_points,
    draw_times,
    mean_over_steps,
    network_velocity,
    sample,
)

Array = jax.Array


@dataclass(frozen=True)
class FlowMatching:
    """The objective with its network, see `imf_jax.models.generator.Generator`."""

    config: FlowConfig
    network: Network
    figures: ClassVar[tuple[str, ...]] = ()

    def loss(
        self,
        key: Key[Array, ""],
        x: Chunk,
        is_pad: Bool[Array, "B H"],
        condition: Float[Array, "B Nc D"],
        is_prefix: Bool[Array, "B H"] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean squared error of the velocity."""
        time_key, noise_key = seeds.split(key)
        t = draw_times(time_key, (x.shape[0],), self.config)
        z, target, is_pad = draw_points(noise_key, x, t, is_pad, is_prefix)
        velocity, given = self._velocity(condition, is_prefix)
        return mean_over_steps(jnp.square(velocity(z, t, t, given) - target), is_pad), {}

    def sample(
        self,
        noise: Chunk,
        condition: Float[Array, "B Nc D"],
        steps: int,
        is_prefix: Bool[Array, "B H"] | None = None,
        guide: Guide | None = None,
    ) -> Chunk:
        """Follow the velocity from noise to data in Euler steps of equal length."""
        velocity, given = self._velocity(condition, is_prefix)
        return sample(velocity, noise, given, steps, guide)

    def _velocity(self, condition: Any, is_prefix: Bool[Array, "B H"] | None) -> tuple[Velocity, Any]:
        """Velocity at the end t of an interval, whatever its beginning, and its condition."""
        velocity, given = network_velocity(self.network, self.config.prediction, condition, is_prefix)

        def at_end(z: Chunk, r: Time, t: Time, condition: Any) -> Chunk:
            return velocity(z, t, t, condition)

        return at_end, given
