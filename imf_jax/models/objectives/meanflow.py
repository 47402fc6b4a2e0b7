"""MeanFlow: the average velocity u over any interval of time, trained by its derivative along the path.

u = v - (t - r) du/dt holds on a path with velocity v; here v = e - x, where improved MeanFlow takes that of the
network. So the compound velocity V = u + (t - r) sg(du/dt), du/dt a JVP with tangent (v, 0, 1), is regressed onto v.
The squared error D of a chunk, summed over its entries, is weighted by 1 / sg(D + c)^p.

Formulas: Geng et al., "Mean Flows for One-step Generative Modeling" (2025), with p = 1 and c = 1e-3.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from imf_jax import seeds
from imf_jax.config import MeanFlowConfig
from imf_jax.models.objectives.imf import batch_compound_velocity, root_mean_square
from imf_jax.models.objectives.paths import (
    Chunk,
    Guide,
    Network,
    draw_points,
    equal_rows,
    mean_over_steps,
    network_velocity,
    sample,
    sample_times,
)

Array = jax.Array


@dataclass(frozen=True)
class MeanFlow:
    """The objective with its network, see `imf_jax.models.generator.Generator`."""

    config: MeanFlowConfig
    network: Network
    figures: ClassVar[tuple[str, ...]] = ("mse", "dudt_rms")

    def loss(
        self,
        key: Key[Array, ""],
        x: Chunk,
        is_pad: Bool[Array, "B H"],
        condition: Float[Array, "B Nc D"],
        is_prefix: Bool[Array, "B H"] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Weighted squared error of the compound velocity.

        Its diagnostics: `mse` of V over the steps that carry loss, `dudt_rms` (0 if all rows have r = t).
        """
        time_key, noise_key = seeds.split(key)
        r, t = sample_times(time_key, x.shape[0], self.config)
        z, target, is_pad = draw_points(noise_key, x, t, is_pad, is_prefix)
        velocity, given = network_velocity(self.network, "velocity", condition, is_prefix)
        num_equal = equal_rows(x.shape[0], self.config)
        compound, derivative = batch_compound_velocity(velocity, z, r, t, given, num_equal, target)
        square = jnp.square(compound - target)
        of_chunk = jnp.sum(jnp.where(is_pad[..., None], 0, square), axis=(1, 2))
        weight = (of_chunk + self.config.weight_offset) ** -self.config.weight_power
        info = {"mse": mean_over_steps(square, is_pad), "dudt_rms": root_mean_square(derivative)}
        return jnp.mean(jax.lax.stop_gradient(weight) * of_chunk), info

    def sample(
        self,
        noise: Chunk,
        condition: Float[Array, "B Nc D"],
        steps: int,
        is_prefix: Bool[Array, "B H"] | None = None,
        guide: Guide | None = None,
    ) -> Chunk:
        """Generate chunks; see `imf_jax.models.objectives.paths.sample`."""
        velocity, given = network_velocity(self.network, "velocity", condition, is_prefix)
        return sample(velocity, noise, given, steps, guide)
