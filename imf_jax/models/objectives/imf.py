"""Improved MeanFlow: times, training objective and sampler, as pure functions of a velocity function.

A `Velocity` maps (z, r, t, condition) to the average velocity u of the path that is at z at time t, over [r, t]; the
condition is a pytree of leaves (B, ...).
Time 0 is data, time 1 is noise; z_t = (1 - t) x + t e. Rows of a batch must not influence one another.

Formulas: Geng et al., "Mean Flows for One-step Generative Modeling" (2025) and "Improved Mean Flows" (2025).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from imf_jax import seeds
from imf_jax.config import ObjectiveConfig

Array = jax.Array
Chunk = Float[Array, "B H A"]
"""Chunks of H actions, or a quantity per entry of them."""

Time = Float[Array, " B"]
"""A time in [0, 1] per chunk."""

Velocity = Callable[[Chunk, Time, Time, Any], Chunk]
PrefixVelocity = Callable[[Chunk, Time, Time, Any, Bool[Array, "B H"]], Chunk]
"""Velocity that also receives which steps are given, bool (B, H)."""


SMALLEST_TIME = 0.05
"""Smallest time by which `from_data` divides."""


class CompoundVelocity(NamedTuple):
    """Terms of the objective, each float32 (B, H, A).

    Attributes:
        instantaneous: v = f(z, t, t), the tangent of the path; carries no gradient.
        average: u = f(z, r, t).
        derivative: du/dt along the path; carries no gradient.
        compound: V = u + (t - r) du/dt, which is regressed onto e - x.
    """

    instantaneous: Chunk
    average: Chunk
    derivative: Chunk
    compound: Chunk


def equal_rows(batch_size: int, config: ObjectiveConfig) -> int:
    """Number of rows with r = t, the first ones of a batch."""
    return round(batch_size * config.equal_time_fraction)


def sample_times(
    key: Key[Array, ""], batch_size: int, config: ObjectiveConfig
) -> tuple[Float[Array, " {batch_size}"], Float[Array, " {batch_size}"]]:
    """Draw r <= t for a batch; the first `equal_rows(batch_size, config)` rows have r = t.

    Args:
        key: typed JAX key.
        batch_size: rows B.
        config: distribution of the times.

    Returns:
        (r, t), each float32 (B,) in [0, 1].
    """
    if config.time_distribution == "uniform":
        draws = seeds.uniform(key, (2, batch_size))
    else:
        draws = jax.nn.sigmoid(config.time_mean + config.time_std * seeds.normal(key, (2, batch_size)))
    first, second = draws
    second = jnp.where(np.arange(batch_size) < equal_rows(batch_size, config), first, second)
    return jnp.minimum(first, second), jnp.maximum(first, second)


def interpolate(x: Chunk, noise: Chunk, t: Time) -> Chunk:
    """Point of the path, z_t = (1 - t) x + t e; x and noise (B, H, A), t (B,)."""
    t = t[:, None, None]
    return (1 - t) * x + t * noise


def from_data(data: Callable[..., Chunk]) -> Callable[..., Chunk]:
    """Velocity of a network that predicts the data x at the end of the path: u(z, r, t) = (z - x) / t.

    Where the prediction is exact this is the velocity of the path, e - x, at every r. Generation from noise in one step
    gives z - u(z, 0, 1) = x, the output itself, so that an error of the network is an error of the actions and none of
    the noise has to be reproduced. Below `SMALLEST_TIME` the division would blow errors up.
    """

    def velocity(z: Chunk, r: Time, t: Time, *condition: Any) -> Chunk:
        return (z - data(z, r, t, *condition)) / jnp.maximum(t, SMALLEST_TIME)[:, None, None]

    return velocity


def given_prefix(velocity: PrefixVelocity) -> Velocity:
    """Velocity of chunks whose first steps are given: those do not move. Its condition is (condition, is_prefix).

    A given step is clean data at every time, as in training-time real-time chunking: Black et al., "Training-Time
    Action Conditioning for Efficient Real-Time Chunking" (2025). There the step's own time says so; times here belong
    to the whole chunk, so the network sees it by a mark on the step's token, and that the step stays where it is also
    enters du/dt.
    """

    def moving(z: Chunk, r: Time, t: Time, condition: tuple[Any, Bool[Array, "B H"]]) -> Chunk:
        observed, is_prefix = condition
        return jnp.where(is_prefix[..., None], 0.0, velocity(z, r, t, observed, is_prefix))

    return moving


def prefix_mask(length: Int[Array, " B"], horizon: int) -> Bool[Array, "B {horizon}"]:
    """Mask of the first `length` (B,) steps, bool (B, horizon)."""
    return jnp.arange(horizon) < length[:, None]


def compound_velocity(velocity: Velocity, z: Chunk, r: Time, t: Time, condition: Any) -> CompoundVelocity:
    """Average velocity u, its total derivative along the path (a JVP with tangent (v, 0, 1)), and V.

    Args:
        velocity: the velocity function.
        z: float32 (B, H, A).
        r: float32 (B,).
        t: float32 (B,).
        condition: (B, ...).
    """
    instantaneous = jax.lax.stop_gradient(velocity(z, t, t, condition))
    average, derivative = jax.jvp(
        lambda z, r, t: velocity(z, r, t, condition), (z, r, t), (instantaneous, jnp.zeros_like(r), jnp.ones_like(t))
    )
    derivative = jax.lax.stop_gradient(derivative)
    compound = average + (t - r)[:, None, None] * derivative
    return CompoundVelocity(instantaneous, average, derivative, compound)


def batch_compound_velocity(
    velocity: Velocity, z: Chunk, r: Time, t: Time, condition: Any, num_equal: int
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
        terms = compound_velocity(velocity, z, r, t, condition)
        return terms.compound, terms.derivative[rest]
    terms = compound_velocity(velocity, z[rest], r[rest], t[rest], take(condition, rest))
    flow_matching = velocity(z[equal], r[equal], t[equal], take(condition, equal))
    return jnp.concatenate([flow_matching, terms.compound]), terms.derivative


def pseudo_huber(error: Float[Array, "*shape"], delta: float) -> Float[Array, "*shape"]:
    """Pseudo-Huber loss delta^2 (sqrt(1 + (error / delta)^2) - 1), elementwise."""
    return delta**2 * (jnp.sqrt(1 + jnp.square(error / delta)) - 1)


def dct_matrix(size: int) -> Float[np.ndarray, "{size} {size}"]:
    """Orthonormal DCT-II as float32 (size, size): coefficients = matrix @ signal, signal = matrix.T @ coefficients."""
    k, n = np.arange(size)[:, None], np.arange(size)[None, :]
    matrix = np.sqrt(2 / size) * np.cos(np.pi * k * (2 * n + 1) / (2 * size))
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def dct(chunk: Float[Array, "*batch H A"]) -> Float[Array, "*batch H A"]:
    """DCT-II over the horizon, axis -2 of (..., H, A)."""
    return jnp.einsum("kh,...ha->...ka", dct_matrix(chunk.shape[-2]), chunk)


def inverse_dct(coefficients: Float[Array, "*batch H A"]) -> Float[Array, "*batch H A"]:
    """Inverse of `dct`."""
    return jnp.einsum("kh,...ka->...ha", dct_matrix(coefficients.shape[-2]), coefficients)


def dct_weights(horizon: int) -> Float[np.ndarray, "{horizon} 1"]:
    """Loss weight 1 + (k / (H - 1))^2 of DCT coefficient k, float32 (H, 1)."""
    k = np.arange(horizon, dtype=np.float32)[:, None]
    return 1 + (k / max(horizon - 1, 1)) ** 2


def regression_loss(error: Chunk, is_pad: Bool[Array, "B H"], config: ObjectiveConfig) -> Float[Array, ""]:
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


def mean_squared_error(error: Array, is_pad: Array, config: ObjectiveConfig) -> Array:
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
    config: ObjectiveConfig,
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
    noise = seeds.normal(noise_key, x.shape)
    z = interpolate(x, noise, t)
    target = noise - x
    if is_prefix is not None:
        z = jnp.where(is_prefix[..., None], x, z)
        target = jnp.where(is_prefix[..., None], 0.0, target)
        is_pad = is_pad | is_prefix
    compound, derivative = batch_compound_velocity(velocity, z, r, t, condition, equal_rows(x.shape[0], config))
    error = compound - target
    info = {
        "mse": mean_squared_error(error, is_pad, config),
        "dudt_rms": jnp.sqrt(jnp.sum(jnp.square(derivative)) / max(derivative.size, 1)),
    }
    return regression_loss(error, is_pad, config), info


def sample(velocity: Velocity, noise: Chunk, condition: Any, steps: int) -> Chunk:
    """Generate from noise: over the grid linspace(1, 0, steps + 1), z <- z - (t - r) u(z, r, t).

    Args:
        velocity: the velocity function.
        noise: float32 (B, H, A) ~ N(0, I), z at time 1; where steps are given, they themselves.
        condition: (B, ...).
        steps: function evaluations N; 1 is one-step generation.

    Returns:
        float32 (B, H, A), z at time 0.
    """
    grid = jnp.asarray(np.linspace(1, 0, steps + 1), jnp.float32)

    def advance(z: Chunk, interval: tuple[Float[Array, ""], Float[Array, ""]]) -> tuple[Chunk, None]:
        t, r = (jnp.full(z.shape[0], time) for time in interval)
        return z - (interval[0] - interval[1]) * velocity(z, r, t, condition), None

    return jax.lax.scan(advance, noise, (jnp.asarray(grid[:-1]), jnp.asarray(grid[1:])))[0]
