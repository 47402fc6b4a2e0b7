"""A 1-D U-Net over the steps of a chunk: convolutions that halve the steps and double them again.

The condition (times and all condition tokens, joined) scales and shifts the channels of every residual block. Sizes and
order of the layers are those of the CNN policy of Chi et al., "Diffusion Policy" (2023); two times take the place of
one.

Convolutions are products of windows with a matrix: XLA's kernels for gradients of convolutions are slow within compiled
loops on CPUs.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float

from imf_jax.config import UnetConfig
from imf_jax.models.networks.layers import time_embedding

Array = jax.Array


def mish(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Activation x tanh(softplus(x))."""
    return x * jnp.tanh(jax.nn.softplus(x))


class Convolution(nnx.Module):
    """Convolution over the steps, (B, H, channels_in) to (B, ceil(H / stride), channels_out); zeros beyond them."""

    def __init__(self, channels_in: int, channels_out: int, size: int, *, stride: int = 1, rngs: nnx.Rngs) -> None:
        self.size, self.stride = size, stride
        self.linear = nnx.Linear(size * channels_in, channels_out, rngs=rngs)

    def __call__(self, x: Float[Array, "B H I"]) -> Float[Array, "B H2 O"]:
        """Convolve `x`."""
        return self.linear(windows(x, self.size, self.stride))


def windows(x: Float[Array, "B H I"], size: int, stride: int = 1) -> Float[Array, "B H2 {size}*I"]:
    """The steps around every `stride`-th step, oldest first, with zeros beyond the ends; `size` is odd."""
    steps = x.shape[1]
    padded = jnp.pad(x, ((0, 0), (size // 2, size // 2), (0, 0)))
    return jnp.concatenate([padded[:, i : i + steps : stride] for i in range(size)], axis=-1)


class Doubling(nnx.Module):
    """Transposed convolution of size 4 and stride 2: (B, H, C) to (B, 2 H, C)."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs) -> None:
        # An even step is made of the step at its place and the one before, an odd one of that and the one after.
        self.even = nnx.Linear(2 * channels, channels, rngs=rngs)
        self.odd = nnx.Linear(2 * channels, channels, rngs=rngs)

    def __call__(self, x: Float[Array, "B H C"]) -> Float[Array, "B 2*H C"]:
        """Double the steps of `x`."""
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        pairs = jnp.concatenate([padded[:, :-1], padded[:, 1:]], axis=-1)
        both = jnp.stack([self.even(pairs[:, :-1]), self.odd(pairs[:, 1:])], axis=2)
        return both.reshape(x.shape[0], -1, x.shape[2])


class Block(nnx.Module):
    """Convolution, group normalisation over steps and channels, Mish."""

    def __init__(self, channels_in: int, channels_out: int, config: UnetConfig, *, rngs: nnx.Rngs) -> None:
        self.convolution = Convolution(channels_in, channels_out, config.kernel_size, rngs=rngs)
        self.norm = nnx.GroupNorm(channels_out, num_groups=config.groups, rngs=rngs)

    def __call__(self, x: Float[Array, "B H I"]) -> Float[Array, "B H O"]:
        """Transform `x`, (B, H, channels_in), to (B, H, channels_out)."""
        return mish(self.norm(self.convolution(x)))


class ConditionedBlock(nnx.Module):
    """Two blocks with a residual; the condition scales and shifts the channels between them."""

    def __init__(
        self, channels_in: int, channels_out: int, condition_dim: int, config: UnetConfig, *, rngs: nnx.Rngs
    ) -> None:
        self.first = Block(channels_in, channels_out, config, rngs=rngs)
        self.second = Block(channels_out, channels_out, config, rngs=rngs)
        self.modulation = nnx.Linear(condition_dim, 2 * channels_out, rngs=rngs)
        same = channels_in == channels_out
        self.residual = None if same else nnx.Linear(channels_in, channels_out, rngs=rngs)

    def __call__(self, x: Float[Array, "B H I"], condition: Float[Array, "B D"]) -> Float[Array, "B H O"]:
        """Transform `x`, (B, H, channels_in), given a condition (B, condition_dim), to (B, H, channels_out)."""
        scale, shift = jnp.split(self.modulation(mish(condition))[:, None], 2, axis=-1)
        hidden = self.second(scale * self.first(x) + shift)
        return hidden + (x if self.residual is None else self.residual(x))


class Unet(nnx.Module):
    """Network of a chunk of actions; see `imf_jax.models.networks.build`.

    Args:
        config: sizes.
        action_dim: entries of an action.
        condition_dim: channels of a condition token.
        num_conditions: condition tokens.
        rngs: source of the initial weights (`params` stream).
        marks_prefix: the given steps of a chunk can be marked, in a channel of their own.
    """

    def __init__(
        self,
        config: UnetConfig,
        action_dim: int,
        condition_dim: int,
        num_conditions: int,
        *,
        rngs: nnx.Rngs,
        marks_prefix: bool = False,
    ) -> None:
        self.config, self.action_dim, self.condition_dim = config, action_dim, condition_dim
        self.marks_prefix = marks_prefix
        time, widths = config.time_dim, config.widths
        self.time_in = nnx.Linear(2 * time, 4 * time, rngs=rngs)
        self.time_out = nnx.Linear(4 * time, time, rngs=rngs)
        total = time + num_conditions * condition_dim

        def pair(channels_in: int, channels_out: int) -> nnx.List:
            inputs = channels_in, channels_out
            return nnx.List([ConditionedBlock(into, channels_out, total, config, rngs=rngs) for into in inputs])

        before = action_dim + marks_prefix, *widths[:-1]
        self.down = nnx.List([pair(*channels) for channels in zip(before, widths, strict=True)])
        self.halvings = nnx.List([Convolution(width, width, 3, stride=2, rngs=rngs) for width in widths[:-1]])
        self.middle = pair(widths[-1], widths[-1])
        upwards = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nnx.List([pair(2 * width, after) for width, after in upwards])
        self.doublings = nnx.List([Doubling(after, rngs=rngs) for _, after in upwards])
        self.last = Block(widths[0], widths[0], config, rngs=rngs)
        self.output = nnx.Linear(widths[0], action_dim, rngs=rngs)

    def bytes_per_chunk(self, num_conditions: int, horizon: int) -> int:
        """Memory [bytes], about, of what is kept for the way up and of the windows of the widest layer."""
        del num_conditions  # one vector, whatever their number
        return 4 * horizon * sum(self.config.widths) * (self.config.kernel_size + 6)

    def __call__(
        self,
        z: Float[Array, "B H {self.action_dim}"],
        r: Float[Array, " B"],
        t: Float[Array, " B"],
        condition: Float[Array, "B Nc {self.condition_dim}"],
        is_prefix: Bool[Array, "B H"] | None = None,
    ) -> Float[Array, "B H {self.action_dim}"]:
        """Output for a chunk, see `imf_jax.models.networks.build.ChunkNetwork`."""
        times = jnp.concatenate([time_embedding(time, self.config.time_dim) for time in (r, t)], axis=-1)
        whole = jnp.concatenate([self.time_out(mish(self.time_in(times))), condition.reshape(len(z), -1)], axis=-1)
        x = z
        if self.marks_prefix:
            mark = jnp.zeros(z.shape[:2]) if is_prefix is None else is_prefix.astype(jnp.float32)
            x = jnp.concatenate([z, mark[..., None]], axis=-1)
        kept = []
        for level, blocks in enumerate(self.down):
            x = through(blocks, x, whole)
            kept.append(x)
            if level < len(self.halvings):
                x = self.halvings[level](x)
        x = through(self.middle, x, whole)
        for blocks, doubling in zip(self.up, self.doublings, strict=True):  # as published, none joins the first level
            x = doubling(through(blocks, jnp.concatenate([x, kept.pop()], axis=-1), whole))
        return self.output(self.last(x))


def through(blocks: nnx.List, x: Float[Array, "B H I"], condition: Float[Array, "B D"]) -> Float[Array, "B H O"]:
    """Send `x` through blocks, one after the other."""
    for block in blocks:
        x = block(x, condition)
    return x
