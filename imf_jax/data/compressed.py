"""Compressed pictures inside data files, which come from anywhere: what they claim about themselves is not trusted."""

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from imf_jax.errors import one_line

LARGEST_SIDE = 4096
"""A picture that says it is wider or higher than this is not unpacked [pixels]."""

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
"""How a JPEG and a PNG begin."""


class NotColourError(ValueError):
    """A sound picture of something else than colours, such as a 16-bit depth map."""


def is_compressed_picture(data: bytes) -> bool:
    """Whether data begins like a JPEG or a PNG."""
    return data.startswith(SIGNATURES)


def decode_picture(data: bytes) -> np.ndarray:
    """Decode a JPEG or PNG; zeros after its end, which pad pictures of different length, do no harm.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        NotColourError: its values are depths or other numbers beyond 8 bits.
        ValueError: it is no such picture, is cut off or larger than `LARGEST_SIDE`; the message is one line.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures, which are refused here before unpacking
            # Pillow itself: its header says the size before anything is unpacked, and other formats are refused.
            with Image.open(io.BytesIO(data.rstrip(b"\0")), formats=("JPEG", "PNG")) as image:
                size, mode = image.size, image.mode
                large, colour = max(size) > LARGEST_SIDE, not mode.startswith(("I", "F"))
                picture = np.asarray(image.convert("RGB")) if colour and not large else None
    except UnidentifiedImageError:
        raise ValueError("no picture in JPEG or PNG") from None
    except Image.DecompressionBombError:
        raise ValueError(f"a picture of more than {LARGEST_SIDE} pixels along a side") from None
    except Exception as error:  # Pillow's parsers stumble over strange bytes in many ways
        raise ValueError(f"no picture in JPEG or PNG ({one_line(error)})") from None
    if large:
        raise ValueError(f"a picture of {size[0]}x{size[1]} pixels, more than {LARGEST_SIDE} along a side")
    if picture is None:
        raise NotColourError(f"a picture of mode {mode!r}, which holds no colours")
    return picture
