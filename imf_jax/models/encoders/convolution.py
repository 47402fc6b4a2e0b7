"""Convolutions, padded by half of their kernel on every side, in the form that suits the device.

XLA's CPU compiler brings a convolution into the form of its fast kernels outside of loops only. Within a loop the
gradient of an ordinary one takes tens of times as long; a depthwise convolution is four times as slow anywhere.
On CPUs the gradients are therefore written as convolutions which already have that form, and convolutions of small maps
and gradients on large, wide maps as one matrix product, which has more to multiply at once. Accelerators get XLA's own.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

Array = jax.Array

ConvolutionForm = Literal["auto", "xla", "cpu"]

SMALL_MAP = 36
"""Cells of a map up to which a CPU multiplies patches: about where a convolution becomes faster."""

LARGE_MAP, WIDE = 784, 64
"""Cells and channels of a map from which on a CPU takes the gradient of a kernel of stride 1 as a product."""

CONVOLVED = "convolved"
"""Name of the outputs of convolutions on CPUs, for `jax.checkpoint`."""

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Cells before and behind a map, of its height and of its width."""


def taps(
    x: Float[Array, "B H W C"], size: int, stride: int, padding: Sequence[tuple[int, int]]
) -> Iterator[Float[Array, "B H_out W_out C"]]:
    """The inputs of a convolution: for every cell of its window, row by row, the map that this cell reads.

    Sums of such slices take a quarter of the time of XLA's depthwise convolutions on a CPU, in and out of loops.

    Args:
        x: float32 (B, H, W, C).
        size: height and width of the window [cells].
        stride: of the window [cells].
        padding: see `Padding`.

    Yields:
        size * size maps, float32 (B, H_out, W_out, C).
    """
    height, width = ((side + sum(pad) - size) // stride + 1 for side, pad in zip(x.shape[1:3], padding, strict=True))
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    for row, column in product(range(size), repeat=2):
        yield x[:, row : row + (height - 1) * stride + 1 : stride, column : column + (width - 1) * stride + 1 : stride]


def half_padding(size: int) -> Padding:
    """Half of a kernel of that height and width [cells] on every side, as of PyTorch's convolutions."""
    return ((size // 2, size // 2), (size // 2, size // 2))


def patch_product(
    x: Float[Array, "B H W C"], kernel: Float[Array, "K K C O"], stride: int, padding: Sequence[tuple[int, int]]
) -> Float[Array, "B H_out W_out O"]:
    """A convolution as one matrix product of the patches that the kernel covers."""
    size = kernel.shape[0]
    patches = jnp.concatenate([*taps(x, size, stride, padding)], axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


class Convolution(nnx.Conv):
    """Convolution with a square kernel, padded by half of it.

    Attributes:
        form: how it is computed, with the same weights and, up to rounding, the same results: `xla` as XLA does,
            `cpu` as `convolve`. `auto` takes the one that suits the default device.
    """

    form: ConvolutionForm = "auto"

    def __init__(
        self, channels_in: int, channels_out: int, size: int = 1, stride: int = 1, *, rngs: nnx.Rngs, **how: Any
    ) -> None:
        super().__init__(channels_in, channels_out, (size, size), stride, padding=size // 2, rngs=rngs, **how)
        self.stride = stride

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H_out W_out O"]:  # type: ignore[override]
        """Convolve `x`, (B, H, W, channels_in) -> (B, ceil(H / stride), ceil(W / stride), channels_out)."""
        if not on_cpu(self.form):
            return super().__call__(x)
        y = checkpoint_name(convolve(x, self.kernel[...], self.stride), CONVOLVED)
        return y if self.bias is None else y + self.bias[...]


def on_cpu(form: ConvolutionForm) -> bool:
    """Whether the form is `cpu`, chosen or given."""
    return jax.default_backend() == "cpu" if form == "auto" else form == "cpu"


def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "K K C O"], stride: int
) -> Float[Array, "B H_out W_out O"]:
    """Convolve on a CPU, padded by half of the kernel, whose size is odd."""
    if kernel.shape[0] == 1:
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    if x.shape[1] * x.shape[2] <= SMALL_MAP * stride**2:
        return patch_product(x, kernel, stride, half_padding(kernel.shape[0]))
    return _convolve(x, kernel, stride)


def _xla_convolution(
    x: Array, kernel: Array, padding: Sequence[tuple[int, int]], stride: int = 1, dilation: int = 1
) -> Array:
    """A convolution in the form of the fast kernels."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    return _xla_convolution(x, kernel, half_padding(kernel.shape[0]), stride)


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, stride), (x, kernel)


def _backward(stride: int, inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = inputs
    return _input_gradient(gradient, kernel, stride, x.shape), _kernel_gradient(gradient, x, kernel.shape[0], stride)


_convolve.defvjp(_forward, _backward)


def _input_gradient(gradient: Array, kernel: Array, stride: int, shape: Sequence[int]) -> Array:
    """Gradient of the input, of `shape`: for each of its phases of the stride, a convolution of `gradient`.

    Cell `stride * i + phase` of the input meets row q of the kernel in output `i + (phase + size // 2 - q) / stride`,
    where that is whole, and likewise for columns.
    """
    size = kernel.shape[0]
    cells = [-(-side // stride) for side in shape[1:3]]
    rows = []
    for phases in product(range(stride), repeat=2):
        met = [[q for q in reversed(range(size)) if (phase + size // 2 - q) % stride == 0] for phase in phases]
        part = kernel[jnp.ix_(*(jnp.array(axis) for axis in met))].swapaxes(2, 3)
        padding = []
        for axis, phase, count, given in zip(met, phases, cells, gradient.shape[1:3], strict=True):
            first, last = ((phase + size // 2 - q) // stride for q in (axis[0], axis[-1]))
            padding.append((-first, count + last - given))
        rows.append(_xla_convolution(gradient, part, padding))
    if stride == 1:
        return rows[0]
    height, width = cells
    phased = jnp.stack(rows).reshape(stride, stride, shape[0], height, width, shape[3])
    whole = phased.transpose(2, 3, 0, 4, 1, 5).reshape(shape[0], height * stride, width * stride, shape[3])
    return whole[:, : shape[1], : shape[2]]


def _kernel_gradient(gradient: Array, x: Array, size: int, stride: int) -> Array:
    """Gradient of the kernel: a convolution over the map with pictures in the place of channels, or a product."""
    if stride == 1 and x.shape[1] * x.shape[2] >= LARGE_MAP and x.shape[3] >= WIDE:
        return _kernel_product(gradient, x, size)
    padding = [
        (size // 2, (given - 1) * stride + size - side - size // 2)
        for side, given in zip(x.shape[1:3], gradient.shape[1:3], strict=True)
    ]
    swapped = _xla_convolution(x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), padding, dilation=stride)
    return swapped.transpose(1, 2, 0, 3)


def _kernel_product(gradient: Array, x: Array, size: int) -> Array:
    """Gradient of the kernel for stride 1, as one product of maps shifted by columns and gradients shifted by rows.

    The patches of a kernel of three rows would be one and a half times as many numbers.
    """
    half, (height, width, channels) = size // 2, x.shape[1:]
    padded = jnp.pad(x, ((0, 0), (0, 0), (half, half), (0, 0)))
    columns = jnp.concatenate([padded[:, :, n : n + width] for n in range(size)], axis=-1)
    padded = jnp.pad(gradient, ((0, 0), (half, half), (0, 0), (0, 0)))
    rows = jnp.concatenate([padded[:, n : n + height] for n in reversed(range(size))], axis=-1)
    product = rows.reshape(-1, rows.shape[-1]).T @ columns.reshape(-1, columns.shape[-1])
    return product.reshape(size, -1, size, channels).transpose(0, 2, 3, 1)


def max_pool(
    x: Float[Array, "B H W C"], size: int, stride: int, form: ConvolutionForm = "auto"
) -> Float[Array, "B H_out W_out C"]:
    """Maximum over windows, padded by half of them; on CPUs of slices, rows first, as XLA's gradient is slow there.

    Args:
        x: float32 (B, H, W, C).
        size: height and width of a window [cells], odd.
        stride: of the windows [cells].
        form: see `Convolution`.
    """
    if not on_cpu(form):
        return nnx.max_pool(x, (size, size), strides=(stride, stride), padding=half_padding(size))
    for axis in (1, 2):
        pad = [(size // 2, size // 2) if n == axis else (0, 0) for n in range(4)]
        padded = jnp.pad(x, pad, constant_values=-jnp.inf)
        last = (x.shape[axis] - 1) // stride * stride
        slices = [jax.lax.slice_in_dim(padded, n, n + last + 1, stride, axis) for n in range(size)]
        x = jax.tree.reduce(jnp.maximum, slices)
    return x
