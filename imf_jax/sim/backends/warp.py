"""MJX-Warp: physics and camera pictures as Warp kernels inside a JAX program, on CUDA and, slower, on CPUs.

Each physics step and each call of kinematics is a callback of its own from XLA to Warp, which launches one CUDA graph.
A single callback for a control step is not among MJX's public pieces: `mjx.step` wraps exactly one physics step, and
what leads from its arrays to the classes of MuJoCo Warp (`_step_shim`, generated, over 500 arrays) is private.
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import mjx
from typing_extensions import override

from imf_jax.sim.backends.mjx_base import Constants, DeviceBackend, count_colliding_meshes
from imf_jax.sim.rendering.warp_renderer import tracer_settings
from imf_jax.sim.rendering.warp_runtime import exclusive_launches, start_warp, warp_device

DRAWN = ("mesh_normal", "mesh_faceadr", "mesh_normaladr", "geom_pos", "geom_quat")
"""Fields of the model in which the scene that pictures show differs from that of the physics: normals in any case, see
`_without_meshes`, and all of these if the meshes are decimated."""


class WarpBackend(DeviceBackend):
    """Batched scenes of one task on MJX-Warp.

    Contacts and constraints live in buffers of fixed size; `StepOutput.overflow` says when one was too small.
    Warp allocates outside XLA's memory pool: start the process with `XLA_PYTHON_CLIENT_PREALLOCATE=false` on a GPU
    (the scripts do).
    """

    name = "warp"

    def _load(self) -> mjx.Model:
        start_warp()
        self._datas: dict[int, mjx.Data] = {}
        self._contexts: dict[tuple[int, tuple[str, ...]], Any] = {}
        model = mjx.put_model(self.model, self._devices[0], impl="warp")
        # What overflows is reported per run (`StepOutput.overflow`) instead of printed by kernels per step.
        model = model.tree_replace({"opt._impl.warn_overflow": 0})
        names = DRAWN if self.visual == "decimated" else DRAWN[:1]
        self._drawn = {name: _as_in(model, name, getattr(self._parts.drawn_model, name)) for name in names}
        return model if _touches_meshes(self.model) else _without_meshes(model)

    def _blank(self, count: int) -> mjx.Data:
        if count not in self._datas:
            with jax.ensure_compile_time_eval(), exclusive_launches():
                self._datas[count] = mjx.make_data(
                    self.model,
                    self._devices[0],
                    impl="warp",
                    naconmax=self.task.contact_slots * count,
                    naccdmax=self.task.contact_slots * count,
                    njmax=self.task.constraint_rows,
                )
        return self._datas[count]

    def _overflow(self, data: mjx.Data) -> jax.Array:
        return (data._impl.overflow & _lost_bits()) != 0

    @override
    def _cleared(self, data: mjx.Data) -> mjx.Data:
        return data.tree_replace({"_impl.overflow": jnp.zeros_like(data._impl.overflow)})

    @override
    def pictures(self, constants: Constants, data: mjx.Data, qpos: jax.Array, cameras: tuple[str, ...]) -> jax.Array:
        model, _ = constants.unpack()
        model = model.tree_replace(self._drawn)
        context = self._context(qpos.shape[0], cameras).pytree()
        data = _place_cameras_and_lights(self.model, self._place(model, data, qpos))
        if self.visual == "decimated":
            data = _place_still_meshes(self._parts.drawn_model, data)
        data = mjx.refit_bvh(model, data, context)
        packed, _, _ = mjx.render(model, data, context)
        size = self.image_size
        return unpack_pixels(packed).reshape(qpos.shape[0], len(cameras), size, size, 3)

    @override
    def bytes_per_scene(self, cameras: tuple[str, ...]) -> int:
        """The data of a scene twice (in and out of a kernel), and its pictures thrice (packed)."""
        data = sum(leaf.nbytes for leaf in jax.tree.leaves(self._blank(1)))
        return 2 * data + 4 * len(cameras) * 3 * self.image_size**2

    def _context(self, count: int, cameras: tuple[str, ...]) -> Any:
        """The acceleration structures for `count` scenes, and the kernel for these cameras."""
        key = count, cameras
        if key not in self._contexts:
            with exclusive_launches():
                self._contexts[key] = mjx.create_render_context(
                    self._parts.drawn_model,
                    nworld=count,
                    devices=[warp_device(device) for device in self._devices],
                    **tracer_settings(self._parts.drawn_model, cameras, self.image_size, self.image_size),
                )
        return self._contexts[key]


def _as_in(model: mjx.Model, name: str, value: np.ndarray) -> np.ndarray | jax.Array:
    """A field of a MuJoCo model as MJX keeps that field: as an array of JAX, or of numpy if it is static."""
    kept = getattr(model, name)
    return np.asarray(value, kept.dtype) if isinstance(kept, np.ndarray) else jnp.asarray(value, kept.dtype)


def unpack_pixels(packed: jax.Array) -> jax.Array:
    """RGB of pixels 0xAARRGGBB: uint32 (...) -> uint8 (..., 3)."""
    return jnp.stack([(packed >> shift) & 0xFF for shift in (16, 8, 0)], axis=-1).astype(jnp.uint8)


def _touches_meshes(model: mujoco.MjModel) -> bool:
    """Whether the physics needs the vertices of meshes: some collide, or a sensor measures geometry."""
    sensors = mujoco.mjtSensor
    geometric = (
        sensors.mjSENS_RANGEFINDER,
        sensors.mjSENS_GEOMDIST,
        sensors.mjSENS_GEOMNORMAL,
        sensors.mjSENS_GEOMFROMTO,
        sensors.mjSENS_TACTILE,
    )
    return bool(count_colliding_meshes(model) or np.isin(model.sensor_type, geometric).any())


def _without_meshes(model: mjx.Model) -> mjx.Model:
    """The model without what is in its meshes: MJX-Warp copies these megabytes into the code of every program."""
    names = ("mesh_vert", "mesh_face", "mesh_normal", "_impl.mesh_polymapadr", "_impl.mesh_polymapnum")
    return model.tree_replace({name: operator.attrgetter(name)(model)[:0] for name in names})


def _lost_bits() -> int:
    """The bits of mujoco_warp's overflow flags that mean lost contacts or constraints, not an iteration limit."""
    from mujoco.mjx.third_party.mujoco_warp import OverflowType

    limits = ("ITERATIONS", "LS_ITERATIONS")
    return sum(flag.value for flag in OverflowType if flag.name not in limits)


def _place_cameras_and_lights(model: mujoco.MjModel, data: mjx.Data) -> mjx.Data:
    """Poses of cameras and lights: position p + R c, and rotation R C, or that of a camera which looks at a body.

    MJX-Warp offers them only as a part of `forward`, which also solves the constraints.
    """
    fixed, aimed = mujoco.mjtCamLight.mjCAMLIGHT_FIXED, mujoco.mjtCamLight.mjCAMLIGHT_TARGETBODY
    assert np.isin(model.cam_mode, (fixed, aimed)).all()
    assert (model.light_mode == fixed).all()
    matrices = np.zeros((model.ncam, 9))
    for camera in range(model.ncam):
        mujoco.mju_quat2Mat(matrices[camera], model.cam_quat[camera])
    highest = jax.lax.Precision.HIGHEST

    def place(bodies: np.ndarray, offsets: np.ndarray) -> jax.Array:
        turned = jnp.einsum("...cij,cj->...ci", data.xmat[:, bodies], np.float32(offsets), precision=highest)
        return data.xpos[:, bodies] + turned

    light_rotation = data.xmat[:, model.light_bodyid]
    directions = jnp.einsum("...cij,cj->...ci", light_rotation, np.float32(model.light_dir), precision=highest)
    rotations = jnp.einsum(
        "...cij,cjk->...cik",
        data.xmat[:, model.cam_bodyid],
        np.float32(matrices.reshape(-1, 3, 3)),
        precision=highest,
    )
    positions = place(model.cam_bodyid, model.cam_pos)
    looking = _looking_at(positions, data.xpos[:, model.cam_targetbodyid])
    return data.tree_replace(
        {
            "cam_xpos": positions,
            "cam_xmat": jnp.where((model.cam_mode == aimed)[:, None, None], looking, rotations),
            "_impl.light_xpos": place(model.light_bodyid, model.light_pos),
            "_impl.light_xdir": directions,
        }
    )


def _place_still_meshes(drawn: mujoco.MjModel, data: mjx.Data) -> mjx.Data:
    """Poses of geoms that never move, which MJX-Warp's kinematics leaves as `make_data` found them in its model."""
    still = np.flatnonzero(drawn.body_weldid[drawn.geom_bodyid] == 0)
    placed = mujoco.MjData(drawn)
    mujoco.mj_kinematics(drawn, placed)
    positions = data.geom_xpos.at[:, still].set(np.float32(placed.geom_xpos[still]))
    rotations = data.geom_xmat.at[:, still].set(np.float32(placed.geom_xmat[still].reshape(-1, 3, 3)))
    return data.tree_replace({"geom_xpos": positions, "geom_xmat": rotations})


def _looking_at(positions: jax.Array, targets: jax.Array) -> jax.Array:
    """Rotations (..., 3, 3) of cameras at positions (..., 3) that look at targets (..., 3), the world's z axis up."""
    back = positions - targets
    back /= jnp.maximum(jnp.linalg.norm(back, axis=-1, keepdims=True), 1e-9)
    right = jnp.stack([-back[..., 1], back[..., 0], jnp.zeros_like(back[..., 0])], axis=-1)
    right /= jnp.maximum(jnp.linalg.norm(right, axis=-1, keepdims=True), 1e-9)
    return jnp.stack([right, jnp.cross(back, right), back], axis=-1)
