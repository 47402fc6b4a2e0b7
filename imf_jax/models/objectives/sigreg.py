"""SIGReg: how far a batch of embeddings is from an isotropic Gaussian, measured along random directions.

Balestriero and LeCun, "LeJEPA" (arXiv 2511.08544). A distribution is N(0, I) exactly if all its projections on unit
vectors are N(0, 1) (Cramér and Wold). Each projection x_1 .. x_n is compared with N(0, 1) by the statistic of Epps and
Pulley, the weighted distance of the characteristic functions

    n ∫ |1/n Σ_j exp(i t x_j) - φ(t)|² w(t) dt,    φ(t) = w(t) = exp(-t²/2),

integrated over [-LARGEST_FREQUENCY, LARGEST_FREQUENCY] by the trapezoid rule. The integrand is even, so half of the
knots serve both halves. The gradient is bounded, and a batch that has collapsed to one point is pushed apart.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Key

from imf_jax import seeds

Array = jax.Array

KNOTS = 17
"""Knots of the trapezoid rule on [0, LARGEST_FREQUENCY]."""

LARGEST_FREQUENCY = 3.0
"""End of the integral; the weight is 0.011 there."""


def frequencies() -> np.ndarray:
    """The knots t, float32 (KNOTS,)."""
    return np.linspace(0.0, LARGEST_FREQUENCY, KNOTS, dtype=np.float32)


def gaussian_window() -> np.ndarray:
    """Characteristic function of N(0, 1) at the knots, float32 (KNOTS,); it is the weight w as well."""
    return np.exp(-np.square(frequencies()) / np.float32(2))


def quadrature_weights() -> np.ndarray:
    """Trapezoid weights of both halves times w(t), float32 (KNOTS,)."""
    spacing = np.float32(LARGEST_FREQUENCY / (KNOTS - 1))
    weights = np.full(KNOTS, 2 * spacing, np.float32)
    weights[[0, -1]] = spacing
    return weights * gaussian_window()


def draw_sketches(key: Key[Array, ""], dim: int, count: int) -> Float[Array, "{dim} {count}"]:
    """Directions that are uniform on the unit sphere.

    Args:
        key: typed JAX key.
        dim: channels of an embedding.
        count: directions.

    Returns:
        float32 (dim, count), columns of length 1.
    """
    directions = seeds.normal(key, (dim, count))
    return directions / jnp.linalg.norm(directions, axis=0)


def sigreg(embeddings: Float[Array, "T B D"], sketches: Float[Array, "D P"]) -> Float[Array, ""]:
    """Mean of the statistic over time steps and directions; the B embeddings of a time step are one sample.

    Args:
        embeddings: float32 (T, B, D).
        sketches: float32 (D, P), unit columns.

    Returns:
        float32 scalar, at least 0. For N(0, I) its mean is Σ weights (1 - φ²), whatever the batch.
    """
    projected = jnp.matmul(embeddings, sketches, preferred_element_type=jnp.float32)
    angles = projected[..., None] * frequencies()
    real = jnp.mean(jnp.cos(angles), axis=1) - gaussian_window()
    imaginary = jnp.mean(jnp.sin(angles), axis=1)
    statistic = (jnp.square(real) + jnp.square(imaginary)) @ quadrature_weights()
    return jnp.mean(statistic) * embeddings.shape[1]
