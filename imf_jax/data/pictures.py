"""Camera pictures of demonstrations: checked first, then read episode by episode, or as one array."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imf_jax.data.readers.base import DatasetReader
from imf_jax.data.selection import Selection, select
from imf_jax.errors import UserError
from imf_jax.images import fit_square
from imf_jax.memory import free_device_memory, free_main_memory

MEMORY_SHARE = 0.8
"""Share of the free memory that pictures may take; the rest is for training."""

PART = 32
"""Steps whose pictures are read at once, at most: memory does not grow with the length of an episode."""


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a dataset, found and checked by `find_pictures` but not read yet.

    Attributes:
        reader: the dataset.
        cameras: names of the cameras.
        image_size: height and width [pixels].
        steps: control steps of each episode, and so its pictures per camera.
        fingerprint: changes when pictures change.
        sources: what the dataset calls the cameras.
        resized: some are of another size in the dataset; they are brought to `image_size` as they are read.
    """

    reader: DatasetReader
    cameras: tuple[str, ...]
    image_size: int
    steps: tuple[int, ...]
    fingerprint: str
    sources: tuple[str, ...]
    resized: bool = False

    @property
    def directory(self) -> Path:
        """The folder of the dataset."""
        return self.reader.path

    @property
    def num_steps(self) -> int:
        """Control steps of all demonstrations."""
        return sum(self.steps)

    @property
    def step_shape(self) -> tuple[int, ...]:
        """Shape of the pictures of one step: cameras, height, width, RGB."""
        return (len(self.cameras), self.image_size, self.image_size, 3)

    @property
    def step_bytes(self) -> int:
        """Memory that the pictures of one step take [bytes]."""
        return int(np.prod(self.step_shape))

    @property
    def num_bytes(self) -> int:
        """Memory that all pictures take [bytes]."""
        return self.num_steps * self.step_bytes

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Episode of each of these steps of the dataset, and which step of its episode it is; int (M,) -> int (M,)."""
        ends = np.cumsum(self.steps)
        episodes = np.searchsorted(ends, rows, side="right")
        return episodes, rows - ends[episodes] + np.array(self.steps)[episodes]

    def read_camera(self, index: int, camera: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Pictures of the steps start .. stop - 1 of an episode by one camera, uint8 (H, W, 3) each.

        Raises:
            UserError: one cannot be read, or there are fewer.
        """
        count = 0
        for picture in self.reader.pictures(index, self.sources[camera], start, stop):
            yield fit_square(picture, self.image_size)
            count += 1
        if count < (self.steps[index] if stop is None else stop) - start:
            raise UserError(
                f"{self.reader.path}: {self.reader.info(index).name} has {start + count} pictures of "
                f"{self.sources[camera]!r}, but {self.steps[index]} steps; look into it with: data.py inspect"
            )

    def read(self, index: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Pictures of the steps start .. stop - 1 of an episode, uint8 (T, C, H, W, 3).

        Raises:
            UserError: they cannot be read.
        """
        stop = self.steps[index] if stop is None else stop
        pictures = np.empty((stop - start, *self.step_shape), np.uint8)
        for c in range(len(self.cameras)):
            for step, picture in enumerate(self.read_camera(index, c, start, stop)):
                pictures[step, c] = picture
        return pictures

    def read_all(self) -> Iterator[np.ndarray]:
        """Pictures of all episodes in parts of `PART` steps at most, see `read`; a thread reads one part ahead."""
        parts = self._parts()
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(next, parts, None)
            while (pictures := ahead.result()) is not None:
                ahead = pool.submit(next, parts, None)
                yield pictures

    def _parts(self) -> Iterator[np.ndarray]:
        for index, steps in enumerate(self.steps):
            views = [self.read_camera(index, c) for c in range(len(self.cameras))]
            for first in range(0, steps, PART):
                pictures = np.empty((min(PART, steps - first), *self.step_shape), np.uint8)
                for c, view in enumerate(views):
                    for step in range(len(pictures)):
                        pictures[step, c] = next(view)
                yield pictures
            for view in views:
                next(view, None)  # what comes after the last picture is a check of their number


def find_pictures(
    source: Path | Selection, cameras: tuple[str, ...], image_size: int, setting: str = "policy.encoder.image_size"
) -> PictureFolder:
    """Check that every episode has pictures of the cameras, in the size that a policy reads where they are not resized.

    Args:
        source: where the dataset is, or the part of it that is wanted.
        cameras: names of the cameras.
        image_size: height and width [pixels].
        setting: name of the setting that says so, for messages.

    Raises:
        UserError: names the file and the camera that is missing or does not fit.
    """
    selection = select(source)
    reader, steps, resized = selection.reader, [], False
    names = selection.source_cameras(cameras)
    mend = "name others with --columns.cameras"
    if reader.fixed_size:
        mend = f"collect with --cameras {' '.join(cameras)} --image-size {image_size}"
    for index in range(len(reader)):
        info = reader.info(index)
        steps.append(info.steps)
        for camera in names:
            try:
                height, width = reader.picture_size(index, camera)
            except UserError as error:
                raise type(error)(f"{error}; {mend}") from None
            if (height, width) != (image_size, image_size):
                resized = True
            if resized and reader.fixed_size:
                raise UserError(
                    f"{reader.path / info.name}: pictures of camera {camera!r} are {height}x{width}, but {setting} is "
                    f"{image_size}; {mend}, or set --{setting.replace('_', '-')}"
                )
    return PictureFolder(reader, cameras, image_size, tuple(steps), reader.fingerprint(names), names, resized)


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


def fits_in_memory(pictures: PictureFolder, budget: int | None) -> bool:
    """Whether all pictures may be kept in main memory; `budget`: what they may take [bytes], None for what is free."""
    if budget is None:
        free = free_main_memory()
        return free is None or pictures.num_bytes <= MEMORY_SHARE * free
    return pictures.num_bytes <= budget


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
