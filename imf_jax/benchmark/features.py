"""Savings by cached features: a training step with them against one that runs the frozen LEWM encoder."""

import statistics
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from imf_jax.benchmark.lewm import random_encoder
from imf_jax.config import AttnResConfig, LewmEncoderConfig, PolicyConfig, TrainConfig
from imf_jax.data.windows import Demonstrations
from imf_jax.models.encoders.lewm import LewmEncoder
from imf_jax.models.encoders.preprocess import Fusion
from imf_jax.models.policy import Policy, build_policy
from imf_jax.sim.tasks import get_task
from imf_jax.training.state import compile_run_steps, initial_state

EPISODE_STEPS = 64
TASK = get_task("transfer")
SPACES, ENV_STATE_DIM = TASK.robot.spaces, TASK.env_state_dim


@dataclass(frozen=True)
class FeatureSpeed:
    """Times of a training step.

    Attributes:
        width: channels of the head.
        layers: its layers.
        batch: windows per step; each has two observations of three cameras.
        fusion: layout of the views.
        cached_ms: median with features from the cache [ms].
        embedding_ms: median with the encoder run on the pictures of the batch [ms].
        ratio: median over the rounds of embedding / cached within a round.
    """

    width: int
    layers: int
    batch: int
    fusion: str
    cached_ms: float
    embedding_ms: float
    ratio: float


def measure(
    *, width: int, layers: int, batch: int, rounds: int, fusion: Fusion = "row", image_size: int = 256
) -> FeatureSpeed:
    """Time both kinds of training step in turns, with the encoder's sizes as published and random weights.

    Args:
        width: channels of the head.
        layers: its layers.
        batch: windows per step.
        rounds: steps of each kind; one more is taken before and not counted.
        fusion: layout of the views.
        image_size: height and width of the pictures [pixels].
    """
    config = TrainConfig(
        batch_size=batch,
        policy=PolicyConfig(
            head=AttnResConfig(n_emb=width, n_layer=layers),
            encoder=LewmEncoderConfig(fusion=fusion, image_size=image_size),
        ),
    )
    encoder = random_encoder()
    weights = {name: np.asarray(variable[...]) for name, variable in encoder.weights.items()}
    policy = build_policy(config, SPACES, ENV_STATE_DIM, LewmEncoder(weights, encoder.sizes, fusion=fusion))
    random = np.random.default_rng(0)
    seen = (EPISODE_STEPS, len(config.policy.encoder.cameras), image_size, image_size, 3)
    cached = with_features(encoder.joint_output_dim)
    sides = [cached, cached._replace(features=None, images=jax.device_put(random.integers(0, 256, seen, np.uint8)))]
    state, frozen = initial_state(policy, config)
    run_steps = [compile_run_steps(config, state, frozen, data) for data in sides]
    seconds: list[list[float]] = []
    for _ in range(rounds + 1):
        seconds.append([])
        for run, data in zip(run_steps, sides, strict=True):
            start = time.perf_counter()
            state = jax.block_until_ready(run(state, frozen.variables, data, jnp.int32(1)))
            seconds[-1].append(time.perf_counter() - start)
    fast, slow = zip(*seconds[1:], strict=True)
    ratio = statistics.median(slower / faster for faster, slower in zip(fast, slow, strict=True))
    return FeatureSpeed(
        width, layers, batch, fusion, 1000 * statistics.median(fast), 1000 * statistics.median(slow), ratio
    )


def with_features(width: int) -> Demonstrations:
    """One episode of `transfer` with zeros for everything, cached features of `width` channels included."""
    return Demonstrations(
        action=jnp.zeros((EPISODE_STEPS, SPACES.action_dim)),
        state=jnp.zeros((EPISODE_STEPS, SPACES.state_dim)),
        env_state=jnp.zeros((EPISODE_STEPS, ENV_STATE_DIM)),
        first=jnp.zeros(EPISODE_STEPS, jnp.int32),
        last=jnp.full(EPISODE_STEPS, EPISODE_STEPS - 1, jnp.int32),
        features=jnp.zeros((EPISODE_STEPS, width)),
    )


def training_seconds(policy: Policy, steps: int) -> float:
    """Time [s] of `steps` training steps of a policy of `transfer` on cached features, after compilation.

    Args:
        policy: sees through the frozen LEWM encoder; it is left as it is.
        steps: training steps, of batches as presets have them.
    """
    config = TrainConfig(policy=policy.config)
    assert policy.joint_output_dim is not None
    data = with_features(policy.joint_output_dim)
    state, frozen = initial_state(nnx.clone(policy), config)
    run = compile_run_steps(config, state, frozen, data)
    state = jax.block_until_ready(run(state, frozen.variables, data, jnp.int32(1)))
    start = time.perf_counter()
    jax.block_until_ready(run(state, frozen.variables, data, jnp.int32(steps)))
    return time.perf_counter() - start
