"""Spool on disk for the pictures of an open segment: 700 control steps of three cameras are 413 MB."""

from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO

import numpy as np


class PictureSpool:
    """Spool of the pictures of several cameras in temporary files; a context that removes them.

    Args:
        folder: a folder on the disk to use. The files have no name in it, so that not even a kill leaves one behind.
        cameras: names of the cameras.
    """

    def __init__(self, folder: Path, cameras: tuple[str, ...]) -> None:
        self._files: dict[str, IO[bytes]] = {camera: TemporaryFile(dir=folder) for camera in cameras}  # noqa: SIM115
        self._shapes: dict[str, tuple[int, ...]] = {}

    def add(self, camera: str, pictures: np.ndarray) -> None:
        """Append pictures of a camera, uint8 (H, W, 3) or (N, H, W, 3), all of one size.

        Raises:
            OSError: the disk is full.
        """
        self._files[camera].write(np.ascontiguousarray(pictures).data)
        self._shapes[camera] = pictures.shape[-3:]

    def arrays(self) -> dict[str, np.ndarray]:
        """Map pictures into memory: camera -> uint8 (T, H, W, 3), read on use; none of a camera without pictures.

        Raises:
            OSError: the disk is full.
        """
        for file in self._files.values():
            file.flush()
        return {
            camera: np.memmap(self._files[camera], np.uint8, "r").reshape(-1, *shape)
            for camera, shape in self._shapes.items()
        }

    def close(self) -> None:
        """Remove the files; does nothing the second time."""
        for file in self._files.values():
            file.close()

    def __enter__(self) -> "PictureSpool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
