"""Generators of chunks: a network with the objective that trains it and the sampler that plans with it.

A new objective is a file in `imf_jax.models.objectives` with a class that fulfils `Generator`, its settings in
`imf_jax.config.objectives`, and a line in `GENERATORS`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax
from jaxtyping import Bool, Float, Key

from imf_jax.config import DiffusionConfig, FlowConfig, ImfConfig, MeanFlowConfig, ObjectiveConfig, RegressionConfig
from imf_jax.models.objectives.diffusion import Diffusion
from imf_jax.models.objectives.flow import FlowMatching
from imf_jax.models.objectives.imf import ImprovedMeanFlow
from imf_jax.models.objectives.meanflow import MeanFlow
from imf_jax.models.objectives.paths import Chunk, Guide, Network
from imf_jax.models.objectives.regression import Regression

Array = jax.Array


class Generator(Protocol):
    """Interface of an objective with its network; chunks are normalised actions.

    The rows of a batch do not influence one another, all randomness comes from the key, and sampling is a function of
    the noise. Steps that are given are clean data: they stay as they are and carry no loss, and the network is told.

    Attributes:
        figures: names of the diagnostics that `loss` returns, in the order of the log.
    """

    figures: ClassVar[tuple[str, ...]]

    def __init__(self, config: Any, network: Network) -> None: ...

    def loss(
        self,
        key: Key[Array, ""],
        x: Chunk,
        is_pad: Bool[Array, "B H"],
        condition: Float[Array, "B Nc D"],
        is_prefix: Bool[Array, "B H"] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Training loss of one batch.

        Args:
            key: typed JAX key.
            x: float32 (B, H, A), normalised chunks.
            is_pad: bool (B, H), action steps that carry no loss.
            condition: float32 (B, Nc, D).
            is_prefix: bool (B, H), steps that are given; None where prefixes are not trained.

        Returns:
            The loss and its diagnostics, float32 scalars.
        """
        ...

    def sample(
        self,
        noise: Chunk,
        condition: Float[Array, "B Nc D"],
        steps: int,
        is_prefix: Bool[Array, "B H"] | None = None,
        guide: Guide | None = None,
    ) -> Chunk:
        """Generate chunks.

        Args:
            noise: float32 (B, H, A) ~ N(0, I); where steps are given, they themselves.
            condition: float32 (B, Nc, D).
            steps: function evaluations N.
            is_prefix: bool (B, H), steps that are given; only for a network that was trained with prefixes.
            guide: what the chunk is drawn to; only for objectives whose settings have no `guidance_problem`.

        Returns:
            float32 (B, H, A), normalised.
        """
        ...


GENERATORS: Mapping[type, type[Generator]] = {
    ImfConfig: ImprovedMeanFlow,
    FlowConfig: FlowMatching,
    RegressionConfig: Regression,
    DiffusionConfig: Diffusion,
    MeanFlowConfig: MeanFlow,
}
"""Generator of each kind of settings."""


def build_generator(config: ObjectiveConfig, network: Network) -> Generator:
    """Build the generator of an objective."""
    return GENERATORS[type(config)](config, network)
