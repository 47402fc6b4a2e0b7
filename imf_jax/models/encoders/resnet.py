"""The trainable vision encoder: ResNet-18 and a spatial softmax, camera pictures to keypoints.

Architecture: He et al., "Deep Residual Learning for Image Recognition" (2015), without the classifier; the spatial
softmax of Finn et al., "Deep Spatial Autoencoders for Visuomotor Learning" (2016) reads where features are. Group
normalisation in place of batch normalisation is that of Chi et al., "Diffusion Policy" (2023).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int32, Key, UInt8

from imf_jax import seeds
from imf_jax.config import ResNetEncoderConfig
from imf_jax.models.encoders.convolution import CONVOLVED, Convolution, ConvolutionForm, max_pool, on_cpu

Array = jax.Array

STAGE_STRIDES = (1, 2, 2, 2)
STEM_STRIDE = 4
"""Of the first convolution and the pool after it together [pixels]."""
BLOCKS_PER_STAGE = 2
GROUP_CHANNELS = 16
BATCH_NORM_MOMENTUM = 0.9
NORM_EPS = 1e-5

KEYPOINT_GAIN = 10.0
"""Of the first weights that find keypoints, over those of LeCun's rule.

With that rule alone softmaxes begin nearly flat, scenes move keypoints by a hundredth of a picture, and a policy first
learns to do without them; what is never used for long enough loses its gradient.
"""

_JITTER_STREAM = 1
"""Folded into the key of the augmentation, of which the crops take the key itself."""


class Norm(nnx.Module):
    """Group normalisation (16 channels a group), or batch normalisation with running statistics for evaluation."""

    def __init__(self, channels: int, kind: str, *, rngs: nnx.Rngs) -> None:
        self.batch = kind == "batch"
        if self.batch:
            self.norm: nnx.Module = nnx.BatchNorm(
                channels, momentum=BATCH_NORM_MOMENTUM, epsilon=NORM_EPS, rngs=rngs, use_running_average=True
            )
        else:
            self.norm = nnx.GroupNorm(channels, num_groups=channels // GROUP_CHANNELS, epsilon=NORM_EPS, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W channels"], training: bool) -> Float[Array, "B H W channels"]:
        """Normalise `x`, (B, H, W, channels); same shape out. In training, batch normalisation updates statistics."""
        if self.batch:
            return self.norm(x, use_running_average=not training)
        return self.norm(x)


def convolution(channels_in: int, channels_out: int, size: int, stride: int, *, rngs: nnx.Rngs) -> Convolution:
    """A bias-free convolution; kernel by He's rule (fan out)."""
    he = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
    return Convolution(channels_in, channels_out, size, stride, use_bias=False, kernel_init=he, rngs=rngs)


class BasicBlock(nnx.Module):
    """Residual block relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))."""

    def __init__(self, channels_in: int, channels: int, stride: int, norm: str, *, rngs: nnx.Rngs) -> None:
        self.conv1 = convolution(channels_in, channels, 3, stride, rngs=rngs)
        self.norm1 = Norm(channels, norm, rngs=rngs)
        self.conv2 = convolution(channels, channels, 3, 1, rngs=rngs)
        self.norm2 = Norm(channels, norm, rngs=rngs)
        self.projects = stride != 1 or channels_in != channels
        if self.projects:
            self.shortcut = convolution(channels_in, channels, 1, stride, rngs=rngs)
            self.shortcut_norm = Norm(channels, norm, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W channels_in"], training: bool) -> Float[Array, "B H_out W_out channels"]:
        """Apply the block: (B, H, W, channels_in) -> (B, H / stride, W / stride, channels)."""
        h = jax.nn.relu(self.norm1(self.conv1(x), training))
        h = self.norm2(self.conv2(h), training)
        if self.projects:
            x = self.shortcut_norm(self.shortcut(x), training)
        return jax.nn.relu(x + h)


def stage_strides(stride: int) -> tuple[int, ...]:
    """Strides of the stages up to the one whose map has a `stride`-th of a picture's height and width."""
    totals = np.cumprod((STEM_STRIDE, *STAGE_STRIDES))[1:]
    return STAGE_STRIDES[: list(totals).index(stride) + 1]


class ResNet18(nnx.Module):
    """ResNet-18 without its classifier, up to the stage whose map has a `stride`-th of a picture's height and width.

    Args:
        width: channels of the first stage; each of the others has twice as many as the one before it.
        norm: "group" or "batch".
        stride: 32 for all four stages, 16 or 8 for the first three or two [pixels].
        rngs: source of the initial weights (`params` stream).

    Attributes:
        form: of the pool after the stem, see `Convolution`.
    """

    form: ConvolutionForm = "auto"

    def __init__(self, width: int, norm: str, stride: int = 32, *, rngs: nnx.Rngs) -> None:
        self.stride = stride
        self.stem = convolution(3, width, 7, 2, rngs=rngs)
        self.stem_norm = Norm(width, norm, rngs=rngs)
        blocks, channels_in = [], width
        for stage, step in enumerate(stage_strides(stride)):
            channels = width * 2**stage
            for block in range(BLOCKS_PER_STAGE):
                blocks.append(BasicBlock(channels_in, channels, step if block == 0 else 1, norm, rngs=rngs))
                channels_in = channels
        self.blocks = nnx.List(blocks)
        self.channels = channels_in

    def __call__(
        self, pixels: Float[Array, "B H W 3"], training: bool = False
    ) -> Float[Array, "B -(-H//{self.stride}) -(-W//{self.stride}) {self.channels}"]:
        """Map of features: float32 (B, H, W, 3) -> float32 (B, ceil(H / stride), ceil(W / stride), channels)."""
        x = jax.nn.relu(self.stem_norm(self.stem(pixels), training))
        x = max_pool(x, 3, 2, self.form)
        for block in self.blocks:
            x = block(x, training)
        return x


def spatial_softmax(maps: Float[Array, "B H W K"]) -> Float[Array, "B 2*K"]:
    """Expected position of every channel under the softmax of its map, in [-1, 1] from left to right, top to bottom.

    Args:
        maps: float32 (B, H, W, K).

    Returns:
        float32 (B, 2 K): x and y of the first keypoint, then of the next.
    """
    batch, height, width, keypoints = maps.shape
    weights = jax.nn.softmax(maps.reshape(batch, height * width, keypoints), axis=1)
    weights = weights.reshape(maps.shape)
    x = jnp.einsum("bhwk,w->bk", weights, np.linspace(-1, 1, width, dtype=np.float32))
    y = jnp.einsum("bhwk,h->bk", weights, np.linspace(-1, 1, height, dtype=np.float32))
    return jnp.stack([x, y], axis=-1).reshape(batch, 2 * keypoints)


class KeypointNet(nnx.Module):
    """ResNet-18, a 1 x 1 convolution to one map per keypoint, and their spatial softmax."""

    def __init__(self, config: ResNetEncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.backbone = ResNet18(config.width, config.norm, config.stride, rngs=rngs)
        sharp = nnx.initializers.variance_scaling(KEYPOINT_GAIN**2, "fan_in", "truncated_normal")
        self.keypoint_maps = Convolution(self.backbone.channels, config.keypoints, kernel_init=sharp, rngs=rngs)

    def __call__(self, pixels: Float[Array, "B H W 3"], training: bool = False) -> Float[Array, "B features"]:
        """Keypoints: float32 (B, H, W, 3) -> float32 (B, 2 * keypoints)."""
        return spatial_softmax(self.keypoint_maps(self.backbone(pixels, training)))


def crop_offsets(
    key: Key[Array, ""] | None, windows: int, cameras: int, margin: int
) -> Int32[Array, "{windows} {cameras} 2"]:
    """Upper left corners of crops, int32 (windows, cameras, 2): at random in 0..margin, or central without a key."""
    if key is None:
        return jnp.full((windows, cameras, 2), margin // 2, jnp.int32)
    return seeds.randint(key, (windows, cameras, 2), 0, margin + 1)


def crop(
    images: UInt8[Array, "B To C H W 3"], offsets: Int32[Array, "B C 2"], size: int
) -> UInt8[Array, "B To C {size} {size} 3"]:
    """Cut a square out of every picture; all observation steps of a window and camera are cut alike.

    Moving the frames of one window against each other would look like motion.

    Args:
        images: uint8 (B, To, C, H, W, 3).
        offsets: int32 (B, C, 2), row and column of the upper left corner.
        size: side of the square [pixels].

    Returns:
        uint8 (B, To, C, size, size, 3).
    """

    def one(pictures: UInt8[Array, "To H W 3"], offset: Int32[Array, "2"]) -> UInt8[Array, "To size size 3"]:
        """`pictures`: (To, H, W, 3) of one window and camera."""
        start = (0, offset[0], offset[1], 0)
        return jax.lax.dynamic_slice(pictures, start, (pictures.shape[0], size, size, 3))

    per_camera = jax.vmap(one, in_axes=(1, 0), out_axes=1)
    return jax.vmap(per_camera)(images, offsets)


def color_jitter(
    pixels: Float[Array, "B To C H W 3"], key: Key[Array, ""], strength: float
) -> Float[Array, "B To C H W 3"]:
    """Change brightness, contrast and saturation, in this order, as torchvision's `ColorJitter` does.

    All observation steps of a window and camera are changed alike: a light that flickers would look like motion.

    Args:
        pixels: float32 (B, To, C, H, W, 3) in [0, 1].
        key: typed JAX key.
        strength: the factors are uniform in [1 - strength, 1 + strength].

    Returns:
        The same, in [0, 1].
    """
    windows, _, cameras = pixels.shape[:3]
    factors = 1 + strength * (2 * seeds.uniform(key, (3, windows, 1, cameras, 1, 1, 1)) - 1)
    brightness, contrast, saturation = factors
    pixels = jnp.clip(brightness * pixels, 0, 1)
    mean = jnp.mean(_gray(pixels), axis=(1, 3, 4), keepdims=True)
    pixels = jnp.clip(mean + contrast * (pixels - mean), 0, 1)
    gray = _gray(pixels)
    return jnp.clip(gray + saturation * (pixels - gray), 0, 1)


def _gray(pixels: Float[Array, "*batch 3"]) -> Float[Array, "*batch 1"]:
    """Luma of ITU-R BT.601."""
    return pixels @ jnp.array([[0.299], [0.587], [0.114]])


def stack(modules: list[KeypointNet]) -> KeypointNet:
    """Stack modules of one structure into one, with a leading axis on every variable."""
    graph, first = nnx.split(modules[0])
    states = [first, *(nnx.state(module) for module in modules[1:])]
    return nnx.merge(graph, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))


class ResNetEncoder(nnx.Module):
    """Encoder of camera pictures as keypoints, with one network per camera or one for all.

    Args:
        config: see there.
        rngs: source of the initial weights (`params` stream).

    Attributes:
        camera_dim: features of one camera.
    """

    def __init__(self, config: ResNetEncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.camera_dim = 2 * config.keypoints
        networks = [KeypointNet(config, rngs=rngs) for _ in range(1 if config.shared else len(config.cameras))]
        # Of several networks, one module whose variables have a leading axis of cameras.
        self.network = networks[0] if config.shared else stack(networks)

    def __call__(
        self, images: UInt8[Array | np.ndarray, "B To C H W 3"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "B To C {self.camera_dim}"]:
        """Features of every camera.

        Args:
            images: uint8 (B, To, C, H, W, 3), cameras in the order of the configuration.
            key: typed JAX key of the random crops and colours of training; without one, centre crops and, with batch
                normalisation, running statistics.

        Returns:
            float32 (B, To, C, camera_dim).
        """
        windows, steps, cameras = images.shape[:3]
        size, training = self.config.crop_size, key is not None
        offsets = crop_offsets(key, windows, cameras, images.shape[3] - size)
        cut = crop(jnp.asarray(images), offsets, size)
        if key is not None and self.config.jitter > 0:
            jitter_key = seeds.fold_in(key, _JITTER_STREAM)
            pixels = 2.0 * color_jitter(cut.astype(jnp.float32) / 255.0, jitter_key, self.config.jitter) - 1.0
        else:
            pixels = cut.astype(jnp.float32) / 127.5 - 1.0
        pixels = jnp.moveaxis(pixels, 2, 0).reshape(cameras, windows * steps, size, size, 3)
        if self.config.shared:
            features = self.network(pixels.reshape(-1, size, size, 3), training)
        else:
            features = self._camera_by_camera(pixels, training)
        return jnp.moveaxis(features.reshape(cameras, windows, steps, self.camera_dim), 0, 2)

    def _camera_by_camera(
        self, pixels: Float[Array, "C B H W 3"], training: bool
    ) -> Float[Array, "C B {self.camera_dim}"]:
        """float32 (C, B, H, W, 3) -> (C, B, camera_dim). A loop, so that one network is compiled and not C."""
        graph, stacked = nnx.split(self.network)

        def one(
            _: None, inputs: tuple[nnx.State, Float[Array, "B H W 3"]]
        ) -> tuple[None, tuple[nnx.State, Float[Array, "B features"]]]:
            network = nnx.merge(graph, inputs[0])
            features = network(inputs[1], training)
            return None, (nnx.state(network, nnx.BatchStat), features)

        # What a loop keeps for its gradient is copied into and out of arrays of all cameras. On CPUs that takes longer
        # than to compute all but the convolutions once more.
        keep = jax.checkpoint_policies.save_only_these_names(CONVOLVED)
        body = jax.checkpoint(one, policy=keep, prevent_cse=False) if on_cpu("auto") else one
        _, (statistics, features) = jax.lax.scan(body, None, (stacked, pixels))
        if training:
            nnx.update(self.network, statistics)
        return features
