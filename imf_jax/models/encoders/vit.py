"""A vision transformer: pictures in, the class token after the final LayerNorm out.

Pre-norm blocks with biases, exact (erf) GELU, learned positions, class token first, as `transformers.ViTModel` without
pooler. Weights are a flat mapping of arrays; those of the layers are stacked on axis 0, so that one compiled block
serves all layers. Inside, activations are matrices (rows = batch x tokens, channels) and query, key and value come
from one product, which keeps a CPU in large matrix products.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from imf_jax.errors import UserError
from imf_jax.models.encoders.resample import bicubic, resample

Array = jax.Array
Weights = Mapping[str, Array]

FLASH_HEAD_DIM = 128
"""Most channels per head for which every GPU that has cuDNN's flash attention runs it."""


@dataclass(frozen=True)
class VitSizes:
    """Sizes of a vision transformer.

    Attributes:
        hidden: channels of a token.
        layers: transformer blocks.
        heads: attention heads; divides `hidden`.
        mlp: channels inside the MLP.
        patch: side of a square patch [pixels].
        image_size: side of the square picture for which positions were learned [pixels].
        layer_norm_eps: added to the variance in every LayerNorm.
    """

    hidden: int
    layers: int
    heads: int
    mlp: int
    patch: int
    image_size: int
    layer_norm_eps: float = 1e-12

    @property
    def grid(self) -> int:
        """Patches along a side of the learned position table."""
        return self.image_size // self.patch

    def num_tokens(self, height: int, width: int) -> int:
        """Tokens of a preprocessed picture of that size [pixels], the class token included."""
        return 1 + (height // self.patch) * (width // self.patch)

    def picture_bytes(self, num_tokens: int) -> int:
        """Memory [bytes], about, of the largest arrays while a picture of so many tokens is encoded.

        They are the attention's scores and exponentials, query, key and value, and the residual stream, in float32.
        """
        return 4 * (2 * self.heads * num_tokens**2 + 4 * self.hidden * num_tokens)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight; matrices are (in, out), patch pixels are (row, column, channel)."""
        hidden, mlp = self.hidden, self.mlp
        layer = {
            "norm1.scale": (hidden,),
            "norm1.bias": (hidden,),
            "qkv.kernel": (hidden, 3 * hidden),
            "qkv.bias": (3 * hidden,),
            "out.kernel": (hidden, hidden),
            "out.bias": (hidden,),
            "norm2.scale": (hidden,),
            "norm2.bias": (hidden,),
            "up.kernel": (hidden, mlp),
            "up.bias": (mlp,),
            "down.kernel": (mlp, hidden),
            "down.bias": (hidden,),
        }
        return {
            "patch.kernel": (self.patch * self.patch * 3, hidden),
            "patch.bias": (hidden,),
            "class_token": (hidden,),
            "positions": (1 + self.grid**2, hidden),
            **{f"layers.{name}": (self.layers, *shape) for name, shape in layer.items()},
            "norm.scale": (hidden,),
            "norm.bias": (hidden,),
        }


def layer_norm(
    x: Float[Array, "*batch C"], scale: Float[Array, " C"], bias: Float[Array, " C"], eps: float
) -> Float[Array, "*batch C"]:
    """LayerNorm over the last axis, biased variance."""
    centered = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centered), axis=-1, keepdims=True)
    return centered * jax.lax.rsqrt(variance + eps) * scale + bias


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Exact GELU, x Phi(x) with the error function."""
    return x * (0.5 * (1.0 + jax.lax.erf(x * np.float32(np.sqrt(0.5)))))


def linear(
    x: Float[Array, "*batch in"], kernel: Float[Array, "in out"], bias: Float[Array, " out"], dtype: jnp.dtype
) -> Float[Array, "*batch out"]:
    """Linear layer x @ kernel + bias, operands rounded to `dtype`, accumulated and returned in float32."""
    product = jnp.matmul(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)
    return product + bias


def has_flash_attention(dtype: jnp.dtype, head_dim: int) -> bool:
    """Whether cuDNN's flash attention takes such operands on the default device: bfloat16, on CUDA from Ampere on."""
    if np.dtype(dtype) != np.dtype(jnp.bfloat16) or head_dim % 8 or head_dim > FLASH_HEAD_DIM:
        return False
    if jax.default_backend() != "gpu":
        return False
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))  # "9.0"; of AMD's devices "gfx942"
    return capability.split(".")[0].isdigit() and int(capability.split(".")[0]) >= 8


def _of_even_length(
    query: Float[Array, "B tokens heads head_dim"],
    key: Float[Array, "B tokens heads head_dim"],
    value: Float[Array, "B tokens heads head_dim"],
) -> Float[Array, "B tokens heads head_dim"]:
    """Attention of cuDNN over an even number of tokens: JAX differentiates no other. One more token is masked."""
    batch, tokens = query.shape[:2]
    odd = tokens % 2
    seen = jnp.full(batch, tokens, jnp.int32) if odd else None
    query, key, value = (jnp.pad(array, ((0, 0), (0, odd), (0, 0), (0, 0))) for array in (query, key, value))
    mixed = jax.nn.dot_product_attention(query, key, value, key_value_seq_lengths=seen, implementation="cudnn")
    return mixed[:, :tokens]


@jax.custom_vjp
def flash_attention(
    query: Float[Array, "B tokens heads head_dim"],
    key: Float[Array, "B tokens heads head_dim"],
    value: Float[Array, "B tokens heads head_dim"],
) -> Float[Array, "B tokens heads head_dim"]:
    """Flash attention of cuDNN, bfloat16 (B, tokens, heads, head_dim); of any number of tokens, also its gradient."""
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def _flash_forward(query: Array, key: Array, value: Array) -> tuple[Array, Any]:
    return jax.vjp(_of_even_length, query, key, value)


def _flash_backward(pull: Any, gradient: Array) -> tuple[Array, Array, Array]:
    return pull(gradient)


flash_attention.defvjp(_flash_forward, _flash_backward)


def attention(
    qkv: Float[Array, "rows width"], batch: int, heads: int, dtype: jnp.dtype
) -> Float[Array, "rows width//3"]:
    """Scaled dot-product attention of every token to every token of its picture.

    On CUDA with operands in bfloat16 it is cuDNN's flash attention, which holds no scores and has no JVP.

    Args:
        qkv: float32 (batch * tokens, 3 * hidden), query | key | value.
        batch: pictures.
        heads: attention heads, contiguous in the channels.
        dtype: of the operands of both products.

    Returns:
        float32 (batch * tokens, hidden).
    """
    rows, width = qkv.shape
    hidden = width // 3
    head_dim = hidden // heads

    def one_picture(qkv: Float[Array, "tokens width"]) -> Float[Array, "tokens width//3"]:
        tokens = qkv.shape[0]
        query, key, value = jnp.transpose(qkv.reshape(tokens, 3, heads, head_dim), (1, 2, 0, 3))
        scores = jnp.einsum("hnd,hmd->hnm", query, key, preferred_element_type=jnp.float32) * head_dim**-0.5
        exponentials = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
        # Dividing after the product with the values touches head_dim channels in place of all tokens.
        total = jnp.sum(exponentials, axis=-1, keepdims=True)
        mixed = jnp.einsum("hnm,hmd->hnd", exponentials.astype(dtype), value, preferred_element_type=jnp.float32)
        return jnp.transpose(mixed / total, (1, 0, 2)).reshape(tokens, hidden)

    pictures = qkv.astype(dtype).reshape(batch, rows // batch, width)
    if has_flash_attention(dtype, head_dim):
        query, key, value = jnp.unstack(pictures.reshape(batch, -1, 3, heads, head_dim), axis=2)
        return flash_attention(query, key, value).reshape(rows, hidden).astype(jnp.float32)
    # The scores of one picture fit into a CPU's cache, those of a batch do not: one at a time is a fifth faster there.
    mixed: Array = jax.lax.platform_dependent(
        pictures, cpu=partial(jax.lax.map, one_picture), default=jax.vmap(one_picture)
    )
    return mixed.reshape(rows, hidden)


def patches(pixels: Float[Array, "B H W C"], patch: int) -> Float[Array, "B*(H//{patch})*(W//{patch}) {patch}**2*C"]:
    """Cut float (B, H, W, 3) into (B * H/p * W/p, p * p * 3), patches row by row."""
    batch, height, width, channels = pixels.shape
    cut = pixels.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return jnp.transpose(cut, (0, 1, 3, 2, 4, 5)).reshape(-1, patch * patch * channels)


def position_table(
    positions: Float[Array, "1+{grid}**2 hidden"], grid: int, height: int, width: int
) -> Float[Array, "1+{height}*{width} hidden"]:
    """Learned positions for another grid of patches, by bicubic interpolation as PyTorch does it.

    Args:
        positions: float32 (1 + grid^2, hidden), class token first.
        grid: side of the learned grid [patches].
        height: rows wanted [patches].
        width: columns wanted [patches].

    Returns:
        float32 (1 + height * width, hidden).
    """
    if (height, width) == (grid, grid):
        return positions
    hidden = positions.shape[-1]
    table = positions[1:].reshape(grid, grid, hidden)
    table = resample(resample(table, bicubic(grid, width), axis=1), bicubic(grid, height), axis=0)
    return jnp.concatenate([positions[:1], table.reshape(-1, hidden)])


def class_feature(
    weights: Weights,
    pixels: Float[Array, "B H W 3"],
    sizes: VitSizes,
    dtype: jnp.dtype = jnp.float32,
    *,
    recompute: bool = False,
) -> Float[Array, "B {sizes.hidden}"]:
    """The class token after the final LayerNorm, float32 (B, hidden); see `tokens` for arguments and errors."""
    class_token = tokens(weights, pixels, sizes, dtype, recompute=recompute)[:, 0]
    return layer_norm(class_token, weights["norm.scale"], weights["norm.bias"], sizes.layer_norm_eps)


def patch_map(
    weights: Weights, pixels: Float[Array, "B H W 3"], sizes: VitSizes, dtype: jnp.dtype = jnp.float32
) -> Float[Array, "B H//{sizes.patch} W//{sizes.patch} {sizes.hidden}"]:
    """The patch tokens after the final LayerNorm as a map, float32 (B, H/p, W/p, hidden); see `tokens`."""
    batch, height, width, _ = pixels.shape
    found = tokens(weights, pixels, sizes, dtype)[:, 1:]
    found = layer_norm(found, weights["norm.scale"], weights["norm.bias"], sizes.layer_norm_eps)
    return found.reshape(batch, height // sizes.patch, width // sizes.patch, sizes.hidden)


def tokens(
    weights: Weights,
    pixels: Float[Array, "B H W 3"],
    sizes: VitSizes,
    dtype: jnp.dtype = jnp.float32,
    *,
    recompute: bool = False,
) -> Float[Array, "B tokens {sizes.hidden}"]:
    """Tokens after the last layer, before the final LayerNorm: the class token, then the patches row by row.

    Args:
        weights: as `sizes.weight_shapes()`.
        pixels: float32 (B, H, W, 3), preprocessed; other sizes than `image_size` get interpolated positions.
        sizes: of the network.
        dtype: of the operands of matrix products; sums, norms and the residual stream stay float32.
        recompute: a gradient computes the inside of a layer again instead of keeping it; it then needs memory for the
            tokens between layers and for one layer only.

    Returns:
        float32 (B, 1 + H/p * W/p, hidden).

    Raises:
        UserError: H or W is no multiple of the patch side.
    """
    batch, height, width, _ = pixels.shape
    if height % sizes.patch or width % sizes.patch:
        raise UserError(f"a {height}x{width} picture does not divide into {sizes.patch} px patches; use square views")
    hidden, eps = sizes.hidden, sizes.layer_norm_eps
    embedded = linear(patches(pixels, sizes.patch), weights["patch.kernel"], weights["patch.bias"], dtype)
    first = jnp.broadcast_to(weights["class_token"], (batch, 1, hidden))
    placed = jnp.concatenate([first, embedded.reshape(batch, -1, hidden)], axis=1)
    placed += position_table(weights["positions"], sizes.grid, height // sizes.patch, width // sizes.patch)

    def block(x: Float[Array, "rows hidden"], layer: Weights) -> tuple[Float[Array, "rows hidden"], None]:
        h = layer_norm(x, layer["norm1.scale"], layer["norm1.bias"], eps)
        h = attention(linear(h, layer["qkv.kernel"], layer["qkv.bias"], dtype), batch, sizes.heads, dtype)
        x = x + linear(h, layer["out.kernel"], layer["out.bias"], dtype)
        h = layer_norm(x, layer["norm2.scale"], layer["norm2.bias"], eps)
        h = gelu(linear(h, layer["up.kernel"], layer["up.bias"], dtype))
        return x + linear(h, layer["down.kernel"], layer["down.bias"], dtype), None

    prefix = "layers."
    stacked = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    rows, _ = jax.lax.scan(jax.checkpoint(block) if recompute else block, placed.reshape(-1, hidden), stacked)
    return rows.reshape(batch, -1, hidden)
