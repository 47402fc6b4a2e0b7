"""MeanFlow on velocities whose answers are known, and beside improved MeanFlow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imf_jax.config import ImfConfig, MeanFlowConfig
from imf_jax.models.objectives.imf import ImprovedMeanFlow, compound_velocity
from imf_jax.models.objectives.meanflow import MeanFlow
from imf_jax.models.objectives.paths import interpolate

KEYS = jax.random.split(jax.random.key(0), 3)
X = jax.random.normal(KEYS[0], (8, 4, 3))
NOISE = jax.random.normal(KEYS[1], X.shape)
NOTHING = jnp.zeros(X.shape[:2], bool)


def to_data(z: jax.Array, r: jax.Array, t: jax.Array, x: jax.Array) -> jax.Array:
    """The average velocity of the path to one data point."""
    return (z - x) / t[:, None, None]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_exact_average_velocity_has_no_loss_and_every_plan_ends_at_the_data(steps: int) -> None:
    policy = MeanFlow(MeanFlowConfig(equal_time_fraction=0.0), to_data)
    loss, info = policy.loss(KEYS[2], X, NOTHING, X)
    assert float(info["mse"]) == pytest.approx(0, abs=1e-6)
    assert float(loss) < 0.01
    np.testing.assert_allclose(policy.sample(NOISE, X, steps), X, atol=1e-5)


def test_the_derivative_is_along_the_known_path() -> None:
    """By finite differences of u along z_t = (1 - t) x + t e, whatever the network itself says at (z, t, t)."""

    def network(z: jax.Array, r: jax.Array, t: jax.Array, condition: Any) -> jax.Array:
        return jnp.sin(z) * (1 + t - 0.5 * r)[:, None, None]

    r, t, step = jnp.full(8, 0.2), jnp.full(8, 0.7), 1e-2
    terms = compound_velocity(network, interpolate(X, NOISE, t), r, t, None, NOISE - X)
    after, before = (network(interpolate(X, NOISE, t + d), r, t + d, None) for d in (step, -step))
    np.testing.assert_allclose(terms.derivative, (after - before) / (2 * step), atol=5e-3)
    np.testing.assert_array_equal(terms.instantaneous, NOISE - X)


def test_without_weights_and_intervals_it_is_improved_meanflow_with_a_squared_error() -> None:
    """Where r = t both are flow matching; the loss is a sum over the chunk here and a mean there."""

    def network(z: jax.Array, r: jax.Array, t: jax.Array, condition: jax.Array) -> jax.Array:
        return jnp.tanh(z + condition)

    key = KEYS[2]
    mean = MeanFlow(MeanFlowConfig(equal_time_fraction=1.0, weight_power=0.0), network)
    improved = ImprovedMeanFlow(ImfConfig(equal_time_fraction=1.0, loss="mse"), network)
    (ours, info), (theirs, _) = (policy.loss(key, X, NOTHING, X) for policy in (mean, improved))
    assert float(ours) == pytest.approx(12 * float(theirs), rel=1e-5)
    assert float(info["dudt_rms"]) == 0


def test_the_weight_makes_chunks_count_alike_and_has_no_gradient() -> None:
    """With p = 1 the gradient of a chunk is that of the logarithm of its squared error."""

    def loss(bias: jax.Array, power: float) -> jax.Array:
        config = MeanFlowConfig(equal_time_fraction=1.0, weight_power=power, weight_offset=1e-9)
        network = lambda z, r, t, bias: jnp.zeros_like(z) + bias  # noqa: E731
        return MeanFlow(config, network).loss(KEYS[2], X, NOTHING, bias)[0]

    bias = jnp.full((8, 1, 1), 5.0)
    assert float(loss(bias, 1.0)) == pytest.approx(1.0, abs=1e-6)
    weighted, plain = (jax.grad(loss)(bias, power) for power in (1.0, 0.0))
    ratio = np.asarray(plain / weighted)[:, 0, 0]
    error = [float(jnp.sum(jnp.square(row))) for row in _errors(bias)]
    np.testing.assert_allclose(ratio, error, rtol=1e-4)


def _errors(bias: jax.Array) -> jax.Array:
    """Errors bias - (e - x) of the loss above, whose noise is drawn from the second half of its key."""
    noise = jax.random.normal(jax.random.split(KEYS[2])[1], X.shape)
    return bias - (noise - X)
