"""Regression: the network predicts the chunk from the condition alone; its loss is the mean absolute error.

A policy of this kind answers with the conditional median of every entry, which is no plan of anybody where
demonstrations differ. It is the control arm: what of a generative policy comes from its being one.

Source: the L1 loss on chunks of Zhao et al., "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware"
(2023), without its latent variable.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from imf_jax.config import RegressionConfig
from imf_jax.models.objectives.paths import Chunk, Guide, Network, mean_over_steps

Array = jax.Array


@dataclass(frozen=True)
class Regression:
    """The objective with its network, see `imf_jax.models.generator.Generator`."""

    config: RegressionConfig
    network: Network
    figures: ClassVar[tuple[str, ...]] = ()

    def loss(
        self,
        key: Key[Array, ""],
        x: Chunk,
        is_pad: Bool[Array, "B H"],
        condition: Float[Array, "B Nc D"],
        is_prefix: Bool[Array, "B H"] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean absolute error of the chunk; nothing is drawn from `key`."""
        without_loss = is_pad if is_prefix is None else is_pad | is_prefix
        return mean_over_steps(jnp.abs(self._predict(x, condition, is_prefix) - x), without_loss), {}

    def sample(
        self,
        noise: Chunk,
        condition: Float[Array, "B Nc D"],
        steps: int,
        is_prefix: Bool[Array, "B H"] | None = None,
        guide: Guide | None = None,
    ) -> Chunk:
        """Predict the chunk; only the given steps of `noise` are read."""
        assert guide is None, "there is no velocity to guide"
        assert steps == 1
        return self._predict(noise, condition, is_prefix)

    def _predict(self, given: Chunk, condition: Float[Array, "B Nc D"], is_prefix: Bool[Array, "B H"] | None) -> Chunk:
        """Predict the steps that are not given from those that are; the network's input is zero elsewhere."""
        time = jnp.zeros(given.shape[0])
        if is_prefix is None:
            return self.network(jnp.zeros_like(given), time, time, condition)
        known = jnp.where(is_prefix[..., None], given, 0.0)
        return jnp.where(is_prefix[..., None], given, self.network(known, time, time, condition, is_prefix))
