"""Untrained policies whose arms stay in reach: they cost what trained ones cost, and nothing has to be trained."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from typing_extensions import override

from imf_jax.benchmark.lewm import random_encoder
from imf_jax.config import IMAGE_SIZE, AttnResConfig, EncoderDtype, LewmEncoderConfig, PolicyConfig
from imf_jax.models.encoders.lewm import LewmEncoder
from imf_jax.models.encoders.preprocess import Fusion
from imf_jax.models.policy import Policy
from imf_jax.rollout.plan_program import KeptChunks, PolicyProgram
from imf_jax.rollout.planner import PolicyPlanner
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.base import StepOutput
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.robots.base import hold
from imf_jax.sim.tasks import Task

SPREAD = 0.08
"""Largest distance of the actions from those that stay where an episode starts, in the units of an action."""

HEAD_WIDTH = 32
"""Channels per attention head, as in the presets; never more than 8 heads."""


@dataclass(frozen=True)
class WanderingProgram(PolicyProgram):
    """A policy's program whose actions are squeezed into a neighbourhood.

    Attributes:
        centre: the action in its middle (A,).
    """

    centre: tuple[float, ...] = ()

    @override
    def plan(
        self,
        weights: nnx.State,
        memory: KeptChunks,
        observations: dict[str, jax.Array],
        output: StepOutput | None,
        seed: jax.Array,
        episodes: jax.Array,
        replans: jax.Array,
    ) -> tuple[jax.Array, KeptChunks]:
        actions, memory = super().plan(weights, memory, observations, output, seed, episodes, replans)
        return jnp.asarray(self.centre, jnp.float32) + SPREAD * jnp.tanh(actions), memory


class Wanderer(PolicyPlanner):
    """Plans with an untrained policy around the posture in which episodes of a task start.

    Args:
        policy: of that task.
        plan_batch: see `PolicyPlanner`.
        task: name of the task.
    """

    def __init__(self, policy: Policy, plan_batch: int, task: str) -> None:
        super().__init__(policy, plan_batch)
        _, output = NativeBackend(task).reset(scene_keys(0, [0]))
        still = np.asarray(hold(policy.spaces, output.state, output.end_effector))[0]
        self.program = WanderingProgram(**vars(self.program), centre=tuple(still.tolist()))


def untrained_policy(
    width: int,
    layers: int,
    task: Task,
    *,
    cameras: bool = False,
    image_size: int = IMAGE_SIZE,
    fusion: Fusion = "grid",
    encoder_dtype: EncoderDtype = "float32",
) -> Policy:
    """A policy with random weights.

    Args:
        width: channels of the head.
        layers: its layers.
        task: what it acts on.
        cameras: see through all cameras, by the LEWM encoder with its published sizes.
        image_size: height and width of the pictures [pixels].
        fusion: layout of the views.
        encoder_dtype: operands of the encoder's matrix products.

    Raises:
        ArgumentError: the width cannot be split into heads.
    """
    heads = max(1, min(8, width // HEAD_WIDTH))
    head = AttnResConfig(n_emb=width, n_layer=layers, n_head=heads, n_kv_head=heads)
    options: dict[str, Any] = {}
    encoder = None
    if cameras:
        options["encoder"] = LewmEncoderConfig(fusion=fusion, image_size=image_size, dtype=encoder_dtype)
        plain = random_encoder()
        weights = {name: np.asarray(variable[...]) for name, variable in plain.weights.items()}
        encoder = LewmEncoder(weights, plain.sizes, fusion=fusion, dtype=jnp.dtype(encoder_dtype))
    config = PolicyConfig(head=head, **options)
    return Policy(config, task.robot.spaces, task.env_state_dim, rngs=nnx.Rngs(0), frozen_encoder=encoder)
