"""Flow matching on velocities whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imf_jax.config import FlowConfig
from imf_jax.models.objectives.flow import FlowMatching

KEYS = jax.random.split(jax.random.key(0), 3)
X = jax.random.normal(KEYS[0], (64, 4, 3))
NOISE = jax.random.normal(KEYS[1], X.shape)
NOTHING = jnp.zeros(X.shape[:2], bool)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_straight_path_is_followed_exactly(steps: int) -> None:
    """To one data point the velocity is (z - x) / t everywhere."""
    flow = FlowMatching(FlowConfig(), lambda z, r, t, x: (z - x) / t[:, None, None])
    np.testing.assert_allclose(flow.sample(NOISE, X, steps), X, atol=1e-5)


@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_the_exact_velocity_has_no_loss(prediction: str) -> None:
    network = {"velocity": lambda z, r, t, x: (z - x) / t[:, None, None], "data": lambda z, r, t, x: x}[prediction]
    flow = FlowMatching(FlowConfig(prediction=prediction, time_mean=1.0), network)  # type: ignore[arg-type]
    loss, info = flow.loss(KEYS[2], X, NOTHING, X)
    assert float(loss) == pytest.approx(0, abs=1e-8)
    assert info == {}


def test_without_a_network_the_loss_is_the_variance_of_the_velocity() -> None:
    """E |e - x|^2 = 1 + x^2."""
    flow = FlowMatching(FlowConfig(), lambda z, r, t, condition: jnp.zeros_like(z))
    x = jnp.full((4000, 4, 3), 0.5)
    loss, _ = flow.loss(KEYS[2], x, jnp.zeros(x.shape[:2], bool), x)
    assert float(loss) == pytest.approx(1.25, abs=0.03)


def test_gaussian_noise_becomes_gaussian_data() -> None:
    """For x ~ N(0, s^2), v = E[e - x | z] = z (t - (1 - t) s^2) / (t^2 + (1 - t)^2 s^2), and e becomes s e."""
    scale = 0.3

    def velocity(z: jax.Array, r: jax.Array, t: jax.Array, condition: jax.Array) -> jax.Array:
        t = t[:, None, None]
        return z * (t - (1 - t) * scale**2) / (t**2 + (1 - t) ** 2 * scale**2)

    flow = FlowMatching(FlowConfig(), velocity)
    error = [float(jnp.abs(flow.sample(NOISE, X, steps) - scale * NOISE).max()) for steps in (10, 20, 400)]
    assert error[2] < 0.02
    assert error[0] > 1.5 * error[1] > 10 * error[2]  # Euler's method is of first order


def test_the_network_is_asked_for_the_velocity_at_one_time() -> None:
    seen = []

    def network(z: jax.Array, r: jax.Array, t: jax.Array, condition: jax.Array) -> jax.Array:
        seen.append((r, t))
        return z

    FlowMatching(FlowConfig(), network).loss(KEYS[2], X, NOTHING, X)
    ((r, t),) = seen
    np.testing.assert_array_equal(r, t)
    assert np.ptp(t) > 0.3
