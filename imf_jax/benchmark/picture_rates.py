"""Pictures per second of each renderer that works here, with and without decimated meshes, by the size of pictures."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from imf_jax import seeds
from imf_jax.benchmark.components import SEED
from imf_jax.benchmark.policy import take_turns
from imf_jax.config import RendererName, VisualName
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.task_scene import TaskScene
from imf_jax.sim.rendering.opengl_renderer import find_opengl


@dataclass(frozen=True)
class PictureRate:
    """Pictures per second of one side at one size.

    Attributes:
        image_size: height and width of the pictures [pixels].
        renderer: what makes them.
        visual: look of the robot in them.
        pictures_per_s: median over the rounds [1/s].
        ratio: of the rate to that of the first side, the Warp ray tracer with whole meshes, in the same round; median.
        difference: mean absolute difference to the pictures of the same renderer with whole meshes, of 255.
    """

    image_size: int
    renderer: RendererName
    visual: VisualName
    pictures_per_s: float
    ratio: float
    difference: float


def measure_pictures(
    task: str, cameras: tuple[str, ...], sizes: Sequence[int], *, scenes: int, rounds: int
) -> list[PictureRate]:
    """Render the starts of scenes; the sides take turns.

    Args:
        task: name of the task.
        cameras: names of cameras; all of the task if there are none.
        sizes: heights and widths of pictures [pixels].
        scenes: scenes per call.
        rounds: timed calls of each side.

    Raises:
        ArgumentError: an unknown camera.
    """
    renderers: list[RendererName] = ["warp", "opengl"] if find_opengl() else ["warp"]
    visuals: list[VisualName] = ["mesh", "decimated"]
    rows = []
    for size in sizes:
        sides = [(renderer, visual) for renderer in renderers for visual in visuals]
        parts = [TaskScene(task, visual, size, renderer) for renderer, visual in sides]
        drawing = [scene.renderer(cameras or scene.task.cameras) for scene in parts]
        qpos = _starts(parts[0], scenes)
        pictures = [renderer.render(qpos).astype(int) for renderer in drawing]
        seconds = np.array(take_turns([partial(renderer.render, qpos) for renderer in drawing], rounds))
        count = pictures[0].shape[0] * pictures[0].shape[1]
        for index, (renderer, visual) in enumerate(sides):
            whole = pictures[sides.index((renderer, "mesh"))]
            rows.append(
                PictureRate(
                    size,
                    renderer,
                    visual,
                    pictures_per_s=count / statistics.median(seconds[index]),
                    ratio=statistics.median(seconds[0] / seconds[index]),
                    difference=float(np.abs(pictures[index] - whole).mean()),
                )
            )
        for renderer_of_side in drawing:
            renderer_of_side.close()
    return rows


def _starts(parts: TaskScene, scenes: int) -> np.ndarray:
    """Generalised positions (B, nq) of scenes at their start."""
    keys = seeds.typed_keys(seeds.key_data(scene_keys(SEED, range(scenes))))
    joints, objects = jax.vmap(parts.sample)(keys)
    return np.asarray(parts.start_qpos(np.asarray(joints), np.asarray(objects)), np.float64)
