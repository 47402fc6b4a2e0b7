"""`trajectory.png`: the executed paths of the end effectors in red over a camera's picture, per episode."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from typing_extensions import override

from imf_jax.config import CaptureConfig
from imf_jax.cores import usable_cores
from imf_jax.files import write_bytes
from imf_jax.images import encode_image
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.recorders.base import (
    EpisodeBuffer,
    Recorder,
    RecorderContext,
    ResetBatch,
    StepBatch,
    episode_folder,
)
from imf_jax.rollout.recorders.path_drawing import draw_path
from imf_jax.sim.rendering.camera import CameraView, camera_ids, camera_view
from imf_jax.sim.rendering.warp_renderer import WarpRenderer

if TYPE_CHECKING:
    import mujoco

PICTURE_SIZE = 512
"""Height and width of the picture [pixels]."""


def make_recorder(capture: CaptureConfig, context: RecorderContext) -> "PathImageRecorder":
    """Make the recorder of --save-images."""
    camera = capture.camera or context.backend.task.picture_camera
    names = context.backend.task.robot.spaces.effector_names
    return PathImageRecorder(context.folder, SceneRenderer(context.backend.model, camera), names)


class RenderedScene(NamedTuple):
    """Picture of a scene, with the depth and view that drawing into it needs.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        depth: float32 (H, W) planar depth [m].
        view: the camera that made them.
    """

    image: np.ndarray
    depth: np.ndarray
    view: CameraView


class SceneRenderer:
    """Renders scenes for people: large, with shadows. The ray tracer compiles at the first picture.

    On a CPU, scenes that are rendered together are traced side by side, one per core.

    Args:
        model: the scene.
        camera: name of the camera.
        size: height and width of the picture [pixels].

    Raises:
        ArgumentError: the camera is not in the scene; the message lists those that are.
    """

    def __init__(self, model: "mujoco.MjModel", camera: str, size: int = PICTURE_SIZE) -> None:
        camera_ids(model, (camera,))
        self._model, self._camera, self._size = model, camera, size
        self._renderer: WarpRenderer | None = None

    def __call__(self, qpos: np.ndarray) -> list[RenderedScene]:
        """Render scenes at generalised positions `qpos` float64 (B, nq)."""
        size = self._size
        if self._renderer is None:
            self._renderer = WarpRenderer(
                self._model, (self._camera,), size, size, num_worlds=1, depth=True, shadows=True
            )
        images, depths = self._renderer.render_with_depth(qpos)
        views = [camera_view(self._model, scene, self._camera, size, size) for scene in qpos]
        return [RenderedScene(*scene) for scene in zip(images[:, 0], depths[:, 0], views, strict=True)]


class PathImageRecorder(Recorder):
    """Writes `trajectory.png`: the executed paths of the end effectors (not the commanded ones), in red.

    The picture shows the scene after the last step. Pictures of episodes that end together are made side by side.

    Args:
        folder: the evaluation folder.
        photograph: renders scenes at generalised positions (B, nq).
        names: of the end effectors, for the legend.
    """

    name = "path_image"

    def __init__(
        self, folder: Path, photograph: Callable[[np.ndarray], list[RenderedScene]], names: Sequence[str] = ()
    ) -> None:
        self._folder, self._names = folder, names
        self._photograph = photograph
        self._buffer = EpisodeBuffer()
        self._last_qpos: dict[int, np.ndarray] = {}
        self._drawn: dict[int, Future[bytes]] = {}  # the file's content, of episodes that are about to be finished
        self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="path_image")

    @override
    def setup(self, qpos: np.ndarray) -> None:
        """Render a first picture, which compiles the ray tracer."""
        self._photograph(qpos[None])

    @override
    def bytes_per_episode(self, max_steps: int) -> int:
        """Memory [bytes] of the positions per step, and of two pictures with depth while one is drawn."""
        return 24 * max_steps + 2 * 16 * PICTURE_SIZE**2

    @override
    def on_reset(self, reset: ResetBatch) -> None:
        position = np.asarray(reset.output.end_effector)[..., :3]
        for row, episode in enumerate(reset.episodes.tolist()):
            self._buffer.start(episode)
            self._buffer.append(episode, position=position[row][None])
            self._last_qpos[episode] = np.array(reset.output.qpos[row])

    @override
    def on_steps(self, steps: StepBatch) -> None:
        position = np.asarray(steps.output.end_effector)[..., :3]
        for row, (episode, count) in enumerate(zip(steps.episodes.tolist(), steps.count.tolist(), strict=True)):
            self._buffer.append(episode, position=position[row, :count])
            if count:
                self._last_qpos[episode] = np.array(steps.output.qpos[row, count - 1])

    @override
    def on_ended(self, episodes: Sequence[int]) -> None:
        scenes = self._photograph(np.stack([self._last_qpos.pop(episode) for episode in episodes]))
        for episode, scene in zip(episodes, scenes, strict=True):
            paths = np.moveaxis(self._buffer.pop(episode)["position"], 1, 0)
            self._drawn[episode] = self._pool.submit(self._draw, scene, paths)

    def _draw(self, scene: RenderedScene, paths: np.ndarray) -> bytes:
        """Draw the paths (E, T, 3) of the effectors into a scene; returns the content of the file."""
        return encode_image(draw_path(*scene, paths, names=self._names))

    @override
    def finish(self, record: EpisodeRecord) -> dict[str, str]:
        path = f"{episode_folder(record.episode)}/trajectory.png"
        write_bytes(self._folder / path, self._drawn.pop(record.episode).result())
        return {"path_image": path}

    @override
    def discard(self, episode: int) -> None:
        self._buffer.pop(episode)
        self._last_qpos.pop(episode, None)
        self._drawn.pop(episode, None)

    @override
    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
