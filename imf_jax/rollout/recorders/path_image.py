"""`trajectory.png`: the executed paths of the end effectors in red over a camera's picture, per episode."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from typing_extensions import override

from imf_jax.config import CaptureConfig
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
    """Renders single scenes for people: large, with shadows. The ray tracer compiles at the first picture.

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

    def __call__(self, qpos: np.ndarray) -> RenderedScene:
        """Render the scene at generalised positions `qpos` float64 (nq,)."""
        size = self._size
        if self._renderer is None:
            self._renderer = WarpRenderer(
                self._model, (self._camera,), size, size, num_worlds=1, depth=True, shadows=True, threads=1
            )
        image, depth = self._renderer.render_with_depth(np.asarray(qpos)[None])
        view = camera_view(self._model, qpos, self._camera, size, size)
        return RenderedScene(image[0, 0], depth[0, 0], view)


class PathImageRecorder(Recorder):
    """Writes `trajectory.png`: the executed paths of the end effectors (not the commanded ones), in red.

    The picture shows the scene after the last step.

    Args:
        folder: the evaluation folder.
        photograph: renders a scene at generalised positions (nq,).
        names: of the end effectors, for the legend.
    """

    name = "path_image"

    def __init__(
        self, folder: Path, photograph: Callable[[np.ndarray], RenderedScene], names: Sequence[str] = ()
    ) -> None:
        self._folder, self._names = folder, names
        self._photograph = photograph
        self._buffer = EpisodeBuffer()
        self._last_qpos: dict[int, np.ndarray] = {}

    @override
    def setup(self, qpos: np.ndarray) -> None:
        """Render a first picture, which compiles the ray tracer."""
        self._photograph(qpos)

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
    def finish(self, record: EpisodeRecord) -> dict[str, str]:
        position = self._buffer.pop(record.episode)["position"]
        image, depth, view = self._photograph(self._last_qpos.pop(record.episode))
        picture = draw_path(image, depth, view, np.moveaxis(position, 1, 0), names=self._names)
        path = f"{episode_folder(record.episode)}/trajectory.png"
        write_bytes(self._folder / path, encode_image(picture))
        return {"path_image": path}

    @override
    def discard(self, episode: int) -> None:
        self._buffer.pop(episode)
        self._last_qpos.pop(episode, None)
