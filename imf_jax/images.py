"""Pictures as files, by imageio with its Pillow plugin.

Two places use Pillow itself: text and lines are drawn by its `ImageDraw`, and pictures from elsewhere are decoded only
after their header has been checked (`imf_jax.data.compressed`). Videos are `imf_jax.video`.
"""

from pathlib import Path
from typing import Any, cast

import imageio.v3 as iio
import numpy as np


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
