"""From an observation to the condition tokens of the head.

Per observation step a token is the concatenation of visual features first, then robot state, then scene state; each
encoder takes the parts it has. A conditioning says its `dim` and `tokens_per_step`; the policy sizes the head by them.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from imf_jax.config import STATE_DIM, PolicyConfig, StateEncoderConfig
from imf_jax.errors import ArgumentError, UserError
from imf_jax.models.normalizer import Normalizer

Array = jax.Array
Observation = Mapping[str, Array]


class Conditioning(Protocol):
    """What the policy needs of an encoder.

    Attributes:
        dim: channels of a condition token.
        tokens_per_step: condition tokens per observation step.
    """

    dim: int
    tokens_per_step: int

    def __call__(self, observation: Observation) -> Array:
        """Normalised condition, float32 (B, obs_horizon * tokens_per_step, dim), oldest observation first."""
        ...

    def set_statistics(self, stats: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over the statistics of the demonstrations, see `Policy.set_statistics`."""
        ...


def require_statistics(stats: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Statistics of one array of the demonstrations.

    Raises:
        UserError: they are not there.
    """
    if name not in stats:
        raise UserError(f"statistics have no {name!r} (they have {', '.join(stats) or 'nothing'}); collect them again")
    return stats[name]


class StateConditioning(nnx.Module):
    """Robot state (B, To, 16), then the task's scene state (B, To, E), one token per step."""

    tokens_per_step = 1

    def __init__(self, config: PolicyConfig, env_state_dim: int) -> None:
        self.dim = STATE_DIM + env_state_dim
        self.state = Normalizer(STATE_DIM, config.normalization)
        self.env_state = Normalizer(env_state_dim, config.normalization)

    def __call__(self, observation: Observation) -> Array:
        parts = (self.state.normalize(observation["state"]), self.env_state.normalize(observation["env_state"]))
        return jnp.concatenate(parts, axis=-1)

    def set_statistics(self, stats: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        self.state.set_statistics("qpos", require_statistics(stats, "qpos"))
        self.env_state.set_statistics("env_state", require_statistics(stats, "env_state"))


def build_conditioning(config: PolicyConfig, env_state_dim: int, *, rngs: nnx.Rngs) -> Conditioning:
    """The conditioning that `config.encoder` names.

    Raises:
        ArgumentError: there is no such encoder.
    """
    if isinstance(config.encoder, StateEncoderConfig):
        return StateConditioning(config, env_state_dim)
    raise ArgumentError(f"policy.encoder {type(config.encoder).__name__} is not known; use StateEncoderConfig")
