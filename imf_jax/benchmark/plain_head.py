"""A plain JAX port of the IMF-AttnRes head and objective: the side that `imf_jax.models` is measured against.

It follows the equations line by line: one product per weight matrix in PyTorch's (out, in) orientation, separate gate,
up, query, key and value products, one score per source and sub-layer, and v and du/dt for every row of the batch.
Weights are a dict under their torch names.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Weights = Mapping[str, Array]


def linear(weights: Weights, name: str, x: Array) -> Array:
    """Linear layer x W^T + b; the bias is optional."""
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def inverse_rms(x: Array) -> Array:
    """Inverse RMS, 1 / rms of the last axis, which is kept."""
    return jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def time_token(weights: Weights, time: Array, width: int) -> Array:
    """Token (B, 1, width) of a time (B,)."""
    half = width // 2
    angles = time[:, None] * jnp.exp(-jnp.arange(half) * np.log(1e4) / (half - 1))
    sinusoid = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return linear(weights, "time_token_proj", sinusoid)[:, None]


def rotate(x: Array) -> Array:
    """Rotary positions on adjacent pairs; x (B, tokens, heads, head_dim)."""
    tokens, dim = x.shape[1], x.shape[-1]
    angles = jnp.arange(tokens)[:, None] * 1e4 ** (-jnp.arange(0, dim, 2) / dim)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def attention(weights: Weights, name: str, x: Array, n_head: int, n_kv_head: int) -> Array:
    """Full grouped-query attention; x (B, tokens, width)."""

    def heads(projection: str, count: int) -> Array:
        return linear(weights, f"{name}.{projection}", x).reshape(*x.shape[:2], count, x.shape[-1] // n_head)

    query, key, value = rotate(heads("w_q", n_head)), rotate(heads("w_k", n_kv_head)), heads("w_v", n_kv_head)
    key, value = (jnp.repeat(part, n_head // n_kv_head, axis=2) for part in (key, value))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), value)
    return linear(weights, f"{name}.w_o", mixed.reshape(x.shape))


def swiglu(weights: Weights, name: str, x: Array) -> Array:
    """Feed-forward layer down(silu(gate(x)) up(x))."""
    gate, up = linear(weights, f"{name}.w_gate", x), linear(weights, f"{name}.w_up", x)
    return linear(weights, f"{name}.w_down", jax.nn.silu(gate) * up)


def velocity(
    weights: Weights, z: Array, r: Array, t: Array, condition: Array, *, n_layer: int, n_head: int, n_kv_head: int
) -> Array:
    """Average velocity u(z, r, t | condition); shapes as in `imf_jax.models.networks.attnres.AttnResHead`."""
    width = weights["ln_f.weight"].shape[0]
    tokens = [time_token(weights, r, width), time_token(weights, t, width)]
    tokens += [linear(weights, "cond_obs_emb", condition), linear(weights, "input_emb", z)]
    sources = [jnp.concatenate(tokens, axis=1)]
    scales = [inverse_rms(sources[0])[..., 0]]
    for k in range(2 * n_layer):
        name = f"attnres_backbone.layers.{k}"
        query = weights[f"{name}.attn_res.pseudo_query"]
        logits = jnp.stack([(source @ query) * scale for source, scale in zip(sources, scales, strict=True)], axis=-1)
        mix = jax.nn.softmax(logits, axis=-1)
        parts = [mix[..., i, None] * source for i, source in enumerate(sources)]
        h = sum(parts[1:], parts[0])
        h = h * inverse_rms(h) * weights[f"{name}.norm.weight"]
        attends = k % 2 == 0
        out = attention(weights, f"{name}.fn", h, n_head, n_kv_head) if attends else swiglu(weights, f"{name}.fn", h)
        sources.append(out)
        scales.append(inverse_rms(out)[..., 0])
    hidden = sum(sources[1:], sources[0])[:, -z.shape[1] :]
    return linear(weights, "head", hidden * inverse_rms(hidden) * weights["ln_f.weight"])


def loss(weights: Weights, x: Array, noise: Array, r: Array, t: Array, condition: Array, **sizes: int) -> Array:
    """Mean pseudo-Huber loss (delta 1) of V against noise - x; no padding."""

    def field(z: Array, r: Array, t: Array) -> Array:
        return velocity(weights, z, r, t, condition, **sizes)

    z = (1 - t)[:, None, None] * x + t[:, None, None] * noise
    v = jax.lax.stop_gradient(field(z, t, t))
    u, derivative = jax.jvp(field, (z, r, t), (v, jnp.zeros_like(r), jnp.ones_like(t)))
    compound = u + (t - r)[:, None, None] * jax.lax.stop_gradient(derivative)
    return jnp.mean(jnp.sqrt(1 + jnp.square(compound - (noise - x))) - 1)
