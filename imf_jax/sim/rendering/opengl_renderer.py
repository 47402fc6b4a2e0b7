"""The optional second renderer: MuJoCo's own OpenGL pictures, off screen through EGL or OSMesa.

Nothing here runs unless it is asked for. Whether OpenGL works is found out in a subprocess with a time limit,
because a broken driver may hang or kill the process; `MUJOCO_GL`, `PYOPENGL_PLATFORM` and `DISPLAY` of the user's
environment play no part.
"""

import atexit
import copy
import functools
import importlib
import os
import subprocess
import sys
from typing import Any

import mujoco
import numpy as np

from imf_jax.errors import UserError
from imf_jax.sim.rendering.camera import camera_ids, set_poses

PLATFORMS = {
    "egl": "libegl1 libgl1-mesa-dri",
    "osmesa": "libosmesa6",
}
"""Off-screen OpenGL platforms in order of preference, with the Debian packages that bring them."""

NEAR = 0.005
"""Near clipping distance [m]. The ray tracer has none; a wrist camera would look into the hand with MuJoCo's."""

PROBE_SECONDS = 30
"""A probe that has not drawn a picture after this time counts as broken."""

_PROBE = """
import sys
import mujoco
from imf_jax.sim.rendering.opengl_renderer import OpenGLRenderer
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light dir='0 0 -1'/><camera name='down' pos='0 0 1'/>"
    "<geom size='.1'/></worldbody></mujoco>")
sys.exit(0 if OpenGLRenderer(model, ("down",), 16, 16, platform=sys.argv[1]).render(model.qpos0[None]).any() else 1)
"""


@functools.cache
def find_opengl() -> str | None:
    """Find the first of `PLATFORMS` that draws a picture on this machine, or None. Takes about a second, once."""
    for platform in PLATFORMS:
        environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY")}
        try:
            probe = subprocess.run(
                [sys.executable, "-c", _PROBE, platform],
                env=environment | {"MUJOCO_GL": "disable", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                capture_output=True,
                timeout=PROBE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            continue
        if probe.returncode == 0:
            return platform
    return None


class OpenGLRenderer:
    """Renders scenes one by one with `mujoco.Renderer`; the interface and the picture are `WarpRenderer`'s.

    Use it from the thread that made it.

    Attributes:
        cameras: names of the cameras, in the order of the pictures.
        height, width: picture size [pixels].
        frames_rendered: pictures made since construction.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        cameras: tuple[str, ...],
        height: int = 256,
        width: int = 256,
        *,
        shadows: bool = False,
        samples: int = 1,
        platform: str | None = None,
    ) -> None:
        """Open an OpenGL context.

        Args:
            model: of the scenes.
            cameras: names of the cameras to render.
            height: of the pictures [pixels].
            width: of the pictures [pixels].
            shadows: cast shadows of the lights that do.
            samples: multisampling per pixel along each axis; 1 leaves edges hard.
            platform: "egl" or "osmesa" (default: the first that a probe finds working).

        Raises:
            ArgumentError: an unknown camera (the message lists the cameras).
            UserError: no OpenGL works here (the message names the packages to install).
        """
        self.cameras = tuple(cameras)
        self.height, self.width = height, width
        self.frames_rendered = 0
        camera_ids(model, self.cameras)
        platform = platform or find_opengl()
        if platform is None:
            packages = " or ".join(f"`apt-get install {names}`" for names in PLATFORMS.values())
            raise UserError(f"no off-screen OpenGL works here; use the warp renderer, or (Debian, Ubuntu) {packages}")
        self._shadows = shadows
        self._model = copy.copy(model)
        self._model.vis.global_.offheight = height
        self._model.vis.global_.offwidth = width
        self._model.vis.quality.offsamples = samples * samples if samples > 1 else 0
        self._model.vis.map.znear = NEAR / model.stat.extent
        self._data = mujoco.MjData(self._model)
        self._renderer = _open(self._model, height, width, platform)
        atexit.register(self._renderer.close)  # before the platform itself shuts down

    def render(self, qpos: np.ndarray) -> np.ndarray:
        """Pictures of B scenes, uint8 (B, n_cameras, H, W, 3) RGB, at `qpos` float64 (B, nq)."""
        return self._render(qpos, np.empty((len(qpos), len(self.cameras), self.height, self.width, 3), np.uint8))

    def close(self) -> None:
        """Close the OpenGL context."""
        atexit.unregister(self._renderer.close)
        self._renderer.close()

    def _render(self, qpos: np.ndarray, out: np.ndarray) -> np.ndarray:
        for scene, scene_qpos in enumerate(qpos):
            set_poses(self._model, self._data, scene_qpos)
            for index, camera in enumerate(self.cameras):
                self._renderer.update_scene(self._data, camera=camera)
                # Two effects that the ray tracer does not have.
                self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
                self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_HAZE] = False
                self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self._shadows
                out[scene, index] = self._renderer.render()
        self.frames_rendered += len(qpos) * len(self.cameras)
        return out


def _open(model: mujoco.MjModel, height: int, width: int, platform: str) -> Any:
    """A `mujoco.Renderer` on `platform`, whatever platform the environment asked MuJoCo for at import."""
    stray = {name: os.environ.pop(name, None) for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    os.environ["MUJOCO_GL"] = platform
    try:
        chosen: Any = importlib.import_module("mujoco.rendering.classic.gl_context")
        chosen.GLContext = importlib.import_module(f"mujoco.{platform}").GLContext
        return importlib.import_module("mujoco.rendering.classic.renderer").Renderer(model, height, width)
    finally:
        del os.environ["MUJOCO_GL"]
        os.environ.update({name: value for name, value in stray.items() if value is not None})
