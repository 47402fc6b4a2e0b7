"""The policy: observation -> condition -> generator -> action chunk in physical units."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int, Key

from imf_jax import seeds
from imf_jax.chunks import unit_quaternions
from imf_jax.config import EfficientNetEncoderConfig, LewmEncoderConfig, PolicyConfig, TrainConfig, from_dict, require
from imf_jax.models.conditioning import FrozenEncoder, Observation, build_conditioning, require_statistics
from imf_jax.models.encoders import efficientnet
from imf_jax.models.encoders.lewm import LewmEncoder, LewmSizes, config_dict
from imf_jax.models.generator import Generator, build_generator
from imf_jax.models.networks.build import ChunkNetwork, build_network
from imf_jax.models.normalizer import Normalizer
from imf_jax.models.objectives.paths import Guide, from_step, prefix_mask
from imf_jax.seeds import INIT_STREAM, root_key
from imf_jax.spaces import RobotSpaces

Array = jax.Array

_AUGMENTATION_STREAM, _PREFIX_STREAM, _DELAY_STREAM = 1 << 20, 1 << 21, 1 << 22
_PREFIX_NOISE_STREAM, _PREFIX_DROPOUT_STREAM = 1 << 23, 1 << 24
"""Folded into the key of a loss; far from the small numbers that splitting the key amounts to."""


class Prefix(NamedTuple):
    """Given actions of a chunk, which the generated rest continues.

    Attributes:
        actions: float32 (B, H, action_dim) in physical units; those that are not given may be anything finite.
        is_given: bool (B, H).
    """

    actions: Float[Array, "B H action_dim"]
    is_given: Bool[Array, "B H"]


class Policy(nnx.Module):
    """Policy: a conditioning, which makes a condition of observations, and a generator, which makes chunks from it.

    Observations are mappings of arrays (B, obs_horizon, ...), oldest first, with the entries that `reads` names:
    float32 `state` (S), `env_state` (env_state_dim), uint8 `images` (C, H, W, 3), see `imf_jax.models.conditioning`.
    Actions: float32 (..., A), see `RobotSpaces.action`.

    Args:
        config: sizes, objective, encoder, normalisation.
        spaces: action and state of the robot.
        env_state_dim: channels of the task's scene state.
        rngs: source of the initial weights (`params` stream).
        frozen_encoder: the one of the configuration; by default it is loaded from its folder or package.

    Attributes:
        config: as given, with the width of the robot's actions.
        spaces: as given.
        reads: the entries of an observation that it needs to act.

    Raises:
        ArgumentError: action_dim is not the width of the robot's actions.
        UserError: the folder of the frozen encoder holds none.
    """

    def __init__(
        self,
        config: PolicyConfig,
        spaces: RobotSpaces,
        env_state_dim: int,
        *,
        rngs: nnx.Rngs,
        frozen_encoder: FrozenEncoder | None = None,
    ) -> None:
        config = with_action_dim(config, spaces)
        self.config, self.spaces = config, spaces
        self.conditioning = build_conditioning(config, spaces, env_state_dim, frozen_encoder, rngs=rngs)
        self.reads = self.conditioning.reads
        self.action_normalizer = Normalizer(spaces.action_dim, config.normalization)
        delays = config.delay_training
        num_conditions = config.obs_horizon * self.conditioning.tokens_per_step + (delays > 0)
        self.head: ChunkNetwork = build_network(
            config, spaces.action_dim, self.conditioning.dim, num_conditions, rngs=rngs
        )
        self.delay_embedding = nnx.Embed(delays + 1, self.conditioning.dim, rngs=rngs) if delays else None

    @property
    def generator(self) -> Generator:
        """The network with its objective and sampler."""
        return build_generator(self.config.objective, self.head)

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of what is logged of a training step: the loss, its diagnostics, the norm of the gradient."""
        return ("loss", *self.generator.figures, "grad_norm")

    @property
    def frozen_encoder(self) -> FrozenEncoder | None:
        """The frozen encoder, or None if the policy has none."""
        encoder = getattr(self.conditioning, "encoder", None)
        return encoder if isinstance(encoder, FrozenEncoder) else None

    @property
    def joint_output_dim(self) -> int | None:
        """Channels of the one embedding that all cameras share; None where no encoder fuses them."""
        return getattr(self.conditioning, "joint_output_dim", None)

    def set_statistics(self, stats: Mapping[str, Mapping[str, Any]]) -> None:
        """Set the statistics of the demonstrations, as `stats.json` holds them.

        Args:
            stats: `action` and what the encoder reads (`qpos`, `env_state`), each with `min`, `max`, `mean`, `std`.

        Raises:
            UserError: one is absent, of another length, or not finite.
        """
        self.action_normalizer.set_statistics("action", require_statistics(stats, "action"))
        self.conditioning.set_statistics(stats)

    def condition(
        self,
        observation: Observation,
        key: Key[Array, ""] | None = None,
        delay: Int[Array, " B"] | None = None,
    ) -> Float[Array, "B Nc {self.conditioning.dim}"]:
        """Condition tokens, float32 (B, Nc, dim): obs_horizon * tokens_per_step, and one of the delay if it is learned.

        Args:
            observation: see the class.
            key: see `Conditioning`.
            delay: int32 (B,) control steps by which a chunk begins later; 0 by default. Of a policy with
                `delay_training` only, and up to it.
        """
        tokens = self.conditioning(observation, key)
        if self.delay_embedding is None:
            assert delay is None, "the policy has not learned to begin its chunks late"
            return tokens
        of_delay = self.delay_embedding(jnp.zeros(len(tokens), jnp.int32) if delay is None else delay)
        return jnp.concatenate([tokens, of_delay[:, None]], axis=1)

    def loss(
        self, batch: Mapping[str, Any], key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Training loss of one batch. Batch normalisation updates its running statistics.

        Args:
            batch: `observation` (see the class), `action` float32 (B, W, action_dim), `is_pad` bool (B, W), of
                W = H + delay_training control steps.
            key: typed JAX key for times, noise and augmentation.

        Returns:
            float32 scalar, and a dict of float32 scalars for the log.
        """
        x, is_pad, delay = self.action_normalizer.normalize(batch["action"]), batch["is_pad"], None
        if self.config.delay_training:
            delay = seeds.randint(seeds.fold_in(key, _DELAY_STREAM), (x.shape[0],), 0, self.config.delay_training + 1)
            x, is_pad = (from_step(values, delay, self.config.pred_horizon) for values in (x, is_pad))
        condition = self.condition(batch["observation"], seeds.fold_in(key, _AUGMENTATION_STREAM), delay)
        is_prefix = self.training_prefix(seeds.fold_in(key, _PREFIX_STREAM), x.shape[0])
        if is_prefix is not None and self.config.prefix_noise:
            noise = self.config.prefix_noise * seeds.normal(seeds.fold_in(key, _PREFIX_NOISE_STREAM), x.shape)
            x = x + jnp.where(is_prefix[..., None], noise, 0.0)  # given steps carry no loss: nothing else reads them
        return self.generator.loss(key, x, is_pad, condition, is_prefix)

    def training_prefix(self, key: Key[Array, ""], batch_size: int) -> Bool[Array, "{batch_size} H"] | None:
        """Draw the steps that are given in training, as if the plan came 0 .. prefix_training control steps late.

        A plan that comes d steps late is given the d actions executed meanwhile and those before the newest
        observation, in all obs_horizon - 1 + d; a plan that is not late is given none, like the first of an episode.

        Args:
            key: typed JAX key; the delays are uniform, and the share `prefix_dropout` is set to 0.
            batch_size: B.

        Returns:
            bool (B, H); None for a policy that is not trained with prefixes.
        """
        longest = self.config.prefix_training
        if not longest:
            return None
        delay = seeds.randint(key, (batch_size,), 0, longest + 1)
        if self.config.prefix_dropout:
            drawn = seeds.uniform(seeds.fold_in(key, _PREFIX_DROPOUT_STREAM), (batch_size,))
            delay = jnp.where(drawn < self.config.prefix_dropout, 0, delay)
        return prefix_mask(jnp.where(delay > 0, self.config.obs_horizon - 1 + delay, 0), self.config.pred_horizon)

    def plan(
        self,
        observation: Observation,
        noise: Float[Array | np.ndarray, "B H action_dim"],
        prefix: Prefix | None = None,
        *,
        delay: Int[Array, " B"] | None = None,
        guide: Guide | None = None,
    ) -> Float[Array, "B H action_dim"]:
        """Generate action chunks.

        Args:
            observation: see the class.
            noise: float32 (B, H, action_dim) ~ N(0, I).
            prefix: actions that are given; only for a policy trained with prefixes.
            delay: see `condition`; index obs_horizon - 1 is then the action so many control steps after the newest
                observation.
            guide: actions, in physical units, that the chunk is drawn to while it is generated; not of every objective.

        Returns:
            float32 (B, H, action_dim) in physical units, quaternions of unit length; grippers are not clipped.
        """
        condition = self.condition(observation, delay=delay)
        if prefix is not None:
            given = self.action_normalizer.normalize(prefix.actions)
            noise = jnp.where(prefix.is_given[..., None], given, noise)
        is_given = None if prefix is None else prefix.is_given
        if guide is not None:
            guide = guide._replace(chunk=self.action_normalizer.normalize(guide.chunk))
        chunk = self.generator.sample(jnp.asarray(noise), condition, self.config.sampling_steps, is_given, guide)
        return unit_quaternions(self.action_normalizer.unnormalize(chunk), self.spaces)


def weight_decay_mask(params: nnx.State) -> nnx.State:
    """Mask of the weights that decay: kernels of linear layers and convolutions, not biases, norms or pseudo-queries.

    Args:
        params: `nnx.state(module, nnx.Param)` (or its pure dict).

    Returns:
        The same tree with a bool at every leaf.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(str(getattr(entry, "key", "")).rpartition(".")[2] == "kernel" for entry in path), params
    )


class FrozenParts(NamedTuple):
    """Parts of a policy that training does not change: structure, frozen encoder and data statistics."""

    graph: nnx.GraphDef[Any]
    variables: nnx.State


def with_action_dim(config: PolicyConfig, spaces: RobotSpaces) -> PolicyConfig:
    """The configuration with the width of the robot's actions.

    Raises:
        ArgumentError: it names another width.
    """
    found = config.action_dim
    require(
        found in (None, spaces.action_dim),
        f"policy.action_dim is {found}, but actions of robot {spaces.name!r} have {spaces.action_dim} entries; "
        "leave it away",
    )
    return dataclasses.replace(config, action_dim=spaces.action_dim)


def build_policy(
    config: TrainConfig, spaces: RobotSpaces, env_state_dim: int, frozen_encoder: FrozenEncoder | None = None
) -> Policy:
    """Build a policy with the initial weights of `config.seed`; see `Policy` for the other arguments."""
    rngs = nnx.Rngs(params=root_key(config.seed, INIT_STREAM))
    with seeds.pinned_streams():
        return Policy(config.policy, spaces, env_state_dim, rngs=rngs, frozen_encoder=frozen_encoder)


def split_policy(policy: nnx.Module) -> tuple[FrozenParts, nnx.State, nnx.State]:
    """Split a policy, or another trainable module, into frozen parts, trainable weights and running statistics."""
    parts: Any = nnx.split(policy, nnx.Param, nnx.BatchStat, ...)
    graph, params, statistics, variables = parts
    return FrozenParts(graph, variables), params, statistics


def encoder_identity(policy: Policy) -> dict[str, Any] | None:
    """Sizes and `weights_sha256` of a policy's frozen encoder, as plain JSON types; None if it has none."""
    encoder = policy.frozen_encoder
    if isinstance(encoder, efficientnet.EfficientNetEncoder):
        return efficientnet.config_dict(encoder.sizes, encoder.fingerprint)
    return None if encoder is None else config_dict(encoder.sizes, encoder.fingerprint)


def unloaded_encoder(config: PolicyConfig, identity: dict[str, Any]) -> FrozenEncoder:
    """Build a frozen encoder of that identity, with zeros in place of its weights."""
    if isinstance(config.encoder, EfficientNetEncoderConfig):
        return efficientnet.unloaded(identity)
    assert isinstance(config.encoder, LewmEncoderConfig)
    sizes = from_dict(LewmSizes, identity["sizes"])
    zeros = {name: np.zeros(shape, np.float32) for name, shape in sizes.weight_shapes().items()}
    return LewmEncoder(
        zeros,
        sizes,
        fusion=config.encoder.fusion,
        dtype=config.encoder.dtype,
        cameras=config.encoder.cameras,
        fingerprint=identity["weights_sha256"],
    )
