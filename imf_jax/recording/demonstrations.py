"""Demonstrations of DAgger: the initial ones, and the expert's corrections of the policy."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imf_jax.data.episodes import Episode, episode_number, list_episodes, write_episode
from imf_jax.data.readers.hdf5 import COLLECTION
from imf_jax.errors import UserError
from imf_jax.files import atomic_folder, remove_partials
from imf_jax.recording.assembly import make_render
from imf_jax.recording.base import Frame
from imf_jax.recording.recording import RENDER_SCENES, Render
from imf_jax.recording.session import Session
from imf_jax.recording.spool import PictureSpool


class Demonstrations:
    """Growing folder of demonstrations: a copy of the initial ones, and every correction as an episode after them.

    Args:
        folder: made by `begin`; call `keep` before anything is added.
        session: the run.
        encoder_cameras: the cameras whose pictures the policy learns from.
        image_size: their height and width [pixels].

    Attributes:
        recorded: the cameras whose pictures are recorded in that size anyway; `add` wants these pictures.
    """

    def __init__(self, folder: Path, session: Session, encoder_cameras: tuple[str, ...], image_size: int) -> None:
        self.folder = folder
        self._session, self._cameras, self._image_size = session, encoder_cameras, image_size
        recording = session.config.recording
        fitting = recording.cameras if recording.image_size == image_size else ()
        self.recorded = tuple(camera for camera in encoder_cameras if camera in fitting)
        self._rendered = tuple(camera for camera in encoder_cameras if camera not in fitting)
        self._render: Render | None = None
        self._next = 0

    def begin(self, first: Path) -> None:
        """Make the folder from the initial demonstrations: linked, or copied where links are not possible."""
        with atomic_folder(self.folder) as aside:
            if (first / COLLECTION).is_file():  # it says how pictures are drawn
                shutil.copy2(first / COLLECTION, aside)
            for path in list_episodes(first):
                try:
                    os.link(path, aside / path.name)
                except OSError:  # another disk
                    shutil.copy2(path, aside / path.name)

    def __len__(self) -> int:
        return len(list_episodes(self.folder))

    def keep(self, count: int) -> None:
        """Keep the first `count` episodes and remove the others."""
        remove_partials(self.folder, "episode_*")
        paths = list_episodes(self.folder)
        for path in paths[count:]:
            path.unlink()
        self._next = episode_number(paths[count - 1]) + 1

    def add(self, frames: list[Frame], pictures: dict[str, np.ndarray], success: bool) -> None:
        """Write the parts of a recorded segment that are worth learning from.

        Args:
            frames: frames of the segment.
            pictures: pictures of the cameras `recorded`, uint8 (T, H, W, 3) each.
            success: the scene succeeded within the segment.

        Raises:
            UserError: the disk is full.
        """
        for part in teachable(frames, success):
            try:
                with PictureSpool(self.folder, self._rendered) as spool:
                    self._take_pictures(frames[part], spool)
                    images = {camera: array[part] for camera, array in pictures.items()} | spool.arrays()
                    write_episode(self.folder, self._episode(frames[part], images, success))
            except OSError as error:
                raise UserError(f"cannot write into {self.folder} ({error.strerror}); free space") from None
            self._next += 1

    def _episode(self, frames: list[Frame], images: dict[str, np.ndarray], success: bool) -> Episode:
        session = self._session
        return Episode(
            action=np.stack([frame.action for frame in frames]),
            state=np.stack([frame.before.state for frame in frames]),
            env_state=np.stack([frame.before.env_state for frame in frames]),
            reward=np.array([frame.after.reward for frame in frames], np.float32),
            noise=np.zeros((len(frames), frames[0].action.shape[0]), np.float32),
            seed=session.seed,
            episode=self._next,
            task=session.backend.task.name,
            spaces=session.backend.task.robot.spaces,
            control_hz=1.0 / session.backend.control_dt,
            success=success,
            images={camera: images[camera] for camera in self._cameras},
        )

    def _take_pictures(self, frames: list[Frame], spool: PictureSpool) -> None:
        """Render the pictures that were not recorded in this size, a bounded number of frames at a time."""
        if not self._rendered:
            return
        if self._render is None:
            self._render = make_render(self._session.backend, self._rendered, self._image_size)
        for first in range(0, len(frames), RENDER_SCENES):
            qpos = np.stack([frame.before.qpos for frame in frames[first : first + RENDER_SCENES]])
            pictures = self._render(qpos)
            for index, camera in enumerate(self._rendered):
                spool.add(camera, pictures[:, index])


def teachable(frames: list[Frame], success: bool) -> Iterator[slice]:
    """Parts of a segment to learn from: all of it if its scene succeeded, else only the steps of the expert."""
    if success:
        yield slice(0, len(frames))
        return
    start = None
    for index, frame in enumerate(frames):
        if frame.intervention and start is None:
            start = index
        elif not frame.intervention and start is not None:
            yield slice(start, index)
            start = None
    if start is not None:
        yield slice(start, len(frames))
