"""Camera pictures from MuJoCo Warp's ray tracer: no OpenGL, on CUDA and on plain CPUs.

The tracer reads poses only, so any source of `qpos` can be pictured: the poses come from MuJoCo's C kinematics
(`camera.set_poses`), no Warp physics runs, and what is pictured is never a step stale.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mujoco
import numpy as np

from imf_jax.cores import usable_cores
from imf_jax.sim.rendering.camera import camera_ids, set_poses
from imf_jax.sim.rendering.warp_runtime import exclusive_launches, pick_device, start_warp

POSE_FIELDS = {
    "geom_xpos": "vec3",
    "geom_xmat": "mat33",
    "cam_xpos": "vec3",
    "cam_xmat": "mat33",
    "light_xpos": "vec3",
    "light_xdir": "vec3",
}
"""All that the tracer reads of a simulation state, with the Warp type of an entry."""

CUDA_WORLDS = 64
"""Scenes per launch on CUDA unless the caller says otherwise."""


class WarpRenderer:
    """Renders batches of scenes of one model. Construction compiles (seconds once per machine, then cached).

    Scenes are traced `num_worlds` at a time; a shorter last batch is padded. No ray sees another scene, so a
    picture depends on its own `qpos` alone, whatever the batch. On a CPU, launches run on `threads` threads.

    Lighting is MuJoCo's: same lights, headlight, materials and (if the model has one) skybox as `mujoco.Renderer`.
    Geom groups 0-2 are visible. Sites and tendons are not drawn.

    Attributes:
        cameras: names of the cameras, in the order of the pictures.
        height, width: picture size [pixels].
        frames_rendered: pictures made since construction (padding not counted).
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        cameras: tuple[str, ...],
        height: int = 256,
        width: int = 256,
        num_worlds: int | None = None,
        depth: bool = False,
        *,
        shadows: bool = False,
        samples: int = 1,
        device: str | None = None,
        threads: int | None = None,
    ) -> None:
        """Compile the tracer for `model`.

        Args:
            model: of the scenes.
            cameras: names of the cameras to render.
            height: of the pictures [pixels].
            width: of the pictures [pixels].
            num_worlds: scenes per launch (default: 1 on a CPU, 64 on CUDA).
            depth: also measure depth; needed by `render_with_depth`.
            shadows: cast shadows of the lights that do; costs about 40 % more time.
            samples: rays per pixel along each axis, averaged; 2 smooths edges and costs four times the time.
            device: Warp device, "cpu" or "cuda:N" (default: CUDA if there is one, that of JAX).
            threads: launches in flight on a CPU (default: one per core this process may use).

        Raises:
            ArgumentError: an unknown camera (the message lists the cameras) or device.
            UserError: the kernel cache cannot be written.
        """
        self.cameras = tuple(cameras)
        self.height, self.width = height, width
        self.frames_rendered = 0
        camera_ids(model, self.cameras)
        self._model = model
        self._device = pick_device(device)
        on_cpu = self._device == "cpu"
        self._num_worlds = num_worlds or (1 if on_cpu else CUDA_WORLDS)
        self._threads = (threads or usable_cores()) if on_cpu else 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="render")
        self._settings = tracer_settings(
            model, self.cameras, height, width, depth=depth, shadows=shadows, samples=samples
        )
        self._depth = depth
        self._tracers: list[_Tracer] = []
        with exclusive_launches(), start_warp().ScopedDevice(self._device):
            self._add_tracer()

    def render(self, qpos: np.ndarray) -> np.ndarray:
        """Pictures of B scenes.

        Args:
            qpos: float64 (B, nq) generalised positions.

        Returns:
            uint8 (B, n_cameras, H, W, 3), RGB.

        Raises:
            ValueError: `qpos` has another shape or is not finite.
        """
        return self._render(qpos, None)

    def render_with_depth(self, qpos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pictures as of `render`, and depth, float32 (B, n_cameras, H, W) [m].

        Depth is planar: the distance along the optical axis (not along the ray) from the camera to the surface
        at the pixel's centre, infinite where there is none.
        """
        if not self._depth:
            raise ValueError("construct the renderer with depth=True to measure depth")
        depth = np.empty((len(qpos), len(self.cameras), self.height, self.width), np.float32)
        return self._render(qpos, depth), depth

    def close(self) -> None:
        """Stop the render threads and release the tracer's memory."""
        self._pool.shutdown()
        self._tracers.clear()

    def _render(self, qpos: np.ndarray, depth: np.ndarray | None) -> np.ndarray:
        qpos = np.asarray(qpos, dtype=np.float64)
        if qpos.ndim != 2 or qpos.shape[1] != self._model.nq:
            raise ValueError(f"qpos must have shape (B, {self._model.nq}), not {qpos.shape}")
        if not np.isfinite(qpos).all():
            scenes = np.flatnonzero(~np.isfinite(qpos).all(axis=1))
            raise ValueError(f"qpos of scenes {scenes.tolist()} is not finite")
        rgb = np.empty((len(qpos), len(self.cameras), self.height, self.width, 3), np.uint8)
        batches = [slice(i, i + self._num_worlds) for i in range(0, len(qpos), self._num_worlds)]
        workers = min(self._threads, len(batches))

        def work(worker: int) -> None:
            for batch in batches[worker::workers]:
                self._tracers[worker].trace(qpos[batch], rgb[batch], None if depth is None else depth[batch])

        with exclusive_launches(), start_warp().ScopedDevice(self._device):
            while len(self._tracers) < workers:
                self._add_tracer()
            list(self._pool.map(work, range(workers)))
        self.frames_rendered += len(qpos) * len(self.cameras)
        return rgb

    def _add_tracer(self) -> None:
        first = self._tracers[0] if self._tracers else None
        self._tracers.append(_Tracer(self._model, self._num_worlds, self._settings, first))


def tracer_settings(
    model: mujoco.MjModel,
    cameras: tuple[str, ...],
    height: int,
    width: int,
    *,
    depth: bool = False,
    shadows: bool = False,
    samples: int = 1,
) -> dict[str, Any]:
    """Settings of a render context of mujoco_warp; arguments as in `WarpRenderer`."""
    return {
        "cam_active": list(cameras),
        "cam_res": (width, height),
        "render_rgb": True,
        "render_depth": depth,
        "render_seg": False,
        "use_shadows": shadows,
        "shadow_light_fraction": 0.0,  # a true shadow, as OpenGL draws it
        "samples_per_pixel": samples,
        # What the scene does not use is compiled out of the kernel.
        "use_textures": bool((model.mat_texid >= 0).any()),
        "render_skybox": bool((model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX).any()),
        "enable_emission": bool(model.mat_emission.any()),
        "enable_per_light_ambient": bool(model.light_ambient.any()),
    }


class _Tracer:
    """Buffers and acceleration structures for one launch of `num_worlds` scenes; used by one thread at a time."""

    def __init__(
        self, model: mujoco.MjModel, num_worlds: int, settings: dict[str, Any], compiled: "_Tracer | None"
    ) -> None:
        """Allocate, and compile the kernel unless `compiled`, a tracer with the same settings, lends its own."""
        import warp
        from mujoco.mjx.third_party import mujoco_warp

        self._mujoco_warp = mujoco_warp
        self._model = model
        self._data = mujoco.MjData(model)
        self._warp_model: Any = compiled._warp_model if compiled else mujoco_warp.put_model(model)
        self._context: Any = mujoco_warp.create_render_context(model, nworld=num_worlds, **settings)
        self._poses = _Poses(warp, self._data, num_worlds)
        if compiled:
            self._context._megakernel = compiled._context._megakernel
        else:
            self._launch(model.qpos0[None])

    def trace(self, qpos: np.ndarray, rgb: np.ndarray, depth: np.ndarray | None) -> None:
        """Fill `rgb` uint8 (n, C, H, W, 3) and `depth` float32 (n, C, H, W) for `qpos` (n, nq), n <= num_worlds."""
        self._launch(qpos)
        packed = self._context.rgb_data.numpy()[: len(qpos)]
        # A pixel is the integer 0xAARRGGBB, in memory B, G, R, A.
        rgb[:] = packed.astype("<u4", copy=False).view(np.uint8).reshape(*rgb.shape[:-1], 4)[..., 2::-1]
        if depth is not None:
            depth[:] = self._context.depth_data.numpy()[: len(qpos)].reshape(depth.shape)
            depth[depth == 0] = np.inf  # the tracer's mark for a ray that meets nothing

    def _launch(self, qpos: np.ndarray) -> None:
        for world, scene_qpos in enumerate(qpos):
            set_poses(self._model, self._data, scene_qpos)
            self._poses.read(world, self._data)
        self._poses.upload()
        self._mujoco_warp.refit_bvh(self._warp_model, self._poses, self._context)
        self._mujoco_warp.render(self._warp_model, self._poses, self._context)


class _Poses:
    """The part of a `mujoco_warp.Data` that the tracer reads, filled from C MuJoCo."""

    def __init__(self, warp: Any, data: mujoco.MjData, num_worlds: int) -> None:
        self.nworld = num_worlds
        self.flexvert_xpos = warp.zeros((num_worlds, 0), dtype=warp.vec3)
        self._host: dict[str, np.ndarray] = {}
        for name, kind in POSE_FIELDS.items():
            shape = (num_worlds, len(getattr(data, name)))
            self._host[name] = np.zeros((*shape, 3, 3) if kind == "mat33" else (*shape, 3), np.float32)
            setattr(self, name, warp.zeros(shape, dtype=getattr(warp, kind)))

    def read(self, world: int, data: mujoco.MjData) -> None:
        for name, host in self._host.items():
            host[world] = getattr(data, name).reshape(host.shape[1:])

    def upload(self) -> None:
        for name, host in self._host.items():
            getattr(self, name).assign(host)
