"""Transformers that see a chunk of actions, its condition and its times as tokens.

Tokens, in order: `[r | t | condition tokens | action tokens]`. Attention and SwiGLU sub-layers alternate; how they are
joined is up to the backbone. Inside, activations are matrices (rows = batch x tokens, channels), which keeps every
linear layer one matrix product.
"""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float

from imf_jax.config import TransformerSizes
from imf_jax.models.networks.layers import Attention, RMSNorm, SwiGLU, linear, time_embedding

Array = jax.Array

LayerForm = Literal["auto", "unrolled", "scanned"]

LAYERS_UNROLLED_ON_CPU = 24
"""Layers up to which a CPU gets the unrolled form: XLA's time and memory for it grow with the square of the layers."""


class Backbone(nnx.Module):
    """2 n_layer sub-layers, attention then SwiGLU, each with a norm of what it reads.

    Attributes:
        form: how the layers are compiled, with the same weights and, up to rounding, the same results. `unrolled` is
            faster on CPUs. `scanned` compiles one layer, whatever their number. `auto` takes the one that suits the
            default device and the number of layers.
    """

    form: LayerForm = "auto"

    def __init__(self, config: TransformerSizes, *, rngs: nnx.Rngs) -> None:
        kinds = [Attention, SwiGLU] * config.n_layer
        self.sublayers = nnx.List([kind(config, rngs=rngs) for kind in kinds])
        self.norms = nnx.List([RMSNorm(config.n_emb) for _ in kinds])

    @property
    def kept(self) -> int:
        """Arrays of the size of the tokens that are kept from sub-layer to sub-layer."""
        return 1

    def __call__(self, x: Float[Array, "rows C"], num_tokens: int) -> Float[Array, "rows C"]:
        """Transform the embedded tokens `x`, (B * num_tokens, n_emb), to the same shape."""
        return self._scanned(x, num_tokens) if self.is_scanned() else self._unrolled(x, num_tokens)

    def is_scanned(self) -> bool:
        """Whether the form is `scanned`, chosen or given."""
        if self.form != "auto":
            return self.form == "scanned"
        return jax.default_backend() != "cpu" or len(self.sublayers) > 2 * LAYERS_UNROLLED_ON_CPU

    def stacked_layers(self) -> tuple[Any, Any]:
        """Graph of the (norm, sub-layer) pairs of a layer, and the weights of all layers with a leading axis."""
        pairs = zip(self.norms, self.sublayers, strict=True)
        layers: list[Any] = [nnx.split(list(layer)) for layer in zip(pairs, pairs, strict=True)]
        return layers[0][0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *(weights for _, weights in layers))

    def _unrolled(self, x: Float[Array, "rows C"], num_tokens: int) -> Float[Array, "rows C"]:
        raise NotImplementedError

    def _scanned(self, x: Float[Array, "rows C"], num_tokens: int) -> Float[Array, "rows C"]:
        raise NotImplementedError


class ResidualBackbone(Backbone):
    """Sub-layers joined by ordinary residuals: each reads the norm of the running sum and adds its output to it."""

    def _unrolled(self, x: Float[Array, "rows C"], num_tokens: int) -> Float[Array, "rows C"]:
        for norm, sublayer in zip(self.norms, self.sublayers, strict=True):
            x = x + sublayer(norm(x), num_tokens)
        return x

    def _scanned(self, x: Float[Array, "rows C"], num_tokens: int) -> Float[Array, "rows C"]:
        graph, weights = self.stacked_layers()

        def layer(x: Array, weights: nnx.State) -> tuple[Array, None]:
            for norm, sublayer in nnx.merge(graph, weights):
                x = x + sublayer(norm(x), num_tokens)
            return x, None

        return jax.lax.scan(layer, x, weights)[0]


class TransformerHead(nnx.Module):
    """Network of a chunk of actions: a transformer with ordinary residuals; see `imf_jax.models.networks.build`.

    Args:
        config: sizes.
        action_dim: entries of an action.
        condition_dim: channels of a condition token.
        rngs: source of the initial weights (`params` stream).
        marks_prefix: the given steps of a chunk can be marked, by a learned vector added to their tokens.
    """

    backbone_kind: ClassVar[type[Backbone]] = ResidualBackbone

    def __init__(
        self,
        config: TransformerSizes,
        action_dim: int,
        condition_dim: int,
        *,
        rngs: nnx.Rngs,
        marks_prefix: bool = False,
    ) -> None:
        self.config, self.action_dim, self.condition_dim = config, action_dim, condition_dim
        self.action_embedding = linear(action_dim, config.n_emb, rngs, use_bias=True)
        self.condition_embedding = linear(condition_dim, config.n_emb, rngs, use_bias=True)
        self.time_embedding = linear(config.n_emb, config.n_emb, rngs, use_bias=True)
        self.backbone = self.backbone_kind(config, rngs=rngs)
        self.norm = RMSNorm(config.n_emb)
        self.output = linear(config.n_emb, action_dim, rngs, use_bias=True)
        self.prefix_mark = nnx.Param(jnp.zeros((config.n_emb,), jnp.float32)) if marks_prefix else None

    def bytes_per_chunk(self, num_conditions: int, horizon: int) -> int:
        """Memory [bytes], about, of what the backbone keeps and of the widest layer, for one chunk."""
        return 4 * (2 + num_conditions + horizon) * self.config.n_emb * (self.backbone.kept + 12)

    def __call__(
        self,
        z: Float[Array, "B H {self.action_dim}"],
        r: Float[Array, " B"],
        t: Float[Array, " B"],
        condition: Float[Array, "B Nc {self.condition_dim}"],
        is_prefix: Bool[Array, "B H"] | None = None,
    ) -> Float[Array, "B H {self.action_dim}"]:
        """Output for a chunk, see `imf_jax.models.networks.build.ChunkNetwork`."""
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
