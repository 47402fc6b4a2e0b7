"""Diffusion on distributions whose noise can be told exactly."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imf_jax.config import DiffusionConfig
from imf_jax.models.objectives.diffusion import Diffusion, sampling_levels, signal_shares

LEVELS = 100
KEYS = jax.random.split(jax.random.key(0), 3)
X = jax.random.uniform(KEYS[0], (32, 4, 3), minval=-1.0, maxval=1.0)
NOISE = jax.random.normal(KEYS[1], X.shape)
NOTHING = jnp.zeros(X.shape[:2], bool)


def exact(prediction: str, scale: float | None = None) -> Any:
    """The network that tells e or v exactly for the data that is its condition, or for x ~ N(0, scale^2)."""
    shares = jnp.asarray(signal_shares(LEVELS), jnp.float32)

    def network(z: jax.Array, r: jax.Array, t: jax.Array, condition: jax.Array) -> jax.Array:
        share = shares[jnp.round(t * LEVELS).astype(int) - 1][:, None, None]
        data, rest = jnp.sqrt(share), jnp.sqrt(1 - share)
        x = condition if scale is None else z * data * scale**2 / (share * scale**2 + 1 - share)
        e = (z - data * x) / rest
        return e if prediction == "epsilon" else data * e - rest * x

    return network


def diffusion(prediction: str, network: Any, clip: float | None = 1.0) -> Diffusion:
    return Diffusion(DiffusionConfig(LEVELS, prediction, clip), network)  # type: ignore[arg-type]


def test_the_schedule_goes_from_data_to_noise() -> None:
    shares = signal_shares(LEVELS)
    assert (np.diff(shares) < 0).all()
    assert 0.999 < shares[0] < 1
    assert 0 < shares[-1] < 1e-5
    half = shares[LEVELS // 2 - 1]
    assert half == pytest.approx(np.cos((0.5 + 0.008) / 1.008 * np.pi / 2) ** 2, rel=1e-3)


@pytest.mark.parametrize(
    ("steps", "levels"),
    [(1, [99]), (2, [99, 49]), (4, [99, 74, 49, 24]), (3, [99, 66, 32]), (100, list(range(99, -1, -1)))],
)
def test_plans_begin_at_the_last_level(steps: int, levels: list[int]) -> None:
    assert sampling_levels(LEVELS, steps).tolist() == levels


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_an_exact_network_has_no_loss_and_every_plan_ends_at_the_data(prediction: str) -> None:
    policy = diffusion(prediction, exact(prediction))
    assert float(policy.loss(KEYS[2], X, NOTHING, X)[0]) < 1e-5
    for steps in (1, 5):
        np.testing.assert_allclose(policy.sample(NOISE, X, steps), X, atol=2e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_gaussian_noise_becomes_gaussian_data(prediction: str) -> None:
    """For x ~ N(0, s^2) the limit of many levels is the map e -> s e."""
    scale = 0.3
    policy = diffusion(prediction, exact(prediction, scale), clip=None)
    error = [float(jnp.abs(policy.sample(NOISE, X, steps) - scale * NOISE).max()) for steps in (10, 100)]
    assert error[1] < 0.05
    assert error[0] > 2 * error[1]


@pytest.mark.parametrize(("prediction", "loss"), [("epsilon", 1.0), ("v", None)])
def test_without_a_network_the_loss_is_the_variance_of_the_target(prediction: str, loss: float | None) -> None:
    """E e^2 = 1, and E v^2 = a + (1 - a) x^2, averaged over the levels."""
    x = jnp.full((6000, 4, 3), 0.5)
    policy = diffusion(prediction, lambda z, r, t, condition: jnp.zeros_like(z))
    shares = signal_shares(LEVELS)
    expected = loss or float(np.mean(shares + (1 - shares) * 0.25))
    found, _ = policy.loss(KEYS[2], x, jnp.zeros(x.shape[:2], bool), x)
    assert float(found) == pytest.approx(expected, abs=0.03)


def test_predicted_actions_are_clipped() -> None:
    policy = diffusion("epsilon", lambda z, r, t, condition: jnp.zeros_like(z))
    assert float(jnp.abs(policy.sample(NOISE, X, 1)).max()) == 1.0


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_what_is_clipped_is_not_lost_from_the_chunk(prediction: str) -> None:
    """With a network that is told data beyond the bound, z at every level is made of the bound and of the noise that
    makes up z with it at the level before."""
    seen: list[jax.Array] = []
    told = exact(prediction)

    def network(z: jax.Array, r: jax.Array, t: jax.Array, condition: jax.Array) -> jax.Array:
        jax.debug.callback(lambda value: seen.append(value), z, ordered=True)
        return jnp.asarray(told(z, r, t, condition))

    plan = diffusion(prediction, network).sample(NOISE, jnp.full_like(X, 3.0), 100)
    np.testing.assert_allclose(plan, 1.0, atol=1e-3)
    shares = signal_shares(LEVELS)[sampling_levels(LEVELS, 100)]
    z = np.asarray(NOISE, np.float64)
    for found, now, after in zip(seen, shares, [*shares[1:], 1.0], strict=True):
        np.testing.assert_allclose(found, z, atol=2e-2)
        z = np.sqrt(after) + np.sqrt(1 - after) * (z - np.sqrt(now)) / np.sqrt(1 - now)
