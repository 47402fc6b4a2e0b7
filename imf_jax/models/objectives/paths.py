"""Paths between data and noise: points and times on them, velocities along them, and a sampler that follows them.

A `Velocity` maps (z, r, t, condition) to the average velocity of the path that is at z at time t, over [r, t]; the
condition is a pytree of leaves (B, ...). Time 0 is data, time 1 is noise; z_t = (1 - t) x + t e.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key, Shaped

from imf_jax import seeds
from imf_jax.config import IntervalTimes, PathTimes

Array = jax.Array
Chunk = Float[Array, "B H A"]
"""Chunks of H actions, or a quantity per entry of them."""

Time = Float[Array, " B"]
"""A time in [0, 1] per chunk."""

Velocity = Callable[[Chunk, Time, Time, Any], Chunk]
PrefixVelocity = Callable[[Chunk, Time, Time, Any, Bool[Array, "B H"]], Chunk]
"""Velocity that also receives which steps are given, bool (B, H)."""

Network = Callable[..., Chunk]
"""Function of (z, r, t, condition) and, where some are given, of the steps that are, bool (B, H); see
`imf_jax.models.networks`."""


SMALLEST_TIME = 0.05
"""Smallest time by which `from_data` divides."""


def draw_times(key: Key[Array, ""], shape: Sequence[int], config: PathTimes) -> Float[Array, "*shape"]:
    """Draw independent times, float32 in [0, 1], from the distribution of `config`."""
    if config.time_distribution == "uniform":
        return seeds.uniform(key, shape)
    return jax.nn.sigmoid(config.time_mean + config.time_std * seeds.normal(key, shape))


def equal_rows(batch_size: int, config: IntervalTimes) -> int:
    """Number of rows with r = t, the first ones of a batch."""
    return round(batch_size * config.equal_time_fraction)


def sample_times(
    key: Key[Array, ""], batch_size: int, config: IntervalTimes
) -> tuple[Float[Array, " {batch_size}"], Float[Array, " {batch_size}"]]:
    """Draw the two times r <= t of a batch; the first `equal_rows(batch_size, config)` rows have r = t.

    Args:
        key: typed JAX key.
        batch_size: rows B.
        config: distribution of the times.

    Returns:
        (r, t), each float32 (B,) in [0, 1].
    """
    first, second = draw_times(key, (2, batch_size), config)
    second = jnp.where(np.arange(batch_size) < equal_rows(batch_size, config), first, second)
    return jnp.minimum(first, second), jnp.maximum(first, second)


def interpolate(x: Chunk, noise: Chunk, t: Time) -> Chunk:
    """Point of the path, z_t = (1 - t) x + t e; x and noise (B, H, A), t (B,)."""
    t = t[:, None, None]
    return (1 - t) * x + t * noise


def draw_points(
    key: Key[Array, ""], x: Chunk, t: Time, is_pad: Bool[Array, "B H"], is_prefix: Bool[Array, "B H"] | None
) -> tuple[Chunk, Chunk, Bool[Array, "B H"]]:
    """Points of the paths of a batch to noise that is drawn.

    Args:
        key: typed JAX key of the noise.
        x: float32 (B, H, A), the data.
        t: float32 (B,).
        is_pad: bool (B, H), steps that carry no loss.
        is_prefix: bool (B, H), steps that are given: clean, at rest, and without loss; None for none.

    Returns:
        z_t and the velocity e - x of the path, each float32 (B, H, A); and the steps without loss, bool (B, H).
    """
    noise = seeds.normal(key, x.shape)
    z = interpolate(x, noise, t)
    target = noise - x
    if is_prefix is None:
        return z, target, is_pad
    given = is_prefix[..., None]
    return jnp.where(given, x, z), jnp.where(given, 0.0, target), is_pad | is_prefix


def mean_over_steps(values: Chunk, is_pad: Bool[Array, "B H"]) -> Float[Array, ""]:
    """Mean of values (B, H, A) over the action steps that are not padding; 0 if all are."""
    total = jnp.sum(jnp.where(is_pad[..., None], 0, values))
    return total / jnp.maximum(jnp.sum(~is_pad) * values.shape[2], 1)


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


def network_velocity(
    network: Network,
    prediction: Literal["velocity", "data"],
    condition: Any,
    is_prefix: Bool[Array, "B H"] | None,
) -> tuple[Velocity, Any]:
    """A network as a velocity and its condition.

    Args:
        network: the network.
        prediction: its output: the velocity, or the data at the end of the path.
        condition: a pytree of leaves (B, ...).
        is_prefix: bool (B, H), steps that are given; None for none.
    """
    velocity = network if prediction == "velocity" else from_data(network)
    return (velocity, condition) if is_prefix is None else (given_prefix(velocity), (condition, is_prefix))


def prefix_mask(length: Int[Array, " B"], horizon: int) -> Bool[Array, "B {horizon}"]:
    """Mask of the first `length` (B,) steps, bool (B, horizon)."""
    return jnp.arange(horizon) < length[:, None]


def from_step(
    values: Shaped[Array, "B W *entries"], first: Int[Array, " B"], horizon: int
) -> Shaped[Array, "B {horizon} *entries"]:
    """The `horizon` steps of each row (B, W, ...) from its step `first` (B,) on; all must lie within W."""
    return jax.vmap(lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, horizon))(values, first)


class Guide(NamedTuple):
    """Actions that a chunk is drawn to while it is generated.

    Attributes:
        chunk: float32 (B, H, A), normalised for a generator.
        weight: float32 (B, H) in [0, 1] of each step; 0 leaves it free.
        limit: float32 scalar, largest weight of the guidance against the velocity.
    """

    chunk: Chunk
    weight: Float[Array, "B H"]
    limit: Float[Array, ""] | np.float32


def guidance(velocity: Velocity, z: Chunk, t: Time, condition: Any, guide: Guide) -> Chunk:
    """What guidance adds to the velocity towards data, float32 (B, H, A).

    With x = z - t u(z, 0, t), the end of the path as foreseen at t, it is the gradient of -weight |chunk - x|^2 / 2 by
    z, times min(limit, ((1 - t)^2 + t^2) / ((1 - t) t)).

    Formula: Black et al., "Real-Time Execution of Action Chunking Flow Policies" (2025), with time from data to noise.
    """

    def foreseen(z: Chunk) -> Chunk:
        return z - t[:, None, None] * velocity(z, jnp.zeros_like(t), t, condition)

    x, pull = jax.vjp(foreseen, z)
    (gradient,) = pull(guide.weight[..., None] * (guide.chunk - x))
    ratio = ((1 - t) ** 2 + t**2) / jnp.maximum((1 - t) * t, 1e-6)
    return jnp.minimum(guide.limit, ratio)[:, None, None] * gradient


def sample(velocity: Velocity, noise: Chunk, condition: Any, steps: int, guide: Guide | None = None) -> Chunk:
    """Generate from noise: over the grid linspace(1, 0, steps + 1), z <- z - (t - r) u(z, r, t).

    Args:
        velocity: the velocity function.
        noise: float32 (B, H, A) ~ N(0, I), z at time 1; where steps are given, they themselves.
        condition: (B, ...).
        steps: function evaluations N; 1 is one-step generation.
        guide: what the chunk is drawn to, at the cost of as many evaluations and gradients more; see `guidance`.

    Returns:
        float32 (B, H, A), z at time 0.
    """
    grid = jnp.asarray(np.linspace(1, 0, steps + 1), jnp.float32)

    def advance(z: Chunk, interval: tuple[Float[Array, ""], Float[Array, ""]]) -> tuple[Chunk, None]:
        t, r = (jnp.full(z.shape[0], time) for time in interval)
        change = velocity(z, r, t, condition)
        if guide is not None:
            change = change - guidance(velocity, z, t, condition, guide)
        return z - (interval[0] - interval[1]) * change, None

    return jax.lax.scan(advance, noise, (jnp.asarray(grid[:-1]), jnp.asarray(grid[1:])))[0]
