"""Pictures as files, by imageio with its Pillow plugin.

Three places use Pillow itself: text and lines are drawn by its `ImageDraw`, pictures from elsewhere are decoded only
after their header has been checked (`imf_jax.data.compressed`), and `fit_square` resizes. Videos are `imf_jax.video`.
"""

from pathlib import Path
from typing import Any, cast

import imageio.v3 as iio
import numpy as np
from PIL import Image


def encode_image(picture: np.ndarray, extension: str = ".png", **options: Any) -> bytes:
    """Encode a picture as the content of a file.

    Args:
        picture: uint8 (H, W, 3).
        extension: of the format, ".png" or ".jpeg".
        options: of Pillow's encoder, such as `quality`.
    """
    content = iio.imwrite("<bytes>", picture, extension=extension, plugin="pillow", **options)
    return cast(bytes, content)


def read_image(path: Path) -> np.ndarray:
    """Read a picture as RGB, uint8 (H, W, 3).

    Raises:
        OSError: there is no such file, or it is damaged.
        ValueError: likewise.
    """
    return np.asarray(iio.imread(path, plugin="pillow", mode="RGB"))


def fit_square(picture: np.ndarray, size: int) -> np.ndarray:
    """Bring a picture to the size that a policy reads: its middle square, resized with antialiasing.

    Args:
        picture: uint8 (H, W, 3).
        size: height and width to bring it to [pixels].

    Returns:
        uint8 (size, size, 3).
    """
    height, width = picture.shape[:2]
    if height == width == size:
        return picture
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(np.ascontiguousarray(picture[top : top + side, left : left + side]))
    return np.asarray(square if side == size else square.resize((size, size), Image.Resampling.BILINEAR))
