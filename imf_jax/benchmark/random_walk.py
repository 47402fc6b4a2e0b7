"""Untrained policies whose arms stay in reach: they cost what trained ones cost, and nothing has to be trained."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from typing_extensions import override

from imf_jax.benchmark.lewm import random_encoder
from imf_jax.config import IMAGE_SIZE, HeadConfig, LewmEncoderConfig, PolicyConfig
from imf_jax.models.encoders.lewm import LewmEncoder
from imf_jax.models.policy import Policy
from imf_jax.rollout.planner import PolicyPlanner, PolicyProgram
from imf_jax.sim.backends.base import StepOutput

CENTRE = np.array([0.46, 0.2, 0.32, 1, 0, 0, 0, 0.05, 0.46, -0.25, 0.32, 1, 0, 0, 0, 0.05], np.float32)
"""Action around which the hands wander: grippers down, half open, too high above the table to touch an object."""

SPREAD = 0.08
"""Largest distance from there, in the units of an action (of positions [m])."""

HEAD_WIDTH = 32
"""Channels per attention head, as in the presets; never more than 8 heads."""


class WanderingProgram(PolicyProgram):
    """A policy's program whose actions are squeezed into the neighbourhood of `CENTRE`."""

    @override
    def plan(
        self,
        weights: nnx.State,
        memory: tuple[()],
        observations: dict[str, jax.Array],
        output: StepOutput | None,
        seed: jax.Array,
        episodes: jax.Array,
        replans: jax.Array,
    ) -> tuple[jax.Array, tuple[()]]:
        actions, memory = super().plan(weights, memory, observations, output, seed, episodes, replans)
        return jnp.asarray(CENTRE) + SPREAD * jnp.tanh(actions), memory


class Wanderer(PolicyPlanner):
    """Plans with an untrained policy; arguments as of `PolicyPlanner`."""

    def __init__(self, policy: Policy, plan_batch: int) -> None:
        super().__init__(policy, plan_batch)
        self.program = WanderingProgram(**vars(self.program))


def untrained_policy(
    width: int, layers: int, env_state_dim: int, *, cameras: bool = False, image_size: int = IMAGE_SIZE
) -> Policy:
    """A policy with random weights.

    Args:
        width: channels of the head.
        layers: its layers.
        env_state_dim: channels of the task's scene state.
        cameras: see through all cameras, by the LEWM encoder with its published sizes and layout `grid`.
        image_size: height and width of the pictures [pixels].

    Raises:
        ArgumentError: the width cannot be split into heads.
    """
    heads = max(1, min(8, width // HEAD_WIDTH))
    head = HeadConfig(n_emb=width, n_layer=layers, n_head=heads, n_kv_head=heads)
    options: dict[str, Any] = {}
    encoder = None
    if cameras:
        options["encoder"] = LewmEncoderConfig(fusion="grid", image_size=image_size)
        plain = random_encoder()
        weights = {name: np.asarray(variable[...]) for name, variable in plain.weights.items()}
        encoder = LewmEncoder(weights, plain.sizes, fusion="grid")
    return Policy(PolicyConfig(head=head, **options), env_state_dim, rngs=nnx.Rngs(0), frozen_encoder=encoder)
