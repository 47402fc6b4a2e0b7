"""Improved MeanFlow: the compound velocity and its regression, as pure functions of a velocity function.

See `imf_jax.models.objectives.paths` for velocities and for sampling. Rows of a batch must not influence one another.

Formulas: Geng et al., "Mean Flows for One-step Generative Modeling" (2025) and "Improved Mean Flows" (2025).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from imf_jax import seeds
from imf_jax.config import ImfConfig
from imf_jax.models.objectives.dct import dct, dct_weights, inverse_dct
from imf_jax.models.objectives.paths import (
    Chunk,
    Guide,
    Network,
    Time,
    Velocity,
    draw_points,
    equal_rows,
    network_velocity,
    sample,
    sample_times,
)

Array = jax.Array


class CompoundVelocity(NamedTuple):
    """Terms of the objective, each float32 (B, H, A).

    Attributes:
        instantaneous: v, the tangent of the path; carries no gradient.
        average: u = f(z, r, t).
        derivative: du/dt along the path; carries no gradient.
        compound: V = u + (t - r) du/dt, which is regressed onto e - x.
    """

    instantaneous: Chunk
    average: Chunk
    derivative: Chunk
    compound: Chunk


def compound_velocity(
    velocity: Velocity, z: Chunk, r: Time, t: Time, condition: Any, tangent: Chunk | None = None
) -> CompoundVelocity:
    """Average velocity u, its total derivative along the path (a JVP with tangent (v, 0, 1)), and V.

    Args:
        velocity: the velocity function.
        z: float32 (B, H, A).
        r: float32 (B,).
        t: float32 (B,).
        condition: (B, ...).
        tangent: float32 (B, H, A), the tangent v of the path; by default f(z, t, t).
    """
    instantaneous = jax.lax.stop_gradient(velocity(z, t, t, condition)) if tangent is None else tangent
    average, derivative = jax.jvp(
        lambda z, r, t: velocity(z, r, t, condition), (z, r, t), (instantaneous, jnp.zeros_like(r), jnp.ones_like(t))
    )
    derivative = jax.lax.stop_gradient(derivative)
    compound = average + (t - r)[:, None, None] * derivative
    return CompoundVelocity(instantaneous, average, derivative, compound)


def batch_compound_velocity(
    velocity: Velocity, z: Chunk, r: Time, t: Time, condition: Any, num_equal: int, tangent: Chunk | None = None
) -> tuple[Chunk, Float[Array, "B-{num_equal} H A"]]:
    """V of a batch whose first `num_equal` rows have r = t, where V = u and neither v nor du/dt is needed.

    On CPUs these rows are computed apart, which saves arithmetic. Accelerators compute all rows alike, in two thirds of
    the launches: those of a batch of ordinary size take longer than what they compute.

    Returns:
        V, float32 (B, H, A), and du/dt of the other rows, float32 (B - num_equal, H, A).
    """
    equal, rest = slice(0, num_equal), slice(num_equal, None)

    def take(tree: Any, rows: slice) -> Any:
        return jax.tree.map(lambda leaf: leaf[rows], tree)

    if num_equal == z.shape[0]:
        return velocity(z, r, t, condition), jnp.zeros_like(z[rest])
    if num_equal == 0 or jax.default_backend() != "cpu":
        terms = compound_velocity(velocity, z, r, t, condition, tangent)
        return terms.compound, terms.derivative[rest]
    terms = compound_velocity(velocity, z[rest], r[rest], t[rest], take(condition, rest), take(tangent, rest))
    flow_matching = velocity(z[equal], r[equal], t[equal], take(condition, equal))
    return jnp.concatenate([flow_matching, terms.compound]), terms.derivative


def root_mean_square(values: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Root of the mean square over all entries; 0 if there are none."""
    return jnp.sqrt(jnp.sum(jnp.square(values)) / max(values.size, 1))


def pseudo_huber(error: Float[Array, "*shape"], delta: float) -> Float[Array, "*shape"]:
    """Pseudo-Huber loss delta^2 (sqrt(1 + (error / delta)^2) - 1), elementwise."""
    return delta**2 * (jnp.sqrt(1 + jnp.square(error / delta)) - 1)


def regression_loss(error: Chunk, is_pad: Bool[Array, "B H"], config: ImfConfig) -> Float[Array, ""]:
    """Mean loss of `error` over the action steps that are not padding.

    With the DCT representation the error is taken back to time, its padded steps are zeroed, and the coefficients
    of what is left are weighted; the divisor counts the same entries as without the DCT.

    Args:
        error: float32 (B, H, A), V - (e - x) in the representation of `config`.
        is_pad: bool (B, H).
        config: loss and representation.

    Returns:
        float32 scalar.
    """
    valid = ~is_pad[:, :, None]
    if config.action_representation == "dct":
        error = dct(jnp.where(valid, inverse_dct(error), 0))
    else:
        error = jnp.where(valid, error, 0)
    loss = jnp.square(error) if config.loss == "mse" else pseudo_huber(error, config.huber_delta)
    if config.action_representation == "dct":
        loss = loss * dct_weights(error.shape[1])
    return jnp.sum(loss) / jnp.maximum(jnp.sum(valid) * error.shape[2], 1)


def mean_squared_error(error: Array, is_pad: Array, config: ImfConfig) -> Array:
    """Mean square of `error` over the action steps that are not padding, unweighted; 0 if all are padding.

    Arguments as of `regression_loss`. The DCT is orthonormal, so the mean over time is that over the coefficients.

    Returns:
        float32 scalar.
    """
    # A diagnostic must not change how the loss is compiled, and with it the rounding of the weights.
    error = jax.lax.optimization_barrier(error)
    if config.action_representation == "dct":
        error = inverse_dct(error)
    of_step = jnp.mean(jnp.square(error), axis=-1)
    return jnp.sum(jnp.where(is_pad, 0, of_step)) / jnp.maximum(jnp.sum(~is_pad), 1)


def imf_loss(
    velocity: Velocity,
    key: Key[Array, ""],
    x: Chunk,
    is_pad: Bool[Array, "B H"],
    condition: Any,
    config: ImfConfig,
    is_prefix: Bool[Array, "B H"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Training loss of one batch, with times and noise drawn from `key`.

    Args:
        velocity: the velocity function; zero for steps that are given, see `given_prefix`.
        key: typed JAX key.
        x: float32 (B, H, A), normalised chunks in the representation of `config`.
        is_pad: bool (B, H), action steps that carry no loss.
        condition: (B, ...).
        config: the objective.
        is_prefix: bool (B, H), steps that are given: clean in z_t, and without loss.

    Returns:
        The loss and its diagnostics, float32 scalars: `mse` of V over the steps that carry loss, `dudt_rms` (0 if all
        rows have r = t).
    """
    time_key, noise_key = seeds.split(key)
    r, t = sample_times(time_key, x.shape[0], config)
    z, target, is_pad = draw_points(noise_key, x, t, is_pad, is_prefix)
    compound, derivative = batch_compound_velocity(velocity, z, r, t, condition, equal_rows(x.shape[0], config))
    error = compound - target
    info = {
        "mse": mean_squared_error(error, is_pad, config),
        "dudt_rms": root_mean_square(derivative),
    }
    return regression_loss(error, is_pad, config), info


@dataclass(frozen=True)
class ImprovedMeanFlow:
    """The objective with its network, see `imf_jax.models.generator.Generator`."""

    config: ImfConfig
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
        """Training loss; see `imf_loss`."""
        if self.config.action_representation == "dct":
            x = dct(x)
        velocity, given = network_velocity(self.network, self.config.prediction, condition, is_prefix)
        return imf_loss(velocity, key, x, is_pad, given, self.config, is_prefix)

    def sample(
        self,
        noise: Chunk,
        condition: Float[Array, "B Nc D"],
        steps: int,
        is_prefix: Bool[Array, "B H"] | None = None,
        guide: Guide | None = None,
    ) -> Chunk:
        """Generate chunks; see `imf_jax.models.objectives.paths.sample`."""
        velocity, given = network_velocity(self.network, self.config.prediction, condition, is_prefix)
        chunk = sample(velocity, noise, given, steps, guide)
        return inverse_dct(chunk) if self.config.action_representation == "dct" else chunk
