"""Chunks of actions as the coefficients of their orthonormal DCT-II over the horizon."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

Array = jax.Array


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
