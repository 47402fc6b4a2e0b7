"""SIGReg by its axioms: what it is zero for, what leaves it unchanged, what it is for known distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imf_jax.models.objectives.sigreg import (
    KNOTS,
    LARGEST_FREQUENCY,
    draw_sketches,
    frequencies,
    gaussian_window,
    quadrature_weights,
    sigreg,
)

DIM, COUNT = 6, 40


@pytest.fixture(scope="module")
def sketches() -> jax.Array:
    return draw_sketches(jax.random.key(0), DIM, COUNT)


def sample(*shape: int, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_sketches_are_unit_vectors_in_all_directions(sketches: jax.Array) -> None:
    np.testing.assert_allclose(jnp.linalg.norm(sketches, axis=0), 1, rtol=1e-6)
    many = draw_sketches(jax.random.key(1), DIM, 4000)
    np.testing.assert_allclose(many @ many.T / 4000, np.eye(DIM) / DIM, atol=0.02)


def test_quadrature_integrates_even_functions_over_both_halves() -> None:
    t = np.linspace(-LARGEST_FREQUENCY, LARGEST_FREQUENCY, 2 * KNOTS - 1)
    for power in (0, 2, 4):
        whole = np.trapezoid(t**power * np.exp(-(t**2) / 2), t)
        np.testing.assert_allclose(quadrature_weights() @ frequencies() ** power, whole, rtol=1e-5)


def test_order_of_the_batch_and_of_time_does_not_matter(sketches: jax.Array) -> None:
    x = sample(3, 16, DIM)
    expected = sigreg(x, sketches)
    np.testing.assert_allclose(sigreg(x[:, ::-1], sketches), expected, rtol=1e-5)
    np.testing.assert_allclose(sigreg(x[::-1], sketches), expected, rtol=1e-5)


def test_rotation_of_embeddings_and_sketches_does_not_matter(sketches: jax.Array) -> None:
    x = sample(2, 16, DIM)
    rotation, _ = jnp.linalg.qr(sample(DIM, DIM, seed=2))
    np.testing.assert_allclose(sigreg(x @ rotation, rotation.T @ sketches), sigreg(x, sketches), rtol=1e-4)


def test_mirror_images_have_the_same_value(sketches: jax.Array) -> None:
    x = sample(2, 16, DIM)
    np.testing.assert_allclose(sigreg(-x, sketches), sigreg(x, sketches), rtol=1e-5)


@pytest.mark.parametrize("batch", [8, 64])
def test_a_collapsed_batch_has_a_known_value_that_grows_with_it(batch: int, sketches: jax.Array) -> None:
    expected = batch * quadrature_weights() @ (1 - gaussian_window()) ** 2
    np.testing.assert_allclose(sigreg(jnp.zeros((2, batch, DIM)), sketches), expected, rtol=1e-5)


@pytest.mark.parametrize("batch", [16, 128])
def test_the_mean_of_gaussian_batches_does_not_depend_on_their_size(batch: int) -> None:
    values = [
        sigreg(sample(64, batch, DIM, seed=seed), draw_sketches(jax.random.key(seed), DIM, 64)) for seed in range(4)
    ]
    expected = quadrature_weights() @ (1 - gaussian_window() ** 2)
    assert abs(float(np.mean(values)) / expected - 1) < 0.05


@pytest.mark.parametrize(("scale", "shift"), [(0.1, 0.0), (3.0, 0.0), (1.0, 1.0)])
def test_other_distributions_are_further_away(scale: float, shift: float, sketches: jax.Array) -> None:
    x = sample(4, 128, DIM)
    assert float(sigreg(scale * x + shift, sketches)) > 3 * float(sigreg(x, sketches))


def test_one_flat_direction_is_seen(sketches: jax.Array) -> None:
    x = sample(4, 256, DIM)
    assert float(sigreg(x.at[..., 0].set(0.0), sketches)) > 1.5 * float(sigreg(x, sketches))


def test_gradient_equals_finite_differences_and_pushes_apart(sketches: jax.Array) -> None:
    x = 0.05 * sample(1, 8, DIM)
    gradient = jax.grad(sigreg)(x, sketches)
    direction = sample(1, 8, DIM, seed=3)
    step = 1e-2
    difference = (sigreg(x + step * direction, sketches) - sigreg(x - step * direction, sketches)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(gradient, direction), difference, rtol=2e-2, atol=1e-4)
    centred = x - x.mean(axis=1, keepdims=True)
    assert float(jnp.vdot(-gradient, centred)) > 0, "descent moves the points away from their mean"
