"""The IMF-AttnRes transformer: average velocity u(z, r, t | condition) of a chunk of actions.

Tokens, in order: `[r | t | condition tokens | action tokens]`. Attention and SwiGLU sub-layers alternate; each reads
a softmax mixture of the raw outputs of all earlier sub-layers ("attention residuals") in place of their running sum.
"""

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float

from imf_jax.config import AttnResConfig
from imf_jax.models.networks.layers import Attention, RMSNorm, SwiGLU, inverse_rms, linear, time_embedding

Array = jax.Array

LayerForm = Literal["auto", "unrolled", "scanned"]

LAYERS_UNROLLED_ON_CPU = 24
"""Layers up to which a CPU gets the unrolled form: XLA's time and memory for it grow with the square of the layers."""


def add_all(arrays: Sequence[Float[Array, "*shape"]]) -> Float[Array, "*shape"]:
    """Sum of arrays, from first to last, without stacking them."""
    return reduce(operator.add, arrays)


class AttnResBackbone(nnx.Module):
    """2 n_layer sub-layers, attention then SwiGLU, joined by attention residuals; returns the sum of all sources.

    Attributes:
        form: how the layers are compiled, with the same weights and, up to rounding, the same results. `unrolled` is
            faster on CPUs. `scanned` compiles one layer, whatever their number, and is what XLA can compile for GPUs:
            it fails there on the unrolled form in batches of a few hundred rows. `auto` takes the one that suits the
            default device and the number of layers.
    """

    form: LayerForm = "auto"

    def __init__(self, config: AttnResConfig, *, rngs: nnx.Rngs) -> None:
        kinds = [Attention, SwiGLU] * config.n_layer
        self.sublayers = nnx.List([kind(config, rngs=rngs) for kind in kinds])
        self.norms = nnx.List([RMSNorm(config.n_emb) for _ in kinds])
        # Row k is the pseudo-query of sub-layer k; at zero it mixes all its sources equally.
        self.pseudo_queries = nnx.Param(jnp.zeros((len(kinds), config.n_emb), jnp.float32))

    def __call__(self, x: Float[Array, "rows C"], num_tokens: int) -> Float[Array, "rows C"]:
        """Transform the embedded tokens `x`, (B * num_tokens, n_emb), to the same shape."""
        return self._scanned(x, num_tokens) if self.is_scanned() else self._unrolled(x, num_tokens)

    def is_scanned(self) -> bool:
        """Whether the form is `scanned`, chosen or given."""
        if self.form != "auto":
            return self.form == "scanned"
        return jax.default_backend() != "cpu" or len(self.sublayers) > 2 * LAYERS_UNROLLED_ON_CPU

    def _logits(self, source: Float[Array, "rows C"]) -> Float[Array, "K rows"]:
        """Score of a source in each of the K sub-layers, those before it included."""
        return (self.pseudo_queries[...] @ source.T) * inverse_rms(source)[:, 0]

    def _unrolled(self, x: Float[Array, "rows C"], num_tokens: int) -> Float[Array, "rows C"]:
        sources: list[Array] = [x]
        logits: list[Array] = [self._logits(x)]
        for k, (norm, sublayer) in enumerate(zip(self.norms, self.sublayers, strict=True)):
            weights = jax.nn.softmax(jnp.stack([scores[k] for scores in logits]), axis=0)
            mixture = add_all([weight[:, None] * source for weight, source in zip(weights, sources, strict=True)])
            sources.append(sublayer(norm(mixture), num_tokens))
            logits.append(self._logits(sources[-1]))
        return add_all(sources)

    def _scanned(self, x: Float[Array, "rows C"], num_tokens: int) -> Float[Array, "rows C"]:
        """One compiled layer for all: every mixture is over all sources, and those that are not there yet weigh 0."""
        num_sublayers = len(self.sublayers)
        pairs = zip(self.norms, self.sublayers, strict=True)
        layers: list[Any] = [nnx.split(list(layer)) for layer in zip(pairs, pairs, strict=True)]
        graph = layers[0][0]
        weights = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(weights for _, weights in layers))
        index = jnp.arange(1 + num_sublayers)[:, None]

        def add_source(memory: tuple[Array, Array], place: Array | int, source: Array) -> tuple[Array, Array]:
            sources, logits = memory
            return sources.at[place].set(source), logits.at[place].set(self._logits(source))

        def layer(memory: tuple[Array, Array], inputs: tuple[Array, nnx.State]) -> tuple[tuple[Array, Array], None]:
            first, weights = inputs
            for offset, (norm, sublayer) in enumerate(nnx.merge(graph, weights)):
                k = first + offset
                sources, logits = memory
                shares = jax.nn.softmax(jnp.where(index <= k, logits[:, k], -jnp.inf), axis=0)
                mixture = jnp.sum(shares[:, :, None] * sources, axis=0)
                memory = add_source(memory, k + 1, sublayer(norm(mixture), num_tokens))
            return memory, None

        empty = jnp.zeros((1 + num_sublayers, *x.shape)), jnp.zeros((1 + num_sublayers, num_sublayers, x.shape[0]))
        firsts = jnp.arange(0, num_sublayers, 2)
        (sources, _), _ = jax.lax.scan(layer, add_source(empty, 0, x), (firsts, weights))
        return jnp.sum(sources, axis=0)


class AttnResHead(nnx.Module):
    """Average velocity of an action chunk.

    Args:
        config: sizes.
        action_dim: entries of an action.
        condition_dim: channels of a condition token.
        rngs: source of the initial weights (`params` stream).
        marks_prefix: the given steps of a chunk can be marked, by a learned vector added to their tokens.
    """

    def __init__(
        self, config: AttnResConfig, action_dim: int, condition_dim: int, *, rngs: nnx.Rngs, marks_prefix: bool = False
    ) -> None:
        self.config, self.action_dim, self.condition_dim = config, action_dim, condition_dim
        self.action_embedding = linear(action_dim, config.n_emb, rngs, use_bias=True)
        self.condition_embedding = linear(condition_dim, config.n_emb, rngs, use_bias=True)
        self.time_embedding = linear(config.n_emb, config.n_emb, rngs, use_bias=True)
        self.backbone = AttnResBackbone(config, rngs=rngs)
        self.norm = RMSNorm(config.n_emb)
        self.output = linear(config.n_emb, action_dim, rngs, use_bias=True)
        self.prefix_mark = nnx.Param(jnp.zeros((config.n_emb,), jnp.float32)) if marks_prefix else None

    def bytes_per_chunk(self, num_conditions: int, horizon: int) -> int:
        """Memory [bytes], about, of the sources of the residual attention and of the widest layer, for one chunk."""
        tokens = 2 + num_conditions + horizon
        return 4 * tokens * self.config.n_emb * (2 * self.config.n_layer + 1 + 12)

    def __call__(
        self,
        z: Float[Array, "B H {self.action_dim}"],
        r: Float[Array, " B"],
        t: Float[Array, " B"],
        condition: Float[Array, "B Nc {self.condition_dim}"],
        is_prefix: Bool[Array, "B H"] | None = None,
    ) -> Float[Array, "B H {self.action_dim}"]:
        """Velocity averaged over the times from r to t, along the path that is at z at time t.

        Args:
            z: float32 (B, H, action_dim), a normalised chunk between data (time 0) and noise (time 1).
            r: float32 (B,), start of the interval, r <= t.
            t: float32 (B,), its end.
            condition: float32 (B, Nc, condition_dim).
            is_prefix: bool (B, H), steps of z that are given; only for a head that marks them.

        Returns:
            float32 (B, H, action_dim).
        """
        actions = self.action_embedding(z)
        if is_prefix is not None:
            assert self.prefix_mark is not None
            actions = actions + jnp.where(is_prefix[..., None], self.prefix_mark[...], 0.0)
        times = time_embedding(jnp.concatenate([r, t]), self.config.n_emb)
        r_token, t_token = jnp.split(self.time_embedding(times)[:, None], 2)
        tokens = jnp.concatenate([r_token, t_token, self.condition_embedding(condition), actions], axis=1)
        _, num_tokens, width = tokens.shape
        hidden = self.backbone(tokens.reshape(-1, width), num_tokens).reshape(tokens.shape)
        return self.output(self.norm(hidden[:, num_tokens - z.shape[1] :]))
