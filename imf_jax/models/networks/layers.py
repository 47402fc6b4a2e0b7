"""Layers of transformers: linear layers, normalisation, grouped-query attention with rotary positions, SwiGLU.

Activations are matrices (rows = batch x tokens, channels), which keeps every linear layer one matrix product.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from imf_jax.config import TransformerSizes
from imf_jax.jax_settings import matmul_precision

Array = jax.Array

NORM_EPS = 1e-6
ROPE_THETA = 1e4
TIME_MAX_PERIOD = 1e4


def swiglu_width(n_emb: int) -> int:
    """Hidden channels of a SwiGLU: floor(2.667 n_emb), rounded up to a multiple of 8."""
    return -(-(n_emb * 2667 // 1000) // 8) * 8


def time_embedding(time: Float[Array, " B"], width: int) -> Float[Array, "B {width}"]:
    """Sinusoid of a time in [0, 1]: sines, then cosines, at frequencies exp(-i ln 10000 / (width/2 - 1)).

    Args:
        time: float (B,).
        width: channels, even.

    Returns:
        float32 (B, width).
    """
    half = width // 2
    frequencies = np.exp(-np.arange(half) * np.log(TIME_MAX_PERIOD) / max(half - 1, 1))
    angles = time[:, None] * frequencies.astype(np.float32)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def rope_tables(
    num_tokens: int, head_dim: int
) -> tuple[Float[np.ndarray, "{num_tokens} {head_dim}//2"], Float[np.ndarray, "{num_tokens} {head_dim}//2"]]:
    """Cosine and sine of the rotary angles index * theta^(-2 i / head_dim), float32 (num_tokens, head_dim / 2) each."""
    frequencies = ROPE_THETA ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.arange(num_tokens)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate_pairs(
    x: Float[Array, "B tokens heads head_dim"],
    cos: Float[np.ndarray, "tokens head_dim//2"],
    sin: Float[np.ndarray, "tokens head_dim//2"],
) -> Float[Array, "B tokens heads head_dim"]:
    """Rotate adjacent channel pairs (0, 1), (2, 3), ... by the angle of their token.

    Args:
        x: (B, tokens, heads, head_dim).
        cos: (tokens, head_dim / 2), from `rope_tables`.
        sin: as `cos`.

    Returns:
        x, rotated; same shape.
    """
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[:, None, :], sin[:, None, :]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def inverse_rms(x: Float[Array, "*batch C"]) -> Float[Array, "*batch 1"]:
    """Inverse RMS: 1 / sqrt(mean of squares over the last axis + eps), float32 (..., 1)."""
    return jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + NORM_EPS)


class Linear(nnx.Linear):
    """A linear layer. Without a bias, as in the transformer's layers, `--precision bfloat16` rounds what it multiplies.

    Sums stay in float32. Embeddings and the output layer have a bias and stay exact: they carry the actions.
    """

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """Transform (..., in) to (..., out)."""
        if self.use_bias or matmul_precision() != "bfloat16":
            return super().__call__(inputs, out_sharding)
        # The barrier keeps XLA from folding the rounding away, and with it the product that CPUs have instructions for.
        rounded, kernel = jax.lax.optimization_barrier(
            (inputs.astype(jnp.bfloat16), self.kernel[...].astype(jnp.bfloat16))
        )
        return jnp.matmul(rounded, kernel, preferred_element_type=jnp.float32)


def linear(in_features: int, out_features: int, rngs: nnx.Rngs, *, use_bias: bool = False) -> nnx.Linear:
    """A linear layer with kernel (in, out) ~ N(0, 0.02) and zero bias."""
    return Linear(in_features, out_features, use_bias=use_bias, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)


class RMSNorm(nnx.Module):
    """RMS normalisation x / rms(x) * scale over the last axis."""

    def __init__(self, width: int) -> None:
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))

    def __call__(self, x: Float[Array, "*batch C"]) -> Float[Array, "*batch C"]:
        """Normalise `x`, (..., width), to the same shape."""
        return x * inverse_rms(x) * self.scale[...]


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions; kv heads serve contiguous groups of query heads."""

    def __init__(self, config: TransformerSizes, *, rngs: nnx.Rngs) -> None:
        self.n_head, self.n_kv_head, self.causal = config.n_head, config.n_kv_head, config.causal
        self.head_dim = config.n_emb // config.n_head
        # Columns: queries of all heads, then keys, then values, so that one product serves all three.
        self.qkv = linear(config.n_emb, (self.n_head + 2 * self.n_kv_head) * self.head_dim, rngs)
        self.out = linear(config.n_emb, config.n_emb, rngs)

    def __call__(self, x: Float[Array, "rows C"], num_tokens: int) -> Float[Array, "rows C"]:
        """Mix the tokens `x`, (B * num_tokens, n_emb), of each batch row; same shape."""
        qkv = self.qkv(x).reshape(-1, num_tokens, self.n_head + 2 * self.n_kv_head, self.head_dim)
        query, key, value = jnp.split(qkv, [self.n_head, self.n_head + self.n_kv_head], axis=2)
        cos, sin = rope_tables(num_tokens, self.head_dim)
        query = rotate_pairs(query, cos * self.head_dim**-0.5, sin * self.head_dim**-0.5)
        key = rotate_pairs(key, cos, sin)
        query = query.reshape(-1, num_tokens, self.n_kv_head, self.n_head // self.n_kv_head, self.head_dim)
        scores = jnp.einsum("bqkgd,bskd->bkgqs", query, key)
        if self.causal:
            scores = jnp.where(np.tri(num_tokens, dtype=bool), scores, -jnp.inf)
        mixed = jnp.einsum("bkgqs,bskd->bqkgd", jax.nn.softmax(scores, axis=-1), value)
        return self.out(mixed.reshape(x.shape))


class SwiGLU(nnx.Module):
    """Feed-forward layer down(silu(gate(x)) * up(x))."""

    def __init__(self, config: TransformerSizes, *, rngs: nnx.Rngs) -> None:
        width = swiglu_width(config.n_emb)
        # Columns: gate, then up.
        self.gate_up = linear(config.n_emb, 2 * width, rngs)
        self.down = linear(width, config.n_emb, rngs)

    def __call__(self, x: Float[Array, "rows C"], num_tokens: int) -> Float[Array, "rows C"]:
        """Transform each token of `x`, (B * num_tokens, n_emb), to the same shape."""
        gate, up = jnp.split(self.gate_up(x), 2, axis=-1)
        return self.down(jax.nn.silu(gate) * up)
