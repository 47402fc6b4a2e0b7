"""Videos such as `front.mp4`: every control step of an episode as a frame, one file per camera."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from imf_jax.config import CaptureConfig, require
from imf_jax.errors import UserError
from imf_jax.files import partial_path, put_in_place
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.recorders.base import (
    OnlyEpisodes,
    Recorder,
    RecorderContext,
    ResetBatch,
    StepBatch,
    episode_folder,
)
from imf_jax.sim.rendering.camera import camera_ids
from imf_jax.sim.rendering.warp_renderer import WarpRenderer
from imf_jax.video import VIEWING, VideoEncoder, require_codec

if TYPE_CHECKING:
    import mujoco

MOMENTS_PER_EPISODE = 4
"""Moments that are rendered in one call for each running episode, at most; enough to keep all threads busy."""

MOMENTS_PER_CALL = 256
"""Moments that are rendered in one call, at most."""

ENCODER_BYTES = 2 * 2**20
"""Memory of an open encoder [bytes], measured at small pictures and rounded up; the rest grows with the picture."""

ENCODER_BYTES_PER_PIXEL = 32
"""Memory of an open encoder that grows with the picture [bytes]: reference frames and motion vectors."""

INDEX_BYTES = 64
"""Memory that a frame leaves behind until the file is closed [bytes]: its place in the index of the file."""

SPARE_FILES = 64
"""Files that anything but videos may have open."""

Render = Callable[[np.ndarray], np.ndarray]
"""Pictures uint8 (B, C, H, W, 3) of B scenes at generalised positions (B, nq)."""


def make_recorder(capture: CaptureConfig, context: RecorderContext) -> Recorder:
    """Make the recorder of --record-video.

    Raises:
        UserError, ArgumentError: see `require_encoder`.
    """
    backend, choice, size = context.backend, capture.record_video, capture.video_size
    cameras = capture.video_cameras or (backend.task.picture_camera,)
    num_videos = context.num_envs
    if isinstance(choice, int):
        num_videos = min(num_videos, choice)
    require_encoder(num_videos * len(cameras))
    film = VideoRecorder(
        context.folder,
        CameraRenderer(backend.model, cameras, size),
        cameras,
        size,
        round(1 / backend.control_dt),
        failures_only=choice == "failures",  # which episodes these are is known only at their end
    )
    return OnlyEpisodes(film, range(choice)) if isinstance(choice, int) else film


class CameraRenderer:
    """Renders the frames of videos, with a ray tracer of its own that compiles at the first one.

    Args:
        model: the scene.
        cameras: names of the cameras C.
        size: height and width of a picture [pixels].

    Raises:
        ArgumentError: a camera is not in the scene; the message lists those that are.
    """

    def __init__(self, model: "mujoco.MjModel", cameras: tuple[str, ...], size: int) -> None:
        camera_ids(model, cameras)
        self._model, self._cameras, self._size = model, cameras, size
        self._renderer: WarpRenderer | None = None

    def __call__(self, qpos: np.ndarray) -> np.ndarray:
        """Render pictures uint8 (B, C, H, W, 3) of scenes at generalised positions (B, nq)."""
        if self._renderer is None:
            self._renderer = WarpRenderer(self._model, self._cameras, self._size, self._size)
        return self._renderer.render(qpos)


class VideoRecorder(Recorder):
    """Writes one H.264 file per episode and camera; frame i shows the scene after step i of the episode.

    Frames go to the encoder as they come, and from there into a hidden file that gets its name when it is complete.
    An episode without steps leaves no file.

    Args:
        folder: the evaluation folder.
        render: makes the pictures.
        cameras: names of the cameras C.
        size: height and width of a picture, even [pixels].
        fps: frames per second: control steps per second, so that videos show real time.
        failures_only: keep only videos of episodes that did not succeed.
    """

    name = "video"

    def __init__(
        self,
        folder: Path,
        render: Render,
        cameras: tuple[str, ...],
        size: int,
        fps: int,
        *,
        failures_only: bool = False,
    ) -> None:
        self._folder = folder
        self._render = render
        self._cameras, self._size, self._fps = cameras, size, fps
        self._failures_only = failures_only
        self._open: dict[int, list[VideoEncoder]] = {}
        self._failed: dict[int, str] = {}  # episodes whose video cannot be written, and why

    @override
    def setup(self, qpos: np.ndarray) -> None:
        """Render a first frame, which compiles the ray tracer."""
        self._render(qpos[None])

    @override
    def bytes_per_episode(self, max_steps: int) -> int:
        """Memory [bytes] per camera of an encoder with its index, and of the pictures that are on their way to it.

        Not counted is the ray tracer itself, whose size does not depend on the episodes.
        """
        pixels = self._size**2
        encoder = ENCODER_BYTES + ENCODER_BYTES_PER_PIXEL * pixels + INDEX_BYTES * max_steps
        return len(self._cameras) * (encoder + 2 * MOMENTS_PER_EPISODE * 3 * pixels)

    @override
    def on_reset(self, reset: ResetBatch) -> None:
        """Do nothing: a video begins with the first step."""

    @override
    def on_steps(self, steps: StepBatch) -> None:
        qpos = np.asarray(steps.output.qpos)
        step, row = np.nonzero(np.arange(qpos.shape[1])[:, None] < steps.count)  # by time: all videos grow together
        size = min(MOMENTS_PER_EPISODE * len(steps.episodes), MOMENTS_PER_CALL)
        for first in range(0, len(row), size):
            part = slice(first, first + size)
            pictures = self._render(qpos[row[part], step[part]])
            for episode, views in zip(steps.episodes[row[part]].tolist(), pictures, strict=True):
                self._add(episode, views)

    @override
    def finish(self, record: EpisodeRecord) -> dict[str, str]:
        reason = self._failed.pop(record.episode, None)
        if reason is not None:
            raise UserError(reason)
        videos = self._open.get(record.episode, [])
        if not videos or (self._failures_only and record.status == "success"):
            self.discard(record.episode)
            return {}
        try:
            artifacts = {}
            for video in videos:
                if video.num_frames != record.steps:
                    raise UserError(f"the video has {video.num_frames} frames of {record.steps} steps")
                video.close()
            for camera, video in zip(self._cameras, videos, strict=True):
                path = f"{episode_folder(record.episode)}/{camera}.mp4"
                put_in_place(video.path, self._folder / path)
                artifacts[f"video_{camera}"] = path
            return artifacts
        finally:
            self.discard(record.episode)

    @override
    def discard(self, episode: int) -> None:
        self._failed.pop(episode, None)
        if episode not in self._open:
            return
        for video in self._open.pop(episode):
            video.abort()
        for camera in self._cameras:
            self._partial(episode, camera).unlink(missing_ok=True)
        folder = self._folder / episode_folder(episode)
        if not any(folder.iterdir()):  # no other capture has left anything there
            folder.rmdir()

    @override
    def close(self) -> None:
        """Remove the videos of episodes that did not end."""
        for episode in list(self._open):
            self.discard(episode)

    @override
    def abandon(self) -> None:
        """Do nothing: a video gets its name only when it is complete."""

    def _add(self, episode: int, views: np.ndarray) -> None:
        """Encode a moment, uint8 (C, H, W, 3); a failure costs the videos of this episode only."""
        if episode in self._failed:
            return
        try:
            if episode not in self._open:
                self._begin(episode)
            for video, view in zip(self._open[episode], views, strict=True):
                video.add(view)
        except (UserError, OSError, ValueError) as error:
            self.discard(episode)
            self._failed[episode] = str(error)

    def _begin(self, episode: int) -> None:
        (self._folder / episode_folder(episode)).mkdir(parents=True, exist_ok=True)
        self._open[episode] = []
        for camera in self._cameras:
            video = VideoEncoder(self._partial(episode, camera), self._size, self._size, self._fps, VIEWING)
            self._open[episode].append(video)

    def _partial(self, episode: int, camera: str) -> Path:
        """Path of a video until it is complete."""
        return partial_path(self._folder / episode_folder(episode) / f"{camera}.mp4")


def require_encoder(num_videos: int) -> None:
    """Refuse what cannot be encoded on this machine.

    Args:
        num_videos: videos that are open at once.

    Raises:
        UserError: the library of videos has no H.264.
        ArgumentError: so many files must not be open.
    """
    require_codec()
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    require(
        allowed == resource.RLIM_INFINITY or num_videos + SPARE_FILES <= allowed,
        f"{num_videos} videos at once need more open files than this system allows ({allowed}); "
        f"lower --num-envs, name fewer --video-cameras, or allow more: ulimit -n {num_videos + SPARE_FILES}",
    )
