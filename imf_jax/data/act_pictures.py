"""Pictures in HDF5 files in the layout of ACT: raw, or compressed in one of the forms in which HDF5 holds bytes."""

from collections.abc import Iterator
from typing import Any, Literal

import h5py
import numpy as np

from imf_jax.data.compressed import LARGEST_SIDE, NotColourError, decode_picture, is_compressed_picture
from imf_jax.data.episodes import IMAGES
from imf_jax.data.untrusted_hdf5 import LARGEST_EPISODE, Refused, find_dataset, find_node, require_size
from imf_jax.images import fit_square

BLOCK = 32
"""Steps whose pictures are read at once: chunks of a compressed dataset may reach over many steps."""

JpegOrder = Literal["opencv", "rgb"]


class NoColourCamera(Refused):
    """A dataset beside the cameras that holds no colour pictures of the steps, such as depth."""


def read_pictures(
    file: h5py.File,
    steps: int,
    notes: list[str],
    *,
    cameras: tuple[str, ...] | None = None,
    image_size: int | None = None,
    jpeg_order: JpegOrder = "opencv",
) -> dict[str, np.ndarray]:
    """The pictures of an episode.

    Args:
        file: an episode of T steps.
        steps: T.
        notes: receives a line for everything that is left out.
        cameras: whose pictures are read; None for all that hold colours, the others are left out.
        image_size: height and width to bring them to [pixels]; None keeps them.
        jpeg_order: of the channels of compressed pictures.

    Returns:
        camera -> uint8 (T, H, W, 3), RGB.

    Raises:
        Refused: one of `cameras` is absent or holds no colours, or a picture is damaged or too large.
    """
    found = _cameras(file, notes)
    absent = [camera for camera in cameras or () if camera not in found]
    if absent:
        raise Refused(f"no pictures of {', '.join(absent)} (cameras: {', '.join(found) or 'none'})")
    pictures = {}
    for camera in found if cameras is None else cameras:
        try:
            pictures[camera] = _read_camera(file, f"{IMAGES}/{camera}", steps, image_size, jpeg_order)
        except NoColourCamera as error:
            if cameras is not None:
                raise
            notes.append(f"left out: {error}")
    if not pictures:
        notes.append("no pictures")
    return pictures


def _cameras(file: h5py.File, notes: list[str]) -> tuple[str, ...]:
    try:
        group = find_node(file, IMAGES)
    except Refused as error:
        notes.append(f"left out: {error}")
        return ()
    if group is not None and not isinstance(group, h5py.Group):
        notes.append(f"left out: '{IMAGES}' is not a group of cameras")
        return ()
    return tuple(group) if group is not None else ()


def _read_camera(file: h5py.File, key: str, steps: int, image_size: int | None, jpeg_order: JpegOrder) -> np.ndarray:
    """Pictures of a camera, uint8 (T, H, W, 3)."""
    pictures: np.ndarray | None = None
    for step, picture in enumerate(iterate_pictures(file, key, steps, jpeg_order)):
        if image_size is not None:
            picture = fit_square(picture, image_size)
        if pictures is None:
            if steps * picture.size > LARGEST_EPISODE:
                raise Refused(f"'{key}' unpacks to more than {LARGEST_EPISODE / 2**30:.0f} GiB")
            pictures = np.empty((steps, *picture.shape), np.uint8)
        if picture.shape != pictures.shape[1:]:
            sizes = f"{picture.shape}, but {pictures.shape[1:]} before"
            raise Refused(f"'{key}' at step {step} has shape {sizes}; --image-size brings all to one size")
        pictures[step] = picture
    assert pictures is not None
    return pictures


def iterate_pictures(
    group: h5py.Group, key: str, steps: int, jpeg_order: JpegOrder = "opencv", start: int = 0, stop: int | None = None
) -> Iterator[np.ndarray]:
    """Pictures of a camera, a few of them in memory at a time.

    Args:
        group: of an episode of T steps.
        key: of the dataset with the pictures.
        steps: T.
        jpeg_order: of the channels of compressed pictures.
        start: first step.
        stop: step behind the last one; None for T.

    Yields:
        uint8 (H, W, 3), RGB.

    Raises:
        NoColourCamera: the dataset holds no colour pictures of all steps.
        Refused: a picture is damaged or too large.
    """
    dataset = find_camera(group, key, steps)
    stop = steps if stop is None else stop
    for step in range(start, stop):
        if step == start or step % BLOCK == 0:
            first, block = step, dataset[step : min(step - step % BLOCK + BLOCK, stop)]
        picture = block[step - first]
        yield picture if dataset.ndim == 4 else _decode(f"'{key}' at step {step}", picture, jpeg_order, first=step == 0)


def find_camera(group: h5py.Group, key: str, steps: int) -> h5py.Dataset:
    """The dataset with the pictures of a camera, of which nothing is decoded yet.

    Raises:
        NoColourCamera: it cannot hold colour pictures of all steps.
        Refused: it is too large.
    """
    dataset = _find_camera(group, key)
    raw = dataset.ndim == 4
    if not raw and not _holds_bytes(dataset):
        raise NoColourCamera(f"'{key}' is {dataset.dtype} {dataset.shape}, {EXPECTED.format(steps)}")
    if len(dataset) != steps:
        raise NoColourCamera(f"'{key}' has {len(dataset)} steps, but 'action' has {steps}")
    if raw and (dataset.dtype != np.uint8 or dataset.shape[3] != 3 or 0 in dataset.shape):
        raise NoColourCamera(f"'{key}' is {dataset.dtype} {dataset.shape}, {EXPECTED.format(steps)}")
    if raw and max(dataset.shape[1:3]) > LARGEST_SIDE:
        raise Refused(f"'{key}' has pictures of more than {LARGEST_SIDE} pixels along a side")
    require_size(dataset)
    return dataset


EXPECTED = "expected uint8 ({}, H, W, 3) or compressed pictures"


def _find_camera(file: h5py.Group, key: str) -> h5py.Dataset:
    try:
        dataset = find_dataset(file, key)
    except Refused as error:
        raise NoColourCamera(str(error)) from None
    if dataset is None:  # a damaged file may list names that lead nowhere
        raise NoColourCamera(f"'{key}' is not there")
    return dataset


def _holds_bytes(dataset: h5py.Dataset) -> bool:
    """Whether a dataset has a string of bytes per step.

    HDF5 has them as text of fixed length `S<n>` or of any length, as opaque `V<n>`, as sequences of bytes of any
    length, each (T,) or (T, 1), and as rows (T, L) of bytes that are padded with zeros.
    """
    kind, shape = dataset.dtype, dataset.shape
    if len(shape) == 2 and kind.kind in "ui" and kind.itemsize == 1:
        return True
    sequence = h5py.check_vlen_dtype(kind)
    of_bytes = sequence is not None and sequence.kind in "ui" and sequence.itemsize == 1
    text = h5py.check_string_dtype(kind) is not None or (kind.kind == "V" and kind.names is None)
    return (of_bytes or text) and (len(shape) == 1 or shape[1:] == (1,))


def _decode(where: str, stored: Any, order: str, *, first: bool) -> np.ndarray:
    """A compressed picture as RGB, uint8 (H, W, 3)."""
    if isinstance(stored, np.ndarray) and stored.dtype.kind in "OSV":  # one entry of (T, 1)
        stored = stored.ravel()[0]
    data = stored if isinstance(stored, bytes) else np.asarray(stored).tobytes()
    if first and not is_compressed_picture(data):
        raise NoColourCamera(f"{where} is no picture in JPEG or PNG")
    try:
        picture = decode_picture(data)
    except NotColourError as error:
        raise NoColourCamera(f"{where} is {error}") from None
    except ValueError as error:
        raise Refused(f"{where} is {error}") from None
    return picture[..., ::-1] if order == "opencv" else picture
