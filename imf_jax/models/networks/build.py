"""Networks of chunks of actions, and which one the settings of a policy ask for.

A new network is a file in `imf_jax.models.networks` with a class that fulfils `ChunkNetwork`, its settings in
`imf_jax.config.networks`, and a branch in `build_network`.
"""

from typing import Protocol

import jax
from flax import nnx
from jaxtyping import Bool, Float

from imf_jax.config import AttnResConfig, PolicyConfig, TransformerConfig, UnetConfig
from imf_jax.errors import ArgumentError
from imf_jax.models.networks.attnres import AttnResHead
from imf_jax.models.networks.transformer import TransformerHead
from imf_jax.models.networks.unet import Unet
from imf_jax.models.objectives.paths import Chunk, Time

Array = jax.Array


class ChunkNetwork(Protocol):
    """Interface of a network of chunks; it does not know what it is trained to predict."""

    def __call__(
        self, z: Chunk, r: Time, t: Time, condition: Float[Array, "B Nc D"], is_prefix: Bool[Array, "B H"] | None = None
    ) -> Chunk:
        """Output for every entry of a chunk; the rows of a batch do not influence one another.

        Args:
            z: float32 (B, H, A), a normalised chunk between data (time 0) and noise (time 1).
            r: float32 (B,), start of an interval of times, r <= t; objectives that have only one time give it twice.
            t: float32 (B,), its end: the time of z.
            condition: float32 (B, Nc, D).
            is_prefix: bool (B, H), steps of z that are given; only for a network that marks them.

        Returns:
            float32 (B, H, A).
        """
        ...

    def bytes_per_chunk(self, num_conditions: int, horizon: int) -> int:
        """Memory [bytes], about, that it needs for one more chunk of `horizon` steps with so many condition tokens."""
        ...


def build_network(
    config: PolicyConfig, action_dim: int, condition_dim: int, num_conditions: int, *, rngs: nnx.Rngs
) -> ChunkNetwork:
    """Build the network of `config.head`.

    Args:
        config: of the policy.
        action_dim: entries A of an action.
        condition_dim: channels D of a condition token.
        num_conditions: condition tokens Nc.
        rngs: source of the initial weights (`params` stream).

    Raises:
        ArgumentError: there is no such kind of network.
    """
    head, marks_prefix = config.head, config.prefix_training > 0
    if isinstance(head, AttnResConfig):
        return AttnResHead(head, action_dim, condition_dim, rngs=rngs, marks_prefix=marks_prefix)
    if isinstance(head, TransformerConfig):
        return TransformerHead(head, action_dim, condition_dim, rngs=rngs, marks_prefix=marks_prefix)
    if isinstance(head, UnetConfig):
        return Unet(head, action_dim, condition_dim, num_conditions, rngs=rngs, marks_prefix=marks_prefix)
    raise ArgumentError(f"policy.head {type(head).__name__} is not known; see imf_jax.config")
