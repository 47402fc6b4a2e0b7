"""Encoders of observations as condition tokens of the head.

Per observation step a token is the concatenation of visual features first, then robot state, then scene state; each
encoder takes the parts it has, and one that sees does not take the scene state. A conditioning says its `dim` and
`tokens_per_step`; the policy sizes the head by them.

Pictures are uint8 (B, To, C, H, W, 3), To observations of C cameras in the order of the encoder's configuration.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Float16, Key, Shaped

from imf_jax.config import (
    EfficientNetEncoderConfig,
    LewmEncoderConfig,
    PolicyConfig,
    ResNetEncoderConfig,
    StateEncoderConfig,
    require,
)
from imf_jax.errors import ArgumentError, UserError
from imf_jax.models.encoders import efficientnet, lewm
from imf_jax.models.encoders.resnet import ResNetEncoder, spatial_softmax
from imf_jax.models.normalizer import Normalizer
from imf_jax.sim import quaternions
from imf_jax.spaces import RobotSpaces

Array = jax.Array
Observation = Mapping[str, Array | np.ndarray]
FrozenEncoder = lewm.LewmEncoder | efficientnet.EfficientNetEncoder

POSE = 7
"""Entries of a pose in a scene state: position and quaternion wxyz."""

FAR = 5.0
"""Second scale of `relative_poses`, in units of the first: what a hand holds may lie that far from its frame."""

RADIANS_PER_METRE = 10.0
"""Angle that weighs as much as a distance in `relative_poses`: a radian turns what is 10 cm away by as much [rad/m]."""


class Conditioning(Protocol):
    """Interface of an encoder of observations.

    Attributes:
        dim: channels of a condition token.
        tokens_per_step: condition tokens per observation step.
        reads: the entries of an observation that it needs to act.
    """

    dim: int
    tokens_per_step: int
    reads: tuple[str, ...]

    def __call__(self, observation: Observation, key: Key[Array, ""] | None = None) -> Float[Array, "B Nc {self.dim}"]:
        """Normalised condition, float32 (B, obs_horizon * tokens_per_step, dim), oldest observation first.

        Args:
            observation: holds what `reads` names.
            key: typed JAX key of the augmentation, given in training only.
        """
        ...

    def set_statistics(self, stats: Mapping[str, Mapping[str, Any]]) -> None:
        """Set the statistics of the demonstrations, see `Policy.set_statistics`."""
        ...


class FrozenConditioning(Conditioning, Protocol):
    """Interface of a conditioning whose encoder is frozen, so that its features of pictures can be cached.

    Reads `images`, or in their place `features` (B, To, *feature_shape), what `embed` makes of such pictures.

    Attributes:
        encoder: the frozen encoder.
        feature_shape: of the features of one observation step.
        feature_dtype: their type.
        output: what of the encoder they are, "" for its only or first output; caches tell them apart by it.
    """

    encoder: FrozenEncoder
    output: str
    feature_shape: tuple[int, ...]
    feature_dtype: np.dtype

    def embed(self, images: Shaped[Array | np.ndarray, "*batch C H W 3"]) -> Shaped[Array, "*batch_and_feature"]:
        """Features (..., *feature_shape) of pictures uint8 (..., C, H, W, 3).

        Raises:
            UserError: the pictures are not of the kind that the policy reads.
        """
        ...


def require_statistics(stats: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Statistics of one array of the demonstrations.

    Raises:
        UserError: they are not there.
    """
    if name not in stats:
        raise UserError(f"statistics have no {name!r} (they have {', '.join(stats) or 'nothing'}); collect them again")
    return stats[name]


def relative_poses(poses: Float[Array, "*batch N 7"], near: float) -> Float[Array, "*batch 12*(N*(N-1)//2)"]:
    """Each of the poses in the frame of those before it, at two scales, in [-1, 1].

    Args:
        poses: (..., N, 7) positions [m] and unit quaternions wxyz.
        near: distance at which a coordinate is cut off [m], and `FAR` times that for the second scale; angles are at
            `RADIANS_PER_METRE` times these [rad].

    Returns:
        (..., 12 P) of P pairs: for both scales position, then rotation vector (of small angles), each divided by where
        it is cut off.
    """
    parts = []
    for first in range(poses.shape[-2]):
        for second in range(first + 1, poses.shape[-2]):
            relative = quaternions.compose(quaternions.invert(poses[..., first, :]), poses[..., second, :])
            angles = 2 * relative[..., 4:] * jnp.where(relative[..., 3:4] < 0, -1.0, 1.0)
            for scale in (near, FAR * near):
                parts += [relative[..., :3] / scale, angles / (RADIANS_PER_METRE * scale)]
    return jnp.clip(jnp.concatenate(parts, axis=-1), -1.0, 1.0)


class StateConditioning(nnx.Module):
    """Robot state (B, To, S), then the task's scene state (B, To, E), one token per step.

    Then, where the configuration asks for them, `relative_poses` of the scene state.
    """

    tokens_per_step = 1
    reads: tuple[str, ...] = ("state", "env_state")

    def __init__(self, config: PolicyConfig, state_dim: int, env_state_dim: int) -> None:
        assert isinstance(config.encoder, StateEncoderConfig)
        self._near, poses = config.encoder.relative_poses, env_state_dim // POSE
        require(
            self._near is None or (env_state_dim == poses * POSE and poses > 1),
            f"encoder.relative_poses needs a scene state of two or more poses of {POSE} entries, but that of the task "
            f"has {env_state_dim}; leave it away",
        )
        pairs = poses * (poses - 1) // 2 if self._near else 0
        self.dim = state_dim + env_state_dim + 12 * pairs
        self.state = Normalizer(state_dim, config.normalization)
        self.env_state = Normalizer(env_state_dim, config.normalization)

    def __call__(self, observation: Observation, key: Key[Array, ""] | None = None) -> Float[Array, "B Nc {self.dim}"]:
        """Condition; see `Conditioning`."""
        parts = [self.state.normalize(observation["state"]), self.env_state.normalize(observation["env_state"])]
        if self._near is not None:
            env_state = jnp.asarray(observation["env_state"])
            parts.append(relative_poses(env_state.reshape(*env_state.shape[:-1], -1, POSE), self._near))
        return jnp.concatenate(parts, axis=-1)

    def set_statistics(self, stats: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Set the statistics of robot state and scene state; see `Policy.set_statistics`."""
        self.state.set_statistics("qpos", require_statistics(stats, "qpos"))
        self.env_state.set_statistics("env_state", require_statistics(stats, "env_state"))


class LewmConditioning(nnx.Module):
    """One embedding of all views by the frozen encoder, then robot state (B, To, S); one token per step.

    Reads `images`, or in their place `features` float32 (B, To, joint_output_dim), the embeddings of such pictures.

    Args:
        config: of the policy.
        state_dim: entries S of the robot state.
        encoder: the frozen encoder, with the fusion of the configuration.

    Attributes:
        joint_output_dim: channels of the embedding that all views share.
    """

    tokens_per_step = 1
    reads: tuple[str, ...] = ("state", "images")
    output = ""

    def __init__(self, config: PolicyConfig, state_dim: int, encoder: lewm.LewmEncoder) -> None:
        assert isinstance(config.encoder, LewmEncoderConfig)
        self.encoder = encoder
        self.joint_output_dim = encoder.joint_output_dim
        self.feature_shape, self.feature_dtype = (self.joint_output_dim,), np.dtype(np.float32)
        self.dim = self.joint_output_dim + state_dim
        self.state = Normalizer(state_dim, config.normalization)
        self._config = config.encoder

    def __call__(self, observation: Observation, key: Key[Array, ""] | None = None) -> Float[Array, "B Nc {self.dim}"]:
        """Condition; see `Conditioning`."""
        features = observation["features"] if "features" in observation else self.embed(observation["images"])
        return jnp.concatenate([features, self.state.normalize(observation["state"])], axis=-1)

    def embed(
        self, images: Shaped[Array | np.ndarray, "*batch C H W 3"]
    ) -> Float[Array, "*batch {self.joint_output_dim}"]:
        """Embeddings, float32 (..., joint_output_dim), of pictures uint8 (..., C, H, W, 3).

        Raises:
            UserError: the pictures are not of the kind that the policy reads.
        """
        check_pictures(images, self._config)
        pictures = images.reshape(-1, *images.shape[-4:])
        embedded = self.encoder({camera: pictures[:, i] for i, camera in enumerate(self._config.cameras)})
        return embedded.reshape(*images.shape[:-4], self.joint_output_dim)

    def set_statistics(self, stats: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Set the statistics of the robot state; see `Policy.set_statistics`."""
        self.state.set_statistics("qpos", require_statistics(stats, "qpos"))


class ResNetConditioning(nnx.Module):
    """Keypoints of every camera, then robot state (B, To, S): one token per step, or one per camera and step."""

    reads: tuple[str, ...] = ("state", "images")

    def __init__(self, config: PolicyConfig, state_dim: int, *, rngs: nnx.Rngs) -> None:
        assert isinstance(config.encoder, ResNetEncoderConfig)
        self._config = config.encoder
        self.encoder = ResNetEncoder(config.encoder, rngs=rngs)
        self.state = Normalizer(state_dim, config.normalization)
        cameras = len(config.encoder.cameras)
        self.tokens_per_step = cameras if config.encoder.token_per_camera else 1
        self.dim = self.encoder.camera_dim * (cameras // self.tokens_per_step) + state_dim

    def __call__(self, observation: Observation, key: Key[Array, ""] | None = None) -> Float[Array, "B Nc {self.dim}"]:
        """Condition; see `Conditioning`."""
        check_pictures(observation["images"], self._config)
        features = self.encoder(observation["images"], key)
        batch, steps = features.shape[:2]
        features = features.reshape(batch, steps, self.tokens_per_step, -1)
        state = self.state.normalize(observation["state"])[:, :, None]
        state = jnp.broadcast_to(state, (*features.shape[:3], state.shape[-1]))
        return jnp.concatenate([features, state], axis=-1).reshape(batch, -1, self.dim)

    def set_statistics(self, stats: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Set the statistics of the robot state; see `Policy.set_statistics`."""
        self.state.set_statistics("qpos", require_statistics(stats, "qpos"))


class KeypointConditioning(nnx.Module):
    """Keypoints in the frozen maps of every camera, then robot state (B, To, S); one token per step.

    A 1 x 1 convolution per camera makes a map per keypoint, whose spatial softmax is its position; these convolutions
    are trained. They have no bias, which a spatial softmax would not see. Reads `images`, or in their place `features`
    float16 (B, To, C, h, w, channels), the frozen maps of such pictures.

    Args:
        config: of the policy.
        state_dim: entries S of the robot state.
        encoder: the frozen encoder.
        rngs: source of the initial weights (`params` stream).
    """

    tokens_per_step = 1
    reads: tuple[str, ...] = ("state", "images")

    def __init__(self, config: PolicyConfig, state_dim: int, encoder: FrozenEncoder, *, rngs: nnx.Rngs) -> None:
        assert isinstance(config.encoder, EfficientNetEncoderConfig | LewmEncoderConfig)
        self._config = config.encoder
        self.encoder = encoder
        self.output = "patches" if isinstance(config.encoder, LewmEncoderConfig) else ""
        self.feature_shape = encoder.map_shape(len(config.encoder.cameras), config.encoder.image_size)
        self.feature_dtype = np.dtype(np.float16)
        cameras, _, _, channels = self.feature_shape
        self.state = Normalizer(state_dim, config.normalization)
        self.dim = cameras * 2 * config.encoder.keypoints + state_dim
        # Softmaxes should begin soft, but not flat: maps of EfficientNet vary by 2.6 over time, patch tokens by 0.23.
        spread = 0.2 if self.output == "patches" else 0.02
        initial = nnx.initializers.normal(spread)(rngs.params(), (cameras, channels, config.encoder.keypoints))
        self.keypoint_maps = nnx.Dict(kernel=nnx.Param(initial))

    def __call__(self, observation: Observation, key: Key[Array, ""] | None = None) -> Float[Array, "B Nc {self.dim}"]:
        """Condition; see `Conditioning`."""
        features = observation["features"] if "features" in observation else self.embed(observation["images"])
        maps = jnp.einsum("btchwf,cfk->btchwk", jnp.asarray(features, jnp.float32), self.keypoint_maps.kernel[...])
        batch, steps, cameras, height, width, keypoints = maps.shape
        positions = spatial_softmax(maps.reshape(-1, height, width, keypoints))
        positions = positions.reshape(batch, steps, cameras * 2 * keypoints)
        return jnp.concatenate([positions, self.state.normalize(observation["state"])], axis=-1)

    def embed(
        self, images: Shaped[Array | np.ndarray, "*batch C H W 3"]
    ) -> Float16[Array, "*batch {self.feature_shape[0]} h w channels"]:
        """Frozen maps; see `FrozenConditioning`."""
        check_pictures(images, self._config)
        maps = self.encoder.maps(images.reshape(-1, *images.shape[-4:]))
        return maps.reshape(*images.shape[:-4], *self.feature_shape)

    def set_statistics(self, stats: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Set the statistics of the robot state; see `Policy.set_statistics`."""
        self.state.set_statistics("qpos", require_statistics(stats, "qpos"))


def check_pictures(
    images: Array | np.ndarray, config: LewmEncoderConfig | ResNetEncoderConfig | EfficientNetEncoderConfig
) -> None:
    """Refuse pictures of another type, size or number of cameras than the policy was made for.

    Raises:
        UserError: says what there is and what is needed.
    """
    expected = (len(config.cameras), config.image_size, config.image_size, 3)
    if images.dtype != np.uint8:
        raise UserError(f"camera pictures are {images.dtype}; give uint8 pictures with values 0..255")
    if images.shape[-4:] != expected:
        raise UserError(
            f"camera pictures are {images.shape[-4:]} (cameras, height, width, RGB), but this policy reads {expected}; "
            f"make pictures of {', '.join(config.cameras)} at {config.image_size} pixels"
        )


def build_conditioning(
    config: PolicyConfig,
    spaces: RobotSpaces,
    env_state_dim: int,
    frozen_encoder: FrozenEncoder | None,
    *,
    rngs: nnx.Rngs,
) -> Conditioning:
    """Build the conditioning of `config.encoder`.

    Args:
        config: of the policy.
        spaces: action and state of the robot.
        env_state_dim: channels of the task's scene state.
        frozen_encoder: the one of the configuration; by default it is loaded from its folder or package.
        rngs: source of the initial weights (`params` stream).

    Raises:
        ArgumentError: there is no such kind of encoder, or the package with its weights is missing.
        UserError: the folder holds no frozen encoder.
    """
    if isinstance(config.encoder, StateEncoderConfig):
        return StateConditioning(config, spaces.state_dim, env_state_dim)
    if isinstance(config.encoder, LewmEncoderConfig):
        wanted = config.encoder
        encoder = frozen_encoder or lewm.load(
            wanted.weights,
            fusion=wanted.fusion,
            cameras=wanted.cameras,
            image_size=wanted.image_size,
            dtype=wanted.dtype,
        )
        assert isinstance(encoder, lewm.LewmEncoder)
        if wanted.features == "patches":
            return KeypointConditioning(config, spaces.state_dim, encoder, rngs=rngs)
        return LewmConditioning(config, spaces.state_dim, encoder)
    if isinstance(config.encoder, EfficientNetEncoderConfig):
        maps = frozen_encoder or efficientnet.load(config.encoder.stride)
        assert isinstance(maps, efficientnet.EfficientNetEncoder)
        return KeypointConditioning(config, spaces.state_dim, maps, rngs=rngs)
    if isinstance(config.encoder, ResNetEncoderConfig):
        return ResNetConditioning(config, spaces.state_dim, rngs=rngs)
    raise ArgumentError(f"policy.encoder {type(config.encoder).__name__} is not known; see imf_jax.config")
