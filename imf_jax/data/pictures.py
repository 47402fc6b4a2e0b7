"""Camera pictures of demonstrations: checked first, then read file by file, or as one array."""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from imf_jax.config import PictureStyle, from_dict
from imf_jax.data.episodes import IMAGES, list_episodes
from imf_jax.errors import UserError, one_line
from imf_jax.files import read_failure
from imf_jax.memory import free_device_memory, free_main_memory

COLLECTION = "collection.json"
"""Settings of a collection of demonstrations, in its folder."""

MEMORY_SHARE = 0.8
"""Share of the free memory that pictures may take; the rest is for training."""


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder of demonstrations, found and checked by `find_pictures` but not read yet.

    Attributes:
        directory: the folder.
        cameras: names of the cameras.
        image_size: height and width [pixels].
        paths: the demonstration files, in order of their index.
        steps: control steps of each, and so its pictures per camera.
        fingerprint: changes when pictures change.
    """

    directory: Path
    cameras: tuple[str, ...]
    image_size: int
    paths: tuple[Path, ...]
    steps: tuple[int, ...]
    fingerprint: str

    @property
    def num_steps(self) -> int:
        """Control steps of all demonstrations."""
        return sum(self.steps)

    @property
    def step_shape(self) -> tuple[int, ...]:
        """Shape of the pictures of one step: cameras, height, width, RGB."""
        return (len(self.cameras), self.image_size, self.image_size, 3)

    @property
    def num_bytes(self) -> int:
        """Memory that all pictures take [bytes]."""
        return self.num_steps * int(np.prod(self.step_shape))

    def read(self, index: int) -> np.ndarray:
        """Pictures of one demonstration, uint8 (T, C, H, W, 3).

        Raises:
            UserError: the file cannot be read.
        """
        pictures = np.empty((self.steps[index], *self.step_shape), np.uint8)
        try:
            with h5py.File(self.paths[index], "r") as file:
                for c, camera in enumerate(self.cameras):
                    # Into an array of its own first: HDF5 fills scattered memory 40 times slower than NumPy does.
                    pictures[:, c] = file[f"{IMAGES}/{camera}"][()]
        except (OSError, KeyError, TypeError) as error:
            damage = f"the pictures cannot be read ({one_line(error)}); collect it again"
            raise read_failure(self.paths[index], error, damage) from error
        return pictures

    def read_all(self) -> Iterator[np.ndarray]:
        """Pictures of all demonstrations, see `read`; the next file is read while the caller works."""
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self.read, 0)
            for index in range(len(self.paths)):
                pictures = ahead.result()
                if index + 1 < len(self.paths):
                    ahead = pool.submit(self.read, index + 1)
                yield pictures


def find_pictures(
    directory: Path, cameras: tuple[str, ...], image_size: int, setting: str = "policy.encoder.image_size"
) -> PictureFolder:
    """Check that every demonstration has pictures of the cameras, in the size that a policy reads.

    Args:
        directory: folder of demonstrations.
        cameras: names of the cameras.
        image_size: height and width [pixels].
        setting: name of the setting that says so, for messages.

    Raises:
        UserError: names the file and the camera that is missing or does not fit.
    """
    paths = list_episodes(directory)
    steps, digest = [], hashlib.sha256()
    for path in paths:
        try:
            with h5py.File(path, "r") as file:
                steps.append(len(file["action"]))
                for camera in cameras:
                    _describe(_pictures_of(path, file, camera, cameras, steps[-1], image_size, setting), digest)
        except (OSError, KeyError, TypeError) as error:
            damage = f"cannot be read as a demonstration ({one_line(error)}); collect it again"
            raise read_failure(path, error, damage) from error
    return PictureFolder(directory, cameras, image_size, tuple(paths), tuple(steps), digest.hexdigest())


def recorded_style(directory: Path) -> PictureStyle | None:
    """How the pictures in a folder of demonstrations were drawn; None if nobody says so, as in imported ones."""
    try:
        settings = json.loads((directory / COLLECTION).read_text(encoding="utf-8"))
        visual = {"visual": settings["visual"]} if "visual" in settings else {}  # older versions had whole meshes only
        return from_dict(PictureStyle, {"renderer": settings["renderer"], **visual})
    except (OSError, ValueError, TypeError, KeyError, UserError):
        return None


def read_pictures(folder: PictureFolder, on_progress: Callable[[int], None] = lambda steps: None) -> np.ndarray:
    """Read all pictures into main memory: uint8 (N, C, H, W, 3), N steps of all demonstrations in order.

    Args:
        folder: what to read.
        on_progress: called with the number of control steps read so far.

    Raises:
        UserError: they take more memory than there is, or a file cannot be read.
    """
    sizes = f"{folder.num_steps} steps x {len(folder.cameras)} cameras x {folder.image_size}x{folder.image_size}"
    mend = "use fewer demonstrations or cameras, or collect at a smaller --image-size"
    require_memory(folder.num_bytes, f"pictures in {folder.directory}", sizes, mend, on_device=False)
    joined = np.empty((folder.num_steps, *folder.step_shape), np.uint8)
    first = 0
    for pictures in folder.read_all():
        joined[first : first + len(pictures)] = pictures
        first += len(pictures)
        on_progress(first)
    return joined


def require_memory(num_bytes: int, what: str, sizes: str, mend: str, *, on_device: bool = True) -> None:
    """Refuse training data that does not fit in memory, before any is read.

    Args:
        num_bytes: what it takes [bytes].
        what: names the data, in the plural.
        sizes: what the memory is for.
        mend: what to do.
        on_device: it is put on the default device too.

    Raises:
        UserError: says what the data takes and what there is.
    """
    places = {"main memory": free_main_memory()}
    if on_device:
        places = {"the device": free_device_memory(), **places}
    for place, free in places.items():
        if free is not None and num_bytes > MEMORY_SHARE * free:
            raise UserError(
                f"{what} take {num_bytes / 1e9:.1f} GB ({sizes}), but {place} has {free / 1e9:.1f} GB free; {mend}"
            )


def _pictures_of(
    path: Path, file: h5py.File, camera: str, cameras: tuple[str, ...], steps: int, image_size: int, setting: str
) -> h5py.Dataset:
    wanted = f"collect with --cameras {' '.join(cameras)} --image-size {image_size}"
    dataset = file.get(f"{IMAGES}/{camera}")
    if not isinstance(dataset, h5py.Dataset):
        has = ", ".join(file.get(IMAGES, {})) or "none"
        raise UserError(f"{path}: there are no pictures of camera {camera!r} (cameras: {has}); {wanted}")
    if dataset.dtype != np.uint8 or dataset.ndim != 4 or dataset.shape[0] != steps or dataset.shape[3] != 3:
        raise UserError(
            f"{path}: pictures of camera {camera!r} have shape {dataset.shape} and type {dataset.dtype}, "
            f"expected uint8 ({steps}, {image_size}, {image_size}, 3); {wanted}"
        )
    height, width = dataset.shape[1:3]
    if (height, width) != (image_size, image_size):
        raise UserError(
            f"{path}: pictures of camera {camera!r} are {height}x{width}, but {setting} is "
            f"{image_size}; {wanted}, or set --{setting.replace('_', '-')}"
        )
    return dataset


def _describe(dataset: h5py.Dataset, digest: "hashlib._Hash") -> None:
    """Add to `digest` what tells pictures from others without reading them all.

    That is their shape, how many bytes they take in the file, compressed, and three of them.
    """
    digest.update(repr((dataset.name, dataset.shape, dataset.id.get_storage_size())).encode())
    for step in (0, len(dataset) // 2, len(dataset) - 1):
        digest.update(dataset[step].tobytes())
