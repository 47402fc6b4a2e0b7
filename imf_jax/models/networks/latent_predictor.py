"""Predictor of the next embedding of LeWorldModel: a causal transformer that actions condition by AdaLN-zero.

Every block is `x + gate * f(shift + (1 + scale) * norm(x))`, once with attention and once with an MLP as f; shift,
scale and gate are a linear map of the action embedding of the same frame, which begins at zero, so that every block
begins as the identity (Peebles and Xie, "Scalable Diffusion Models with Transformers", arXiv 2212.09748). Weights are
a flat mapping of arrays like those of the vision transformer, layers stacked on axis 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from imf_jax import seeds
from imf_jax.models.encoders.vit import gelu, layer_norm, linear

Array = jax.Array
Weights = Mapping[str, Array]

NORM_EPS = 1e-5
"""Added to the variance in norms with weights of their own."""

MODULATED_NORM_EPS = 1e-6
"""Added to the variance in norms that are modulated by actions."""


@dataclass(frozen=True)
class PredictorSizes:
    """Sizes of the predictor.

    Attributes:
        width: channels of an embedding, of an action embedding and of a token.
        history: frames that it sees at most.
        layers: transformer blocks.
        heads: attention heads.
        head_dim: channels of a head.
        mlp: channels inside the MLP.
    """

    width: int
    history: int
    layers: int
    heads: int
    head_dim: int
    mlp: int

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight; matrices are (in, out)."""
        width, inner = self.width, self.heads * self.head_dim
        layer = {
            "modulation.kernel": (width, 6 * width),
            "modulation.bias": (6 * width,),
            "attention.norm.scale": (width,),
            "attention.norm.bias": (width,),
            "qkv.kernel": (width, 3 * inner),
            "out.kernel": (inner, width),
            "out.bias": (width,),
            "mlp.norm.scale": (width,),
            "mlp.norm.bias": (width,),
            "up.kernel": (width, self.mlp),
            "up.bias": (self.mlp,),
            "down.kernel": (self.mlp, width),
            "down.bias": (width,),
        }
        return {
            "positions": (self.history, width),
            **{f"layers.{name}": (self.layers, *shape) for name, shape in layer.items()},
            "norm.scale": (width,),
            "norm.bias": (width,),
        }


def dropout(x: Float[Array, "*shape"], rate: float, key: Key[Array, ""] | None) -> Float[Array, "*shape"]:
    """Set entries to zero with probability `rate` and scale the others by 1 / (1 - rate); without a key do nothing."""
    if key is None or rate == 0:
        return x
    kept = seeds.uniform(key, x.shape) >= rate
    return jnp.where(kept, x / (1 - rate), 0.0)


def causal_attention(
    qkv: Float[Array, "B T width"], heads: int, dtype: jnp.dtype, rate: float, key: Key[Array, ""] | None
) -> Float[Array, "B T width//3"]:
    """Scaled dot-product attention of every frame to itself and earlier ones, with dropout of its weights."""
    batch, frames, width = qkv.shape
    head_dim = width // 3 // heads
    query, key_, value = jnp.transpose(qkv.astype(dtype).reshape(batch, frames, 3, heads, head_dim), (2, 0, 3, 1, 4))
    scores = jnp.einsum("bhnd,bhmd->bhnm", query, key_, preferred_element_type=jnp.float32) * head_dim**-0.5
    seen = jnp.tril(jnp.ones((frames, frames), bool))
    weights = dropout(jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1), rate, key)
    mixed = jnp.einsum("bhnm,bhmd->bnhd", weights.astype(dtype), value, preferred_element_type=jnp.float32)
    return mixed.reshape(batch, frames, width // 3)


def predict_next(
    weights: Weights,
    embeddings: Float[Array, "B T {sizes.width}"],
    actions: Float[Array, "B T {sizes.width}"],
    sizes: PredictorSizes,
    *,
    dtype: jnp.dtype = jnp.float32,
    rate: float = 0.0,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "B T {sizes.width}"]:
    """Predict, after every frame, the one that follows; its head comes after it.

    Args:
        weights: as `sizes.weight_shapes()`.
        embeddings: float32 (B, T, width) of the frames seen, oldest first; T <= history.
        actions: float32 (B, T, width), embeddings of the actions that follow each frame.
        sizes: of the network.
        dtype: of the operands of matrix products.
        rate: of dropout.
        key: typed JAX key of dropout; None turns it off.

    Returns:
        float32 (B, T, width).
    """
    condition = jax.nn.silu(actions)
    scale_one = jnp.ones((sizes.width,), jnp.float32)
    shift_none = jnp.zeros((sizes.width,), jnp.float32)

    def part_key(layer: Array, place: int) -> Key[Array, ""] | None:
        return None if key is None else seeds.fold_in(seeds.fold_in(key, layer), place)

    def modulated(
        x: Float[Array, "B T C"], shift: Float[Array, "B T C"], scale: Float[Array, "B T C"]
    ) -> Float[Array, "B T C"]:
        return layer_norm(x, scale_one, shift_none, MODULATED_NORM_EPS) * (1 + scale) + shift

    def block(x: Float[Array, "B T C"], at: tuple[Array, Weights]) -> tuple[Float[Array, "B T C"], None]:
        number, w = at
        modulation = linear(condition, w["modulation.kernel"], w["modulation.bias"], dtype)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = jnp.split(modulation, 6, axis=-1)
        h = layer_norm(modulated(x, shift, scale), w["attention.norm.scale"], w["attention.norm.bias"], NORM_EPS)
        qkv = jnp.matmul(h.astype(dtype), w["qkv.kernel"].astype(dtype), preferred_element_type=jnp.float32)
        h = causal_attention(qkv, sizes.heads, dtype, rate, part_key(number, 0))
        x = x + gate * dropout(linear(h, w["out.kernel"], w["out.bias"], dtype), rate, part_key(number, 1))
        h = layer_norm(modulated(x, mlp_shift, mlp_scale), w["mlp.norm.scale"], w["mlp.norm.bias"], NORM_EPS)
        h = dropout(gelu(linear(h, w["up.kernel"], w["up.bias"], dtype)), rate, part_key(number, 2))
        h = dropout(linear(h, w["down.kernel"], w["down.bias"], dtype), rate, part_key(number, 3))
        return x + mlp_gate * h, None

    prefix = "layers."
    stacked = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    x = embeddings + weights["positions"][: embeddings.shape[1]]
    x, _ = jax.lax.scan(block, x, (jnp.arange(sizes.layers), stacked))
    return layer_norm(x, weights["norm.scale"], weights["norm.bias"], NORM_EPS)
