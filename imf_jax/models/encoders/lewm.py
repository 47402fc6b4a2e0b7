"""The frozen LEWM encoder: three camera views (or one picture) to one embedding.

A vision transformer's class token goes through a projector: linear, batch normalisation with its running statistics,
exact GELU, linear. `converters/lewm.py` makes the folder that `load` reads from a PyTorch checkpoint.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx
from jaxtyping import Float, Float16, Shaped, UInt8

from imf_jax.config import from_dict
from imf_jax.errors import UserError
from imf_jax.files import require_no_lfs_pointer
from imf_jax.models.encoders.preprocess import (
    VIEW_ORDER,
    Fusion,
    check_images,
    fuse_views,
    fused_shape,
    preprocess,
    resized_shape,
    views_of_map,
)
from imf_jax.models.encoders.vit import VitSizes, class_feature, gelu, linear, patch_map

Array = jax.Array
Output = Literal["embedding", "class", "patches"]
"""What is computed: the projector's embedding, the class token before it, or the map of patch tokens."""

FORMAT = "imf_jax.lewm"
FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
FUSIONS = (None, "row", "grid")
ENCODED_TOKENS = 2**16
"""Tokens encoded at once: enough to fill an accelerator; the scores of their attention stay below 2 GB."""

DTYPES = (np.dtype(jnp.float32), np.dtype(jnp.bfloat16))


@dataclass(frozen=True)
class LewmSizes:
    """Sizes of the encoder.

    Attributes:
        vit: the vision transformer.
        projector_hidden: channels between the projector's two linear layers.
        output: channels of an embedding.
        batch_norm_eps: added to the projector's running variance.
    """

    vit: VitSizes
    projector_hidden: int
    output: int
    batch_norm_eps: float = 1e-5

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight, those of the projector last; matrices are (in, out)."""
        inner = (self.projector_hidden,)
        return {
            **self.vit.weight_shapes(),
            "projector.in.kernel": (self.vit.hidden, self.projector_hidden),
            "projector.in.bias": inner,
            "projector.norm.scale": inner,
            "projector.norm.bias": inner,
            "projector.norm.mean": inner,
            "projector.norm.var": inner,
            "projector.out.kernel": (self.projector_hidden, self.output),
            "projector.out.bias": (self.output,),
        }


class Frozen(nnx.Variable[Array]):
    """Frozen weight: no `nnx.Param`, so that no optimizer, gradient or statistics update touches it."""


class Moments(NamedTuple):
    """Mean and variance of the channels inside a projector, each float32 (projector_hidden,)."""

    mean: Float[Array, " C"]
    var: Float[Array, " C"]


def project(
    weights: Mapping[str, Array], feature: Float[Array, "B hidden"], eps: float, dtype: jnp.dtype
) -> Float[Array, "B output"]:
    """Apply the projector with its running statistics: float32 (B, hidden) -> float32 (B, output)."""
    moments = Moments(weights["projector.norm.mean"], weights["projector.norm.var"])
    return _normalised_output(weights, _hidden(weights, feature, dtype), moments, eps, dtype)


def project_batch(
    weights: Mapping[str, Array], feature: Float[Array, "B hidden"], eps: float, dtype: jnp.dtype
) -> tuple[Float[Array, "B output"], Moments]:
    """Apply the projector as in training, with the statistics of the batch.

    Returns:
        float32 (B, output), and the moments for running statistics: the variance there is the unbiased one.
    """
    h = _hidden(weights, feature, dtype)
    mean = jnp.mean(h, axis=0)
    var = jnp.mean(jnp.square(h - mean), axis=0)
    rows = h.shape[0]
    moments = Moments(mean, var * (rows / max(rows - 1, 1)))
    return _normalised_output(weights, h, Moments(mean, var), eps, dtype), jax.lax.stop_gradient(moments)


def _hidden(
    weights: Mapping[str, Array], feature: Float[Array, "B hidden"], dtype: jnp.dtype
) -> Float[Array, "B inner"]:
    return linear(feature, weights["projector.in.kernel"], weights["projector.in.bias"], dtype)


def _normalised_output(
    weights: Mapping[str, Array], h: Float[Array, "B inner"], moments: Moments, eps: float, dtype: jnp.dtype
) -> Float[Array, "B output"]:
    inverse_std = jax.lax.rsqrt(moments.var + eps)
    h = (h - moments.mean) * (inverse_std * weights["projector.norm.scale"])
    h = gelu(h + weights["projector.norm.bias"])
    return linear(h, weights["projector.out.kernel"], weights["projector.out.bias"], dtype)


def tokens_of_picture(sizes: LewmSizes, height: int, width: int) -> int:
    """Tokens of a picture of that size [pixels] before preprocessing."""
    return sizes.vit.num_tokens(*resized_shape(height, width, sizes.vit.image_size))


def pictures_at_once(sizes: LewmSizes, height: int, width: int) -> int:
    """Pictures of that size [pixels] that are encoded at once."""
    return max(1, ENCODED_TOKENS // tokens_of_picture(sizes, height, width))


@partial(jax.jit, static_argnames=("sizes", "dtype", "output"))
def encode(
    weights: Mapping[str, Array], images: UInt8[Array, "B H W 3"], sizes: LewmSizes, dtype: jnp.dtype, output: Output
) -> Shaped[Array, "*batch_and_feature"]:
    """Preprocess uint8 (B, H, W, 3) and encode: float32 (B, output) or (B, hidden); patches float16 (B, h, w, hidden).

    More than `pictures_at_once` are encoded in equal blocks, one after the other.
    """

    def encode_block(images: UInt8[Array, "block H W 3"]) -> Shaped[Array, "*batch_and_feature"]:
        pixels = preprocess(images, sizes.vit.image_size)
        if output == "patches":
            return patch_map(weights, pixels, sizes.vit, dtype).astype(jnp.float16)
        feature = class_feature(weights, pixels, sizes.vit, dtype)
        return project(weights, feature, sizes.batch_norm_eps, dtype) if output == "embedding" else feature

    batch, height, width, _ = images.shape
    num_blocks = -(-batch // pictures_at_once(sizes, height, width))
    if num_blocks <= 1:
        return encode_block(images)
    block = -(-batch // num_blocks)
    padded = jnp.pad(images, ((0, num_blocks * block - batch), (0, 0), (0, 0), (0, 0)))
    features = jax.lax.map(encode_block, padded.reshape(num_blocks, block, height, width, 3))
    return features.reshape(num_blocks * block, *features.shape[2:])[:batch]


@dataclass(frozen=True)
class TrainingPictures:
    """Pictures that an encoder was pre-trained on here; converted encoders do not say theirs.

    Attributes:
        cameras: in the order in which they are laid out.
        fusion: their layout.
        image_size: height and width of a camera's picture [pixels].
    """

    cameras: tuple[str, ...]
    fusion: Fusion
    image_size: int


class LewmEncoder(nnx.Module):
    """Frozen encoder and projector.

    Without a fusion, it takes uint8 (B, image_size, image_size, 3). With one, it takes a mapping of camera name to
    uint8 (B, H, W, 3) that holds the cameras in any order, see `fuse_views`.

    Args:
        weights: as `sizes.weight_shapes()`.
        sizes: of the encoder.
        fusion: layout of the views in one picture, or None for one picture.
        cameras: names of the views, in the order in which they are laid out.
        dtype: float32, or bfloat16 for the operands of matrix products: faster on accelerators, less exact. On a CPU,
            with random weights of the published sizes, the error is 0.9 % of an embedding's norm; with trained weights
            it is not measured.
        fingerprint: names these weights, for caches of embeddings.

    Attributes:
        joint_output_dim: channels of the one embedding that all views share.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        sizes: LewmSizes,
        *,
        fusion: Fusion | None = None,
        cameras: tuple[str, ...] = VIEW_ORDER,
        dtype: Any = jnp.float32,
        fingerprint: str = "",
    ) -> None:
        if fusion not in FUSIONS:
            raise UserError(f"fusion {fusion!r} is not known; use 'row', 'grid' or None")
        if np.dtype(dtype) not in DTYPES:
            raise UserError(f"dtype {np.dtype(dtype)} is not supported; use float32 or bfloat16")
        self.sizes = sizes
        self.fusion = fusion
        self.cameras = cameras
        self.dtype = np.dtype(dtype)
        self.fingerprint = fingerprint
        self.joint_output_dim = sizes.output
        self.weights = nnx.data({name: Frozen(jnp.asarray(value, jnp.float32)) for name, value in weights.items()})

    def __call__(
        self, images: Array | np.ndarray | Mapping[str, Array | np.ndarray]
    ) -> Float[Array, "B {self.joint_output_dim}"]:
        """Embeddings, float32 (B, joint_output_dim), without gradient.

        Raises:
            UserError: a camera is missing, or a picture has a wrong dtype, size or channel count.
        """
        return self._encode(images, "embedding")

    def class_feature(
        self, images: Array | np.ndarray | Mapping[str, Array | np.ndarray]
    ) -> Float[Array, "B {self.sizes.vit.hidden}"]:
        """The class token before the projector, float32 (B, hidden), without gradient; errors as for a call."""
        return self._encode(images, "class")

    def maps(self, images: UInt8[Array | np.ndarray, "B C H W 3"]) -> Float16[Array, "B C h w {self.sizes.vit.hidden}"]:
        """Maps of the patch tokens of each view, without gradient, in the form in which they are cached.

        Args:
            images: uint8 (B, C, H, W, 3), the cameras in their order.

        Returns:
            float16 (B, C, h, w, hidden).

        Raises:
            UserError: a picture has a wrong dtype, size or channel count.
        """
        assert self.fusion is not None
        fused = self._encode({camera: images[:, i] for i, camera in enumerate(self.cameras)}, "patches")
        return views_of_map(fused, self.fusion, len(self.cameras))

    def map_shape(self, num_cameras: int, image_size: int) -> tuple[int, int, int, int]:
        """Shape (C, h, w, hidden) of `maps` of pictures of C cameras of that height and width [pixels].

        Raises:
            UserError: patches lie across the borders of the views.
        """
        height, width = fused_shape(image_size, self.fusion, num_cameras)
        vit = self.sizes.vit
        rows, columns = (side // vit.patch for side in resized_shape(height, width, vit.image_size))
        cells = (rows * image_size // height, columns * image_size // width)
        if rows * image_size % height or columns * image_size % width:
            raise UserError(
                f"{rows} x {columns} patches of fusion {self.fusion!r} do not divide among {num_cameras} views; "
                "use --policy.encoder.features embedding"
            )
        return (num_cameras, *cells, vit.hidden)

    def block_memory(self, image_size: int) -> tuple[int, int]:
        """Memory [bytes], about, for a picture that is being encoded, and how many are encoded at once.

        Args:
            image_size: height and width of the camera pictures [pixels].
        """
        shape = fused_shape(image_size, self.fusion, len(self.cameras))
        tokens = tokens_of_picture(self.sizes, *shape)
        return self.sizes.vit.picture_bytes(tokens), pictures_at_once(self.sizes, *shape)

    def _encode(
        self, images: Array | np.ndarray | Mapping[str, Array | np.ndarray], output: Output
    ) -> Shaped[Array, "*batch_and_feature"]:
        picture = self._picture(images)
        weights = {name: jax.lax.stop_gradient(variable[...]) for name, variable in self.weights.items()}
        feature: Array = encode(weights, picture, self.sizes, self.dtype, output)
        return jax.lax.stop_gradient(feature)

    def _picture(self, images: Array | np.ndarray | Mapping[str, Array | np.ndarray]) -> UInt8[Array, "B H W 3"]:
        if isinstance(images, Mapping):
            if self.fusion is None:
                raise UserError("this encoder takes one picture; load it with fusion='row' or 'grid' for camera views")
            return fuse_views(images, self.fusion, self.cameras)
        if self.fusion is not None:
            raise UserError(f"fusion {self.fusion!r} needs a mapping of camera name to pictures, not one array")
        check_images(images)
        side = self.sizes.vit.image_size
        if images.shape[1:3] != (side, side):
            height, width = images.shape[1:3]
            raise UserError(f"images are {height}x{width}; this encoder takes {side}x{side} (height x width) pictures")
        return jnp.asarray(images)


def sha256(data: bytes) -> str:
    """Hex digest of a file's content."""
    return hashlib.sha256(data).hexdigest()


def config_dict(sizes: LewmSizes, weights_sha256: str, trained_on: TrainingPictures | None = None) -> dict[str, Any]:
    """Content of `config.json` beside the weights."""
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "weights_sha256": weights_sha256}
    known = {} if trained_on is None else {"trained_on": dataclasses.asdict(trained_on)}
    return {**head, "sizes": dataclasses.asdict(sizes), **known}


def encoder_files(
    weights: Mapping[str, np.ndarray], sizes: LewmSizes, trained_on: TrainingPictures | None = None
) -> dict[str, bytes]:
    """Files of the folder that `load` reads, by name; the last one completes it.

    Args:
        weights: as `sizes.weight_shapes()`.
        sizes: of the encoder.
        trained_on: see `TrainingPictures`.
    """
    # With the sizes inside, the hash of this file also tells apart networks that differ in heads alone.
    content = safetensors.numpy.save(dict(weights), {"sizes": json.dumps(dataclasses.asdict(sizes))})
    config = config_dict(sizes, sha256(content), trained_on)
    return {WEIGHTS_FILE: content, CONFIG_FILE: (json.dumps(config, indent=2, allow_nan=False) + "\n").encode()}


def load(
    path: str | Path,
    *,
    fusion: Fusion | None = None,
    cameras: tuple[str, ...] = VIEW_ORDER,
    image_size: int | None = None,
    dtype: Any = jnp.float32,
) -> LewmEncoder:
    """Load an encoder.

    Args:
        path: folder that `converters/lewm.py` or `scripts/pretrain.py` wrote.
        fusion: see `LewmEncoder`.
        cameras: see `LewmEncoder`.
        image_size: height and width of the pictures of a camera that it is for [pixels]; None for any.
        dtype: see `LewmEncoder`.

    Returns:
        The encoder, a callable.

    Raises:
        UserError: the folder is missing, holds something else, its files do not belong together, or it was pre-trained
            on other pictures.
    """
    folder = Path(path)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        require_no_lfs_pointer(folder / name)
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        data = (folder / WEIGHTS_FILE).read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no LEWM encoder; make one with converters/lewm.py ({error})") from error
    if not isinstance(config, dict) or (config.get("format"), config.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise UserError(f"{folder / CONFIG_FILE} is not {FORMAT} version {FORMAT_VERSION}; convert the weights again")
    digest = sha256(data)
    if digest != config.get("weights_sha256"):
        raise UserError(f"{folder / WEIGHTS_FILE} does not belong to its {CONFIG_FILE} (sha256 differs); convert again")
    try:
        sizes = from_dict(LewmSizes, config.get("sizes"))
        weights = safetensors.numpy.load(data)
        known = config.get("trained_on")
        trained_on = None if known is None else from_dict(TrainingPictures, known)
    except (UserError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{folder} is damaged; convert the weights again ({error})") from error
    shapes = {name: value.shape for name, value in weights.items()}
    if shapes != sizes.weight_shapes():
        raise UserError(f"{folder}: the tensors do not have the sizes in {CONFIG_FILE}; convert the weights again")
    if trained_on is not None and fusion is not None:
        _require_same_pictures(
            folder, trained_on, TrainingPictures(cameras, fusion, image_size or trained_on.image_size)
        )
    return LewmEncoder(weights, sizes, fusion=fusion, cameras=cameras, dtype=dtype, fingerprint=digest)


def _require_same_pictures(folder: Path, trained_on: TrainingPictures, wanted: TrainingPictures) -> None:
    """Refuse an encoder that was pre-trained on other pictures than those it shall read."""
    if trained_on == wanted:
        return
    this, other = (
        f"cameras {' '.join(pictures.cameras)}, fusion {pictures.fusion}, {pictures.image_size} pixels"
        for pictures in (trained_on, wanted)
    )
    raise UserError(
        f"the encoder in {folder} was pre-trained on {this}, not {other}; set --policy.encoder.cameras, "
        "--policy.encoder.fusion and --policy.encoder.image-size to match it"
    )
