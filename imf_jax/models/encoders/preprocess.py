"""Preprocessing of pictures for a frozen vision encoder: view fusion, scaling to [0, 1], mean and std, resizing."""

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from imf_jax.config.base import GRID_PLACES
from imf_jax.errors import UserError
from imf_jax.models.encoders.resample import antialiased_bilinear, resample

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

VIEW_ORDER = ("r_vis", "top", "front")
"""Cameras of the published LEWM encoder, in the order in which they are laid out."""

Fusion = Literal["row", "grid"]

Array = jax.Array


def check_images(images: Array | np.ndarray, what: str = "images") -> None:
    """Refuse anything but uint8 (B, H, W, 3).

    Raises:
        UserError: wrong dtype, rank, channel count, or an empty picture.
    """
    shape, dtype = tuple(getattr(images, "shape", ())), getattr(images, "dtype", type(images).__name__)
    if len(shape) != 4 or shape[-1] != 3 or 0 in shape[1:]:
        raise UserError(f"{what} have shape {shape}; give RGB pictures (batch, height, width, 3)")
    if dtype != np.uint8:
        raise UserError(f"{what} are {dtype}; give uint8 pictures with values 0..255")


def fuse_views(
    views: Mapping[str, Array | np.ndarray], fusion: Fusion, cameras: Sequence[str] = VIEW_ORDER
) -> UInt8[Array, "B H W 3"]:
    """One picture from the views of the cameras, in their order.

    The layout that LEWM was trained with is not published, so both layouts are this project's choice:
    `row` puts the views side by side; `grid` is 2 x 2, r_vis | top over front | black. One view alone is the picture.

    Args:
        views: camera name -> uint8 (B, H, W, 3), one size for all; other cameras are not read.
        fusion: the layout.
        cameras: their names, at most `GRID_PLACES` for `grid`.

    Returns:
        uint8 (B, H, C W, 3) for `row` of C cameras, (B, 2 H, 2 W, 3) for `grid`, (B, H, W, 3) of one camera.

    Raises:
        UserError: a camera is missing, or the views differ in size or are no RGB uint8 pictures.
    """
    missing = [name for name in cameras if name not in views]
    if missing:
        raise UserError(f"camera {', '.join(missing)} is missing (there are {', '.join(views) or 'none'})")
    for name in cameras:
        check_images(views[name], f"pictures of camera {name}")
    shapes = {name: tuple(views[name].shape) for name in cameras}
    if len(set(shapes.values())) > 1:
        raise UserError(f"the views differ in shape: {shapes}; record all cameras at one size")
    pictures = [jnp.asarray(views[name]) for name in cameras]
    if fusion == "row" or len(pictures) == 1:
        return jnp.concatenate(pictures, axis=2)
    pictures += [jnp.zeros_like(pictures[0])] * (GRID_PLACES - len(pictures))
    upper, lower = jnp.concatenate(pictures[:2], axis=2), jnp.concatenate(pictures[2:], axis=2)
    return jnp.concatenate([upper, lower], axis=1)


def views_of_map(
    fused: Shaped[Array, "B h w F"], fusion: Fusion, num_views: int
) -> Shaped[Array, "B {num_views} h_view w_view F"]:
    """The parts of a map of features that belong to each view of a fused picture, in the order of the views.

    Args:
        fused: (B, h, w, F), a map of the picture that `fuse_views` makes.
        fusion: its layout.
        num_views: views in it.

    Returns:
        (B, num_views, h, w / num_views, F) for `row`, (B, num_views, h / 2, w / 2, F) for `grid`.
    """
    rows, columns = (1, num_views) if fusion == "row" or num_views == 1 else (2, 2)
    batch, height, width, channels = fused.shape
    cut = fused.reshape(batch, rows, height // rows, columns, width // columns, channels)
    views = jnp.transpose(cut, (0, 1, 3, 2, 4, 5))
    return views.reshape(batch, rows * columns, *views.shape[3:])[:, :num_views]


def fused_shape(size: int, fusion: Fusion | None, num_views: int) -> tuple[int, int]:
    """Height and width [pixels] of what `fuse_views` makes of square views, or of one picture without a fusion."""
    if fusion is None or num_views == 1:
        return size, size
    return (size, num_views * size) if fusion == "row" else (2 * size, 2 * size)


def resized_shape(height: int, width: int, shorter_side: int) -> tuple[int, int]:
    """Height and width [pixels] after scaling the shorter side to `shorter_side`, aspect kept, rounded down."""
    short, long = sorted((height, width))
    longer_side = shorter_side * long // short
    return (shorter_side, longer_side) if height <= width else (longer_side, shorter_side)


def preprocess(images: Array | np.ndarray, shorter_side: int) -> Float[Array, "B H W 3"]:
    """Scale to [0, 1], subtract the ImageNet mean and divide by its std, then resize with antialiasing.

    Equals torchvision's `Normalize` followed by `Resize(shorter_side, BILINEAR, antialias=True)` on float tensors.

    Args:
        images: uint8 (B, H, W, 3).
        shorter_side: length of the shorter side afterwards [pixels]; the aspect is kept.

    Returns:
        float32 (B, H', W', 3).

    Raises:
        UserError: the pictures have a wrong dtype, rank or channel count.
    """
    check_images(images)
    height, width = images.shape[1:3]
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    pixels = (jnp.asarray(images).astype(jnp.float32) / 255.0 - mean) / std
    for axis, size, out in zip((1, 2), (height, width), resized_shape(height, width, shorter_side), strict=True):
        if size != out:
            pixels = resample(pixels, antialiased_bilinear(size, out), axis)
    return pixels
