"""The IMF-AttnRes transformer: residual attention in place of residual sums.

Each sub-layer reads a softmax mixture of the raw outputs of all earlier sub-layers ("attention residuals") in place of
their running sum; see `imf_jax.models.networks.transformer` for the rest.
"""

import operator
from collections.abc import Sequence
from functools import reduce
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from imf_jax.config import TransformerSizes
from imf_jax.models.networks.layers import inverse_rms
from imf_jax.models.networks.transformer import Backbone, TransformerHead

Array = jax.Array


def add_all(arrays: Sequence[Float[Array, "*shape"]]) -> Float[Array, "*shape"]:
    """Sum of arrays, from first to last, without stacking them."""
    return reduce(operator.add, arrays)


class AttnResBackbone(Backbone):
    """Sub-layers joined by attention residuals; returns the sum of all sources.

    XLA cannot compile the form `unrolled` for GPUs in batches of a few hundred rows.
    """

    def __init__(self, config: TransformerSizes, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs=rngs)
        # Row k is the pseudo-query of sub-layer k; at zero it mixes all its sources equally.
        self.pseudo_queries = nnx.Param(jnp.zeros((len(self.sublayers), config.n_emb), jnp.float32))

    @property
    def kept(self) -> int:
        """The embedded tokens and the outputs of all sub-layers."""
        return 1 + len(self.sublayers)

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
        graph, weights = self.stacked_layers()
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
        # For gradients a layer is computed again: its insides would take a launch each to be stored, and to be read.
        layer = jax.checkpoint(layer, prevent_cse=False)
        (sources, _), _ = jax.lax.scan(layer, add_source(empty, 0, x), (firsts, weights))
        return jnp.sum(sources, axis=0)


class AttnResHead(TransformerHead):
    """Network of a chunk of actions: a transformer with attention residuals; see `TransformerHead`."""

    backbone_kind: ClassVar[type[Backbone]] = AttnResBackbone
    backbone: AttnResBackbone
