"""Choice of how pictures are drawn: what is asked for, what demonstrations were drawn with, or the faster renderer."""

import functools
import logging
import time

import numpy as np

from imf_jax.config import PictureStyle, RendererChoice, RendererName, VisualName
from imf_jax.sim.backends.choice import local_devices
from imf_jax.sim.backends.task_scene import TaskScene
from imf_jax.sim.rendering.opengl_renderer import OpenGLRenderer, find_opengl
from imf_jax.sim.rendering.warp_renderer import WarpRenderer

_logger = logging.getLogger(__name__)

PROBED_SCENES = 8
"""Scenes in one timed call, at most."""

PROBE_ROUNDS = 3
"""Timed calls of each renderer; they take turns, and the fastest one of each counts."""


def resolve_renderer(
    name: RendererChoice,
    task: str,
    cameras: tuple[str, ...],
    *,
    backend: str,
    image_size: int,
    scenes: int,
    visual: VisualName = "mesh",
) -> RendererName:
    """Resolve the name of a renderer: "auto" is "warp" on CUDA, and on a CPU the faster one of those that work here.

    Args:
        name: as on the command line.
        task: name of the task.
        cameras: those whose pictures are made.
        backend: a name made by `resolve_backend`.
        image_size: height and width of the pictures [pixels].
        scenes: scenes whose pictures are made in one call.
        visual: look of the robot in them.
    """
    if name != "auto":
        return name
    if not cameras or backend == "warp" or local_devices()[0].platform in ("gpu", "cuda"):
        return "warp"
    if find_opengl() is None:
        _logger.warning("--renderer auto takes warp: no off-screen OpenGL works here")
        return "warp"
    return _faster(task, cameras, image_size, min(scenes, PROBED_SCENES), visual)


@functools.cache
def _faster(task: str, cameras: tuple[str, ...], image_size: int, scenes: int, visual: VisualName) -> RendererName:
    """The renderer that makes more pictures per second of the real scene, tried out once per process."""
    names: tuple[RendererName, ...] = ("warp", "opengl")
    parts = [TaskScene(task, visual, image_size, name) for name in names]
    renderers = [scene.renderer(cameras) for scene in parts]
    qpos = np.repeat(parts[0].model.qpos0[None], scenes, axis=0)
    seconds = [[_time(renderer, qpos) for renderer in renderers] for _ in range(PROBE_ROUNDS + 1)]
    for renderer in renderers:
        renderer.close()
    fastest = np.min(seconds[1:], axis=0)  # the first calls also warm up
    rates = dict(zip(names, scenes * len(cameras) / fastest, strict=True))
    best, other = sorted(names, key=lambda name: -rates[name])
    _logger.warning(
        f"--renderer auto takes {best}: {rates[best]:.0f} pictures/s against {rates[other]:.0f} of {other} "
        f"({len(cameras)} cameras at {image_size}x{image_size}, {scenes} scenes at once)"
    )
    return best


def _time(renderer: WarpRenderer | OpenGLRenderer, qpos: np.ndarray) -> float:
    start = time.perf_counter()
    renderer.render(qpos)
    return time.perf_counter() - start


def possible_style(style: PictureStyle | None, backend: str) -> tuple[PictureStyle, str]:
    """The style that demonstrations were drawn in, or as much of it as works here.

    Args:
        style: of the demonstrations; None if nobody said so.
        backend: a name made by `resolve_backend`.

    Returns:
        the style, and why it is another one, empty if it is not.
    """
    style = style or PictureStyle()
    if backend == "warp" and style.renderer != "warp":
        return PictureStyle("warp", style.visual), "--backend warp cannot draw so"
    if style.renderer == "opengl" and find_opengl() is None:
        return PictureStyle("warp", style.visual), "no off-screen OpenGL works here"
    return style, ""


def say_other_style(learned: PictureStyle | None, seen: PictureStyle, why: str = "") -> None:
    """Tell the user in one line if a policy sees pictures of another style than those that it learned from."""
    if learned is not None and learned != seen:
        reason = f": {why}" if why else ""
        _logger.warning(f"the policy learned from pictures of {learned} and now sees those of {seen}{reason}")
