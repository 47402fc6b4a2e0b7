"""Resampling of images along an axis, as PyTorch does it: weighted sums of a few neighbours.

Weights are computed in NumPy from the sizes alone, so a compiled function carries them as constants. Gathering the
few neighbours of an output pixel is an order of magnitude cheaper than a product with the mostly empty weight matrix.
"""

from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int32

BICUBIC_A = -0.75
"""Keys' cubic parameter that PyTorch uses."""


@dataclass(frozen=True)
class Taps:
    """The neighbours of every output position along one axis.

    Attributes:
        index: int32 (out, taps) input positions.
        weight: float32 (out, taps); a row sums to 1.
    """

    index: Int32[np.ndarray, "out taps"]
    weight: Float32[np.ndarray, "out taps"]


@lru_cache(maxsize=64)
def antialiased_bilinear(size: int, out: int) -> Taps:
    """Triangle filter, widened by the scale when shrinking (torch `interpolate(mode="bilinear", antialias=True)`).

    Args:
        size: input length [pixels].
        out: output length [pixels].
    """
    # In float32 throughout, as PyTorch does: its rounding shifts weights by 1e-5 and shows in the pictures.
    scale = np.float32(size) / np.float32(out)
    support = max(scale, np.float32(1.0))
    center = scale * (np.arange(out, dtype=np.float32) + np.float32(0.5))
    first = np.maximum((center - support + np.float32(0.5)).astype(np.int32), 0)
    last = np.minimum((center + support + np.float32(0.5)).astype(np.int32), size)
    index = first[:, None] + np.arange(int((last - first).max()), dtype=np.int32)
    distance = (index.astype(np.float32) - center[:, None] + np.float32(0.5)) / support
    weight = np.where(index < last[:, None], np.maximum(np.float32(0.0), 1 - np.abs(distance)), np.float32(0.0))
    return Taps(np.minimum(index, size - 1), weight / weight.sum(axis=1, keepdims=True))


@lru_cache(maxsize=64)
def bicubic(size: int, out: int) -> Taps:
    """Cubic convolution with a = -0.75, half-pixel centres, edge values repeated, no antialiasing.

    It equals torch `interpolate(mode="bicubic", align_corners=False)`.

    Args:
        size: input length [pixels].
        out: output length [pixels].
    """
    scale = np.float32(size) / np.float32(out)
    position = (np.arange(out, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    base = np.floor(position)
    offsets = np.arange(-1, 3)
    distance = np.abs(position[:, None] - (base[:, None] + offsets))
    a = BICUBIC_A
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    weight = np.where(distance <= 1, near, far)
    index = np.clip(base[:, None].astype(np.int64) + offsets, 0, size - 1)
    return Taps(index.astype(np.int32), weight.astype(np.float32))


def resample(x: Float[jax.Array, "..."], taps: Taps, axis: int) -> Float[jax.Array, "..."]:
    """Resample one axis of `x`; all other axes stay.

    Args:
        x: float (..., size, ...).
        taps: of the axis' size.
        axis: which axis.

    Returns:
        x with `axis` of length `len(taps.index)`, dtype kept.
    """
    axis %= x.ndim
    trailing = (1,) * (x.ndim - axis - 1)
    terms = [
        jnp.take(x, taps.index[:, k], axis=axis) * taps.weight[:, k].reshape(-1, *trailing).astype(x.dtype)
        for k in range(taps.index.shape[1])
    ]
    return sum(terms[1:], start=terms[0])
